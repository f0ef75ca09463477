"""How many connections a route and a client address may have, and how fast a connection may send.

Invariant: every ticket that was given is counted until it is released, once; counts that are zero are forgotten, so
that memory is bounded by the open connections and not by the addresses ever seen.
"""

import ipaddress
from collections import Counter
from collections.abc import Hashable
from enum import StrEnum
from functools import lru_cache
from http import HTTPStatus
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar

from gateway.errors import Blame, HandshakeRefused

RETRY_AFTER_SECONDS: Final = 5
"""Long enough that a crowd of clients does not keep us busy with refusals, short enough for a person who waits."""

IPV6_GROUP_BITS: Final = 64
"""One subscriber commands a whole /64 (RFC 6177), so single IPv6 addresses limit nobody."""

KNOWN_ADDRESSES: Final = 4096
"""Of so many the group is remembered: each connection asks for it three times."""

K = TypeVar("K", bound=Hashable)


class AdmissionRefusal(StrEnum):
    """Why a connection was not admitted, as a metric's label."""

    ROUTE = "admission_route"
    ADDRESS = "admission_address"


class ConnectionLimits(Protocol):
    """A route's limits; None is no limit."""

    @property
    def connections(self) -> int | None:
        """Of the whole route."""
        ...

    @property
    def connections_per_address(self) -> int | None:
        """Of one IPv4 address, or of one /64 of IPv6."""
        ...


@lru_cache(KNOWN_ADDRESSES)
def address_group(address: str) -> str:
    """Those who share the limit of `address`: itself for IPv4, its /64 for IPv6. Raises ValueError for no address."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    network = ipaddress.IPv6Network((int(parsed), IPV6_GROUP_BITS), strict=False)
    return str(network)


NO_ADDRESS: Final = "unix"
"""Who comes by a Unix socket, without a proxy that tells more, is one holder with all others who do."""


def holder_of(address: str | None, subject: str | None = None) -> str:
    """Whom what is held for a client at `address` is charged to: who it was found to be, wherever that is, else where.

    `subject` is a `Principal.identity`, which no address and no group of them can be mistaken for.
    """
    if subject is not None:
        return subject
    return NO_ADDRESS if address is None else address_group(address)


class Ticket:
    """One admitted connection. `release` it when it ends, or use it as a context manager."""

    __slots__ = ("_admission", "_group", "_route")

    def __init__(self, admission: "Admission", route: str, group: str | None) -> None:
        self._admission: Admission | None = admission
        self._route = route
        self._group = group

    def release(self) -> None:
        """Give the place back; releasing again changes nothing."""
        if self._admission is not None:
            self._admission._leave(self._route, self._group)
            self._admission = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class Admission:
    """Counts the connections of all routes. Limits come with each call, so that the counts outlive a reload."""

    def __init__(self) -> None:
        self._routes: Final[Counter[str]] = Counter()
        self._groups: Final[Counter[tuple[str, str]]] = Counter()

    def connections(self, route: str) -> int:
        """How many connections the route has."""
        return self._routes[route]

    def admit(self, *, route: str, address: str | None, limits: ConnectionLimits) -> Ticket:
        """A place for one more connection of `route` from `address`.

        Without an address (a Unix socket, a proxy that does not tell) there is no limit per address. Raises
        HandshakeRefused: 503 if the route is full, 429 if the address has its share.
        """
        group = None if address is None else address_group(address)
        # The address comes first: who has its own share is told so, whatever the others do.
        if group is not None and _full(self._groups[route, group], limits.connections_per_address):
            raise HandshakeRefused(
                f"there are {limits.connections_per_address} connections from this address already, which is the limit",
                status=HTTPStatus.TOO_MANY_REQUESTS,
                reason=AdmissionRefusal.ADDRESS,
            )
        if _full(self._routes[route], limits.connections):
            raise HandshakeRefused(
                f"no more connections are taken here for now; try again in {RETRY_AFTER_SECONDS} seconds",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                reason=AdmissionRefusal.ROUTE,
                blame=Blame.GATEWAY,
                headers=(("Retry-After", str(RETRY_AFTER_SECONDS)),),
            )
        self._routes[route] += 1
        if group is not None:
            self._groups[route, group] += 1
        return Ticket(self, route, group)

    def _leave(self, route: str, group: str | None) -> None:
        _decrement(self._routes, route)
        if group is not None:
            _decrement(self._groups, (route, group))


def _full(count: int, limit: int | None) -> bool:
    return limit is not None and count >= limit


def _decrement(counts: Counter[K], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


class MessageRate:
    """A token bucket for one connection's messages: `burst` at once, `messages_per_second` on average.

    Without `burst` a second's worth.
    """

    __slots__ = ("_burst", "_per_second", "_tokens", "_updated")

    def __init__(self, messages_per_second: float, *, now: float, burst: float | None = None) -> None:
        self._per_second = messages_per_second
        # A rate below one a second must still let single messages pass.
        self._burst = max(1.0, messages_per_second if burst is None else burst)
        self._tokens = self._burst
        self._updated = now

    def draw(self, messages: int, now: float) -> float:
        """Takes `messages` also where there are fewer; for how many seconds none should be taken any more, 0 for none.

        For who cannot give back what has come: it waits until it is made up for.
        """
        self._refill(now)
        self._tokens -= messages
        return max(0.0, -self._tokens / self._per_second)

    def _refill(self, now: float) -> None:
        if now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._per_second)
            self._updated = now

    def take(self, messages: int, now: float) -> bool:
        """Whether `messages` more are within the rate at `now` (monotonic seconds); if not, none is taken."""
        self._refill(now)
        if messages > self._tokens:
            return False
        self._tokens -= messages
        return True
