"""Who waits for its client: by holder, in the order in which they began to wait.

Invariant: it is always known whose wait is most, so that one holder's many make way before anybody else's few.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")


class Parking(Generic[T]):
    """What waits, by a name of its own and by whose it is."""

    def __init__(self) -> None:
        self._holders: Final[dict[str, OrderedDict[str, T]]] = {}
        self._holder_of: Final[dict[str, str]] = {}
        self._by_count: Final[dict[int, dict[str, None]]] = {}
        """Holders by how many they have, each in the order in which they came to have so many."""
        self._most = 0

    def __len__(self) -> int:
        return len(self._holder_of)

    def __iter__(self) -> Iterator[T]:
        """All that waits, as it is now, in no order."""
        return iter([waiting for its in self._holders.values() for waiting in its.values()])

    def count(self, holder: str) -> int:
        """How many of that holder's wait."""
        return len(self._holders.get(holder, ()))

    def add(self, name: str, holder: str, waiting: T) -> None:
        """It begins to wait; one that waits already goes on as it does."""
        if name in self._holder_of:
            return
        self._holder_of[name] = holder
        its = self._holders.setdefault(holder, OrderedDict())
        its[name] = waiting
        self._recount(holder, len(its) - 1, len(its))

    def remove(self, name: str) -> T | None:
        """It waits no longer; None if it did not."""
        holder = self._holder_of.pop(name, None)
        if holder is None:
            return None
        its = self._holders[holder]
        waiting = its.pop(name)
        self._recount(holder, len(its) + 1, len(its))
        if not its:
            del self._holders[holder]
        return waiting

    def longest(self, holder: str) -> T | None:
        """The one of that holder's that has waited longest."""
        its = self._holders.get(holder)
        return None if its is None else next(iter(its.values()))

    def first_to_go(self) -> T | None:
        """Of the holder that has most the one that has waited longest; among equals of who has had so many longest."""
        return None if not self._most else self.longest(next(iter(self._by_count[self._most])))

    def _recount(self, holder: str, before: int, after: int) -> None:
        if before:
            del self._by_count[before][holder]
            if not self._by_count[before]:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[holder] = None
        if after > self._most or (before == self._most and before not in self._by_count):
            self._most = after
