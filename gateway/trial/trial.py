"""Runs one trial: clients, gateway and backend, the proxies between them, the faults, and the books in the end.

Invariant: what a trial starts it ends; and whatever it finds, it reports: a trial that hangs is over when nothing has
moved for `patience`, and what has not arrived by then is lost.
"""

import json
import math
import secrets
import shlex
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from gateway.trial.claims import downstream_report, enter_upstream
from gateway.trial.clients import WINDOW_MESSAGES, Pace, PlainParticipant, RecordsParticipant, Task
from gateway.trial.faults import (
    CONNECTION_FAULTS,
    HARMLESS,
    HEADROOM,
    KILLS,
    Direction,
    Fault,
    FaultKind,
    FaultSchedule,
    Hop,
    plan,
    spread,
)
from gateway.trial.processes import Process
from gateway.trial.proxy import FaultProxy
from gateway.trial.records_backend import READY, read_books
from gateway.trial.stream_backend import PlainCodec, StreamBackend, WebSocketCodec
from gateway.trial.tally import Books, DirectionReport, Witness
from gateway.trial.traffic import Traffic

LOOPBACK: Final = "127.0.0.1"

PATH: Final = "/trial/"

WATCH_SECONDS: Final = 0.02
"""How often the progress is looked at, for faults that have become due."""

KEEPALIVE: Final = "2s"
"""Of the gateway that the trial starts itself: shorter than the longest black holes."""

RECOVERY_SECONDS: Final = 10.0
"""After a kill, how long all clients have to go on again before the next kill: one may be in a black hole."""


class ClientKind(StrEnum):
    """What the clients speak."""

    RECORDS = "records"
    PLAIN = "plain"


