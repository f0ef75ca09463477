"""Under what a client was let in, and the clock that says when this ends.

Invariant: what counts is Unix time, as in credentials. The pump's clock only wakes, and sooner rather than later: a
machine that slept, or whose clock was set, is noticed within `LONGEST_WAIT_SECONDS`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from gateway.access.method import Evidence
from gateway.policy.principal import Principal
from gateway.relay.pump import Pump
from gateway.relay.timers import Entry

ASKS_AT: Final = 0.25
"""The part of a permission's life that is left when another credential is asked for."""

EARLIEST_ASKING_SECONDS: Final = 60.0
"""Before the end: whoever gives credentials may need some tries."""

LATEST_ASKING_SECONDS: Final = 0.25
"""Before the end: an answer would come too late."""

LONGEST_WAIT_SECONDS: Final = 300.0

log = structlog.get_logger("session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permission:
    """Of the connection that a session has, or had last."""

    address: str | None
    """Where the client came from."""
    principal: Principal | None = None
    """None where nobody is asked, or nobody in particular came."""
    evidence: Evidence | None = None
    """What else there is to judge another credential by; None where none is taken behind the handshake."""


class PermissionWatch:
    """Asks for another credential some time before a permission ends, and says when it has ended."""

    __slots__ = ("_asks_below", "_expires_at", "_on_due", "_on_over", "_pump", "_unix_time", "timer")

    def __init__(
        self,
        pump: Pump,
        *,
        on_due: Callable[[float], None],
        on_over: Callable[[float], None],
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        """`on_due` and `on_over` are called in the pump's turns with its time."""
        self.timer: Entry | None = None
        self._pump = pump
        self._on_due = on_due
        self._on_over = on_over
        self._unix_time = unix_time
        self._expires_at: float | None = None
        self._asks_below: float | None = None

    def begin(self, expires_at: float | None, now: float) -> None:
        """A permission begins that lasts until then (Unix time; None: for good), or goes on after it was asked for."""
        self._expires_at = expires_at
        left = self.seconds_left
        if left is None:
            self.stop()
            return
        asks_below = min(left * ASKS_AT, EARLIEST_ASKING_SECONDS)
        self._asks_below = asks_below if asks_below >= LATEST_ASKING_SECONDS else None
        self._arm(left, now)

    def stop(self) -> None:
        """Nobody is there any more."""
        self._expires_at = None
        self._pump.forget(self)

    @property
    def seconds_left(self) -> float | None:
        """Until the end, 0 behind it; None: there is none."""
        return None if self._expires_at is None else max(self._expires_at - self._unix_time(), 0.0)

    def _arm(self, left: float, now: float) -> None:
        wait = left if self._asks_below is None else left - self._asks_below
        self._pump.wake_at(self, now + min(wait, LONGEST_WAIT_SECONDS))

    def on_timer(self, now: float) -> None:
        """Looks what time it is."""
        left = self.seconds_left
        if left is None:
            return
        if left <= 0.0:
            self._expires_at = None
            self._on_over(now)
            return
        if self._asks_below is not None and left <= self._asks_below:
            self._asks_below = None
            self._on_due(now)
        self._arm(left, now)

    def on_fault(self, error: Exception) -> None:
        """A bug of ours: nobody stays in for it."""
        log.error("internal_fault", exc_info=error)
        self._expires_at = None
        self._on_over(self._pump.clock())
