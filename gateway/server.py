"""Puts the parts together: from a bound port to a relayed connection, and from SIGTERM to the exit.

One connection's way reads from top to bottom: `_serve_connection`, `_answer`, `_open`; TLS, request, route, origin,
admission, dial, upgrade; from there on the pump has it. docs/life-of-a-connection.md walks the same way with each
stage's deadline, limit and metric.

Invariant: the tasks here are those of connections that are not established yet. An established one has no task, only
its place in `sessions`; so a drain ends the listeners, lets handshakes under way finish, and then talks to sessions.
"""

import ipaddress
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from heapq import nlargest
from http import HTTPStatus
from operator import attrgetter
from pathlib import Path
from typing import Final

import structlog
import trio

from gateway import __version__
from gateway.access.asking import HttpAsker
from gateway.access.authorisers import Authorisers
from gateway.access.gatekeeper import Entry, Gatekeeper, Visitor
from gateway.access.method import CertificateNames
from gateway.access.state import open_state
from gateway.admin.app import AdminApp
from gateway.admin.server import AdminServer
from gateway.config import Address, Config, load_with_files
from gateway.config import Listener as ListenerConfig
from gateway.config.model import RESTART_KEYS
from gateway.config.reload import ConfigWatcher
from gateway.errors import (
    BackendRefused,
    BackendTimeout,
    BackendUnreachable,
    Blame,
    ConfigError,
    GatewayExhausted,
    HandshakeRefused,
    HandshakeTimeout,
    StartupError,
    TlsFailure,
)
from gateway.memory.account import Account
from gateway.memory.machine import automatic_budget
from gateway.operating import GatewayOperations
from gateway.policy.admission import Admission
from gateway.policy.anteroom import Guest
from gateway.policy.explanation import explain, readable
from gateway.policy.forwarded import ClientView
from gateway.policy.principal import AccessRefusal
from gateway.protocol.build import CODEC, DATA_PATH, HINT, SLOW
from gateway.protocol.handshake import Request, RequestReader, check_upgrade
from gateway.protocol.proxy_protocol import ProxyHeaderInvalid
from gateway.protocol.records import SUBPROTOCOL
from gateway.relay.pump import Pump
from gateway.routes import RouteService, RouteTable
from gateway.sessions.reception import Arrival, receive, speaks_records
from gateway.sessions.registry import SessionKeeper, SessionRegistry
from gateway.telemetry import logs
from gateway.telemetry.lag import sample_lag
from gateway.telemetry.logs import tell_folded
from gateway.telemetry.metrics import (
    AcceptError,
    CertificateReading,
    HandshakeOutcome,
    InFlightReading,
    MemoryReading,
    Metrics,
    ReloadOutcome,
    RouteMetrics,
    ServiceRefusal,
)
from gateway.telemetry.repetition import Repetition
from gateway.transport.descriptors import current_budget
from gateway.transport.files import Folder, serve_file
from gateway.transport.gatehouse import REQUEST_SECONDS, Gatehouse
from gateway.transport.listener import Accepted, Established, Listener, establish
from gateway.transport.requests import read_request, refuse
from gateway.transport.silent import SilentConnections
from gateway.transport.upkeep import Upkeep

DRAIN_SPREAD: Final = 0.7
"""The part of the drain window over which Close 1012 is spread; the rest is for the last ones to finish in."""

BROWSER_CLIENT: Final = frozenset({"/kakitome.js", "/kakitome.d.ts"})
"""Served to everybody on every host, whatever the routes are: a page loads its client from where it connects to."""

WEB: Final = Folder(Path(__file__).parent / "web", cross_origin=True)

PARKED_CHECK_SECONDS: Final = 1.0
"""How often the memory of parked sessions is looked at: their backends may go on talking to them."""

DRAIN_SPACING_SECONDS: Final = 0.25
"""Further apart than this Closes need not be: a few sessions do not hold a gateway for the whole window."""

DRAIN_STEP_SECONDS: Final = 0.05
"""Closes go out in steps of this: clients come back spread over time, and thousands of timers are saved."""

HOLDER_SHARE: Final = 4
"""What part of the memory one holder may use by default: many may share an address, and no single one has it all."""

LARGEST_SHOWN: Final = 10

KEPT_ALIVE_SECONDS: Final = 600.0
"""An HTTP connection that is older is not kept for another request: so nobody has one for ever."""

GUEST_BYTES: Final = 64 * 1024
"""What a connection takes in the midst of its TLS handshake: 55 kB measured, nearly all of it OpenSSL's."""

