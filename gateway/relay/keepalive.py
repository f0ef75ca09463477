"""When a silent client is pinged, and when it is given up: no I/O, and the time is an argument.

Invariant: a client that takes what it is sent is alive, however slowly it does: the bytes that its host acknowledges
are a sign of life like those that it sends, and the time for the answer to a ping counts from when everything before
the ping was acknowledged.
"""

from typing import Final

from gateway.protocol.fence import Fence
from gateway.relay.timers import NEVER
from gateway.relay.vitals import STEPS_OF_A_WINDOW, Vitals

LOOKS_IN_A_TIMEOUT: Final = 8
"""How often a client is looked at while its answer is awaited: so exactly is known when it has acknowledged."""

LEAST_PATIENCE_SECONDS: Final = 15.0
"""With a client whose window is closed; see `STEPS_OF_A_WINDOW`."""

BLOCKED_SECONDS: Final = 1.0
"""A ping that cannot be sent, because half a message is out, is thought of again so much later."""


class Keepalive:
    """Of one connection. All times are seconds on the caller's clock; None is never."""

    __slots__ = (
        "_acknowledged",
        "_alive_at",
        "_interval",
        "_looked_at",
        "_probed_at",
        "_timeout",
        "_waits_until",
        "heard_at",
    )

    def __init__(self, interval_seconds: float | None, timeout_seconds: float | None, *, now: float) -> None:
        self.heard_at = now
        """When bytes of the client's came last."""
        self._interval = interval_seconds
        self._timeout = timeout_seconds
        self._alive_at = now
        """When it acknowledged something last, as far as is known."""
        self._acknowledged = 0
        self._looked_at = now
        self._probed_at = now
        self._waits_until = now

    def next_deadline(self, fence: Fence) -> float:
        """When to `think`."""
        if fence.in_flight:
            if self._timeout is None:
                return NEVER
            waits_since = max(fence.sent_at, self.heard_at)
            look = max(waits_since, self._looked_at) + self._timeout / LOOKS_IN_A_TIMEOUT
            over = max(waits_since, self._alive_at) + self._timeout
            return min(look, over) if over > self._looked_at else look
        if self._interval is None:
            return NEVER
        return max(self.heard_at + self._interval, fence.sent_at + self._interval, self._waits_until)

    def pings(self, vitals: Vitals, now: float) -> None:
        """A ping is about to be sent; what is acknowledged so far is no answer to it."""
        self._acknowledged = vitals.acknowledged
        self._looked_at = now

    def probes_paused(self, fence: Fence, now: float) -> bool:
        """Takes in that a client with a ping under way is not read by us; whether it is to be pinged once more.

        It is not to blame for its silence. But a host answers what is sent to a socket that is gone with a reset.
        """
        self.heard_at = now
        if self._interval is None or now - max(self._probed_at, fence.sent_at) < self._interval:
            return False
        self._probed_at = now
        return True

    def wait(self, now: float) -> None:
        """No ping can be sent at present."""
        self._waits_until = now + BLOCKED_SECONDS

    def is_late(self, fence: Fence, vitals: Vitals, now: float) -> bool:
        """Takes a look in while a ping is unanswered; whether the client is given up."""
        if vitals.acknowledged != self._acknowledged:
            self._acknowledged = vitals.acknowledged
            # What has been acknowledged to the end was so at some time since the last look, perhaps right behind it.
            self._alive_at = now if vitals.outstanding else self._looked_at
        self._looked_at = now
        timeout = self._timeout
        if timeout is None:
            return False
        if vitals.outstanding:
            timeout = max(timeout * STEPS_OF_A_WINDOW, LEAST_PATIENCE_SECONDS)
        return now - max(fence.sent_at, self.heard_at, self._alive_at) >= timeout


class LastWords:
    """What a client said before it went, while it was paused: they are read as long as the backend takes more."""

    __slots__ = ("_moved_at", "_patience_seconds", "_progress", "next_look_at")

    def __init__(self, patience_seconds: float, *, now: float) -> None:
        """They are given up when the backend has taken nothing for so long."""
        self._patience_seconds = patience_seconds
        self._progress: tuple[int, ...] = ()
        self._moved_at = now
        self.next_look_at = now

    def are_in_vain(self, progress: tuple[int, ...], now: float) -> bool:
        """Takes a look in; `progress` is another one when the backend has taken more."""
        if progress != self._progress:
            self._progress = progress
            self._moved_at = now
        self.next_look_at = now + self._patience_seconds / LOOKS_IN_A_TIMEOUT
        return now - self._moved_at >= self._patience_seconds
