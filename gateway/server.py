"""Puts the parts together: from a bound port to a relayed connection, and from SIGTERM to the exit.

One connection's way to a session is in `entrance`.

Invariant: an established connection has no task, only its place in `sessions`; so a drain ends the listeners, lets
handshakes under way finish, and then talks to sessions.
"""

import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Container, Iterator, Mapping
from functools import partial
from heapq import nlargest
from operator import attrgetter
from pathlib import Path
from typing import Final

import structlog
import trio

from gateway import __version__
from gateway.access.asking import HttpAsker
from gateway.access.authorisers import Authorisers
from gateway.access.gatekeeper import Gatekeeper
from gateway.access.state import open_state
from gateway.admin.app import AdminApp
from gateway.admin.server import AdminServer
from gateway.config import Address, Config, TcpAddress, load_with_files
from gateway.config import Listener as ListenerConfig
from gateway.config.model import RESTART_KEYS
from gateway.config.reload import ConfigWatcher
from gateway.entrance import Entrance, EntranceHost
from gateway.errors import (
    ConfigError,
    StartupError,
)
from gateway.memory.account import Account
from gateway.memory.machine import automatic_budget
from gateway.operating import GatewayOperations
from gateway.protocol.build import CODEC, DATA_PATH, HINT, SLOW
from gateway.relay.pump import Pump
from gateway.routes import RouteService, RouteTable
from gateway.sessions.registry import SessionRegistry
from gateway.sessions.revocation import Revocation
from gateway.telemetry import logs
from gateway.telemetry.lag import sample_lag
from gateway.telemetry.logs import tell_folded
from gateway.telemetry.metrics import (
    AcceptError,
    CertificateReading,
    Detail,
    InFlightReading,
    MemoryReading,
    Metrics,
    ReloadOutcome,
)
from gateway.transport.listener import Listener
from gateway.transport.upkeep import Upkeep

DRAIN_SPREAD: Final = 0.7
"""The part of the drain window over which Close 1012 is spread; the rest is for the last ones to finish in."""

PARKED_CHECK_SECONDS: Final = 1.0
"""How often the memory of parked sessions is looked at: their backends may go on talking to them."""

DRAIN_SPACING_SECONDS: Final = 0.25
"""Further apart than this Closes need not be: a few sessions do not hold a gateway for the whole window."""

DRAIN_STEP_SECONDS: Final = 0.05
"""Closes go out in steps of this: clients come back spread over time, and thousands of timers are saved."""

HOLDER_SHARE: Final = 4
"""What part of the memory one holder may use by default: many may share an address, and no single one has it all."""

LARGEST_SHOWN: Final = 10

READ_ONCE: Final = "it came from a pipe, which is read once: what runs stays, and a change needs a new start"

log = structlog.get_logger("server")


