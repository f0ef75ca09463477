"""From a URL to an open WebSocket connection: TCP, TLS, opening handshake, all under one deadline.

Invariant: whatever goes wrong on the way is one of the named faults, and leaves no socket behind.
"""

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

from gateway.client.faults import (
    ConnectionFailed,
    ConnectionTimeout,
    HandshakeFailed,
    HandshakeRejected,
    Untrusted,
    system_text,
)
from gateway.protocol.deflate import DeflateParameters, check_answer, offer
from gateway.protocol.handshake import Accepted, ClientHandshake, WebSocketUrl

READ_BYTES: Final = 16 * 1024

NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
"""OpenSSL's reasons, by its version, for an answer that is plain text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where to connect to, and what to ask for."""

    url: WebSocketUrl
    subprotocols: tuple[str, ...] = ()
    """In order of preference."""
    headers: tuple[tuple[str, str], ...] = ()
    """Added to the request."""
    ssl_context: ssl.SSLContext | None = None
    """For wss; None verifies the server by the system's authorities."""
    compression: bool = False
    """Offer permessage-deflate."""

    @classmethod
    def of(
        cls,
        url: str,
        *,
        subprotocols: Sequence[str],
        headers: Sequence[tuple[str, str]],
        origin: str | None,
        ssl_context: ssl.SSLContext | None,
        compression: bool = False,
    ) -> "Target":
        """Raises ValueError for a URL, a header or a subprotocol that cannot be."""
        parsed = WebSocketUrl.parse(url)
        own = () if origin is None else (("Origin", origin),)
        context = ssl_context
        if parsed.secure and context is None:
            context = ssl.create_default_context()
        target = cls(
            url=parsed,
            subprotocols=tuple(subprotocols),
            headers=(*own, *headers),
            ssl_context=context,
            compression=compression,
        )
        target.handshake()
        return target

    def handshake(self) -> ClientHandshake:
        """A new handshake, good for one connection."""
        return ClientHandshake(
            self.url,
            subprotocols=self.subprotocols,
            extensions=offer() if self.compression else (),
            headers=self.headers,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialed:
    """A connection that is open; the stream is the caller's to close."""

    stream: ByteStream
    accepted: Accepted
    deflate: DeflateParameters | None
    early: bytes
    """What came behind the server's handshake."""


async def dial(target: Target, *, timeout_seconds: float) -> Dialed:
    """Connects and shakes hands. Raises ConnectionFailed, HandshakeRejected, HandshakeFailed.

    A cancellation closes what there is of the connection.
    """
    url = target.url
    try:
        with anyio.fail_after(timeout_seconds):
            stream = await _connect(target)
            try:
                return await _shake_hands(target, stream)
            except BaseException:
                await anyio.aclose_forcefully(stream)
                raise
    except TimeoutError as timeout:
        raise ConnectionTimeout(
            f"{url.host_header} did not answer within {timeout_seconds:g} s, TLS and handshake included"
        ) from timeout


async def _connect(target: Target) -> ByteStream:
    url = target.url
    try:
        tcp = await anyio.connect_tcp(url.host, url.port)
    except OSError as error:
        raise ConnectionFailed(f"cannot connect to {url.host} port {url.port}: {system_text(error)}") from error
    try:
        # Messages are written whole: holding a small one back for an acknowledgement gains nothing.
        tcp.extra(SocketAttribute.raw_socket).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not url.secure:
            return tcp
        return await TLSStream.wrap(tcp, hostname=url.host, ssl_context=target.ssl_context, standard_compatible=False)
    except ssl.SSLCertVerificationError as error:
        await anyio.aclose_forcefully(tcp)
        raise Untrusted(f"the certificate of {url.host_header} cannot be trusted: {error.verify_message}") from error
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
        await anyio.aclose_forcefully(tcp)
        problem = _tls_text(error)
        if isinstance(error, ssl.SSLError) and error.reason in NOT_TLS:
            problem += f"; what listens there does not speak TLS: try {url.other_scheme}"
        raise ConnectionFailed(f"no TLS with {url.host_header}: {problem}") from error
    except BaseException:
        await anyio.aclose_forcefully(tcp)
        raise


def _tls_text(error: BaseException) -> str:
    if isinstance(error, anyio.EndOfStream | anyio.BrokenResourceError):
        return "the server closed the connection"
    return system_text(error)


async def _shake_hands(target: Target, stream: ByteStream) -> Dialed:
    handshake = target.handshake()
    try:
        await stream.send(handshake.request())
        accepted: Accepted | None = None
        while accepted is None:
            try:
                data = await stream.receive(READ_BYTES)
            except anyio.EndOfStream as end:
                try:
                    handshake.receive_eof()
                except HandshakeRejected:
                    raise
                except HandshakeFailed as failure:
                    # A connection that was cut, not an answer that is wrong: trying again may help.
                    raise ConnectionFailed(str(failure)) from end
            accepted = handshake.feed(data)
    except anyio.BrokenResourceError as error:
        raise ConnectionFailed(f"the connection to {target.url.host_header} broke in the handshake") from error
    try:
        deflate = check_answer(accepted.extensions)
    except ValueError as error:
        raise HandshakeFailed(f"the server's answer on compression is none to the offer: {error}") from error
    return Dialed(stream=stream, accepted=accepted, deflate=deflate, early=handshake.leftover)
