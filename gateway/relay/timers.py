"""Deadlines of many connections in one heap; no clock of its own.

Invariant: an item has at most one live entry, `timer`, and an entry that is no longer live holds no reference to its
item. Moving a deadline later costs nothing here (the item is asked again when the old time comes), moving it earlier
pushes a second entry. So 20,000 idle connections cost one entry each, no work between their deadlines, and a
connection that is gone is not kept in memory until its keepalive would have come.
"""

import heapq
import math
from typing import Any, Final, Generic, Protocol, TypeVar

NEVER: Final = math.inf


class Entry:
    """One place in the heap: a time in seconds and whom to wake, None once it is void."""

    __slots__ = ("deadline", "item")

    def __init__(self, deadline: float, item: Any) -> None:
        self.deadline = deadline
        self.item = item

    def __lt__(self, other: "Entry") -> bool:
        return self.deadline < other.deadline


class Timed(Protocol):
    """Something with a deadline; `timer` belongs to `Timers` and starts as None."""

    timer: Entry | None


T = TypeVar("T", bound=Timed)


class Timers(Generic[T]):
    """The deadlines of many items, in seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._heap: list[Entry] = []

    @property
    def next_deadline(self) -> float:
        """When `due` will next have something to give, in seconds; `NEVER` when nothing is set."""
        heap = self._heap
        while heap and heap[0].item is None:
            heapq.heappop(heap)
        return heap[0].deadline if heap else NEVER

    def wake_at(self, item: T, deadline: float) -> bool:
        """Has `item` given back no later than `deadline`; true if that is now the earliest deadline of all."""
        entry = item.timer
        if deadline >= (NEVER if entry is None else entry.deadline):
            return False
        if entry is not None:
            entry.item = None
        earliest = self.next_deadline
        item.timer = Entry(deadline, item)
        heapq.heappush(self._heap, item.timer)
        return deadline < earliest

    def due(self, now: float, most: float = math.inf) -> list[T]:
        """The items whose time has come, so many at most, earliest first, each with its timer cleared."""
        heap = self._heap
        items: list[T] = []
        while heap and heap[0].deadline <= now and len(items) < most:
            item: T | None = heapq.heappop(heap).item
            if item is not None:
                item.timer = None
                items.append(item)
        return items

    def forget(self, item: T) -> None:
        """Clears the item's timer."""
        if item.timer is not None:
            item.timer.item = None
            item.timer = None