GUESTS_SHARE: Final = 4
"""The part of memory, of descriptors, and of all such connections for those of one address, is one in so many."""

MOST_GUESTS: Final = 4096
LEAST_GUESTS: Final = 64
MOST_GUESTS_OF_ONE: Final = 256
"""A crowd behind one address comes back at once, and each of it is here for some milliseconds."""

OVERLOAD_RETRY_SECONDS: Final = (2, 10)
"""From and to: those who are turned away together do not come back together."""

READ_ONCE: Final = "it came from a pipe, which is read once: what runs stays, and a change needs a new start"

log = structlog.get_logger("server")


class Server(SessionKeeper):
    """One gateway process."""

    def __init__(
        self, config: Config, *, config_path: Path | None = None, kept_files: Mapping[Path, bytes] | None = None
    ) -> None:
        """`config_path` is watched for changes; None: the configuration stays as it is. Raises StartupError.

        `kept_files` is what the load of `config` read from pipes: the configuration itself, or secrets.
        """
        self.metrics: Final = Metrics(clock=trio.current_time)
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
        self._table = RouteTable(config, self.metrics, self._authorisers)
        self._admission: Final = Admission()
        self._upkeep: Final = Upkeep()
        self._listeners: list[Listener] = []
        self._handshakes = 0
        self._silent: Final = SilentConnections()
        self._gatehouse: Final = _gatehouse(config, limit)
        self._distrusted: Final = Repetition()
        """Of warnings about trusted proxies' headers, by the proxy."""
        self._unspoken: Final = Repetition()
        """Of warnings about subprotocols that a route does not speak, by the route."""
        self._all_gone = trio.Event()
        self._operations: Final = GatewayOperations(
            self,
            routes=lambda: [service.config.name for service in self._table.services],
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
        self._upkeep.start(nursery, self._table.connectors())
        self._authorisers.start(nursery)
        nursery.start_soon(self._gatehouse.run)
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
            )
            admin = AdminServer(self.config.admin, app, requests=self.config.requests)
            address = await nursery.start(admin.serve)
            log.info("admin_listening", address=str(address))
        for listener in self._listeners:
            nursery.start_soon(listener.serve, self._serve_connection, nursery)
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
        return Listener(config, on_accept_error=self._count_accept_error, enter=self._enter, rest=self._gatehouse.rest)

    def _enter(self, address: str | None, end: Callable[[], None]) -> Guest | None:
        """A place for a connection that was just accepted; through a trusted proxy anybody may have come."""
        is_somebodys = address is not None and not self._table.trusted.trusts(ipaddress.ip_address(address))
        return self._gatehouse.enter(address if is_somebodys else None, end)

    def _count_accept_error(self, error: AcceptError) -> None:
        self.metrics.accept_errors[error] += 1

    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        """Runs a session's task, which may outlive the connection it was begun for; a fault of ours ends only it."""
        self._nursery.start_soon(_guarded, task)

    def gatekeeper(self, service: RouteService) -> Gatekeeper | None:
        named = self._table.named(service.config.name)
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
        self._silent.end()
        with trio.move_on_at(deadline):
            for session in [session for session in self.registry if session.is_parked]:
                session.relay.drain(trio.current_time(), until=deadline)  # nobody of theirs is here to be sent away
            await self._close_spread(window * DRAIN_SPREAD, deadline)
            while self.registry or self._handshakes:
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
            if not self.registry and not self._handshakes:
                return
            await trio.sleep(DRAIN_STEP_SECONDS)

    def _cut_all(self) -> None:
        for session in self.registry:
            session.relay.cut(self.pump.clock())

    # --- configuration --------------------------------------------------------------------------------------------

    async def apply(self, config: Config) -> None:
        """Serves new connections by `config`; those that are established keep what they were opened under."""
        try:
            table = RouteTable(config, self.metrics, self._authorisers, previous=self._table)
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
        self._table = table
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
            dead = self._table.routes_without_backend()
            # One route's dead backend is no reason to take the others, and the folders, from their users.
            if dead and len(dead) == len(self._table.services):
                problems["routes_without_backend"] = dead
        return problems

    def _provide_metrics(self) -> None:
        self.metrics.in_flight = self._in_flight
        self.metrics.backends = lambda: self._table.backend_readings()
        self.metrics.certificates = self._certificates
        self.metrics.memory = self._memory_reading

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
        for connector in self._table.connectors():
            if connector.tls is not None:
                yield from connector.tls.certificates

    # --- one connection -------------------------------------------------------------------------------------------

    async def _serve_connection(self, accepted: Accepted) -> None:
        """From the accepted socket to a session, or to an answer that says why not."""
        self._handshakes += 1
        attempt = _Attempt(began=trio.current_time(), metrics=self.metrics.unrouted)
        timeout = self.config.timeouts.handshake
        try:
            established = await establish(
                accepted, timeout_seconds=timeout, silent=self._silent, gatehouse=self._gatehouse
            )
            limits = self.config.requests
            reader = RequestReader(max_request_line_bytes=limits.line_bytes, max_head_bytes=limits.head_bytes)
            guest = accepted.guest
            request = await self._read_request(established, reader, attempt, guest, first=True)
            if request is None:
                attempt.metrics.handshakes[HandshakeOutcome.ABANDONED] += 1
            while request is not None:
                await self._gatehouse.turn(guest)
                self._gatehouse.spend(REQUEST_SECONDS)
                if not await self._answer(established, request, reader.leftover, attempt, guest):
                    break
                if trio.current_time() - attempt.began > KEPT_ALIVE_SECONDS:
                    break
                request = await self._read_request(established, reader, attempt, guest, first=False)
        except HandshakeRefused as refusal:
            await self._refuse(accepted, refusal, attempt)
        except BackendRefused as error:
            await self._refuse(accepted, _refused_by_backend(error), attempt)
        except GatewayExhausted as error:
            log.warning("gateway_exhausted", route=attempt.metrics.name, problem=str(error))
            await self._refuse(accepted, _exhausted(), attempt)
        except BackendUnreachable as error:
            await self._unreachable(accepted, error, attempt)
        except HandshakeTimeout:
            attempt.metrics.handshakes[HandshakeOutcome.TIMED_OUT] += 1
        except TlsFailure as error:
            attempt.metrics.handshakes[HandshakeOutcome.TLS_FAILED] += 1
            log.info("tls_failed", address=_peer(accepted), problem=str(error))
        except ProxyHeaderInvalid as error:
            # No answer: what speaks to a port for proxies without a proxy's header is none of our clients.
            attempt.metrics.handshakes[HandshakeOutcome.FAILED] += 1
            log.warning("proxy_header_invalid", address=_peer(accepted), problem=str(error))
        except OSError:
            attempt.metrics.handshakes[HandshakeOutcome.ABANDONED] += 1
        except trio.ClosedResourceError:
            # Sent away, for another one.
            attempt.metrics.handshakes[HandshakeOutcome.TIMED_OUT] += 1
        except Exception:
            attempt.metrics.handshakes[HandshakeOutcome.FAILED] += 1
            log.exception("handshake_failed")
            fault = HandshakeRefused("internal error", status=500, reason="other", blame=Blame.GATEWAY)
            await refuse(accepted.channel, fault, timeout_seconds=timeout)
        finally:
            self._handshakes -= 1
            self._note_gone()

    async def _read_request(
        self,
        established: Established,
        reader: RequestReader,
        attempt: "_Attempt",
        guest: Guest | None,
        *,
        first: bool,
    ) -> Request | None:
        attempt.head_only = False
        timeout = self._gatehouse.patience(self.config.timeouts.handshake)
        request = await read_request(
            established.channel, reader, first=first, timeout_seconds=timeout, silent=self._silent, guest=guest
        )
        attempt.head_only = request is not None and request.method == "HEAD"
        return request

    async def _answer(
        self,
        established: Established,
        request: Request,
        leftover: bytes,
        attempt: "_Attempt",
        guest: Guest | None,
    ) -> bool:
        """One request of a connection; whether another may follow. Raises what `_serve_connection` tells the client."""
        attempt.metrics = self.metrics.unrouted
        attempt.view = None
        if request.path in BROWSER_CLIENT and not request.asks_for_websocket:
            return await serve_file(WEB, request, established.channel)
        table = self._table
        attempt.view = view = self._client_view(table, established, request)
        log.debug(
            "request",
            method=request.method,
            host=view.host,
            path=request.path,
            address=view.address,
            peer=str(established.peer),
            scheme=view.scheme,
            websocket=request.asks_for_websocket,
        )
        with readable(request):
            service = table.find(view.host, request.path)
        attempt.metrics = metrics = service.metrics
        self._check_bars(service, view)
        if service.folder is not None:
            # Not by Upgrade alone, which some proxies send with every request: its sender may be asking for a page.
            if request.asks_for_websocket and request.get("sec-websocket-key") is not None:
                raise HandshakeRefused(
                    "files are served at this path, and no WebSocket: connect to the path of a route with a backend",
                    status=404,
                    reason=ServiceRefusal.FILES,
                )
            if service.gatekeeper is not None:
                visitor = _visitor(established, view, origin=None, is_page=False)
                request = (await service.gatekeeper.admit(request, visitor, speaks_records=False)).request
            count = metrics.count_file_response
            limits = service.config.limits
            with self._admission.admit(route=service.config.name, address=view.address, limits=limits):
                return await serve_file(service.folder, request, established.channel, on_response=count)
        await self._open(established, request, leftover, service, view, guest)
        metrics.handshakes[HandshakeOutcome.UPGRADED] += 1
        metrics.handshake_seconds.observe(trio.current_time() - attempt.began)
        return False

    def _check_bars(self, service: RouteService, view: ClientView) -> None:
        """Whoever it is: raises HandshakeRefused where the route or the address is barred (403) or drained (503)."""
        name = service.config.name
        if self.access.bar_for(None, route=name, address=view.address, session=None, now=time.time()) is not None:
            raise HandshakeRefused(
                "you may not come in here at present", status=HTTPStatus.FORBIDDEN, reason=AccessRefusal.REVOKED
            )
        if name in self._operations.drained:
            raise _sent_elsewhere("this gateway takes nobody here at present; try again, another one may")

    def _client_view(self, table: RouteTable, established: Established, request: Request) -> ClientView:
        peer = established.peer
        view = table.trusted.view(
            peer_address=None if peer is None else peer.host,
            peer_port=None if peer is None else peer.port,
            scheme="http" if established.tls is None else "https",
            host=request.host,
            headers=request.headers,
        )
        if view.warning is not None:
            requests = self._distrusted.count("unix" if peer is None else peer.host, trio.current_time())
            if requests:
                log.warning("forwarded_headers_ignored", problem=view.warning, requests=requests)
        return view

    async def _open(
        self,
        established: Established,
        request: Request,
        leftover: bytes,
        service: RouteService,
        view: ClientView,
        guest: Guest | None,
    ) -> None:
        """Checks, admits, dials, upgrades, and hands over to the pump. Raises HandshakeRefused, BackendUnreachable."""
        with readable(request):
            explain(request, service.origins, scheme=view.scheme, host=view.host)
            upgrade = check_upgrade(request)
        origin = service.origins.check(request.get_all("origin"), scheme=view.scheme, host=view.host)
        if self.draining:
            raise _sent_elsewhere("this gateway is shutting down; try again, another one will answer")
        # Who offers records may resume, which only its OPEN tells: a newcomer of that kind is turned away then.
        if not self.account.admits(resuming=SUBPROTOCOL in upgrade.subprotocols):
            raise HandshakeRefused(
                "this gateway is short of memory; try again later",
                status=503,
                reason=ServiceRefusal.OVERLOAD,
                blame=Blame.GATEWAY,
                headers=(("Retry-After", str(random.randint(*OVERLOAD_RETRY_SECONDS))),),
            )
        config = service.config
        unspoken = service.unspoken_subprotocols(upgrade)
        if unspoken and (requests := self._unspoken.count(config.name, trio.current_time())):
            log.warning(
                "subprotocol_not_spoken",
                route=config.name,
                offered=list(unspoken),
                hint="browsers end such a connection: add what the backend speaks to the route's `subprotocols`",
                requests=requests,
            )
        entry: Entry | None = None
        if service.gatekeeper is not None:
            visitor = _visitor(established, view, origin=origin, is_page=True)
            records = speaks_records(upgrade, config)
            entry = await service.gatekeeper.admit(request, visitor, speaks_records=records)
            request = entry.request
            upgrade = check_upgrade(request)  # a credential among the subprotocols is none of them
        ticket = self._admission.admit(route=config.name, address=view.address, limits=config.limits)
        if guest is not None:
            guest.leave()  # from here on it is counted by its ticket
        arrival = Arrival(
            service=service,
            established=established,
            request=request,
            upgrade=upgrade,
            leftover=leftover,
            view=view,
            origin=origin,
            entry=entry,
            ticket=ticket,
            handshake_seconds=self.config.timeouts.handshake,
        )
        await receive(arrival, self)

    def _note_gone(self) -> None:
        if self.draining and not self.registry and not self._handshakes:
            self._all_gone.set()

    async def _refuse(self, accepted: Accepted, refusal: HandshakeRefused, attempt: "_Attempt") -> None:
        metrics = attempt.metrics
        metrics.handshakes[HandshakeOutcome.REFUSED] += 1
        metrics.count_refusal(refusal.reason)
        log.info(
            "refused",
            route=metrics.name,
            status=refusal.status,
            reason=refusal.reason,
            problem=str(refusal),
            # The client's, as the trusted proxies say; whose connection it is stands beside it.
            address=_peer(accepted) if attempt.view is None else attempt.view.address,
            peer=_peer(accepted),
        )
        timeout = self.config.timeouts.handshake
        await refuse(accepted.channel, refusal, timeout_seconds=timeout, head_only=attempt.head_only)

    async def _unreachable(self, accepted: Accepted, error: BackendUnreachable, attempt: "_Attempt") -> None:
        """502 or 504; what each endpoint said is for the log, not for the client."""
        metrics = attempt.metrics
        metrics.handshakes[HandshakeOutcome.UNREACHABLE] += 1
        address = None if attempt.view is None else attempt.view.address
        log.warning("backend_unreachable", route=metrics.name, problem=str(error), address=address)
        late = isinstance(error, BackendTimeout)
        refusal = HandshakeRefused(
            "the service behind this gateway did not answer in time"
            if late
            else "the service behind this gateway cannot be reached",
            status=504 if late else 502,
            reason="other",
            blame=Blame.BACKEND,
        )
        await refuse(accepted.channel, refusal, timeout_seconds=self.config.timeouts.handshake)


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """A connection on its way to be established."""

    began: float
    metrics: RouteMetrics
    """Of the route, once there is one."""
    view: ClientView | None = None
    """Who asks, as the trusted proxies say, once a request has been read."""
    head_only: bool = False
    """The request that is being answered is a HEAD."""


