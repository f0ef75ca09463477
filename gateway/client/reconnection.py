"""When a session tries again, and when that is of no use.

Invariant: the delays of many clients that lost one gateway at the same moment are spread over the whole of each step.
"""

import random
from collections.abc import Callable
from typing import Final

from gateway.client.faults import ConnectionClosed, ConnectionFailed, HandshakeRejected, Untrusted
from gateway.codes import ABNORMAL, BEGUN_ANEW, GOING_AWAY, NO_CODE, SUPERSEDED

GHOST_SECONDS: Final = 30.0
"""So long after a connection of ours, or of the process that left us its store, has ended without an answer to its
OPEN, that may still be on its way, overtake the next one's and supersede it: being taken over meanwhile tells of nobody
but ourselves. At any other time somebody else has the session now, and taking it back by itself would be a quarrel
without end."""

PASSING_CODES: Final = frozenset({GOING_AWAY, NO_CODE, ABNORMAL}) | BEGUN_ANEW
"""Close codes after which the session may still be there: the gateway restarts, is overloaded, lost its network."""

PASSING_STATUSES: Final = frozenset({408, 425, 429})
"""HTTP answers that blame the request and pass nevertheless; beside them all from 500 on."""

MAX_RETRY_AFTER_SECONDS: Final = 300.0


def is_passing(failure: Exception) -> bool:
    """Whether a session that is not connected because of `failure` may be had again, with the same request."""
    if isinstance(failure, ConnectionClosed):
        return failure.code in PASSING_CODES
    if isinstance(failure, HandshakeRejected):
        return failure.status >= 500 or failure.status in PASSING_STATUSES
    return isinstance(failure, ConnectionFailed) and not isinstance(failure, Untrusted)


def is_taken_over(failure: Exception) -> bool:
    """Whether a newer connection has the session now."""
    return isinstance(failure, ConnectionClosed) and failure.code == SUPERSEDED


def retry_after_seconds(failure: Exception) -> float:
    """What the server asked to be waited, at most `MAX_RETRY_AFTER_SECONDS`; 0 where it asked for nothing.

    A date instead of seconds (RFC 9110 section 10.2.3) is not looked at: clocks differ.
    """
    if not isinstance(failure, HandshakeRejected):
        return 0.0
    value = next((value for name, value in failure.headers if name == "retry-after"), "")
    return min(float(value), MAX_RETRY_AFTER_SECONDS) if value.isascii() and value.isdigit() else 0.0


class BackOff:
    """Delays in seconds: each drawn evenly from 0 to a bound that doubles from `initial` to `maximum`."""

    __slots__ = ("_failures", "_initial", "_maximum", "_uniform")

    def __init__(
        self, *, initial: float, maximum: float, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._initial = initial
        self._maximum = maximum
        self._uniform = uniform
        self._failures = 0

    def succeeded(self) -> None:
        """The connection has served: the next delay is from the shortest step again."""
        self._failures = 0

    def next_delay(self, *, at_least: float = 0.0) -> float:
        """How long to wait before the next attempt; the spread comes on top of `at_least`."""
        # An exponent without a bound would overflow after a day of failures.
        bound = min(self._maximum, self._initial * 2 ** min(self._failures, 32))
        self._failures += 1
        return at_least + self._uniform(0.0, bound)
