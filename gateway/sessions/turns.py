"""Those who ask for the same thing go one after the other, those who ask for others do not wait.

Invariant: only what is asked for at this moment is remembered.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio


class Turns:
    """A lock for each name, made when it is wanted and forgotten with its last holder."""

    def __init__(self) -> None:
        self._locks: Final[dict[str, trio.Lock]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def take(self, name: str) -> AsyncIterator[None]:
        """Waits until nobody else has the turn of `name`, in order of arrival, and has it for the block."""
        lock = self._locks.setdefault(name, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._locks.pop(name, None)
