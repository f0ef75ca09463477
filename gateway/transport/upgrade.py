"""Reads requests off a channel and answers those that do not become WebSocket connections.

Invariant: a request head has one deadline as a whole, so that a client which sends a byte now and then does not hold a
place for ever; between two requests of a kept-alive connection the same time is allowed.
"""

import trio

from gateway.errors import HandshakeRefused
from gateway.protocol.handshake import Request, RequestReader, refusal_response, request_timed_out
from gateway.transport.channel import Channel

RECEIVE_BYTES = 4096


async def read_request(
    channel: Channel, reader: RequestReader, *, first: bool, timeout_seconds: float
) -> Request | None:
    """The next request; None when the client ended, or kept silent, between two requests.

    `first` says that none has been read from this connection yet. Raises HandshakeRefused for a head that is bad or
    not complete in time, and OSError.
    """
    request = None if first else reader.start_next()
    try:
        with trio.fail_after(timeout_seconds):
            while request is None:
                data = await channel.receive_some(RECEIVE_BYTES)
                if not data:
                    return None
                request = reader.feed(data)
    except trio.TooSlowError:
        if first or reader.in_request:
            raise request_timed_out(timeout_seconds) from None
        return None
    return request


async def refuse(channel: Channel, refusal: HandshakeRefused, *, timeout_seconds: float) -> None:
    """Sends the answer and ends the connection; a client that does not take it in time is left. Never raises for it."""
    with trio.move_on_after(timeout_seconds):
        try:
            await channel.send_all(refusal_response(refusal))
            await channel.finish()
        except OSError:
            pass  # it did not wait for the answer
    channel.close()