class Server(EntranceHost):
    """One gateway process."""

    def __init__(
        self, config: Config, *, config_path: Path | None = None, kept_files: Mapping[Path, bytes] | None = None
    ) -> None:
        """`config_path` is watched for changes; None: the configuration stays as it is. Raises StartupError.

        `kept_files` is what the load of `config` read from pipes: the configuration itself, or secrets.
        """
        self.metrics = Metrics(clock=trio.current_time)
        self.config = config
        self.logs_begin = config.log.sessions
        self.draining = False
        self.registry = SessionRegistry(
            parked_sessions=config.sessions.parked,
            parked_per_holder=config.sessions.parked_per_holder,
            parked_bytes=config.sessions.parked_bytes,
            ended_sessions=config.sessions.ended,
        )
        self.registry.on_empty = self._note_gone
        limit, share = _budgets(config)
        self.account = Account(limit_bytes=limit, holder_bytes=share, on_attention=self._call_attention)
        """Of all that is held for clients and backends."""
        self._config_path = config_path
        self._kept_files: Final = kept_files or {}
        self.pump: Pump
        self._nursery: trio.Nursery
        try:
            state = open_state(config.state, now=time.time())
        except ValueError as fault:
            raise StartupError(str(fault)) from None
        self._asker: Final = HttpAsker()
        self.access = state
        self._authorisers: Final = Authorisers(self._asker, state)
        self.table = RouteTable(config, self.metrics, self._authorisers)
        self._upkeep: Final = Upkeep()
        self._listeners: list[Listener] = []
        self.entrance: Final = Entrance(self)
        self._all_gone = trio.Event()
        self._operations: Final = GatewayOperations(
            self,
            routes=lambda: [service.config.name for service in self.table.services],
            configured_level=lambda: self.config.log.level,
        )

    # --- life -----------------------------------------------------------------------------------------------------

    async def serve(self, *, task_status: trio.TaskStatus["Server"] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until SIGTERM or SIGINT, drains, and returns. Raises StartupError for what the operator can mend."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            self.pump = Pump()
            try:
                async with trio.open_nursery() as self._nursery:
                    nursery = self._nursery
                    await self._start(nursery)
                    task_status.started(self)
                    async for number in signals:
                        log.info("draining", signal=signal.Signals(number).name, sessions=len(self.registry))
                        break
                    nursery.start_soon(self._exit_at_second_signal, signals)
                    await self.drain()
                    nursery.cancel_scope.cancel()
            finally:
                for listener in self._listeners:
                    listener.close()
                self._cut_all()
                self.pump.close()
                await self._asker.close()
                self._authorisers.state.close()
        log.info("stopped")

    async def _start(self, nursery: trio.Nursery) -> None:
        if SLOW:
            log.warning("not_compiled", codec=CODEC, data_path=DATA_PATH, hint=HINT)
        log.info("memory", limit_bytes=self.account.limit, holder_limit_bytes=self.account.holder_limit)
        if self.config.sessions.parked_bytes is not None:
            log.info("config_hint", key="sessions.parked_bytes", hint="part of memory now: best left out")
        for config in self.config.listeners:
            self._listeners.append(self._bind(config))  # one by one: those bound before a failure are closed
        self._provide_metrics()
        await nursery.start(self.pump.run)
        self._upkeep.start(nursery, self.table.connectors())
        self._authorisers.start(nursery)
        nursery.start_soon(self.entrance.gatehouse.run)
        nursery.start_soon(sample_lag, self.metrics.event_loop_lag_seconds)
        nursery.start_soon(self._watch_parked)
        if self.config.admin is not None:
            app = AdminApp(
                self,
                token=self.config.admin.token,
                sessions=self.registry,
                memory=self.describe_memory,
                tokens=self.config.admin.tokens,
                operations=self._operations,
                hosts=self._has_host if isinstance(self.config.admin.bind, TcpAddress) else None,
            )
            admin = AdminServer(self.config.admin, app, requests=self.config.requests)
            address = await nursery.start(admin.serve)
            log.info("admin_listening", address=str(address))
        for listener in self._listeners:
            nursery.start_soon(listener.serve, self.entrance.serve, nursery)
            for address in listener.addresses:
                log.info("listening", address=str(address), scheme=listener.scheme)
        if self._config_path is not None:
            if self._config_path in self._kept_files:
                log.info("config_kept", path=str(self._config_path), hint=READ_ONCE)
            load = partial(load_with_files, kept=self._kept_files)
            watcher = ConfigWatcher(self._config_path, self.config, load=load)
            await nursery.start(_watch, watcher, self)
        log.info("ready", version=__version__, codec=CODEC, data_path=DATA_PATH, pid=os.getpid())

    def _bind(self, config: ListenerConfig) -> Listener:
        return Listener(
            config,
            on_accept_error=self._count_accept_error,
            enter=self.entrance.enter,
            rest=self.entrance.gatehouse.rest,
        )

    def _has_host(self, host: str) -> bool:
        return self.table.hosts.has_or_is_local(host)

    def _count_accept_error(self, error: AcceptError) -> None:
        self.metrics.accept_errors[error] += 1

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        """Runs a session's task, which may outlive the connection it was begun for; a fault of ours ends only it."""
        self._nursery.start_soon(_guarded, task)

    def gatekeeper(self, service: RouteService) -> Gatekeeper | None:
        named = self.table.named(service.config.name)
        return None if named is None else named.gatekeeper

    async def _watch_parked(self) -> None:
        while True:
            await trio.sleep(PARKED_CHECK_SECONDS)
            self.registry.enforce_memory(self.pump.clock())
            tell_folded()

    def _call_attention(self) -> None:
        self.pump.at_turn_end(self._relieve_memory)

    def _relieve_memory(self, now: float) -> None:
        """The account asks for it: lets those read on that have room, and ends parked sessions where there is none."""
        for waiter in self.account.attend():
            waiter.room_again(now)
        excess = self.account.excess_bytes
        if excess:
            ended = self.registry.free(excess, now)
            if ended:
                log.warning("parked_sessions_ended_for_memory", sessions=ended, freed_bytes=excess)

    def on_fault(self, error: Exception) -> None:
        """A bug of ours in what the pump calls here."""
        log.error("internal_fault", exc_info=error)

    @staticmethod
    async def _exit_at_second_signal(signals: AsyncIterator[int]) -> None:
        async for number in signals:
            log.warning("exit_at_once", signal=signal.Signals(number).name)
            # Not sys.exit: whatever hangs must not be waited for.
            os._exit(1)

    async def drain(self) -> None:
        """Stops accepting, ends parked sessions at once, closes the others one by one, returns when none is left."""
        self.draining = True
        window = self.config.timeouts.drain
        deadline = trio.current_time() + window
        for listener in self._listeners:
            listener.close()
        self.entrance.silent.end()
        with trio.move_on_at(deadline):
            for session in [session for session in self.registry if session.is_parked]:
                session.relay.drain(trio.current_time(), until=deadline)  # nobody of theirs is here to be sent away
            await self._close_spread(window * DRAIN_SPREAD, deadline)
            while self.registry or self.entrance.handshakes:
                self._all_gone = trio.Event()
                for session in self.registry:  # those whose handshake ended meanwhile
                    session.relay.drain(trio.current_time(), until=deadline)
                await self._all_gone.wait()
        if self.registry:
            log.warning("drain_window_over", sessions=len(self.registry))
            self._cut_all()

    async def _close_spread(self, seconds: float, deadline: float) -> None:
        waiting = list(self.registry)
        begin = trio.current_time()
        total = len(waiting)
        seconds = min(seconds, total * DRAIN_SPACING_SECONDS)
        while waiting:
            elapsed = trio.current_time() - begin
            due = total if elapsed >= seconds else 1 + int(total * elapsed / seconds)
            for _ in range(due - (total - len(waiting))):
                waiting.pop().relay.drain(trio.current_time(), until=deadline)
            if not self.registry and not self.entrance.handshakes:
                return
            await trio.sleep(DRAIN_STEP_SECONDS)

    def _cut_all(self) -> None:
        for session in self.registry:
            session.relay.cut(self.pump.clock())

    # --- configuration --------------------------------------------------------------------------------------------

    async def apply(self, config: Config) -> None:
        """Serves new connections by `config`; those that are established keep what they were opened under."""
        try:
            table = RouteTable(config, self.metrics, self._authorisers, previous=self.table)
        except StartupError as fault:
            log.error("config_rejected", problems=[str(fault)])
            self._count_reload(ReloadOutcome.REJECTED)
            return
        for key in RESTART_KEYS:
            if attrgetter(key)(config) != attrgetter(key)(self.config):
                log.warning("restart_needed", key=key, hint="this part of the configuration is read at the start only")
        if config.log.level != self.config.log.level:
            logs.set_level(config.log.level)
        self.logs_begin = config.log.sessions
        self.table = table
        self.metrics.detail = _detail(config)
        self.config = config
        limit, share = _budgets(config)
        self.account.set_limits(limit_bytes=limit, holder_bytes=share)
        self.registry.parked_sessions = config.sessions.parked
        self.registry.parked_per_holder = config.sessions.parked_per_holder
        self.registry.parked_bytes = config.sessions.parked_bytes
        self._upkeep.replace(table.connectors())
        self._authorisers.settle()
        self._count_reload(ReloadOutcome.APPLIED)
        log.info("config_applied", routes=[service.config.name for service in table.services])

    def reject(self, fault: ConfigError) -> None:
        """Reports a configuration that cannot be used; nothing changes."""
        self._count_reload(ReloadOutcome.REJECTED)
        log.error("config_rejected", problems=list(fault.lines()))

    def keep(self, pipes: Collection[Path]) -> None:
        """Reports what was asked to be read again and cannot be; what runs stays."""
        if self._config_path in pipes:
            self._count_reload(ReloadOutcome.REJECTED)
        log.warning("config_not_read_again", paths=[str(path) for path in pipes], hint=READ_ONCE)

    def _count_reload(self, outcome: ReloadOutcome) -> None:
        self.metrics.config_reloads[outcome] += 1
        self.metrics.config_last_reload_successful = outcome is ReloadOutcome.APPLIED

    # --- what the operator is told --------------------------------------------------------------------------------

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where clients can connect, once it serves; with the port that the kernel chose for 0."""
        return tuple(address for listener in self._listeners for address in listener.addresses)

    def readiness(self) -> dict[str, object]:
        """What keeps this gateway from serving; empty when nothing does."""
        problems: dict[str, object] = {}
        if self.draining:
            problems["draining"] = True
        if self.config.admin is not None and self.config.admin.readiness == "any_route":
            dead = self.table.routes_without_backend()
            # One route's dead backend is no reason to take the others, and the folders, from their users.
            if dead and len(dead) == sum(service.logout is None for service in self.table.services):
                problems["routes_without_backend"] = dead
        return problems

    def _provide_metrics(self) -> None:
        self.metrics.detail = _detail(self.config)
        self.metrics.in_flight = self._in_flight
        self.metrics.backends = lambda: self.table.backend_readings()
        self.metrics.certificates = self._certificates
        self.metrics.memory = self._memory_reading
        self.metrics.tasks = lambda: trio.lowlevel.current_statistics().tasks_living

    def _in_flight(self) -> Iterator[InFlightReading]:
        for session in self.registry:
            for lane in (session.relay.up, session.relay.down):
                ledger = lane.ledger
                if ledger is not None and (oldest := ledger.oldest_accepted_at) is not None:
                    yield InFlightReading(
                        direction=lane.metrics,
                        messages=ledger.in_flight_messages,
                        bytes=ledger.in_flight_bytes,
                        oldest_accepted_at=oldest,
                    )

    def _memory_reading(self) -> MemoryReading:
        account = self.account
        return MemoryReading(
            used=account.used,
            limit=account.limit,
            holder_limit=account.holder_limit,
            allowance=account.allowance,
            largest_holder=max((holder.used for holder in account.largest(1)), default=0),
            holders=account.holders,
            waiting=account.waiting,
        )

    def describe_memory(self) -> dict[str, object]:
        """The account for the admin API: each budget, what is used of it, and who uses most."""
        account = self.account
        return {
            "used_bytes": account.used,
            "limit_bytes": account.limit,
            "holder_limit_bytes": account.holder_limit,
            "holder_allowance_bytes": account.allowance,
            "is_short": account.is_pressed,
            "waiting_connections": account.waiting,
            "holders": account.holders,
            "largest_holders": [
                {"holder": holder.key, "bytes": holder.used, "tabs": holder.sessions}
                for holder in account.largest(LARGEST_SHOWN)
            ],
            "largest_sessions": [
                {"session": session.id, "holder": session.tab.holder.key, "bytes": session.tab.used}
                for session in nlargest(LARGEST_SHOWN, self.registry, key=lambda session: session.tab.used)
            ],
        }

    def _certificates(self) -> Iterator[CertificateReading]:
        for listener in self._listeners:
            if listener.tls is not None:
                yield from listener.tls.certificates
        for connector in self.table.connectors():
            if connector.tls is not None:
                yield from connector.tls.certificates

    # --- those who come ---------------------------------------------------------------------------------------------

    @property
    def revocation(self) -> Revocation:
        return self._operations.revocation

    @property
    def drained_routes(self) -> Container[str]:
        return self._operations.drained

    def handshake_over(self) -> None:
        self._note_gone()

    def _note_gone(self) -> None:
        if self.draining and not self.registry and not self.entrance.handshakes:
            self._all_gone.set()


def _budgets(config: Config) -> tuple[int, int]:
    """The limits of the account: of all together, and of one holder."""
    limit = automatic_budget() if config.memory == "auto" else config.memory
    share = limit // HOLDER_SHARE if config.memory_per_holder is None else config.memory_per_holder
    return limit, share


async def _guarded(task: Callable[[], Awaitable[None]]) -> None:
    try:
        await task()
    except Exception:
        log.exception("session_task_failed")


async def _watch(
    watcher: ConfigWatcher, server: Server, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    await watcher.run(on_config=server.apply, on_fault=server.reject, on_kept=server.keep, task_status=task_status)


def _detail(config: Config) -> Detail:
    told = config.metrics
    return Detail(
        per_endpoint=told.per_endpoint,
        few_buckets=told.buckets == "few",
        idle_routes=told.idle_routes,
        exemplars=told.exemplars,
    )
