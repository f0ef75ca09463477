"""Dials a route's backend: the chosen endpoint first, the next when it fails, all within one deadline.

Invariant: a dial ends within `connect_timeout` with one open connection or none, whatever fails or is cancelled on the
way, and every attempt is counted at its endpoint.
"""

import errno
import os
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import structlog
import trio

from gateway.config import Address, Backend, TcpAddress, UnixAddress
from gateway.errors import BackendTimeout, BackendUnreachable, NoEndpointLeft, TlsFailure
from gateway.protocol.authority import parse_authority
from gateway.protocol.proxy_protocol import LOCAL_HEADER, build_v2
from gateway.telemetry.metrics import BackendReading, DialOutcome
from gateway.transport.balancing import Balancer, EndpointState
from gateway.transport.channel import Channel, tcp_address, tune_tcp
from gateway.transport.tls import TlsFacts, client_context

BACKLOG_RETRY_SECONDS: Final = 0.01
"""A Unix socket whose backlog is full says so at once, and nothing tells when it no longer is (connect(2), EAGAIN)."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFacts:
    """What a backend is told of the client in a PROXY protocol header."""

    address: TcpAddress | None
    """None: it came over a Unix socket."""
    local: Address
    """What it connected to."""
    tls: TlsFacts | None
    authority: str | None
    """The host it asked for, as in a Host header."""


class Dialed:
    """A connection to a backend, counted as its endpoint's load until `close`."""

    __slots__ = ("_counted", "channel", "remote", "state")

    def __init__(self, channel: Channel, state: EndpointState, *, remote: Address) -> None:
        self.channel: Final = channel
        self.state: Final = state
        """Whose connection it is; `state.name` is its endpoint as configured."""
        self.remote: Final = remote
        """The address that answered, of those the endpoint's host has."""
        self._counted = True

    def close(self) -> None:
        """Ends its share of the endpoint's load, and the connection if nobody took it from the channel."""
        if self._counted:
            self._counted = False
            self.state.active -= 1
        self.channel.close()


class _AttemptFailed(Exception):
    def __init__(self, outcome: DialOutcome, problem: str) -> None:
        super().__init__(problem)
        self.outcome = outcome


class Connector:
    """Dials one route's backend and knows how each of its endpoints is doing."""

    def __init__(self, backend: Backend, *, route: str, previous: "Connector | None" = None) -> None:
        """`previous` is the route's connector before a reload: endpoints that stay keep load, health and counters.

        Raises `StartupError` for certificate files that cannot be used.
        """
        known = {} if previous is None else {state.endpoint: state for state in previous.endpoints}
        self.backend: Final = backend
        self.route: Final = route
        self.endpoints: Final[tuple[EndpointState, ...]] = tuple(
            known.get(endpoint) or EndpointState(endpoint) for endpoint in backend.endpoints
        )
        if backend.health is None:
            for state in self.endpoints:
                state.check_passed = None
        self._balancer: Final = Balancer(self.endpoints, backend.balancing)
        self._tls: Final = client_context(backend.tls) if any(endpoint.tls for endpoint in backend.endpoints) else None

    @property
    def up(self) -> bool:
        """At least one endpoint answers, as far as is known."""
        return any(state.up for state in self.endpoints)

    def readings(self) -> Iterator[BackendReading]:
        """Every endpoint's health and counters, for the metrics."""
        for state in self.endpoints:
            yield BackendReading(route=self.route, endpoint=state.name, up=state.up, dials=state.dials)

    def are_away_since(self, moment: float, *, without: Collection[EndpointState]) -> bool:
        """All endpoints but those have been failing since `moment`, in trio's time, or for longer."""
        others = [state for state in self.endpoints if state not in without]
        return all(state.failing_since is not None and state.failing_since <= moment for state in others)

    async def dial(
        self,
        *,
        key: bytes,
        client: ClientFacts | None = None,
        first: EndpointState | None = None,
        without: Collection[EndpointState] = (),
    ) -> Dialed:
        """A connection, TLS and PROXY header done, to the first endpoint that takes one; close it when done.

        `key` is what `session_hash` keeps together; `first` comes before all others, and those of `without` are not
        dialled. Raises `BackendTimeout` when no endpoint said anything in time, `NoEndpointLeft` when all are left out,
        else `BackendUnreachable`; the text tells the log, not the client, what each one said.
        """
        deadline = trio.current_time() + self.backend.connect_timeout
        order = [state for state in self._balancer.order(key, now=trio.current_time()) if state not in without]
        if not order:
            raise NoEndpointLeft("each endpoint has answered already")
        order.sort(key=lambda state: state is not first)
        preferred = sum(state.is_available(trio.current_time()) for state in order)
        failures: list[str] = []
        outcomes: set[DialOutcome] = set()
        for tried, state in enumerate(order):
            # The endpoints held for good share the time, so that a silent one leaves some to those after it.
            sharing = preferred - tried if tried < preferred else len(order) - tried
            try:
                return await self._attempt(state, _share(deadline, sharing), self._proxy_header(client))
            except _AttemptFailed as failed:
                failures.append(f"{state.name}: {failed}")
                outcomes.add(failed.outcome)
            if trio.current_time() >= deadline:
                break
        fault = BackendTimeout if outcomes == {DialOutcome.TIMED_OUT} else BackendUnreachable
        raise fault("; ".join(failures))

    async def probe(self, state: EndpointState, *, timeout_seconds: float) -> str | None:
        """Connects to one endpoint, TLS included, and hangs up; what went wrong, or None. Counts nothing."""
        deadline = trio.current_time() + timeout_seconds
        try:
            channel, _ = await self._open(state, deadline, self._proxy_header(None))
        except _AttemptFailed as failed:
            return str(failed)
        channel.close()
        return None

    async def _attempt(self, state: EndpointState, deadline: float, header: bytes) -> Dialed:
        state.active += 1  # from now on, so that dials at the same time spread over the endpoints
        dialed: Dialed | None = None
        try:
            channel, remote = await self._open(state, deadline, header)
            dialed = Dialed(channel, state, remote=remote)
        except _AttemptFailed as failed:
            if state.record_dial(failed.outcome, now=trio.current_time()):
                _log.warning("dial_failed", route=self.route, endpoint=state.name, problem=str(failed))
            raise
        finally:
            if dialed is None:
                state.active -= 1
        state.record_dial(DialOutcome.CONNECTED, now=trio.current_time())
        return dialed

    async def _open(self, state: EndpointState, deadline: float, header: bytes) -> tuple[Channel, Address]:
        """An open channel and the address that answered; raises `_AttemptFailed`."""
        doing = "the connection"
        channel: Channel | None = None
        try:
            with trio.fail_at(deadline):
                channel, remote = await _connect(state.endpoint.address, deadline)
                if header:
                    await channel.send_all(header)
                if state.endpoint.tls and self._tls is not None:
                    doing = "the TLS handshake"
                    await channel.start_tls(self._tls, server_side=False, server_hostname=self._server_name(state))
                opened, channel = channel, None
        except trio.TooSlowError:
            raise _AttemptFailed(DialOutcome.TIMED_OUT, f"{doing} was not complete in time") from None
        except TlsFailure as failure:
            raise _AttemptFailed(DialOutcome.TLS_FAILED, f"TLS: {failure}") from failure
        except OSError as error:
            raise _AttemptFailed(_outcome(error), error.strerror or str(error)) from error
        finally:
            if channel is not None:
                channel.close()
        return opened, remote

    def _proxy_header(self, client: ClientFacts | None) -> bytes:
        """What precedes everything else, TLS too; without a client the connection is the gateway's own."""
        if self.backend.proxy_protocol is None:
            return b""
        if client is None:
            return LOCAL_HEADER
        local = client.local if isinstance(client.local, TcpAddress) else None
        return build_v2(client.address, local, tls=client.tls, authority=_host(client.authority))

    def _server_name(self, state: EndpointState) -> str:
        if self.backend.tls is not None and self.backend.tls.server_name is not None:
            return self.backend.tls.server_name
        address = state.endpoint.address
        assert isinstance(address, TcpAddress), "tls:// has a host"
        return address.host


