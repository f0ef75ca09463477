"""Warnings that come with every request are said once a minute, with how often they would have been said.

Invariant: the first of its kind is said at once, so a fault is seen when it begins; the memory is bounded, and what it
forgets is said once more.
"""

from typing import Final

INTERVAL_SECONDS: Final = 60.0

KEPT_KEYS: Final = 1024
"""Some hundred bytes each."""


class Repetition:
    """Warnings of one sort, told apart by a key."""

    def __init__(self) -> None:
        self._said: Final[dict[str, tuple[float, int]]] = {}
        """When it was said last, and how many times it was not said since. The oldest first."""

    def count(self, key: str, now: float) -> int:
        """How many times it has happened since it was last said, this time included; 0: it is not to be said now."""
        said_at, unsaid = self._said.get(key, (-INTERVAL_SECONDS, 0))
        if now - said_at < INTERVAL_SECONDS:
            self._said[key] = (said_at, unsaid + 1)
            return 0
        self._said.pop(key, None)
        if len(self._said) >= KEPT_KEYS:
            del self._said[next(iter(self._said))]
        self._said[key] = (now, 0)
        return unsaid + 1
