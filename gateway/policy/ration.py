"""Whose handshake is next, and when: a share of the event loop for all of them, and fair turns among addresses.

Invariant: within any time the work let through takes no more than `share` of it and `burst_seconds`; of those who wait,
each group has one in turn, so that an address that asks a thousand times delays itself and not the others. A group is
let through at most `per_second` times a second, after a burst of as many.
"""

from collections import OrderedDict, deque
from typing import Final, Generic, TypeVar

T = TypeVar("T")

KEPT_GROUPS: Final = 4096
"""Groups whose rate is remembered; the one that asked longest ago is forgotten first."""


class Ration(Generic[T]):
    """Hands out turns; time is an argument, in seconds on one monotonic clock."""

    def __init__(self, *, share: float, burst_seconds: float, per_second: float) -> None:
        self.share: Final = share
        self.burst_seconds: Final = burst_seconds
        self.per_second: Final = per_second
        self._budget = burst_seconds
        self._updated = 0.0
        self._queues: Final[OrderedDict[str, deque[T]]] = OrderedDict()
        """Those who wait, by group; the group whose turn it is first."""
        self._tokens: Final[OrderedDict[str, tuple[float, float]]] = OrderedDict()
        """What is left of each group's rate, and when that was reckoned."""

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(map(len, self._queues.values()))

    def may_pass(self, group: str, now: float) -> bool:
        """Whether one of `group` may go on at once; if so its turn is taken. Nobody overtakes those who wait."""
        self._refill(now)
        if self._queues or self._budget <= 0 or self._rate_left(group, now) < 1:
            return False
        self._take_from(group, now)
        return True

    def wait(self, group: str, who: T) -> None:
        """`who` is to be told when it is its turn: see `next`."""
        self._queues.setdefault(group, deque()).append(who)

    def forget(self, group: str, who: T) -> None:
        """It waits no longer."""
        queue = self._queues.get(group)
        if queue is not None and who in queue:
            queue.remove(who)
            if not queue:
                del self._queues[group]

    def next(self, now: float) -> T | None:
        """Whose turn it is now, taken out of the queue; None: nobody's."""
        self._refill(now)
        if self._budget <= 0:
            return None
        for group in tuple(self._queues):
            if self._rate_left(group, now) >= 1:
                self._take_from(group, now)
                queue = self._queues[group]
                who = queue.popleft()
                if queue:
                    self._queues.move_to_end(group)
                else:
                    del self._queues[group]
                return who
        return None

    def seconds_until_next(self, now: float) -> float:
        """When to ask `next` again while somebody waits; 0: now."""
        self._refill(now)
        if self._budget <= 0:
            return self.seconds_until_budget(now) + 0.001
        least = min((1 - self._rate_left(group, now) for group in self._queues), default=0.0)
        return max(0.0, least) / self.per_second

    def seconds_until_budget(self, now: float) -> float:
        """When the share will have room again, for work that is nobody's turn; 0: now."""
        self._refill(now)
        return max(0.0, -self._budget / self.share)

    def spend(self, seconds: float) -> None:
        """So long did the work of those who were let through keep the loop."""
        self._budget -= seconds

    def _refill(self, now: float) -> None:
        if now > self._updated:
            self._budget = min(self.burst_seconds, self._budget + (now - self._updated) * self.share)
            self._updated = now

    def _rate_left(self, group: str, now: float) -> float:
        burst = max(1.0, self.per_second)
        left, at = self._tokens.get(group, (burst, now))
        return min(burst, left + (now - at) * self.per_second)

    def _take_from(self, group: str, now: float) -> None:
        self._tokens[group] = (self._rate_left(group, now) - 1, now)
        self._tokens.move_to_end(group)
        if len(self._tokens) > KEPT_GROUPS:
            self._tokens.popitem(last=False)