def _share(deadline: float, sharing: int) -> float:
    """The deadline of the first of `sharing` attempts that have until `deadline` together."""
    now = trio.current_time()
    return now + (deadline - now) / sharing


def _host(authority: str | None) -> str | None:
    """The host without its port; None for what is no host, which a backend must not be told."""
    try:
        return None if authority is None else parse_authority(authority).host
    except ValueError:
        return None


def _outcome(error: OSError) -> DialOutcome:
    match error:
        case ConnectionRefusedError() | FileNotFoundError():
            return DialOutcome.REFUSED
        case TimeoutError():
            return DialOutcome.TIMED_OUT
        case _:
            return DialOutcome.FAILED


async def _connect(address: Address, deadline: float) -> tuple[Channel, Address]:
    """A plain connection, and the address of those a host has that took it.

    Raises `OSError`, or `trio.TooSlowError`, for what befell the last of them.
    """
    if isinstance(address, UnixAddress):
        return await _connect_socket(socket.AF_UNIX, bytes(address.path)), address
    found = await trio.socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    problem: OSError | trio.TooSlowError | None = None
    for tried, (family, _, _, _, sockaddr) in enumerate(found):
        try:
            with trio.fail_at(_share(deadline, len(found) - tried)):
                return await _connect_socket(family, sockaddr), tcp_address(sockaddr)
        except (OSError, trio.TooSlowError) as error:
            problem = error
    raise problem or OSError(errno.EADDRNOTAVAIL, f"{address.host} has no address")


async def _connect_socket(family: int, sockaddr: Any) -> Channel:
    channel = Channel(socket.socket(family, socket.SOCK_STREAM))
    sock = channel.sock
    try:
        if family != socket.AF_UNIX:
            tune_tcp(sock)
        await trio.lowlevel.checkpoint()
        number = sock.connect_ex(sockaddr)
        while number == errno.EAGAIN and family == socket.AF_UNIX:
            await trio.sleep(BACKLOG_RETRY_SECONDS)
            number = sock.connect_ex(sockaddr)
        if number == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        if family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
            # On loopback the kernel may choose the very port that is dialled and, nobody listening there, let the
            # socket connect to itself (a TCP simultaneous open, RFC 9293 section 3.5).
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    except BaseException:
        channel.close()
        raise
    return channel
