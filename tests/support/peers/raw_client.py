"""A WebSocket client on a bare socket: frames go out as the test says, and nothing is read unless the test reads it."""

import socket
import ssl
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

from tests.support.peers.wire import frame, upgrade

PATIENCE_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame as it came in."""

    opcode: int
    final: bool
    payload: bytes


class RawClient:
    """One upgraded connection, blocking, with a deadline on each wait; `head` is the handshake's answer."""

    def __init__(
        self,
        url: str,
        *,
        tls: ssl.SSLContext | None = None,
        headers: dict[str, str] | None = None,
        receive_bytes: int = 0,
        source: str = "",
    ) -> None:
        """Connects, from the address `source`, and upgrades; `receive_bytes` bounds the kernel's buffer.

        Raises ConnectionError if refused.
        """
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.sock.settimeout(PATIENCE_SECONDS)
        if source:
            self.sock.bind((source, 0))
        self._buffer = b""
        try:
            self.sock.connect((parts.hostname, parts.port))
            if tls is not None:
                self.sock = tls.wrap_socket(self.sock, server_hostname=parts.hostname)
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            self._upgrade(parts.netloc, target, headers or {})
        except BaseException:
            self.sock.close()
            raise

    def _upgrade(self, host: str, target: str, headers: dict[str, str]) -> None:
        self.sock.sendall(upgrade(target, host=host, headers=headers))
        while b"\r\n\r\n" not in self._buffer:
            self._receive_more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        self.head = head.decode("latin-1")
        self.status = int(self.head.split(" ", 2)[1])
        if self.status != 101:
            raise ConnectionError(self.head.splitlines()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, opcode: int, payload: bytes = b"", *, final: bool = True) -> None:
        self.sock.sendall(frame(opcode, payload, fin=final))

    def receive(self) -> Frame:
        """The next frame, whatever it is; raises ConnectionError at the end of the stream, TimeoutError in vain."""
        first, second = self._take(2)
        size = second & 127
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return Frame(opcode=first & 15, final=bool(first & 0x80), payload=self._take(size))

    def receive_message(self) -> bytes:
        """The next whole data message; pings on the way are answered, other control frames are passed over."""
        payload = b""
        while True:
            frame = self.receive()
            if frame.opcode == 8:
                raise ConnectionError(f"closed: {frame.payload!r}")
            if frame.opcode == 9:
                self.send(10, frame.payload)
            elif frame.opcode < 8:
                payload += frame.payload
                if frame.final:
                    return payload

    def receive_close(self) -> tuple[int, str]:
        """Code and reason of the Close frame, 1005 where it has no code; pings before it are answered."""
        while (frame := self.receive()).opcode != 8:
            if frame.opcode == 9:
                self.send(10, frame.payload)
        if not frame.payload:
            return 1005, ""
        return int.from_bytes(frame.payload[:2]), frame.payload[2:].decode()

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive_more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _receive_more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the gateway ended the connection without a Close frame")
        self._buffer += data
