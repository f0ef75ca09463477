"""Reads requests off a channel and answers those that do not become WebSocket connections.

Invariant: a request head has one deadline as a whole, so that a client which sends a byte now and then does not hold a
place for ever; between two requests of a kept-alive connection the same time is allowed.
"""

from http import HTTPStatus
from typing import Final

import trio

from gateway.errors import HandshakeRefused
from gateway.policy.anteroom import Guest
from gateway.protocol.handshake import Request, RequestReader, refusal_response, request_timed_out
from gateway.protocol.http import Headers, Refusal
from gateway.transport.channel import Channel
from gateway.transport.silent import SilentConnections

RECEIVE_BYTES: Final = 4096

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


async def read_request(
    channel: Channel,
    reader: RequestReader,
    *,
    first: bool,
    timeout_seconds: float,
    silent: SilentConnections | None = None,
    guest: Guest | None = None,
) -> Request | None:
    """The next request; None when the client ended, or kept silent, between two requests, or `silent` was ended.

    `guest` is told when it speaks and when it is waited for.

    `first` says that none has been read from this connection yet. Raises HandshakeRefused for a head that is bad or
    not complete in time, and OSError. After None the connection is good for nothing but to be closed.
    """
    request = None if first else reader.start_next()
    if guest is not None and request is None and not reader.in_request and not first:
        guest.is_waited_for()
    deadline: float | None = None
    while request is None:
        # Mostly it is here already, and nothing has to be waited for.
        data = channel.receive_now(RECEIVE_BYTES)
        if data is None:
            if deadline is None:
                deadline = trio.current_time() + timeout_seconds
            data = await _receive(channel, None if reader.in_request else silent, first=first, until=deadline)
            if data is None and trio.current_time() >= deadline and (first or reader.in_request):
                raise request_timed_out(timeout_seconds)
        if not data:
            return None
        if guest is not None:
            guest.speaks()
        request = reader.feed(data)
    return request


async def _receive(channel: Channel, silent: SilentConnections | None, *, first: bool, until: float) -> bytes | None:
    """What comes next; None: nothing until then, or until `silent`, where it is given, was ended."""
    data: bytes | None = None
    if silent is None:
        with trio.move_on_at(until):
            data = await channel.receive_some(RECEIVE_BYTES)
    else:
        with silent.waiting(first=first, until=until):
            data = await channel.receive_some(RECEIVE_BYTES)
    return data


async def read_body(channel: Channel, begun: bytes, request: Request, *, timeout_seconds: float) -> bytes:
    """The body of a request, of which `begun` has come; the caller has bounded its length.

    Raises HandshakeRefused (408) for one that is not complete in time, and OSError where it ends before.
    """
    length = request.body_bytes
    body = bytearray(begun[:length])
    try:
        with trio.fail_after(timeout_seconds):
            # RFC 9110 section 10.1.1: who asks before it sends a body waits for this, or for an answer.
            if len(body) < length and request.http_version != "1.0" and "100-continue" in request.tokens("expect"):
                await channel.send_all(_CONTINUE)
            while len(body) < length:
                data = await channel.receive_some(min(RECEIVE_BYTES, length - len(body)))
                if not data:
                    raise ConnectionResetError("the body ended before it was complete")
                body += data
    except trio.TooSlowError:
        raise HandshakeRefused(
            f"the request's body was not complete within {timeout_seconds:g} seconds",
            status=HTTPStatus.REQUEST_TIMEOUT,
            reason=Refusal.TIMEOUT,
        ) from None
    return bytes(body)


async def refuse(
    channel: Channel,
    refusal: HandshakeRefused,
    *,
    timeout_seconds: float,
    head_only: bool = False,
    headers: Headers = (),
) -> None:
    """Sends the answer and ends the connection; a client that does not take it in time is left. Never raises for it.

    `head_only`: the request was a HEAD, and what follows the head would be taken for another answer.
    """
    with trio.move_on_after(timeout_seconds):
        try:
            await channel.send_all(refusal_response(refusal, headers, head_only=head_only))
            await channel.finish()
        except OSError:
            pass  # it did not wait for the answer
    channel.close()
