"""Dials a route's backend: the chosen address first, the next when it fails or is slow, all within one deadline.

Invariant: a dial ends within `connect_timeout` with one open connection or none, whatever fails or is cancelled on the
way, and every attempt is counted at its endpoint.
"""

import errno
import os
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final

import trio

from gateway.config import Address, Backend, Endpoint, TcpAddress
from gateway.errors import BackendTimeout, BackendUnreachable, GatewayExhausted, NoEndpointLeft, TlsFailure
from gateway.protocol.authority import parse_authority
from gateway.protocol.proxy_protocol import LOCAL_HEADER, build_v2
from gateway.telemetry.logs import get_logger, tells_debug
from gateway.telemetry.metrics import BackendReading, DialOutcome
from gateway.transport.balancing import Balancer, EndpointState
from gateway.transport.channel import Channel, tune_tcp
from gateway.transport.descriptors import current_budget, is_shortage
from gateway.transport.endpoints import BackendEndpoint, Dials, Endpoints, Permits, new_dials
from gateway.transport.racing import NOT_IN_TIME, AttemptFailed, Race
from gateway.transport.resolving import Resolver
from gateway.transport.tls import ClientTls, TlsFacts

BACKLOG_RETRY_SECONDS: Final = 0.01
"""A Unix socket whose backlog is full says so at once, and nothing tells when it no longer is (connect(2), EAGAIN)."""

LOOKUP_AGE_SECONDS: Final = 1.0
"""A lookup that is younger is not repeated for a dial that has failed."""

SECOND_LOOK_SECONDS: Final = 1.0
"""How long a dial that has failed waits for other addresses."""

_TCP_UNFINISHED: Final = frozenset({errno.EALREADY, errno.EINPROGRESS})
_UNIX_UNFINISHED: Final = _TCP_UNFINISHED | {errno.EAGAIN}

CHOSEN: Final = "chosen"
"""The `endpoint` label of all that clients choose."""

_log = get_logger("connector")


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
    entries: tuple[tuple[int, bytes], ...] = ()
    """Type and value of further entries (TLV)."""


class Dialed:
    """A connection to a backend, counted as its endpoint's load until `close`."""

    __slots__ = ("_counted", "channel", "connector", "remote", "state")

    def __init__(self, channel: Channel, state: EndpointState, *, remote: Address, connector: "Connector") -> None:
        self.channel: Final = channel
        self.connector: Final = connector
        """Who dials again, where this one breaks."""
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


