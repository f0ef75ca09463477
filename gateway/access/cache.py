"""Answers that are good for a while, and questions that several wait for at once.

Invariant: no credential is kept, only its digest; the number of answers is bounded; equal questions that are under way
at the same time are one question; a failure is told to those who wait for it, and not remembered.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import trio

ANSWERS_AT_MOST: Final = 10_000

T = TypeVar("T")


def digest(*parts: str) -> bytes:
    """What stands for a credential in memory: SHA-256 over the parts, each with its length."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        hasher.update(len(data).to_bytes(8, "big"))
        hasher.update(data)
    return hasher.digest()


@dataclass(slots=True, kw_only=True)
class _Pending(Generic[T]):
    done: trio.Event
    value: T | None = None


class AnswerCache(Generic[T]):
    """Answers by the digest of what was asked."""

    def __init__(self, *, most: int = ANSWERS_AT_MOST) -> None:
        self._most: Final = most
        self._answers: OrderedDict[bytes, tuple[float, T]] = OrderedDict()
        self._pending: dict[bytes, _Pending[T]] = {}

    def __len__(self) -> int:
        return len(self._answers)

    async def get(
        self, key: bytes, ask: Callable[[], Awaitable[T]], *, now: float, good_until: Callable[[T], float | None]
    ) -> T:
        """The answer kept for `key` or a new one, kept until the time that `good_until` tells; None: not at all.

        Whoever asks first asks for all who want the same meanwhile. When its question fails or is cancelled, the next
        one asks for itself.
        """
        await trio.lowlevel.checkpoint()
        while True:
            kept = self._answers.get(key)
            if kept is not None and now < kept[0]:
                self._answers.move_to_end(key)
                return kept[1]
            pending = self._pending.get(key)
            if pending is None:
                break
            await pending.done.wait()
            if pending.value is not None:
                return pending.value
        mine: _Pending[T] = _Pending(done=trio.Event())
        self._pending[key] = mine
        try:
            value = mine.value = await ask()
        finally:
            del self._pending[key]
            mine.done.set()
        until = good_until(value)
        if until is not None and until > now:
            self._answers[key] = (until, value)
            self._answers.move_to_end(key)
            if len(self._answers) > self._most:
                self._answers.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forgets all answers, as after a revocation."""
        self._answers.clear()
