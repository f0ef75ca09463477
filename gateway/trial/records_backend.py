"""The trial's backend that speaks records: a process of its own on the kit, to be killed at any moment.

Invariant: that a message arrived is written down in the transaction that consumes it, so the database says exactly what
a backend with lasting effects would have done, however often it was killed.

    python -m gateway.trial.records_backend FILE PORT SEED MESSAGES
"""

import logging
import signal
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import trio

from gateway.backend import Limits, Session, SqliteStore, serve
from gateway.trial.faults import Direction
from gateway.trial.tally import Books, Told, Witness
from gateway.trial.traffic import GREETING, Traffic

KEEPALIVE_SECONDS: Final = 2.0
"""Short, so that a black hole is noticed within the trial."""

READY: Final = "ready"
"""What the process prints once it takes connections."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS trial_sessions (
    session TEXT PRIMARY KEY,
    client INTEGER NOT NULL,
    base INTEGER NOT NULL  -- messages that earlier sessions of this client were sent
);
CREATE TABLE IF NOT EXISTS trial_arrivals (
    position INTEGER PRIMARY KEY,
    session TEXT NOT NULL,
    client INTEGER,  -- NULL: nobody's message
    number INTEGER,
    at REAL NOT NULL
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsBackend:
    """What all sessions share."""

    store: SqliteStore
    traffic: Traffic
    messages: int
    """How many each client is to be sent."""
    sources: dict[int, "Source"] = field(default_factory=dict)
    """What each client is being sent from, or is about to be: of all its sessions the one that greeted last."""

    async def handle(self, session: Session) -> None:
        """Takes a client's messages down and sends it its own, from where an earlier run of this handler was."""
        async with anyio.create_task_group() as tasks:
            # A client that knows nothing of sessions has a new one for each connection: only the last is sent to.
            row = self.store.connection.execute(
                "SELECT client, base FROM trial_sessions AS its WHERE session = ?"
                " AND rowid = (SELECT max(rowid) FROM trial_sessions WHERE client = its.client)",
                (session.id,),
            ).fetchone()
            if row is not None:
                client, base = row
                tasks.start_soon(self._send, session, client, base, await self._replace_source(client))
            async for message in session:
                data = message.encode() if isinstance(message, str) else bytes(message)
                numbered = self.traffic.read(data)
                if numbered is not None and numbered.direction is not Direction.UPSTREAM:
                    numbered = None
                source = None
                if numbered is not None and numbered.number == GREETING:
                    source = await self._replace_source(numbered.client)
                async with message.transaction() as transaction:
                    if numbered is not None and numbered.number == GREETING:
                        reached = 0 if source is None else source.reached
                        base = _greet(transaction.effects, session.id, numbered.client, reached)
                    else:
                        _write_down(transaction.effects, session.id, numbered and numbered[1:])
                if numbered is not None and source is not None:
                    tasks.start_soon(self._send, session, numbered.client, base, source)
            tasks.cancel_scope.cancel()

    async def _replace_source(self, client: int) -> "Source":
        """The one that its client is sent from now on, once nothing is sent from the one before any more.

        It takes its place at once: of two sessions that greet at the same time one would else not know of the other,
        and both would be sent the same numbers.
        """
        before = self.sources.get(client)
        source = self.sources[client] = Source(before)
        if before is not None:
            source.reached = max(source.reached, await before.stop())
            source.before = None
        return source

    async def _send(self, session: Session, client: int, base: int, source: "Source") -> None:
        source.is_running = True
        try:
            with source.scope:
                # Asked each time: sending waits only where there is no room, and only waiting ends a cancelled scope.
                while not source.is_replaced and (number := base + session.sent_messages + 1) <= self.messages:
                    message = self.traffic.message(Direction.DOWNSTREAM, client, number)
                    await session.send(message if number % 2 else message.decode())
        finally:
            source.reached = max(source.reached, base + session.sent_messages)
            source.stopped.set()


class Source:
    """What sends a client its messages, in one session."""

    def __init__(self, before: "Source | None") -> None:
        self.before = before
        """The one whose place it took, until nothing is sent from there any more."""
        self.reached = 0
        """The last number that the client was sent from here or before; the database may not know of it yet."""
        self.scope = anyio.CancelScope()
        self.stopped = anyio.Event()
        self.is_running = False
        self.is_replaced = False

    async def stop(self) -> int:
        """Nothing is sent from here or before any more, now or later: what follows is numbered from the result on."""
        self.is_replaced = True
        self.scope.cancel()
        if self.is_running:
            await self.stopped.wait()
        elif self.before is not None:
            self.reached = max(self.reached, await self.before.stop())
        return self.reached


def _greet(effects: sqlite3.Connection, session: str, client: int, reached: int) -> int:
    """The last number that earlier sessions were sent: what is saved of them, or `reached` where that lags behind."""
    (saved,) = effects.execute(
        "SELECT ifnull(max(base + sent), 0) FROM kakitome_sessions JOIN trial_sessions ON session = id"
        " WHERE client = ?",
        (client,),
    ).fetchone()
    base = max(int(saved), reached)
    effects.execute("INSERT INTO trial_sessions VALUES (?, ?, ?)", (session, client, base))
    return base


def _write_down(effects: sqlite3.Connection, session: str, who: tuple[int, int] | None) -> None:
    client, number = who or (None, None)
    effects.execute(
        "INSERT INTO trial_arrivals (session, client, number, at) VALUES (?, ?, ?, ?)",
        (session, client, number, time.time()),
    )


def read_books(path: Path, books: Books) -> None:
    """Enters what the backend's database says: arrivals upstream, and what it was told and sent downstream."""
    with closing(sqlite3.connect(path)) as connection, connection:
        owners = dict(connection.execute("SELECT session, client FROM trial_sessions"))
        for session, client, number in connection.execute(
            "SELECT session, client, number FROM trial_arrivals ORDER BY position"
        ):
            owner = owners.get(session)
            if owner is None:
                continue  # a session that never greeted has no books
            if client != owner:
                books.up[owner].damaged += 1
            else:
                books.up[owner].arrive(number)
        for client, base, sent, settled in connection.execute(
            "SELECT client, base, sent, settled FROM kakitome_sessions JOIN trial_sessions ON session = id"
        ):
            tally = books.down[client]
            tally.sent = max(tally.sent, base + sent)
            for number in range(base + 1, base + settled + 1):
                books.tell(Direction.DOWNSTREAM, Witness.RECORDS, client, number, Told.SETTLED)


async def run(path: Path, port: int, seed: int, messages: int) -> None:
    """Serves until SIGTERM."""
    store = SqliteStore(path)
    store.connection.executescript(SCHEMA)
    backend = RecordsBackend(store=store, traffic=Traffic(seed), messages=messages)
    limits = Limits(keepalive=KEEPALIVE_SECONDS)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(_serve, backend, port, limits))
            print(READY, flush=True)  # noqa: T201 -- the one word that its parent waits for
            async for _ in signals:
                nursery.cancel_scope.cancel()
    store.close()


async def _serve(backend: RecordsBackend, port: int, limits: Limits, *, task_status: trio.TaskStatus[object]) -> None:
    await serve(backend.handle, port=port, store=backend.store, limits=limits, task_status=task_status)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    _, _file, _port, _seed, _messages = sys.argv
    trio.run(run, Path(_file), int(_port), int(_seed), int(_messages))
