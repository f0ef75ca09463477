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

RECEIVE_BYTES = 4096


class KeptAlive:
    """The connections that wait between two requests, which may be ended at any moment (RFC 9112 section 9.3)."""

    def __init__(self) -> None:
        self._waiting: Final[set[trio.CancelScope]] = set()
        self._ended = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The wait for the first byte of a next request, which `end` cuts short."""
        with trio.CancelScope() as scope:
            if self._ended:
                scope.cancel()
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.discard(scope)

    def end(self) -> None:
        """Ends those that wait, and each later one at once."""
        self._ended = True
        for scope in self._waiting:
            scope.cancel()


async def read_request(
    channel: Channel, reader: RequestReader, *, first: bool, timeout_seconds: float, kept_alive: KeptAlive | None = None
) -> Request | None:
    """The next request; None when the client ended, or kept silent, between two requests, or `kept_alive` was ended.

    `first` says that none has been read from this connection yet. Raises HandshakeRefused for a head that is bad or
    not complete in time, and OSError. After None the connection is good for nothing but to be closed.
    """
    request = None if first else reader.start_next()
    try:
        with trio.fail_after(timeout_seconds):
            while request is None:
                data = b""
                is_between = not (first or reader.in_request)
                with kept_alive.waiting() if kept_alive is not None and is_between else nullcontext():
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