class Connector:
    """Dials one route's backend and knows how each of its endpoints is doing."""

    def __init__(
        self,
        backend: Backend,
        *,
        route: str,
        previous: "Connector | None" = None,
        resolver: Resolver | None = None,
        within: "Connector | None" = None,
        permits: Permits | None = None,
    ) -> None:
        """`previous` is the route's connector before a reload: endpoints that stay keep load, health and counters.

        `resolver` looks names up; all routes share one. `within` is whose TLS and counters it shares; `permits` says
        which addresses a name may lead to. Raises `StartupError` for certificate files that cannot be used.
        """
        self.backend: Final = backend
        self.route: Final = route
        self._chosen_dials: Final[Dials] = new_dials() if previous is None else previous._chosen_dials
        """Of endpoints that clients choose."""
        self.addresses: Final[Endpoints] = Endpoints(
            backend.endpoints,
            resolver or (Resolver() if previous is None else previous.addresses.resolver),
            refresh_seconds=backend.resolve,
            previous=None if previous is None else previous.addresses,
            dials=None if within is None else within._chosen_dials,
            permits=permits,
        )
        if backend.health is None:
            for state in self.endpoints:
                state.forget_checks()
        self._balancer: Final = Balancer(backend.balancing)
        own_tls = ClientTls(backend.tls) if within is None and _speaks_tls(backend) else None
        self.tls: Final[ClientTls | None] = own_tls if within is None else within.tls

    def towards(self, endpoint: Endpoint, *, permits: Permits) -> "Connector":
        """A connector for that endpoint, which a client chose."""
        backend = self.backend.model_copy(update={"endpoints": (endpoint,)})
        return Connector(backend, route=self.route, resolver=self.addresses.resolver, within=self, permits=permits)

    @property
    def endpoints(self) -> tuple[EndpointState, ...]:
        """All addresses that are known at this moment."""
        return self.addresses.states

    @property
    def up(self) -> bool:
        """Not every endpoint is known to be down."""
        known = [its.up for its in self.addresses.configured]
        return not known or any(up is not False for up in known)

    def readings(self) -> Iterator[BackendReading]:
        """Every endpoint's health and counters, for the metrics."""
        for its in self.addresses.configured:
            yield BackendReading(route=self.route, endpoint=its.name, up=its.up, dials=its.dials)
        if self.backend.endpoint_from is not None:
            yield BackendReading(route=self.route, endpoint=CHOSEN, up=None, dials=self._chosen_dials)

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
        `GatewayExhausted` when it is for want of something of ours, else `BackendUnreachable`; the text tells the log,
        not the client, what each one said.
        """
        began = trio.current_time()
        dial = _Dial(began=began, deadline=began + self.backend.connect_timeout, header=self._proxy_header(client))
        left_out = set(without)
        looking = self.addresses.refresh()
        while True:
            now = trio.current_time()
            states = [state for state in self.endpoints if state not in left_out]
            if states:
                order = self._balancer.order(states, key, now=now)
                order.sort(key=lambda state: state is not first)
                dialed = await self._dial_first(order, dial)
                if dialed is not None:
                    return dialed
                left_out.update(order)
                # What a name leads to may have changed since it was looked up: the dead may have come back elsewhere.
                looking = self.addresses.refresh(older_than=began - LOOKUP_AGE_SECONDS)
            elif looking and now < dial.deadline:
                await self._wait_for_news(dial)
                looking = any(its.is_looked_up for its in self.addresses.names)
            else:
                break
        for its in self.addresses.names:
            if not its.states:
                self._count_unresolved(its, dial)
        if not dial.problems and without:
            raise NoEndpointLeft("each endpoint has answered already")
        raise dial.fault()

    async def probe(self, state: EndpointState, *, timeout_seconds: float) -> str | None:
        """Connects to one address, TLS included, and hangs up; what went wrong, or None. Counts nothing.

        Raises `GatewayExhausted` when that says nothing about the backend.
        """
        deadline = trio.current_time() + timeout_seconds
        channel: Channel | None = None
        try:
            with trio.fail_at(deadline):
                channel = await _Attempt(state, kept_back=True).finish()
            await self._greet(state, channel, self._proxy_header(None), deadline)
        except trio.TooSlowError:
            return NOT_IN_TIME
        except AttemptFailed as failed:
            if failed.outcome is None:
                raise GatewayExhausted(str(failed)) from None
            return str(failed)
        finally:
            if channel is not None:
                channel.close()
        return None

    async def _dial_first(self, order: list[EndpointState], dial: "_Dial") -> Dialed | None:
        """A connection to the first of them that takes one; None when none does in time."""
        waiting = order
        while waiting and trio.current_time() < dial.deadline:
            first = waiting[0]
            try:
                attempt = _Attempt(first)
            except AttemptFailed as failed:
                self._count(first, failed, dial)
                waiting = waiting[1:]
                continue
            if attempt.is_connected:  # as on this host: there is nobody to race with
                first.active += 1
                waiting = waiting[1:]
                dialed = await self._complete(first, attempt.channel, waiting, dial)
                if dialed is not None:
                    return dialed
                continue
            race = Race()
            begun = {first: attempt}

            async def connect(state: EndpointState, begun: dict[EndpointState, _Attempt] = begun) -> Channel:
                return await (begun.pop(state, None) or _Attempt(state)).finish()

            try:
                await race.run(waiting, connect, deadline=dial.deadline)
            finally:
                for never_tried in begun.values():
                    never_tried.channel.close()
            for state, failure in race.failed.items():
                self._count(state, failure, dial)
            for state in race.outpaced:
                state.record_dial(DialOutcome.OUTPACED, now=trio.current_time())
            winner, channel = race.winner, race.channel
            if winner is None or channel is None:
                break
            waiting = [state for state in waiting if state is not winner and state not in race.failed]
            waiting.sort(key=lambda state: state in race.outpaced)
            dialed = await self._complete(winner, channel, waiting, dial)
            if dialed is not None:
                return dialed
        return None

    async def _complete(
        self, state: EndpointState, channel: Channel, waiting: list[EndpointState], dial: "_Dial"
    ) -> Dialed | None:
        """PROXY header and TLS; leaves time for those that wait. None when it failed, which is counted."""
        assert state.target is not None
        dialed = Dialed(channel, state, remote=state.target.address, connector=self)
        now = trio.current_time()
        if not dial.header and not state.endpoint.tls:  # nothing precedes the backend's bytes
            return self._have_dialed(dialed, dial, now)
        available = sum(other.is_available(now) for other in waiting)
        deadline = now + (dial.deadline - now) / (1 + (available or len(waiting)))
        try:
            await self._greet(state, channel, dial.header, deadline)
        except AttemptFailed as failure:
            dialed.close()
            self._count(state, failure, dial)
            return None
        except BaseException:
            dialed.close()
            raise
        return self._have_dialed(dialed, dial, trio.current_time())

    def _have_dialed(self, dialed: Dialed, dial: "_Dial", now: float) -> Dialed:
        state = dialed.state
        state.record_dial(DialOutcome.CONNECTED, now=now)
        if tells_debug():
            _log.debug("dialed", route=self.route, **state.labels, milliseconds=round(1000 * (now - dial.began), 1))
        return dialed

    async def _greet(self, state: EndpointState, channel: Channel, header: bytes, deadline: float) -> None:
        """What precedes the backend's bytes. Raises AttemptFailed."""
        doing = "the connection"
        try:
            with trio.fail_at(deadline):
                if header:
                    await channel.send_all(header)
                if state.endpoint.tls and self.tls is not None:
                    doing = "the TLS handshake"
                    name = self._server_name(state)
                    await channel.start_tls(self.tls.context, server_side=False, server_hostname=name)
        except trio.TooSlowError:
            raise AttemptFailed(DialOutcome.TIMED_OUT, f"{doing} was not complete in time") from None
        except TlsFailure as failure:
            raise AttemptFailed(DialOutcome.TLS_FAILED, f"TLS: {failure}") from failure
        except OSError as error:
            raise _failure(error) from error

    async def _wait_for_news(self, dial: "_Dial") -> None:
        """Returns when a lookup is done, or when it is late enough to go on without."""
        if dial.problems and not dial.looks_again:
            # Other addresses were there, and failed: nobody waits long for an answer that may be no other.
            dial.looks_again = True
            dial.deadline = min(dial.deadline, trio.current_time() + SECOND_LOOK_SECONDS)
        with trio.move_on_at(dial.deadline):
            await self.addresses.resolver.news()

    def _count(self, state: EndpointState, failure: AttemptFailed, dial: "_Dial") -> None:
        dial.problems[state.place] = str(failure)
        dial.outcomes.add(failure.outcome)
        if failure.outcome is not None and state.record_dial(failure.outcome, now=trio.current_time()):
            _log.warning("dial_failed", route=self.route, **state.labels, problem=str(failure))
        else:
            _log.debug("dial_failed", route=self.route, **state.labels, problem=str(failure))

    def _count_unresolved(self, its: BackendEndpoint, dial: "_Dial") -> None:
        late = its.is_looked_up or its.problem is None
        outcome = DialOutcome.TIMED_OUT if late else DialOutcome.FAILED
        its.dials[outcome] += 1
        dial.outcomes.add(outcome)
        dial.problems[its.name] = "the name was not resolved in time" if late else _words(its.problem)

    def _proxy_header(self, client: ClientFacts | None) -> bytes:
        """What precedes everything else, TLS too; without a client the connection is the gateway's own."""
        if self.backend.proxy_protocol is None:
            return b""
        if client is None:
            return LOCAL_HEADER
        local = client.local if isinstance(client.local, TcpAddress) else None
        authority = _host(client.authority)
        return build_v2(client.address, local, tls=client.tls, authority=authority, custom=client.entries)

    def _server_name(self, state: EndpointState) -> str:
        if self.backend.tls is not None and self.backend.tls.server_name is not None:
            return self.backend.tls.server_name
        address = state.endpoint.address
        assert isinstance(address, TcpAddress), "tls:// has a host"
        return address.host


