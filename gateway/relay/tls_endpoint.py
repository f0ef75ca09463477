"""A TLS socket in the pump: an endpoint whose bytes are not those that the kernel counts.

Invariant: bytes that are decrypted and not read are never forgotten, although epoll cannot see them; and a stream that
ends without close_notify is broken, for anybody on the way may have ended it.
"""

import errno
import socket
import ssl
from collections import deque

from gateway.memory.account import Tab
from gateway.protocol.pieces import Buffer
from gateway.relay.endpoint import HIGH_MARK_BYTES, Endpoint
from gateway.relay.ports import EndpointOwner
from gateway.relay.pump import READABLE, WRITABLE, Pump
from gateway.telemetry.tcp_info import queued_input


class TlsEndpoint(Endpoint):
    """The same over an `ssl.SSLSocket` whose handshake is done.

    TLS has wants of its own: a write may first need bytes from the peer and a read may first have to send some, and
    decrypted bytes may wait where epoll cannot see them.
    """

    __slots__ = ("_read_wants_write", "_write_wants_read")

    sock: ssl.SSLSocket

    def __init__(
        self, sock: ssl.SSLSocket, pump: Pump, owner: EndpointOwner, tab: Tab, *, high_mark_bytes: int = HIGH_MARK_BYTES
    ) -> None:
        super().__init__(sock, pump, owner, tab, high_mark_bytes=high_mark_bytes)
        sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        self._read_wants_write = False
        self._write_wants_read = False

    def resume(self) -> None:
        super().resume()
        if self._reading and self.sock.pending():
            self.pump.again(self._fd, self)

    def on_events(self, mask: int, now: float) -> None:
        if mask & WRITABLE and self._read_wants_write:
            self._read_wants_write = False
            self._watch()
            mask |= READABLE
        if mask & READABLE and self._write_wants_read:
            self._write_wants_read = False
            self._watch()
            mask |= WRITABLE
        super().on_events(mask, now)

    def _receive(self) -> Buffer:
        # One TLS record is at most 16 KiB: gather what is there, as a plain socket would, up to one shared buffer.
        buffer = self.pump.buffer.view[: self.most_bytes]
        count = 0
        try:
            while True:
                got = self.sock.recv_into(buffer[count:])
                count += got
                if not got or count == len(buffer) or not self.sock.pending():
                    break
        except ssl.SSLWantReadError:
            if not count:
                raise BlockingIOError from None
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
            self._watch()
            if not count:
                raise BlockingIOError from None
        except ssl.SSLZeroReturnError:
            pass  # the peer's close_notify after ours, which Python does not report as an end of input
        except OSError:
            if not count:
                raise  # else: the bytes first, the error with the next read
        if self.sock.pending():
            self.pump.again(self._fd, self)
        return buffer[:count]

    @property
    def has_unread(self) -> bool:
        return self.sock.pending() > 0 or queued_input(self.sock) > 0

    def _send(self, data: bytes | memoryview) -> int:
        try:
            return self.sock.send(data)
        except ssl.SSLWantWriteError:
            raise BlockingIOError from None
        except ssl.SSLWantReadError:
            self._write_wants_read = True
            raise BlockingIOError from None

    def _send_pending(self, pending: "deque[bytes | memoryview]") -> int:
        # OpenSSL wants the same bytes again after it had to wait, so buffers are not gathered.
        return self._send(pending[0])

    def _end_output(self) -> None:
        try:
            self.sock.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass  # our close_notify is out; the peer's answer is read like other input
        except ValueError as error:  # no TLS layer any more: the peer has ended both ways
            raise OSError(errno.ENOTCONN, str(error)) from None

    def _wanted(self) -> int:
        mask = super()._wanted()
        if self._write_wants_read:
            mask = (mask & ~WRITABLE) | READABLE
        if self._read_wants_write:
            mask |= WRITABLE
        return mask


def endpoint_for(
    sock: socket.socket, pump: Pump, owner: EndpointOwner, tab: Tab, *, high_mark_bytes: int = HIGH_MARK_BYTES
) -> Endpoint:
    """The endpoint that fits the socket. It takes the socket over; reading starts with `resume`."""
    if isinstance(sock, ssl.SSLSocket):
        return TlsEndpoint(sock, pump, owner, tab, high_mark_bytes=high_mark_bytes)
    return Endpoint(sock, pump, owner, tab, high_mark_bytes=high_mark_bytes)
