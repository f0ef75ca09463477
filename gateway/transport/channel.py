"""A connected socket while a trio task owns it: through PROXY header, TLS handshake and HTTP, until the pump takes it.

Invariant: no byte that the peer sent is lost on the way. What was read too far is pushed back, what precedes a TLS
handshake is never read past its end, and decrypted bytes that nobody asked for stay in the `SSLSocket`.

It is not `trio.SocketStream`, because an established connection has no task: the pump wants the raw socket.
"""

import ipaddress
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache, partial
from typing import Any, Final, TypeVar

import trio

from gateway.config import TcpAddress
from gateway.errors import TlsFailure

Buffer = bytes | bytearray | memoryview

_T = TypeVar("_T")
_Wait = Callable[[socket.socket], Awaitable[None]]
_READ: Final[_Wait] = trio.lowlevel.wait_readable
_WRITE: Final[_Wait] = trio.lowlevel.wait_writable

LINGER_BYTES: Final = 1 << 20
"""What `finish` reads and forgets at most: a client that sends on after its refusal gets no more of our time."""

NOT_SENT_LOWAT_BYTES: Final = 128 * 1024
"""Unsent bytes the kernel takes before it says `not writable`: without it loopback swallows 3 MB at once, and what was
taken from the sender says nothing about the receiver."""

KEEPALIVE_OPTIONS: Final = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
"""In seconds and probes: a host that vanished is noticed within two minutes, also on a connection that only listens."""

KNOWN_HOSTS: Final = 4096
"""Of so many addresses the canonical form is remembered: each connection asks for two."""


def tune_tcp(sock: socket.socket) -> None:
    """Sets what every TCP connection of ours has; a listening socket's accepted ones inherit it."""
    # Messages are written whole, so Nagle's algorithm could only delay them.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT_LOWAT_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE_OPTIONS.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


def tcp_address(name: tuple[Any, ...]) -> TcpAddress:
    """The value for what the socket module gives for IPv4 and IPv6, without a zone, IPv4 never as `::ffff:`."""
    return TcpAddress(host=_canonical_host(name[0]), port=name[1])


@lru_cache(KNOWN_HOSTS)
def _canonical_host(host: str) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