def _speaks_tls(backend: Backend) -> bool:
    choice = backend.endpoint_from
    return any(endpoint.tls for endpoint in backend.endpoints) if choice is None else choice.tls


def _host(authority: str | None) -> str | None:
    """The host without its port; None for what is no host, which a backend must not be told."""
    try:
        return None if authority is None else parse_authority(authority).host
    except ValueError:
        return None


def _words(error: OSError | None) -> str:
    return "" if error is None else error.strerror or str(error)


def _failure(error: OSError) -> AttemptFailed:
    """What the kernel's word means for the address that was tried."""
    if is_shortage(error):
        return AttemptFailed(None, f"this gateway is short of something: {_words(error)}")
    match error:
        case ConnectionRefusedError() | FileNotFoundError():
            outcome = DialOutcome.REFUSED
        case TimeoutError():
            outcome = DialOutcome.TIMED_OUT
        case _:
            outcome = DialOutcome.FAILED
    return AttemptFailed(outcome, _words(error))


@dataclass(slots=True, kw_only=True)
class _Dial:
    """One call of `dial`."""

    began: float
    deadline: float
    header: bytes
    looks_again: bool = False
    """All that was known has failed, and names are being looked up again."""
    problems: dict[str, str] = field(default_factory=dict)
    """What was said, by who said it."""
    outcomes: set[DialOutcome | None] = field(default_factory=set)

    def fault(self) -> BackendUnreachable:
        """What all of it amounts to."""
        text = "; ".join(f"{place}: {problem}" for place, problem in self.problems.items())
        if None in self.outcomes:
            return GatewayExhausted(text)
        if self.outcomes <= {DialOutcome.TIMED_OUT}:
            return BackendTimeout(text or "no address of the backend was known in time")
        return BackendUnreachable(text)


