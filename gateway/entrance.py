"""One connection's way from the socket to a session, or an answer why not: long, to be read from top to bottom.

It reads from top to bottom: `serve`, `_answer`, `_open`; TLS, request, route, origin, admission, dial, upgrade; from
there on the pump has it. docs/life-of-a-connection.md walks the same way with each stage's deadline, limit and metric.

Invariant: the tasks here are those of connections that are not established yet; each is counted in `handshakes` until
it is over, and answered unless its client has gone or speaks something else.
"""

import random
import time
from abc import abstractmethod
from collections.abc import Callable, Container
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

import structlog
import trio

from gateway.access.gatekeeper import Entry, Visitor
from gateway.access.method import CertificateNames
from gateway.codes import POLICY, TRY_AGAIN_LATER
from gateway.config import Config, TcpAddress
from gateway.errors import (
    BackendRefused,
    BackendTimeout,
    BackendUnreachable,
    Blame,
    GatewayExhausted,
    HandshakeRefused,
    HandshakeTimeout,
    TlsFailure,
)
from gateway.policy.admission import Admission
from gateway.policy.anteroom import Guest
from gateway.policy.explanation import explain, readable
from gateway.policy.forwarded import ClientView, known_address
from gateway.policy.principal import AccessRefusal
from gateway.protocol.handshake import METHODS, Request, RequestReader, check_upgrade
from gateway.protocol.http import Refusal, shown
from gateway.protocol.proxy_protocol import ProxyHeaderInvalid
from gateway.protocol.records import SUBPROTOCOL
from gateway.routes import RouteService, RouteTable
from gateway.sessions.arrival import Arrival, speaks_records
from gateway.sessions.logout import hear_logout
from gateway.sessions.reception import receive
from gateway.sessions.registry import SessionKeeper
from gateway.sessions.revocation import Revocation
from gateway.telemetry.logs import tells_debug
from gateway.telemetry.metrics import (
    HandshakeOutcome,
    Metrics,
    RouteMetrics,
    ServiceRefusal,
)
from gateway.telemetry.repetition import Repetition
from gateway.transport.descriptors import current_budget
from gateway.transport.files import Folder, serve_file
from gateway.transport.gatehouse import REQUEST_SECONDS, Gatehouse
from gateway.transport.listener import Accepted, Established, establish
from gateway.transport.requests import read_request, refuse
from gateway.transport.silent import SilentConnections

BROWSER_CLIENT: Final = frozenset({"/kakitome.js", "/kakitome.d.ts"})
"""Served to everybody on every host, whatever the routes are: a page loads its client from where it connects to."""

WEB: Final = Folder(Path(__file__).parent / "web", cross_origin=True)

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

log = structlog.get_logger("server")


class EntranceHost(SessionKeeper):
    """What the entrance asks of the server behind it."""

    config: Config
    metrics: Metrics
    table: RouteTable
    """The routes by which those who come now are served."""
    draining: bool
    """Nobody is let in any more."""

    @property
    @abstractmethod
    def revocation(self) -> Revocation:
        """Who is thrown out, and barred."""

    @property
    @abstractmethod
    def drained_routes(self) -> Container[str]:
        """Routes that take nobody at present."""

    @abstractmethod
    def handshake_over(self) -> None:
        """One connection less is on its way."""


