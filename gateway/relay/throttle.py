"""How fast one client may send: what it sends faster is left in the kernel, or ends its connection.

Messages are what goes on; frames are all that it sends, control frames, empty fragments and records that acknowledge
too; bytes are those of the frames, headers included. Each has a bucket of its own.

Invariant: on average nobody's messages, frames or bytes are more than they may be, and whoever sends them within the
limits never waits. What has been read is passed on; it is the reading of more that waits until it is made up for.
"""

from collections.abc import Callable

from gateway.errors import PolicyViolation
from gateway.policy.admission import MessageRate
from gateway.relay.pump import Pump
from gateway.relay.settings import RelaySettings
from gateway.relay.timers import Entry


class Throttle:
    """The limits of one connection; where there are any: see `is_limited`."""

    __slots__ = ("_buckets", "_closes", "_counted", "_on_due", "_on_fault", "_pump", "is_shut", "shut_until", "timer")

    def __init__(
        self,
        settings: RelaySettings,
        pump: Pump,
        on_due: Callable[[float], None],
        on_fault: Callable[[Exception], None],
        *,
        now: float,
    ) -> None:
        """`on_due(now)` is called when more may be read, and `on_fault` when it has raised."""
        self._pump = pump
        self._on_due = on_due
        self._on_fault = on_fault
        self._closes = settings.closes_on_excess
        self._buckets: dict[str, tuple[float, MessageRate]] = {
            name: (rate, MessageRate(rate, now=now))
            for name, rate in (
                ("messages", settings.messages_per_second),
                ("frames", settings.frames_per_second),
                ("bytes", settings.bytes_per_second),
            )
            if rate is not None
        }
        self._counted = 0
        self.is_shut = False
        """Nothing is to be read for now."""
        self.shut_until = 0.0
        self.timer: Entry | None = None
        """The pump's."""

    def count_frames(self, frames: int, size: int, now: float) -> PolicyViolation | None:
        """What came: `frames` since the connection began, `size` bytes now. A fault where too much ends it."""
        news, self._counted = frames - self._counted, frames
        return self._count("frames", news, now) or self._count("bytes", size, now)

    def count_messages(self, messages: int, now: float) -> PolicyViolation | None:
        """So many messages have come whole, and are about to go on. A fault where too many end it."""
        return self._count("messages", messages, now)

    def _count(self, what: str, count: int, now: float) -> PolicyViolation | None:
        bucket = self._buckets.get(what)
        if bucket is None or not count:
            return None
        limit, rate = bucket
        if self._closes:
            return None if rate.take(count, now) else PolicyViolation(f"more than {limit:g} {what} per second")
        seconds = rate.draw(count, now)
        if seconds > 0.0:
            self.is_shut = True
            self.shut_until = max(self.shut_until, now + seconds)
            self._pump.wake_at(self, self.shut_until)
        return None

    def stop(self) -> None:
        """The connection is ending: nothing waits any more."""
        self.is_shut = False
        self._buckets.clear()
        self._pump.forget(self)

    def on_timer(self, now: float) -> None:
        """The debt may be paid."""
        if not self.is_shut:
            return
        if now < self.shut_until:
            self._pump.wake_at(self, self.shut_until)
            return
        self.is_shut = False
        self._on_due(now)

    def on_fault(self, error: Exception) -> None:
        """Of what `on_due` has called."""
        self._on_fault(error)


def is_limited(settings: RelaySettings) -> bool:
    """Whether there is any limit: without one a connection needs no throttle, which then costs nothing."""
    rates = (settings.messages_per_second, settings.frames_per_second, settings.bytes_per_second)
    return any(rate is not None for rate in rates)
