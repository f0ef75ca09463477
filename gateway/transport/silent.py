"""Connections on which nothing has come that is waited for: what a drain does about them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio

FIRST_BYTE_SECONDS: Final = 1.0
"""What a drain leaves to a connection that has sent nothing yet."""


class SilentConnections:
    """Those that have sent nothing of what is waited for, which may be ended (RFC 9112 section 9.3).

    Between two requests that is done at once. At the beginning, what was sent as soon as the connection stood may still
    be on its way, so a moment is left for it; a browser connects ahead of time, and then may send nothing for minutes.
    """

    def __init__(self) -> None:
        self._waiting: Final[dict[trio.CancelScope, float]] = {}
        """What ends each wait, and the seconds that it is left."""
        self._ended = False

    @contextmanager
    def waiting(self, *, first: bool, until: float = math.inf) -> Iterator[None]:
        """The wait for the first byte of a connection, or of its next request, which `end` cuts short.

        It ends at `until`, in trio's time, in any case.
        """
        patience_seconds = FIRST_BYTE_SECONDS if first else 0.0
        with trio.CancelScope(deadline=until) as scope:
            if self._ended:
                _cut_short(scope, patience_seconds)
            self._waiting[scope] = patience_seconds
            try:
                yield
            finally:
                del self._waiting[scope]

    def end(self) -> None:
        """Ends those that wait, and each later one likewise."""
        self._ended = True
        for scope, patience_seconds in self._waiting.items():
            _cut_short(scope, patience_seconds)


def _cut_short(scope: trio.CancelScope, patience_seconds: float) -> None:
    scope.deadline = min(scope.deadline, trio.current_time() + patience_seconds)