class Entrance:
    """Where connections come in."""

    def __init__(self, host: EntranceHost) -> None:
        self._host: Final = host
        self.handshakes = 0
        """Connections on their way."""
        self.silent: Final = SilentConnections()
        self.admission: Final = Admission()
        self.gatehouse: Final = _gatehouse(host.config, host.account.limit)
        self._distrusted: Final = Repetition()
        """Of warnings about trusted proxies' headers, by the proxy."""
        self._unspoken: Final = Repetition()
        """Of warnings about subprotocols that a route does not speak, by the route."""

    def enter(self, address: str | None, end: Callable[[], None]) -> Guest | None:
        """A place for a connection that was just accepted; through a trusted proxy anybody may have come."""
        is_somebodys = address is not None and not self._host.table.trusted.trusts(known_address(address))
        return self.gatehouse.enter(address if is_somebodys else None, end)

    def _trusts(self, peer: TcpAddress | None) -> bool:
        return self._host.table.trusted.trusts(None if peer is None else known_address(peer.host))

    async def serve(self, accepted: Accepted) -> None:
        """From the accepted socket to a session, or to an answer that says why not."""
        self.handshakes += 1
        attempt = _Attempt(began=trio.current_time(), metrics=self._host.metrics.unrouted)
        timeout = self._host.config.timeouts.handshake
        try:
            established = await establish(
                accepted,
                timeout_seconds=timeout,
                silent=self.silent,
                gatehouse=self.gatehouse,
                trusts=self._trusts,
            )
            limits = self._host.config.requests
            methods = self._host.table.methods
            reader = RequestReader(
                max_request_line_bytes=limits.line_bytes,
                max_head_bytes=limits.head_bytes,
                methods=methods,
                takes_bodies="POST" in methods,
            )
            guest = accepted.guest
            request = await self._read_request(established, reader, attempt, guest, first=True)
            if request is None:
                attempt.metrics.handshakes[HandshakeOutcome.ABANDONED] += 1
            while request is not None:
                await self.gatehouse.turn(guest)
                self.gatehouse.spend(REQUEST_SECONDS)
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
            await refuse(accepted.channel, fault, timeout_seconds=timeout, headers=accepted.listener.headers)
        finally:
            self.handshakes -= 1
            self._host.handshake_over()

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
        timeout = self.gatehouse.patience(self._host.config.timeouts.handshake)
        request = await read_request(
            established.channel, reader, first=first, timeout_seconds=timeout, silent=self.silent, guest=guest
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
        """One request of a connection; whether another may follow. Raises what `serve` tells the client."""
        attempt.metrics = self._host.metrics.unrouted
        attempt.view = None
        if request.path in BROWSER_CLIENT and request.method in METHODS and not request.asks_for_websocket:
            return await serve_file(WEB, request, established.channel, headers=established.headers)
        table = self._host.table
        attempt.view = view = self._client_view(table, established, request)
        if tells_debug():
            log.debug(
                "request",
                method=request.method,
                host=view.host,
                path=request.path,
                address=view.address,
                peer=str(established.peer),
                scheme=view.scheme,
                tls=None if established.tls is None else established.tls.version,
                websocket=request.asks_for_websocket,
            )
        if not table.hosts.answers_to(view.host):
            raise HandshakeRefused(
                f"this gateway is not {shown(view.host)}: name it in `hosts`, if it is",
                status=HTTPStatus.FORBIDDEN,
                reason=ServiceRefusal.HOST,
            )
        with readable(request):
            service = table.find(view.host, request.path)
        attempt.metrics = metrics = service.metrics
        self._check_bars(service, view)
        if service.logout is not None:
            with self.admission.admit(route=service.config.name, address=view.address, limits=service.config.limits):
                await hear_logout(
                    request,
                    established.channel,
                    leftover,
                    judge=service.logout,
                    revocation=self._host.revocation,
                    metrics=metrics,
                    timeout_seconds=self._host.config.timeouts.handshake,
                    headers=established.headers,
                )
            return False
        if request.method not in METHODS:
            raise _not_served(request.method)
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
            with self.admission.admit(route=service.config.name, address=view.address, limits=limits):
                return await serve_file(
                    service.folder, request, established.channel, on_response=count, headers=established.headers
                )
        session = await self._open(established, request, leftover, service, view, guest)
        metrics.handshakes[HandshakeOutcome.UPGRADED] += 1
        took = trio.current_time() - attempt.began
        metrics.handshake_seconds.observe(took)
        if session is not None and metrics.handshake_seconds.exemplars is not None:
            metrics.handshake_seconds.name(took, session, self._host.pump.clock())
        if tells_debug():
            log.debug("upgraded", route=metrics.name, address=view.address, milliseconds=round(1000 * took, 1))
        return False

    def _check_bars(self, service: RouteService, view: ClientView) -> None:
        """Whoever it is: raises HandshakeRefused where the route or the address is barred (403) or drained (503)."""
        name = service.config.name
        if self._host.access.bar_for(None, route=name, address=view.address, session=None, now=time.time()) is not None:
            raise HandshakeRefused(
                "you may not come in here at present", status=HTTPStatus.FORBIDDEN, reason=AccessRefusal.REVOKED
            )
        if name in self._host.drained_routes:
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
    ) -> str | None:
        """Checks, admits, dials, upgrades, and hands over to the pump; the session's id, None if that came to none.

        Raises HandshakeRefused, BackendUnreachable.
        """
        with readable(request):
            explain(request, service.origins, scheme=view.scheme, host=view.host)
            upgrade = check_upgrade(request)
        origin = service.origins.check(request.get_all("origin"), scheme=view.scheme, host=view.host)
        if self._host.draining:
            raise _sent_elsewhere("this gateway is shutting down; try again, another one will answer")
        # Who offers records may resume, which only its OPEN tells: a newcomer of that kind is turned away then.
        if not self._host.account.admits(resuming=SUBPROTOCOL in upgrade.subprotocols):
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
            offered = request.get_all("sec-websocket-protocol")
            request = entry.request
            if request.get_all("sec-websocket-protocol") != offered:
                upgrade = check_upgrade(request)  # a credential among the subprotocols is none of them
            principal = entry.principal
            if tells_debug():
                log.debug(
                    "let_in",
                    route=config.name,
                    address=view.address,
                    method=None if principal is None else principal.method,
                    subject=None if principal is None else principal.subject,
                    awaits_open=entry.awaits_open,
                )
        ticket = self.admission.admit(route=config.name, address=view.address, limits=config.limits)
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
            handshake_seconds=self._host.config.timeouts.handshake,
        )
        return await receive(arrival, self._host)

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
        timeout = self._host.config.timeouts.handshake
        headers = accepted.listener.headers
        await refuse(accepted.channel, refusal, timeout_seconds=timeout, head_only=attempt.head_only, headers=headers)

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
        timeout = self._host.config.timeouts.handshake
        await refuse(accepted.channel, refusal, timeout_seconds=timeout, headers=accepted.listener.headers)


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