class Channel:
    """One non-blocking socket, plain or TLS, with awaitable receive and send; at most one task uses each direction.

    Plain socket errors stay `OSError`; TLS errors become `TlsFailure`. Once closed or released every operation raises
    `trio.ClosedResourceError`, also in a task that was waiting in one.
    """

    __slots__ = ("_leftover", "_sock", "_was_waited_for")

    def __init__(self, sock: socket.socket) -> None:
        """Takes ownership of `sock` and makes it non-blocking."""
        sock.setblocking(False)
        self._sock: socket.socket | None = sock
        self._leftover = b""
        self._was_waited_for = False
        """trio knows the socket, and must be told when it goes."""

    @property
    def sock(self) -> socket.socket:
        """The socket, still owned by this channel: for its options, addresses and TLS facts."""
        if self._sock is None:
            raise trio.ClosedResourceError("this channel was closed or released")
        return self._sock

    @property
    def closed(self) -> bool:
        """The socket is closed or somebody else's."""
        return self._sock is None

    # --- receiving ------------------------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int = 65536) -> bytes:
        """1 to `max_bytes` bytes; b"" once the peer has ended its direction. A cancellation loses no byte."""
        if self._leftover:
            await trio.lowlevel.checkpoint()
            chunk, self._leftover = self._leftover[:max_bytes], self._leftover[max_bytes:]
            return chunk
        return await self._retry(lambda sock: sock.recv(max_bytes), _READ)

    def receive_now(self, max_bytes: int = 65536) -> bytes | None:
        """What a receive would return without waiting, None where nothing has come yet; no checkpoint."""
        if self._leftover:
            chunk, self._leftover = self._leftover[:max_bytes], self._leftover[max_bytes:]
            return chunk
        try:
            return self.sock.recv(max_bytes)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except ssl.SSLError as error:
            raise TlsFailure(_describe(error)) from error

    async def wait_readable(self) -> None:
        """Returns when bytes have come that nobody has read, or the peer's end; before TLS only, which reads ahead."""
        if self._leftover:
            await trio.lowlevel.checkpoint()
        else:
            self._was_waited_for = True
            await trio.lowlevel.wait_readable(self.sock)

    async def wait_writable(self) -> None:
        """Returns when the kernel takes bytes, or a connection that was begun is there or has failed."""
        self._was_waited_for = True
        await trio.lowlevel.wait_writable(self.sock)

    async def peek(self, max_bytes: int) -> bytes:
        """What a receive would return of the next `max_bytes` bytes, which stay; before TLS only, which reads ahead."""
        if self._leftover:
            await trio.lowlevel.checkpoint()
            return self._leftover[:max_bytes]
        return await self._retry(lambda sock: sock.recv(max_bytes, socket.MSG_PEEK), _READ)

    def push_back(self, data: bytes) -> None:
        """Gives back bytes that were received too much: the next receive returns them first."""
        self._leftover = data + self._leftover

    def take_leftover(self) -> bytes:
        """The bytes pushed back, handed over to the caller; also after `release`."""
        leftover, self._leftover = self._leftover, b""
        return leftover

    # --- sending --------------------------------------------------------------------------------------------------

    async def send_all(self, data: Buffer) -> None:
        """Returns when the kernel has all of `data`.

        After a cancellation or an error an unknown part of it is sent, and under TLS a record may be half written: the
        channel is then good for nothing but `close`.
        """
        view = memoryview(data)
        if not view:
            await trio.lowlevel.checkpoint()
        while view:
            # OpenSSL wants an interrupted write repeated with the same bytes, so the view moves only by what was taken.
            view = view[await self._retry(partial(_send, view), _WRITE) :]

    async def send_short(self, data: bytes) -> None:
        """`send_all` of what the kernel nearly always takes at once; then without a checkpoint."""
        try:
            sent = self.sock.send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            sent = 0
        except ssl.SSLError as error:
            raise TlsFailure(_describe(error)) from error
        if sent < len(data):
            await self.send_all(data[sent:])

    # --- TLS ------------------------------------------------------------------------------------------------------

    async def start_tls(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
        on_work: Callable[[float], None] = lambda seconds: None,
    ) -> ssl.SSLSocket:
        """Shakes hands; from now on the channel carries plaintext over TLS. The socket returned stays the channel's.

        `on_work` is told of each stretch of work how long it was, and must not raise.

        Raises `TlsFailure` when the handshake fails, `OSError` when the connection breaks. After either, and after a
        cancellation, the channel is good for nothing but `close`.
        """
        if self._leftover:
            raise RuntimeError("bytes were read past the beginning of the TLS handshake")
        try:
            # What wrap_socket does later, when a failure would leave the socket open in nobody's hands.
            (server_hostname or "").encode("idna")
            tls_sock = context.wrap_socket(
                self.sock,
                server_side=server_side,
                do_handshake_on_connect=False,
                suppress_ragged_eofs=True,
                server_hostname=server_hostname,
            )
        except (ssl.SSLError, ValueError) as error:
            raise TlsFailure(f"no TLS with {server_hostname!r}: {error}") from error
        self._sock = tls_sock

        def shake_hands(_: socket.socket) -> None:
            began = time.perf_counter()
            try:
                tls_sock.do_handshake()
            finally:
                on_work(time.perf_counter() - began)

        await self._retry(shake_hands, _READ)
        return tls_sock

    # --- the end --------------------------------------------------------------------------------------------------

    def release(self) -> socket.socket:
        """The socket, now the caller's, open and non-blocking; `take_leftover` gives what precedes its bytes."""
        sock = self.sock
        if self._was_waited_for:
            trio.lowlevel.notify_closing(sock)
        self._sock = None
        return sock

    def close(self) -> None:
        """Closes at once; under TLS with a close_notify if there is room for it. Closing twice is fine."""
        if self._sock is None:
            return
        sock = self.release()
        _send_close_notify(sock)
        sock.close()

    async def aclose(self) -> None:
        """`close` as trio's `AsyncResource`; a cancellation does not keep it open."""
        self.close()
        await trio.lowlevel.checkpoint()

    async def finish(self, *, linger_seconds: float = 1.0) -> None:
        """Ends our direction, lets the peer read its last answer, and closes; never raises for what the peer does.

        A close while bytes are unread makes the kernel send a reset, which overtakes the answer just sent: so what
        still comes is read and forgotten, for `linger_seconds` and `LINGER_BYTES` at most. Closed also when cancelled.
        """
        if self.closed:
            return
        try:
            with trio.move_on_after(linger_seconds):
                sock = self.sock
                _send_close_notify(sock)
                sock.shutdown(socket.SHUT_WR)
                forgotten = 0
                while forgotten < LINGER_BYTES and (chunk := await self._retry(_receive_raw, _READ)):
                    forgotten += len(chunk)
        except OSError:
            pass  # the peer is gone, which is what we wait for
        finally:
            self.close()

    async def _retry(self, operation: Callable[[socket.socket], _T], wait: _Wait) -> _T:
        """Does `operation` when the socket allows it; always a checkpoint, never cancelled after it has succeeded.

        A plain socket that would block is waited for with `wait`; TLS says itself which direction it lacks.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            sock = self.sock
            try:
                outcome = operation(sock)
            except ssl.SSLWantReadError:
                self._was_waited_for = True
                await trio.lowlevel.wait_readable(sock)
            except ssl.SSLWantWriteError:
                self._was_waited_for = True
                await trio.lowlevel.wait_writable(sock)
            except BlockingIOError:
                self._was_waited_for = True
                await wait(sock)
            except ssl.SSLError as error:
                raise TlsFailure(_describe(error)) from error
            else:
                if not waited:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return outcome
            waited = True


def _send_close_notify(sock: socket.socket) -> None:
    """Best effort: without it a TLS peer cannot tell our end from a truncation (RFC 8446 section 6.1)."""
    if isinstance(sock, ssl.SSLSocket):
        # It always raises: it wants to wait for the peer's close_notify, or the connection broke or never shook hands.
        with suppress(OSError, ValueError):
            sock.unwrap()


def _send(data: memoryview, sock: socket.socket) -> int:
    return sock.send(data)


def _receive_raw(sock: socket.socket) -> bytes:
    """What the kernel holds, ciphertext included: it is to be forgotten, and TLS has been shut down above it."""
    return socket.socket.recv(sock, 65536)


def _describe(error: ssl.SSLError) -> str:
    """What went wrong without OpenSSL's file names and numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the peer hung up in the middle of TLS"
    text = (error.reason or str(error)).replace("_", " ").lower()
    return f"{text}: the peer does not speak TLS" if error.reason == "WRONG_VERSION_NUMBER" else text