class BackendKind(StrEnum):
    """What the backend speaks."""

    RECORDS = "records"
    STREAM = "stream"
    WEBSOCKET = "websocket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a trial is to be."""

    url: str | None = None
    """The gateway under trial; None: the trial starts Kakitome itself."""
    name: str = "kakitome"
    """The gateway's, for the report."""
    gateway_command: str | None = None
    """Starts the gateway under trial; without it a gateway at `url` is running and cannot be killed."""
    backend_bind: tuple[str, int] = (LOOPBACK, 0)
    """Where the gateway finds its backend."""
    client: ClientKind = ClientKind.RECORDS
    backend: BackendKind = BackendKind.RECORDS
    clients: int = 10
    messages: int = 1000
    """Of each client, each way."""
    faults: int = 100
    """In all, kills included."""
    kills: int = 0
    """Of the gateway, and as many of the backend."""
    seed: int = field(default_factory=lambda: secrets.randbelow(2**32))
    patience_seconds: float = 60.0
    """Without progress for so long, the trial is over."""
    quiet_seconds: float = 7.0
    """Without news for so long, a client that may have lost messages waits for them no more. Longer than a black hole,
    and than a client that fell into one needs to notice."""

    @property
    def is_lossless(self) -> bool:
        """Nothing may get lost in this pairing under these faults, so every message is waited for."""
        return self.client is ClientKind.RECORDS and (self.backend is BackendKind.RECORDS or not self.kills)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a trial is."""

    part: float
    """0 to 1."""
    faults: int
    """How many have struck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One direction's messages, held against what one witness told of them."""

    direction: Direction
    witness: Witness
    report: DirectionReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a trial has found."""

    settings: Settings
    seconds: float
    finished: bool
    """All clients were done before the patience was over."""
    faults: Mapping[FaultKind, int]
    """How many of each kind have struck."""
    connections: int
    resumes: int
    most_unknown: int
    """The most messages that one sender was told unknown at once: at most the window."""
    accounts: Sequence[Account]
    evidence: Path | None = None
    """Where the backend's database, the gateway's log of sessions and the clients' counts were kept, because a message
    came to a plain client twice: of that nothing is promised, and yet it is not to be."""

    @property
    def promise_kept(self) -> bool:
        """All that this pairing promises was held: nothing told that is not true, nothing lost that may not be."""
        if not self.finished or self.most_unknown > WINDOW_MESSAGES:
            return False
        for account in self.accounts:
            report = account.report
            if report.damaged or (account.witness is not Witness.SEND and report.misreported):
                return False
            if self.settings.is_lossless and not report.is_exact:
                return False
        return True


async def run_trial(settings: Settings, on_progress: Callable[[Progress], None] = lambda _: None) -> Report:
    """Runs a trial to its end. Raises StartupError for what cannot be started, ValueError for what cannot be."""
    with tempfile.TemporaryDirectory(prefix="kakitome-trial-") as folder:
        return await _Trial(settings, Path(folder), on_progress).run()


class _Trial:
    """One trial under way."""

    def __init__(self, settings: Settings, folder: Path, on_progress: Callable[[Progress], None]) -> None:
        self._settings = settings
        self._folder = folder
        self._on_progress = on_progress
        self._schedule = FaultSchedule(plan(settings.seed, _wanted(settings)))
        self._traffic = Traffic(settings.seed)
        self._pace = Pace()
        self._books: Books
        self._participants: list[RecordsParticipant | PlainParticipant] = []
        self._gateway: Process | None = None
        self._backend_process: Process | None = None
        self._stream_backend: StreamBackend | None = None
        self._kills, self._kills_to_do = trio.open_memory_channel[Fault](2 * settings.kills)
        self._killing = False
        self._moved = trio.Event()
        """Set when something goes on."""

    async def run(self) -> Report:
        settings = self._settings
        self._books = Books(settings.clients, settings.messages)
        async with trio.open_nursery() as nursery:
            backend_port = await self._start_backend(nursery)
            url = await self._start_gateway(nursery, backend_port)
            front = await self._start_proxy(nursery, Hop.FRONT, (LOOPBACK, 0), _host_and_port(url))
            began = trio.current_time()
            self._books.begin(began)
            finished = await self._run_clients(f"ws://{LOOPBACK}:{front}{urlsplit(url).path}", nursery)
            seconds = trio.current_time() - began
            if self._gateway is not None:
                await self._gateway.stop()
            if self._backend_process is not None:
                await self._backend_process.stop()
            nursery.cancel_scope.cancel()
        return self._report(finished=finished, seconds=seconds)

    # --- the parts ------------------------------------------------------------------------------------------------

    async def _start_proxy(
        self, nursery: trio.Nursery, hop: Hop, bind: tuple[str, int], target: tuple[str, int]
    ) -> int:
        proxy = FaultProxy(self._schedule, hop, host=target[0], port=target[1])
        bound: int = await nursery.start(proxy.serve, bind)
        return bound

    async def _start_backend(self, nursery: trio.Nursery) -> int:
        """Where the gateway finds it."""
        settings = self._settings
        if settings.backend is BackendKind.RECORDS:
            port = _free_port()
            argv = [sys.executable, "-m", "gateway.trial.records_backend", str(self._database), str(port)]
            argv += [str(settings.seed), str(settings.messages)]
            self._backend_process = Process(argv, name="the trial's backend", port=port, ready=READY)
            await nursery.start(self._backend_process.run)
            return await self._start_proxy(nursery, Hop.BACK, settings.backend_bind, (LOOPBACK, port))
        codec = WebSocketCodec if settings.backend is BackendKind.WEBSOCKET else PlainCodec
        self._stream_backend = StreamBackend(self._schedule, self._traffic, self._books, codec=codec)
        bound: int = await nursery.start(self._stream_backend.serve, settings.backend_bind)
        return bound

    @property
    def _database(self) -> Path:
        return self._folder / "backend.sqlite"

    async def _start_gateway(self, nursery: trio.Nursery, backend_port: int) -> str:
        """Its URL."""
        settings = self._settings
        if settings.url is None:
            port = _free_port()
            config = self._folder / "kakitome.json"  # which is YAML too
            config.write_text(json.dumps(_kakitome_config(settings, port, backend_port)))
            self._gateway = Process(
                [sys.executable, "-m", "gateway", "serve", "--config", str(config)],
                name="the gateway",
                port=port,
                ready='"ready"',
            )
            self._gateway.kept_events = frozenset({"session_ended"})
            await nursery.start(self._gateway.run)
            return f"ws://{LOOPBACK}:{port}{PATH}"
        if settings.gateway_command is not None:
            self._gateway = Process(
                shlex.split(settings.gateway_command), name="the gateway", port=_host_and_port(settings.url)[1]
            )
            await nursery.start(self._gateway.run)
        return settings.url

    async def _run_clients(self, url: str, nursery: trio.Nursery) -> bool:
        settings = self._settings
        kind = RecordsParticipant if settings.client is ClientKind.RECORDS else PlainParticipant
        self._participants = [
            kind(
                Task(
                    url=url,
                    signed=settings.url is None,
                    client=client,
                    books=self._books,
                    traffic=self._traffic,
                    pace=self._pace,
                    framed=settings.backend is BackendKind.RECORDS,
                    lossless=settings.is_lossless,
                    quiet_seconds=settings.quiet_seconds,
                )
            )
            for client in range(settings.clients)
        ]
        self._set_pace()
        nursery.start_soon(self._do_kills)
        done = trio.Event()
        async with trio.open_nursery() as running:
            running.start_soon(self._watch, running.cancel_scope)
            async with trio.open_nursery() as clients:
                for participant in self._participants:
                    clients.start_soon(participant.run)
            done.set()
            running.cancel_scope.cancel()
        return done.is_set()

    # --- faults ---------------------------------------------------------------------------------------------------

    async def _watch(self, running: trio.CancelScope) -> None:
        """Makes faults due as the trial goes on, and ends one in which nothing goes on."""
        last, moved_at = -1.0, trio.current_time()
        while True:
            part = self._part_done()
            now = trio.current_time()
            if part != last or self._killing:
                last, moved_at = part, now
                self._moved.set()
            elif now - moved_at > self._settings.patience_seconds:
                running.cancel()
            kill_at = self._schedule.next_kill_at
            if now - moved_at > self._settings.quiet_seconds and kill_at < math.inf:
                part = max(part, kill_at)  # what was lost is no progress: nothing but the kill will bring any
            for kill in self._schedule.advance(part):
                self._kills.send_nowait(kill)
            self._on_progress(Progress(part=part, faults=self._schedule.struck.total()))
            await trio.sleep(WATCH_SECONDS)

    def _part_done(self) -> float:
        """The part of the messages of whose way nothing more is to be learned, as far as is known now."""
        settings = self._settings
        return min(1.0, sum(map(sum, self._positions())) / (2 * settings.clients * settings.messages))

    async def _do_kills(self) -> None:
        """One after the other, each when all clients have gone on after the one before it."""
        async for fault in self._kills_to_do:
            self._killing = True
            if fault.kind is FaultKind.KILL_GATEWAY:
                assert self._gateway is not None
                await self._gateway.kill()
                await self._gateway.start()
            elif self._backend_process is not None:
                await self._backend_process.kill()
                await self._backend_process.start()
            elif self._stream_backend is not None:
                self._stream_backend.kill()
            self._killing = False
            self._schedule.finish_kill()
            self._set_pace()
            with trio.move_on_after(RECOVERY_SECONDS):
                before = self._positions()
                while self._is_anyone_stuck_since(before):
                    self._moved = trio.Event()
                    await self._moved.wait()

    def _set_pace(self) -> None:
        self._pace.set(self._schedule.next_kill_at + HEADROOM)

    def _positions(self) -> list[tuple[int, int]]:
        """How far each client is, upstream and downstream."""
        # Who may lose messages goes on after a loss: what is sent counts when it was sent.
        down = [
            tally.arrived if self._settings.is_lossless else max(tally.newest, tally.sent) for tally in self._books.down
        ]
        return list(zip((participant.settled for participant in self._participants), down, strict=True))

    def _is_anyone_stuck_since(self, before: list[tuple[int, int]]) -> bool:
        """Some client that may go on has not moved."""
        total = self._settings.messages * min(1.0, self._pace.limit)
        return any(now == then and min(now) < total for now, then in zip(self._positions(), before, strict=True))

    def _keep_evidence(self) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="kakitome-trial-doubled-"))
        with (
            closing(sqlite3.connect(self._database)) as source,
            closing(sqlite3.connect(folder / "backend.sqlite")) as to,
        ):
            source.backup(to)
        events = [] if self._gateway is None else self._gateway.events
        (folder / "sessions.json").write_text("".join(json.dumps(event) + "\n" for event in events))
        plain = [one for one in self._participants if isinstance(one, PlainParticipant)]
        connections = [{"sent": one.numbers, "received": one.received} for one in plain]
        (folder / "clients.json").write_text(json.dumps(connections))
        return folder

    # --- the end --------------------------------------------------------------------------------------------------

    def _report(self, *, finished: bool, seconds: float) -> Report:
        books = self._books
        if self._backend_process is not None:
            read_books(self._database, books)
        doubled = self._backend_process is not None and any(tally.doubled for tally in books.down)
        evidence = self._keep_evidence() if doubled and self._settings.client is ClientKind.PLAIN else None
        records = [one for one in self._participants if isinstance(one, RecordsParticipant)]
        plain = [one for one in self._participants if isinstance(one, PlainParticipant)]
        logged = []
        if self._settings.url is None and self._gateway is not None and plain:
            enter_upstream(self._gateway.events, plain, books)
            report = downstream_report(self._gateway.events, plain)
            logged.append(Account(direction=Direction.DOWNSTREAM, witness=Witness.LOG, report=report))
        return Report(
            settings=self._settings,
            seconds=seconds,
            finished=finished,
            faults=dict(self._schedule.struck),
            connections=sum(participant.connections for participant in self._participants),
            resumes=sum(participant.resumes for participant in records),
            most_unknown=max((participant.most_unknown for participant in records), default=0),
            accounts=[
                Account(direction=direction, witness=witness, report=report)
                for direction, witness, report in books.reports()
            ]
            + logged,
            evidence=evidence,
        )


def _wanted(settings: Settings) -> dict[Hop | None, dict[FaultKind, int]]:
    """How many faults of each kind on each hop. Raises ValueError for what cannot be."""
    if settings.client is ClientKind.RECORDS and settings.backend is BackendKind.WEBSOCKET:
        raise ValueError("a websocket backend is for plain clients, of a gateway that passes WebSockets through")
    if settings.url is not None and urlsplit(settings.url).scheme != "ws":
        raise ValueError("a trial needs a ws:// URL: its faults are done to TCP connections, below any TLS")
    if settings.kills and settings.url is not None and settings.gateway_command is None:
        raise ValueError("to kill a gateway the trial must be able to start it: give the command")
    rest = settings.faults - 2 * settings.kills
    if rest < 0:
        raise ValueError(
            f"{settings.faults} faults cannot have {settings.kills} kills each of two processes among them"
        )
    # A stream backend cannot be resumed: that it ends its connection is its death, and as such a kill.
    back = CONNECTION_FAULTS
    if settings.backend is not BackendKind.RECORDS and settings.client is ClientKind.RECORDS and not settings.kills:
        back = HARMLESS
    return {
        Hop.FRONT: spread(rest - rest // 2, CONNECTION_FAULTS),
        Hop.BACK: spread(rest // 2, back),
        None: dict.fromkeys(sorted(KILLS), settings.kills),
    }


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or LOOPBACK, parts.port or 80


def _kakitome_config(settings: Settings, port: int, backend_port: int) -> dict[str, Any]:
    framing = "records" if settings.backend is BackendKind.RECORDS else "stream"
    return {
        "listeners": [{"bind": f"{LOOPBACK}:{port}"}],
        "admin": None,
        "routes": [
            {
                "name": "trial",
                "match": {"path": f"{PATH}*"},
                "origins": ["*"],
                "backend": {"endpoints": [f"tcp://{LOOPBACK}:{backend_port}"], "framing": framing, "health": None},
                "delivery": {"window_messages": WINDOW_MESSAGES},
                "timeouts": {"keepalive": KEEPALIVE, "keepalive_timeout": KEEPALIVE, "close": KEEPALIVE},
            }
        ],
        "timeouts": {"drain": KEEPALIVE},
    }


def _free_port() -> int:
    """A port that was free a moment ago: a process that is killed is to come back at the same one."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