class _Attempt:
    """A connection that was begun, to one address; `finish` it unless it is there already."""

    __slots__ = ("_number", "_state", "channel")

    def __init__(self, state: EndpointState, *, kept_back: bool = False) -> None:
        """`kept_back`: with a descriptor that is not for connections, if need be. Raises AttemptFailed."""
        assert state.target is not None, "only a name has no target, and a name is not dialled"
        self._state = state
        try:
            self.channel = Channel(socket.socket(state.target.family, socket.SOCK_STREAM))
        except OSError as error:
            raise self._failed(error) from error
        try:
            sock = self.channel.sock
            if not kept_back and not current_budget().has_room_for(sock.fileno()):
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if self._is_tcp:
                tune_tcp(sock)
            self._number = sock.connect_ex(state.target.sockaddr)
            if self._number == errno.EINPROGRESS:
                # On this host it has answered by now, though connect(2) does not say so: asked again, it does.
                self._number = sock.connect_ex(state.target.sockaddr)
            if self._number == errno.EISCONN:
                self._number = 0
            if self._number not in self._unfinished:
                self._check()
        except OSError as error:
            self.channel.close()
            raise self._failed(error) from error
        except BaseException:
            self.channel.close()
            raise

    @property
    def is_connected(self) -> bool:
        """Nothing has to be waited for."""
        return not self._number

    async def finish(self) -> Channel:
        """The connection. Raises AttemptFailed, and leaves nothing open then."""
        assert self._state.target is not None
        sock = self.channel.sock
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            while self._number == errno.EAGAIN:
                await trio.sleep(BACKLOG_RETRY_SECONDS)
                self._number = sock.connect_ex(self._state.target.sockaddr)
            if self._number in (errno.EALREADY, errno.EINPROGRESS):
                await self.channel.wait_writable()
                self._number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self._check()
        except OSError as error:
            self.channel.close()
            raise self._failed(error) from error
        except BaseException:
            self.channel.close()
            raise
        return self.channel

    @property
    def _is_tcp(self) -> bool:
        return self._state.target is not None and self._state.target.family != socket.AF_UNIX

    @property
    def _unfinished(self) -> Collection[int]:
        """What connect(2) says while it is not known yet how it ends."""
        return _TCP_UNFINISHED if self._is_tcp else _UNIX_UNFINISHED

    def _check(self) -> None:
        """Raises OSError where it came to nothing."""
        if self._number:
            raise OSError(self._number, os.strerror(self._number))
        sock = self.channel.sock
        if self._is_tcp and sock.getsockname() == sock.getpeername():
            # On loopback the kernel may choose the very port that is dialled and, nobody listening there, let the
            # socket connect to itself (a TCP simultaneous open, RFC 9293 section 3.5).
            raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))

    def _failed(self, error: OSError) -> AttemptFailed:
        if error.errno == errno.EADDRNOTAVAIL and self._state.up:
            # It answered a moment ago, so the address is none that this host could not reach at all: all our ports
            # towards it are in use.
            return AttemptFailed(None, "this gateway has no port left to reach it from")
        return _failure(error)
