"""A backend's endpoints and the addresses behind their names, each with a health and a load of its own.

Invariant: what a name leads to is what it last resolved to. A name that cannot be resolved any more keeps the addresses
it had, and an address that stays keeps what is known of it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import structlog
import trio

from gateway.config import Endpoint, TcpAddress
from gateway.telemetry.metrics import DialOutcome
from gateway.transport.balancing import EndpointState
from gateway.transport.resolving import Resolver, Target, literal_target

Dials: TypeAlias = dict[DialOutcome, int]

Permits: TypeAlias = Callable[[str], bool]
"""Whether an address, as text, may be dialled."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class BackendEndpoint:
    """An endpoint as configured, and the addresses it has now; a literal address and a path have exactly one."""

    def __init__(self, endpoint: Endpoint, *, dials: Dials | None = None, permits: Permits | None = None) -> None:
        """`dials`: counters that it shares with others; `permits`: which of its name's addresses may be dialled."""
        self.endpoint: Final = endpoint
        self.name: Final = str(endpoint)
        self.dials: Final = new_dials() if dials is None else dials
        """Of all its addresses together, those that it has no more included."""
        self._permits: Final = permits
        self.problem: OSError | None = None
        """Why its name did not resolve when it was last looked up."""
        self.looked_up_at = float("-inf")
        """When a lookup last ended."""
        self.is_looked_up = False
        """A lookup is under way."""
        literal = literal_target(endpoint.address)
        self.is_name: Final = literal is None
        self.states: tuple[EndpointState, ...] = () if literal is None else (self._state(literal),)
        self._departed: list[EndpointState] = []
        """Addresses that the name has no more and that still have connections: DNS may bring them back at once."""
        self._complaint = ""

    @property
    def up(self) -> bool | None:
        """One of its addresses answers; False: none does; None: nothing is known of some, and no good of any."""
        if not self.states:
            return None if self.problem is None else False
        known = {state.up for state in self.states}
        return True if True in known else None if None in known else False

    async def look_up(self, resolver: Resolver) -> None:
        """Takes the addresses that its name has now; a fault is kept in `problem` and logged once."""
        address = self.endpoint.address
        assert isinstance(address, TcpAddress), "a path is no name"
        try:
            targets = await resolver.resolve(address)
        except OSError as problem:
            self._complain(problem)
        else:
            self._take_permitted(targets)
        self.looked_up_at = trio.current_time()

    def _take_permitted(self, targets: Sequence[Target]) -> None:
        permitted = [target for target in targets if self._permits is None or self._permits(_host(target))]
        if not permitted:
            # What it led to before may not be dialled on: its name is somebody else's now.
            self._take(())
            self._complain(PermissionError(None, "none of its addresses is one that may be dialled"))
            return
        self._complaint = ""
        self.problem = None
        self._take(permitted)

    def _complain(self, problem: OSError) -> None:
        self.problem = problem
        complaint = problem.strerror or str(problem)
        if complaint != self._complaint:
            addresses = [str(state.target.address) for state in self.states if state.target is not None]
            _log.warning("name_not_resolved", endpoint=self.name, problem=complaint, kept=addresses)
        self._complaint = complaint

    def _take(self, targets: Iterable[Target]) -> None:
        known = {state.target: state for state in (*self._departed, *self.states)}
        states = tuple(known.get(target) or self._state(target) for target in targets)
        self._departed = [state for state in known.values() if state.active and state not in states]
        self.states = states

    def _state(self, target: Target) -> EndpointState:
        return EndpointState(self.endpoint, target, dials=self.dials)


class Endpoints:
    """All endpoints of one route's backend."""

    def __init__(
        self,
        configured: Iterable[Endpoint],
        resolver: Resolver,
        *,
        refresh_seconds: float,
        previous: "Endpoints | None" = None,
        dials: Dials | None = None,
        permits: Permits | None = None,
    ) -> None:
        """`refresh_seconds`: how old a lookup may be. Endpoints that stand in `previous` too stay what they are.

        `dials` and `permits`: as a `BackendEndpoint`'s, for all that are new.
        """
        known = {} if previous is None else {its.endpoint: its for its in previous.configured}
        self.configured: Final[tuple[BackendEndpoint, ...]] = tuple(
            known.get(endpoint) or BackendEndpoint(endpoint, dials=dials, permits=permits) for endpoint in configured
        )
        self.resolver: Final = resolver
        self._refresh_seconds: Final = refresh_seconds

    @property
    def states(self) -> tuple[EndpointState, ...]:
        """The addresses of all of them, in the order of the configuration."""
        return tuple(state for its in self.configured for state in its.states)

    @property
    def names(self) -> tuple[BackendEndpoint, ...]:
        """Those that are looked up."""
        return tuple(its for its in self.configured if its.is_name)

    def refresh(self, *, older_than: float | None = None) -> bool:
        """Begins to look up what was looked up before that time, or is due; whether any name is being looked up.

        `Resolver.news` tells when one is done.
        """
        moment = trio.current_time() - self._refresh_seconds if older_than is None else older_than
        for its in self.names:
            if not its.is_looked_up and its.looked_up_at <= moment:
                its.is_looked_up = True
                # Not a task of who asks first: others wait for it too.
                trio.lowlevel.spawn_system_task(self._look_up, its)
        return any(its.is_looked_up for its in self.names)

    async def _look_up(self, its: BackendEndpoint) -> None:
        try:
            await its.look_up(self.resolver)
        finally:
            its.is_looked_up = False
            self.resolver.tell()


def new_dials() -> Dials:
    """Counters at zero."""
    return dict.fromkeys(DialOutcome, 0)


def _host(target: Target) -> str:
    assert isinstance(target.address, TcpAddress), "a path is no name"
    return target.address.host
