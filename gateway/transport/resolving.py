"""Names to addresses: each name is looked up once at a time, whoever asks, and none waits for another's answer.

Invariant: a lookup is never cut short by those who wait for it, and never takes a thread that anything else needs. The
C library's resolver can be silent for half a minute; trio's own 40 threads, which static files need too, would all be
waiting for it.
"""

import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import trio

from gateway.config import Address, TcpAddress, UnixAddress
from gateway.telemetry.logs import get_logger
from gateway.transport.channel import tcp_address

LookUp = Callable[[str], Awaitable[Sequence[tuple[int, tuple[Any, ...]]]]]
"""Family and socket address, its port of no account, of each address of a host; raises OSError when there is none."""

_log = get_logger("resolving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a socket is connected to."""

    family: int
    sockaddr: Any
    """As the socket module wants it, an IPv6 zone included."""
    address: Address
    """The same as a value of ours, for logs and reports."""


def literal_target(address: Address) -> Target | None:
    """The target of an address that is no name; asks nobody."""
    if isinstance(address, UnixAddress):
        return Target(family=socket.AF_UNIX, sockaddr=bytes(address.path), address=address)
    try:
        infos = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        )
    except socket.gaierror:
        return None
    family, _, _, _, sockaddr = infos[0]
    return Target(family=family, sockaddr=sockaddr, address=tcp_address(sockaddr))


@dataclass(slots=True, eq=False)
class _Lookup:
    """One that is under way."""

    done: trio.Event = field(default_factory=trio.Event)
    found: Sequence[tuple[int, tuple[Any, ...]]] = ()
    problem: OSError | None = None


class Resolver:
    """Looks names up, one lookup a name at a time; equal questions share the answer."""

    def __init__(self, look_up: LookUp | None = None) -> None:
        """`look_up` stands in for the system's resolver."""
        self._look_up: Final = look_up or partial(_ask_system, limiter=trio.CapacityLimiter(math.inf))
        self._running: Final[dict[str, _Lookup]] = {}
        self._news = trio.Event()

    async def resolve(self, address: TcpAddress) -> tuple[Target, ...]:
        """All addresses of a host, without doubles, in the resolver's order. Raises OSError, `socket.gaierror` mostly.

        Cancelling it leaves the lookup to those who wait for it too.
        """
        lookup = self._running.get(address.host)
        if lookup is None:
            lookup = self._running[address.host] = _Lookup()
            trio.lowlevel.spawn_system_task(self._run, address.host, lookup)
        await lookup.done.wait()
        if lookup.problem is not None:
            raise type(lookup.problem)(*lookup.problem.args)  # one of its own for each: a raised one is changed by it
        targets = (_target(family, sockaddr, address.port) for family, sockaddr in lookup.found)
        return tuple({target.sockaddr: target for target in targets}.values())

    async def news(self) -> None:
        """Returns when somebody called `tell`."""
        await self._news.wait()

    def tell(self) -> None:
        """Wakes whoever waits for `news`: what a lookup found has been entered."""
        self._news.set()
        self._news = trio.Event()

    async def _run(self, host: str, lookup: _Lookup) -> None:
        try:
            lookup.found = await self._look_up(host)
            if not lookup.found:
                lookup.problem = socket.gaierror(socket.EAI_NONAME, "the name has no address")
            _log.debug("looked_up", name=host, addresses=[str(sockaddr[0]) for _, sockaddr in lookup.found])
        except OSError as problem:
            _log.debug("looked_up", name=host, problem=problem.strerror or str(problem))
            lookup.problem = problem
        except Exception as fault:  # noqa: BLE001 - it would end the process, and other routes with it
            _log.exception("lookup_failed", host=host)
            lookup.problem = OSError(None, f"the lookup failed: {fault}")
        finally:
            del self._running[host]
            lookup.done.set()


async def _ask_system(host: str, *, limiter: trio.CapacityLimiter) -> Sequence[tuple[int, tuple[Any, ...]]]:
    ask = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    infos = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=limiter)
    return [(family, sockaddr) for family, _, _, _, sockaddr in infos]


def _target(family: int, sockaddr: tuple[Any, ...], port: int) -> Target:
    complete = (sockaddr[0], port, *sockaddr[2:])
    return Target(family=family, sockaddr=complete, address=tcp_address(complete))
