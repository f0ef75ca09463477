"""How a socket's far host takes what we send, asked of our own kernel: whether it takes it, and whether it is there.

Invariant: a look at a socket changes nothing, and needs nothing of its peer. What its application has read nobody can
say; what its host acknowledges can be seen, under TLS and on a Unix socket too.
"""

import socket
from typing import Final

from gateway.telemetry.tcp_info import queued_output, sample

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)


class Vitals:
    """One look."""

    __slots__ = ("acknowledged", "is_unanswered", "outstanding", "since_ack_seconds")

    def __init__(
        self,
        *,
        acknowledged: int = 0,
        outstanding: int = 0,
        is_unanswered: bool = False,
        since_ack_seconds: float = 0.0,
    ) -> None:
        self.acknowledged = acknowledged
        """A number that changes when the far host acknowledges more bytes."""
        self.outstanding = outstanding
        """Bytes of ours that it has not acknowledged, or 0 where no more is to be sent."""
        self.is_unanswered = is_unanswered
        """Something is under way that a host which is there answers at once: data, or a probe of its closed window."""
        self.since_ack_seconds = since_ack_seconds
        """Since anything came that acknowledges, however little."""


NOTHING_SENT: Final = Vitals()
"""Of a side without a socket."""


def look_at(sock: socket.socket, *, taken: int, buffered: int, has_ended: bool) -> Vitals:
    """A look at an open socket of whose output the kernel has `taken` bytes, while `buffered` more wait.

    `has_ended`: the kernel has the end of the stream too, which it counts as one byte until it is acknowledged.
    """
    queued = queued_output(sock)
    reading = sample(sock) if sock.family in _INTERNET else None
    if has_ended and reading is not None and queued:
        queued -= 1
    if reading is None:
        # A Unix socket: the far application itself takes it out of the queue, and cannot be away.
        return Vitals(acknowledged=taken - queued, outstanding=queued + buffered)
    return Vitals(
        acknowledged=reading.bytes_acked,
        outstanding=queued + buffered,
        is_unanswered=reading.unanswered > 0,
        since_ack_seconds=reading.since_ack_seconds,
    )


STEPS_OF_A_WINDOW: Final = 3
"""A far kernel whose window is closed acknowledges nothing until its application has read a good part of the buffer: 64
to 96 KiB at a time were measured, 6 to 12 s of one that reads 11.5 kB/s. So it has this many times the patience."""

LOOKS_IN_A_PATIENCE: Final = 3


class Watch:
    """Whether a far host is there: gone is one of whom nothing at all has come while something was unanswered.

    Looks cost a timer and a system call each: none is taken where nothing was written since the last one found that
    all is acknowledged. Times are seconds on the caller's clock.
    """

    __slots__ = ("_quiet_at", "_since", "_unheard_seconds", "next_look_at")

    def __init__(self, unheard_seconds: float, *, now: float) -> None:
        self._unheard_seconds = unheard_seconds
        self._since: float | None = None
        """Since when something has been seen to be unanswered."""
        self._quiet_at = 0
        """How much had been written when all of it was acknowledged."""
        self.next_look_at = now

    def is_needed(self, taken: int) -> bool:
        """Whether a look at `next_look_at` can find anything, of a socket whose kernel has taken so much."""
        return taken != self._quiet_at

    def is_gone(self, vitals: Vitals, taken: int, now: float) -> bool:
        """Takes a look in; whether nobody is there any more.

        Window probes come at growing distances, up to two minutes, and each is answered at once by a host that is
        there: so it is not the time since the last acknowledgement alone that counts.
        """
        self.next_look_at = now + self._unheard_seconds / LOOKS_IN_A_PATIENCE
        if not vitals.outstanding:
            self._quiet_at = taken
        if not vitals.is_unanswered:
            self._since = None
            return False
        if self._since is None or vitals.since_ack_seconds < now - self._since:
            self._since = now
            return False
        return now - self._since >= self._unheard_seconds
