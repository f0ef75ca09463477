"""What must outlast a restart: which tickets were used, and who is barred.

Invariant: what was answered with yes is on disk before the answer is given. Memory knows all that the file knows, so
that looking costs nothing; a file that cannot be written makes new tickets unusable, and bars all the same.

Without a file the same holds for the life of the process: then nothing from before its start is believed.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import structlog
import trio

from gateway.policy.principal import Principal

SWEEP_EVERY: Final = 1024
"""Writes between two sweepings of what is over."""

BUSY_SECONDS: Final = 2.0

_SCHEMA: Final = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS used (name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS barred (
        kind TEXT NOT NULL, value TEXT NOT NULL, since REAL NOT NULL, until REAL,
        PRIMARY KEY (kind, value)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""

log = structlog.get_logger("access")


class StateUnwritable(Exception):
    """The file could not be written; the text says why."""


class Barred(StrEnum):
    """By what somebody is barred."""

    TOKEN = "token"
    """The credential's `jti`."""
    SUBJECT = "subject"
    LOGIN_SESSION = "login_session"
    """`sid` of OpenID Connect."""
    SESSION = "session"
    """The ID of a session of this gateway's."""
    ADDRESS = "address"
    ROUTE = "route"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Somebody who may not come in."""

    kind: Barred
    value: str
    since: float
    """Unix time. Credentials of a subject or login that were issued later are good again: a new login lifts the bar."""
    until: float | None
    """Unix time; None: for good."""

    def bars(
        self, principal: Principal | None, *, route: str, address: str | None, session: str | None, now: float
    ) -> bool:
        """Whether it keeps this somebody out."""
        issued_at = None if principal is None else principal.issued_at
        keys = _keys(principal, route=route, address=address, session=session)
        return (self.kind, self.value) in keys and self.holds(now, issued_at)

    def holds(self, now: float, issued_at: float | None) -> bool:
        """Whether it bars at `now` a credential that was issued at `issued_at` (None: unknown, so barred)."""
        if self.until is not None and now >= self.until:
            return False
        lifts_by_login = self.kind in (Barred.SUBJECT, Barred.LOGIN_SESSION)
        return not (lifts_by_login and issued_at is not None and issued_at > self.since)


class AccessState:
    """Used tickets and bars. Made by `open_state`."""

    def __init__(self, database: sqlite3.Connection | None, *, remembers_since: float) -> None:
        self._database: Final = database
        self._used: Final[dict[str, float]] = {}
        self._bars: Final[dict[tuple[Barred, str], Bar]] = {}
        self._writes = 0
        self._writer: Final = trio.CapacityLimiter(1)
        self.remembers_since: Final = remembers_since
        """Unix time from which on every ticket that was used is known."""

    def load(self) -> None:
        """Reads the file. Raises sqlite3.Error."""
        if self._database is not None:
            self._used.update(self._database.execute("SELECT name, until FROM used"))
            for kind, value, since, until in self._database.execute("SELECT kind, value, since, until FROM barred"):
                bar = Bar(kind=Barred(kind), value=value, since=since, until=until)
                self._bars[bar.kind, bar.value] = bar

    def close(self) -> None:
        """Closes the file."""
        if self._database is not None:
            self._database.close()

    async def use(self, name: str, *, until: float, now: float) -> bool:
        """Uses up what may be used once until `until`; false if it was used before. Raises StateUnwritable.

        Of several at the same moment one is the first. What could not be written is used up all the same.
        """
        if name in self._used:
            await trio.lowlevel.checkpoint()
            return False
        self._used[name] = until
        self._sweep(now)
        await self._write("INSERT INTO used VALUES (?, ?) ON CONFLICT DO NOTHING", (name, until))
        return True

    def begin_bar(self, bar: Bar) -> None:
        """Bars from now on, as long as this process lives: what `bar` does before it waits for the file."""
        self._bars[bar.kind, bar.value] = bar

    async def bar(self, bar: Bar, *, now: float) -> None:
        """Bars from now on, whether or not it can be written. Raises StateUnwritable: then a restart forgets it."""
        self.begin_bar(bar)
        self._sweep(now)
        await self._write(
            "INSERT OR REPLACE INTO barred VALUES (?, ?, ?, ?)", (bar.kind.value, bar.value, bar.since, bar.until)
        )

    async def lift(self, kind: Barred, value: str) -> bool:
        """Takes a bar back; false if there was none. Raises StateUnwritable."""
        found = self._bars.pop((kind, value), None)
        await self._write("DELETE FROM barred WHERE kind = ? AND value = ?", (kind.value, value))
        return found is not None

    def bars(self, now: float) -> Iterator[Bar]:
        """All that hold."""
        return (bar for bar in self._bars.values() if bar.until is None or now < bar.until)

    def bar_for(
        self, principal: Principal | None, *, route: str, address: str | None, session: str | None, now: float
    ) -> Bar | None:
        """What keeps this somebody out; None if nothing does."""
        if not self._bars:
            return None
        issued_at = None if principal is None else principal.issued_at
        for kind, value in _keys(principal, route=route, address=address, session=session):
            bar = None if value is None else self._bars.get((kind, value))
            if bar is not None and bar.holds(now, issued_at):
                return bar
        return None

    def _sweep(self, now: float) -> None:
        self._writes += 1
        if self._writes % SWEEP_EVERY:
            return
        for name in [name for name, until in self._used.items() if until <= now]:
            del self._used[name]
        for key in [key for key, bar in self._bars.items() if bar.until is not None and bar.until <= now]:
            del self._bars[key]

    async def _write(self, statement: str, values: tuple[object, ...]) -> None:
        if self._database is None:
            await trio.lowlevel.checkpoint()
            return
        database = self._database

        def write() -> None:
            with database:
                database.execute(statement, values)

        try:
            await trio.to_thread.run_sync(write, limiter=self._writer, abandon_on_cancel=False)
        except sqlite3.Error as error:
            log.error("state_not_written", problem=str(error))
            raise StateUnwritable(str(error)) from None


def _keys(
    principal: Principal | None, *, route: str, address: str | None, session: str | None
) -> list[tuple[Barred, str | None]]:
    keys: list[tuple[Barred, str | None]] = [
        (Barred.ROUTE, route),
        (Barred.ADDRESS, address),
        (Barred.SESSION, session),
    ]
    if principal is not None:
        keys += [
            (Barred.TOKEN, principal.token_id),
            (Barred.SUBJECT, principal.subject),
            (Barred.LOGIN_SESSION, principal.login_session),
        ]
    return keys


def open_state(path: Path | None, *, now: float) -> AccessState:
    """The state in the file at `path`, which is made if it is not there; None: in memory. `now` is Unix time.

    Raises ValueError, naming the file and saying what is wrong with it.
    """
    if path is None:
        return AccessState(None, remembers_since=now)
    try:
        # The writer's thread is not the one that opens it; the limiter lets one at a time.
        database = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            with database:
                database.executescript(_SCHEMA)
                database.execute("INSERT INTO about VALUES ('remembers_since', ?) ON CONFLICT DO NOTHING", (now,))
                database.execute("DELETE FROM used WHERE until <= ?", (now,))
                database.execute("DELETE FROM barred WHERE until <= ?", (now,))
            with closing(database.execute("SELECT value FROM about WHERE key = 'remembers_since'")) as found:
                (since,) = found.fetchone()
            state = AccessState(database, remembers_since=since)
            state.load()
        except BaseException:
            database.close()
            raise
    except (sqlite3.Error, ValueError) as error:
        raise ValueError(f"the state file {path} cannot be used: {error}") from None
    return state
