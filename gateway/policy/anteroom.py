"""Connections that are not admitted yet: how many there may be, of one address and in all, and who goes for another.

Invariant: there are never more than `limit`, nor more than `group_limit` of one group; without room for it the oldest
one that has sent nothing goes, and a newcomer takes its place: so silence costs us a bounded number of descriptors and
keeps nobody out. Whoever has begun to speak goes only where all do, and then the oldest of the group that has most, for
one of a group that has less: so slowness of some keeps nobody out either.
"""

from collections.abc import Callable
from typing import Final


class Guest:
    """One connection; `leave` when it is admitted or over."""

    __slots__ = ("_anteroom", "_end", "group", "is_silent")

    def __init__(self, anteroom: "Anteroom", group: str | None, end: Callable[[], None]) -> None:
        """Made by `Anteroom.enter`."""
        self.group = group
        self.is_silent = True
        self._anteroom: Anteroom | None = anteroom
        self._end = end

    @property
    def has_left(self) -> bool:
        """It was admitted, is over, or was sent away."""
        return self._anteroom is None

    def speaks(self) -> None:
        """Bytes have come of it that were waited for."""
        if self._anteroom is not None and self.is_silent:
            self.is_silent = False
            self._anteroom.note_speaking(self)

    def is_waited_for(self) -> None:
        """Its next request is waited for: it is silent again, the youngest of the silent ones."""
        if self._anteroom is not None and not self.is_silent:
            self.is_silent = True
            self._anteroom.note_silent(self)

    def leave(self) -> None:
        """It takes no place here any more. Leaving again changes nothing."""
        anteroom, self._anteroom = self._anteroom, None
        if anteroom is not None:
            anteroom.forget(self)

    def send_away(self) -> None:
        """Ends it, for another one."""
        self.leave()
        self._end()


class Anteroom:
    """Counts those who wait, and keeps the silent ones in the order in which they fell silent."""

    def __init__(self, *, limit: int, group_limit: int) -> None:
        self.limit = limit
        self.group_limit = group_limit
        self.sent_away = 0
        """Silent ones that went for another one."""
        self.turned_away = 0
        """Newcomers for whom no silent one could go."""
        self._count = 0
        self._groups: Final[dict[str, dict[Guest, None]]] = {}
        self._silent: Final[dict[Guest, None]] = {}
        self._silent_of: Final[dict[str, dict[Guest, None]]] = {}

    def __len__(self) -> int:
        return self._count

    def of_group(self, group: str) -> int:
        """How many there are of that group."""
        return len(self._groups.get(group, ()))

    def _oldest_of_largest(self, less: int) -> Guest | None:
        """The oldest one of the group that has most, if that is `less` and one more at least."""
        largest = max(self._groups.values(), key=len, default={})
        return next(iter(largest)) if len(largest) > less + 1 else None

    def enter(self, group: str | None, end: Callable[[], None]) -> Guest | None:
        """A place for a connection of `group` (None: nobody can tell whose), which `end` ends; None: there is none."""
        if group is not None and self.of_group(group) >= self.group_limit:
            oldest = next(iter(self._silent_of.get(group, ())), None)
        elif self._count >= self.limit:
            oldest = next(iter(self._silent), None) or self._oldest_of_largest(self.of_group(group or ""))
        else:
            return self._take_in(group, end)
        if oldest is None:
            self.turned_away += 1
            return None
        self.sent_away += 1
        oldest.send_away()
        return self._take_in(group, end)

    def _take_in(self, group: str | None, end: Callable[[], None]) -> Guest:
        guest = Guest(self, group, end)
        self._count += 1
        if group is not None:
            self._groups.setdefault(group, {})[guest] = None
        self.note_silent(guest)
        return guest

    def note_silent(self, guest: Guest) -> None:
        """It is the youngest of the silent ones."""
        self._silent[guest] = None
        if guest.group is not None:
            self._silent_of.setdefault(guest.group, {})[guest] = None

    def note_speaking(self, guest: Guest) -> None:
        """It is none of the silent ones."""
        self._silent.pop(guest, None)
        if guest.group is not None:
            silent = self._silent_of.get(guest.group)
            if silent is not None:
                silent.pop(guest, None)
                if not silent:
                    del self._silent_of[guest.group]

    def forget(self, guest: Guest) -> None:
        """It has left."""
        self.note_speaking(guest)
        self._count -= 1
        if guest.group is not None:
            rest = self._groups[guest.group]
            del rest[guest]
            if not rest:
                del self._groups[guest.group]
