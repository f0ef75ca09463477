"""Reads requests off a channel and answers those that do not become WebSocket connections.

Invariant: a request head has one deadline as a whole, so that a client which sends a byte now and then does not hold a
place for ever; between two requests of a kept-alive connection the same time is allowed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

import trio

from gateway.errors import HandshakeRefused
from gateway.protocol.handshake import Request, RequestReader, refusal_response, request_timed_out
from gateway.transport.channel import Channel

RECEIVE_BYTES: Final = 4096

FIRST_REQUEST_SECONDS: Final = 1.0
"""What a drain leaves to a connection that has sent nothing yet."""


class SilentConnections:
    """Those that have sent nothing of the request that is waited for, which may be ended (RFC 9112 section 9.3).

    Between two requests that is done at once. Before the first, what was sent as soon as the connection stood may still
    be on its way, so a moment is left for it; a browser connects ahead of time, and then may send nothing for minutes.
    """

    def __init__(self) -> None:
        self._waiting: Final[dict[trio.CancelScope, float]] = {}
        """What ends each wait, and the seconds that it is left."""
        self._ended = False

    @contextmanager
    def waiting(self, *, first: bool) -> Iterator[None]:
        """The wait for the first byte of a request, which `end` cuts short."""
        patience_seconds = FIRST_REQUEST_SECONDS if first else 0.0
        with trio.CancelScope() as scope:
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


async def read_request(
    channel: Channel,
    reader: RequestReader,
    *,
    first: bool,
    timeout_seconds: float,
    silent: SilentConnections | None = None,
) -> Request | None:
    """The next request; None when the client ended, or kept silent, between two requests, or `silent` was ended.

    `first` says that none has been read from this connection yet. Raises HandshakeRefused for a head that is bad or
    not complete in time, and OSError. After None the connection is good for nothing but to be closed.
    """
    request = None if first else reader.start_next()
    try:
        with trio.fail_after(timeout_seconds):
            while request is None:
                data = b""
                with nullcontext() if silent is None or reader.in_request else silent.waiting(first=first):
                    data = await channel.receive_some(RECEIVE_BYTES)
                if not data:
                    return None
                request = reader.feed(data)
    except trio.TooSlowError:
        if first or reader.in_request:
            raise request_timed_out(timeout_seconds) from None
        return None
    return request


async def refuse(
    channel: Channel, refusal: HandshakeRefused, *, timeout_seconds: float, head_only: bool = False
) -> None:
    """Sends the answer and ends the connection; a client that does not take it in time is left. Never raises for it.

    `head_only`: the request was a HEAD, and what follows the head would be taken for another answer.
    """
    with trio.move_on_after(timeout_seconds):
        try:
            await channel.send_all(refusal_response(refusal, head_only=head_only))
            await channel.finish()
        except OSError:
            pass  # it did not wait for the answer
    channel.close()
