"""All sessions of this process: the live ones, the parked ones in order, and how the last ones ended.

Invariant: parked sessions are bounded in number, in all and of each holder, and in memory; of the holder that has most
the one that has been parked longest goes first, and its end is reported like any other.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import structlog

from gateway.access.state import AccessState
from gateway.sessions.host import EndedSession, SessionHost
from gateway.sessions.identity import Binding
from gateway.sessions.parking import Parking
from gateway.sessions.session import Session
from gateway.sessions.turns import Turns
from gateway.transport.descriptors import DESCRIPTORS_A_CONNECTION

log = structlog.get_logger("sessions")


class SessionRegistry:
    """Finds sessions by token and by ID; an `admin.sessions.SessionDirectory`."""

    def __init__(
        self,
        *,
        parked_sessions: int,
        parked_per_holder: int | None = None,
        parked_bytes: int | None,
        ended_sessions: int,
    ) -> None:
        self.parked_sessions = parked_sessions
        self.parked_per_holder = parked_per_holder
        self.parked_bytes = parked_bytes
        self.turns: Final = Turns()
        """Of those who look for one session: the second finds what the first has taken up."""
        self.on_empty: Callable[[], None] = lambda: None
        """Called when the last session has ended."""
        self._live: Final[dict[str, Session]] = {}
        self._tokens: Final[dict[str, Session]] = {}
        self._parked: Final[Parking[Session]] = Parking()
        self._parked_on: Final[dict[str, Parking[Session]]] = {}
        """The same by route."""
        self._ended: Final[deque[EndedSession]] = deque(maxlen=ended_sessions)
        self._ended_tokens: Final[dict[str, EndedSession]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Session]:
        return iter(tuple(self._live.values()))

    def add(self, session: Session) -> None:
        """A session has begun."""
        self._live[session.id] = session
        if session.token is not None:
            self._tokens[session.token] = session

    def by_token(self, token: str) -> Session | None:
        """The live session of that token."""
        return self._tokens.get(token)

    def ended_by_token(self, token: str, binding: Binding) -> EndedSession | None:
        """What is remembered of that token's session, if it was given to `binding`."""
        ended = self._ended_tokens.get(token)
        return ended if ended is not None and ended.binding == binding else None

    def end(self, session_id: str, ended: EndedSession, *, is_elsewhere: bool = False) -> None:
        """A session is over; one that goes on at another gateway is not to be remembered by its token."""
        self.unpark(session_id)
        session = self._live.pop(session_id)
        if session.token is not None:
            self._tokens.pop(session.token, None)
        if len(self._ended) == self._ended.maxlen and self._ended:
            oldest = self._ended[0]
            if oldest.token is not None:
                self._ended_tokens.pop(oldest.token, None)
        if self._ended.maxlen:
            self._ended.append(ended)
            if ended.token is not None and not is_elsewhere:
                self._ended_tokens[ended.token] = ended
        if not self._live:
            self.on_empty()

    # --- parking --------------------------------------------------------------------------------------------------

    def park(self, session_id: str, now: float) -> None:
        """A session's client is away. May end others: of the same holder's, or of the holder that has most."""
        session = self._live[session_id]
        holder = session.tab.holder.key
        self._parked.add(session.id, holder, session)
        self._parked_on.setdefault(session.participants.route, Parking()).add(session.id, holder, session)
        quota = self.parked_per_holder
        while quota is not None and self._parked.count(holder) > quota:
            self._evict(self._parked.longest(holder), now)
        while len(self._parked) > self.parked_sessions:
            self._evict(self._parked.first_to_go(), now)

    def unpark(self, session_id: str) -> None:
        """Its client is back, or it is over."""
        session = self._parked.remove(session_id)
        if session is not None:
            route = session.participants.route
            on_route = self._parked_on[route]
            on_route.remove(session_id)
            if not on_route:
                del self._parked_on[route]

    def make_room(self, route: str, now: float) -> None:
        """A session is to begin on that route, and there is no room for another one: a parked one makes way."""
        on_route = self._parked_on.get(route)
        if on_route is not None:
            self._evict(on_route.first_to_go(), now)

    def make_way(self, count: int, now: float) -> int:
        """Something is short that parked sessions have one each of: so many of them make way; how many did."""
        ended = 0
        while ended < count and self._parked:
            self._evict(self._parked.first_to_go(), now)
            ended += 1
        return ended

    def enforce_memory(self, now: float) -> None:
        """Ends parked sessions until the rest is within `parked_bytes`; to be called now and then."""
        if self.parked_bytes is None:
            return
        held = sum(session.held_bytes for session in self._parked)
        while held > self.parked_bytes and self._parked:
            held -= self._evict(self._parked.first_to_go(), now)

    def free(self, size: int, now: float) -> int:
        """Ends the parked sessions that hold most until `size` bytes are freed or none is left; how many it ended."""
        ended = 0
        for session in sorted(self._parked, key=lambda session: session.held_bytes, reverse=True):
            if size <= 0:
                break
            size -= self._evict(session, now)
            ended += 1
        return ended

    def _evict(self, session: Session | None, now: float) -> int:
        """Ends a parked session before its time; the bytes that it held."""
        assert session is not None
        held = session.held_bytes
        self.unpark(session.id)
        session.relay.evict(now)
        return held

    # --- what the admin API shows ---------------------------------------------------------------------------------

    def live(
        self, *, route: str | None, state: str | None, after: str | None, limit: int
    ) -> Sequence[Mapping[str, object]]:
        """Up to `limit` sessions in the order of their IDs, from behind `after`."""
        chosen = sorted(
            session.id
            for session in self._live.values()
            if (route is None or session.participants.route == route)
            and (state is None or session.state == state)
            and (after is None or session.id > after)
        )
        return [self._live[session_id].describe() for session_id in islice(chosen, limit)]

    def describe(self, session_id: str) -> Mapping[str, object] | None:
        """One live session."""
        session = self._live.get(session_id)
        return None if session is None else session.describe()

    def ended(self, *, limit: int) -> Sequence[Mapping[str, object]]:
        """The last ended sessions, the latest first."""
        return [ended.summary for ended in islice(reversed(self._ended), limit)]


class SessionKeeper(SessionHost):
    """A host that can look its sessions up: what those who receive clients ask for."""

    registry: SessionRegistry
    access: AccessState
    """Who is barred."""

    def free_descriptors(self) -> int:
        """Parked sessions make way for one that begins: each has a connection of its backend's. How many did."""
        ended = self.registry.make_way(DESCRIPTORS_A_CONNECTION, self.pump.clock())
        if ended:
            log.warning("parked_sessions_ended_for_descriptors", sessions=ended)
        return ended

    def session_parked(self, session_id: str, now: float) -> None:
        self.registry.park(session_id, now)

    def session_returned(self, session_id: str) -> None:
        self.registry.unpark(session_id)

    def session_ended(self, session_id: str, ended: EndedSession, *, is_elsewhere: bool) -> None:
        self.registry.end(session_id, ended, is_elsewhere=is_elsewhere)