def _budgets(config: Config) -> tuple[int, int]:
    """The limits of the account: of all together, and of one holder."""
    limit = automatic_budget() if config.memory == "auto" else config.memory
    share = limit // HOLDER_SHARE if config.memory_per_holder is None else config.memory_per_holder
    return limit, share


def _gatehouse(config: Config, memory_bytes: int) -> Gatehouse:
    handshakes = config.handshakes
    affordable = min(
        memory_bytes // GUESTS_SHARE // GUEST_BYTES, current_budget().for_connections // GUESTS_SHARE, MOST_GUESTS
    )
    limit = handshakes.waiting or max(affordable, LEAST_GUESTS)
    group_limit = handshakes.waiting_per_address or max(min(limit // GUESTS_SHARE, MOST_GUESTS_OF_ONE), 1)
    return Gatehouse(limit=limit, group_limit=group_limit, per_second=handshakes.per_second)


async def _guarded(task: Callable[[], Awaitable[None]]) -> None:
    try:
        await task()
    except Exception:
        log.exception("session_task_failed")


async def _watch(
    watcher: ConfigWatcher, server: Server, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    await watcher.run(on_config=server.apply, on_fault=server.reject, on_kept=server.keep, task_status=task_status)


def _sent_elsewhere(message: str) -> HandshakeRefused:
    return HandshakeRefused(
        message,
        status=503,
        reason=ServiceRefusal.DRAINING,
        blame=Blame.GATEWAY,
        headers=(("Retry-After", "1"),),
    )


def _exhausted() -> HandshakeRefused:
    return HandshakeRefused(
        "this gateway can take no more connections; try again later",
        status=503,
        reason=ServiceRefusal.EXHAUSTED,
        blame=Blame.GATEWAY,
        headers=(("Retry-After", "1"),),
    )


def _visitor(established: Established, view: ClientView, *, origin: str | None, is_page: bool) -> Visitor:
    tls = established.tls
    certificate = None
    if tls is not None and tls.client_subject is not None:
        certificate = CertificateNames(
            alternative_name=tls.client_alternative_name,
            subject=tls.client_subject,
            common_name=tls.client_common_name,
        )
    return Visitor(
        scheme=view.scheme,
        host=view.host,
        address=view.address,
        origin=origin,
        certificate=certificate,
        is_page=is_page,
    )


def _refused_by_backend(error: BackendRefused) -> HandshakeRefused:
    """A records backend's CLOSE in answer to OPEN, as an HTTP answer; its reason is meant for the client."""
    status = {1008: 403, 1013: 503}.get(error.code, 502)
    return HandshakeRefused(
        error.close_reason or "the service behind this gateway refused the session",
        status=status,
        reason=ServiceRefusal.BACKEND,
        blame=Blame.BACKEND,
    )


def _peer(accepted: Accepted) -> str:
    return "unix" if accepted.peer is None else str(accepted.peer)
