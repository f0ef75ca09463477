"""When the next session may look for evidence: all of a process share one budget.

Looking costs some 50 µs (a ping and the reading of its pong, a TCP_INFO sample, a timer), more than a message does.
Invariant: sessions that look whenever they may take one look in 8 ms between them, 0.6 % of a core; a session
that is alone looks every 25 ms, and none has to wait for longer than a second.
"""

from typing import Final

LOOK_SECONDS: Final = 0.025
"""The least time between two looks of one session."""

SLOT_SECONDS: Final = 0.008
"""The budget: a look of some session in each of these."""

TICK_SECONDS: Final = 0.01
"""Looks that no data brings come on ticks that all sessions share: waking trio costs more than several looks."""

PATIENCE_SECONDS: Final = 1.0
"""What a session waits at the most, also where more of them are busy than there are slots."""


class Pace:
    """Hands out the times of looks. All times are seconds on the caller's clock."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0.0

    def reserve(self, now: float) -> float:
        """When the session that looks `now` may look again."""
        slot = self._last + SLOT_SECONDS
        if slot < now + LOOK_SECONDS:
            slot = now + LOOK_SECONDS
        elif slot > now + PATIENCE_SECONDS:
            slot = now + PATIENCE_SECONDS
        self._last = slot
        return slot


def next_tick(time: float) -> float:
    """The first tick after `time`."""
    return (time // TICK_SECONDS + 1.0) * TICK_SECONDS