def _gatehouse(config: Config, memory_bytes: int) -> Gatehouse:
    handshakes = config.handshakes
    affordable = min(
        memory_bytes // GUESTS_SHARE // GUEST_BYTES, current_budget().for_connections // GUESTS_SHARE, MOST_GUESTS
    )
    limit = handshakes.waiting or max(affordable, LEAST_GUESTS)
    group_limit = handshakes.waiting_per_address or max(min(limit // GUESTS_SHARE, MOST_GUESTS_OF_ONE), 1)
    return Gatehouse(limit=limit, group_limit=group_limit, per_second=handshakes.per_second)


def _sent_elsewhere(message: str) -> HandshakeRefused:
    return HandshakeRefused(
        message,
        status=503,
        reason=ServiceRefusal.DRAINING,
        blame=Blame.GATEWAY,
        headers=(("Retry-After", "1"),),
    )


def _not_served(method: str) -> HandshakeRefused:
    return HandshakeRefused(
        f"only {' and '.join(METHODS)} are served here, not {method}",
        status=HTTPStatus.METHOD_NOT_ALLOWED,
        reason=Refusal.METHOD,
        headers=(("Allow", ", ".join(METHODS)),),
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
    status = {POLICY: 403, TRY_AGAIN_LATER: 503}.get(error.code, 502)
    return HandshakeRefused(
        error.close_reason or "the service behind this gateway refused the session",
        status=status,
        reason=ServiceRefusal.BACKEND,
        blame=Blame.BACKEND,
    )


def _peer(accepted: Accepted) -> str:
    return "unix" if accepted.peer is None else str(accepted.peer)
