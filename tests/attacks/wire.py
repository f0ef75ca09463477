"""Just enough WebSocket to be cheap: requests and masked frames as bytes, with nothing that looks at them."""

import array
import fcntl
import socket
import struct
import termios
from typing import Final

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
PING: Final = 9
PONG: Final = 10


def upgrade(path: str, *, host: str = "x", subprotocol: str = "", extensions: str = "") -> bytes:
    """A client's opening handshake."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    if subprotocol:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    if extensions:
        lines.append(f"Sec-WebSocket-Extensions: {extensions}")
    return "\r\n".join([*lines, "", ""]).encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, compressed: bool = False) -> bytes:
    """A client's frame, masked with zeros: the payload stays as it is."""
    first = opcode | (0x80 if fin else 0) | (0x40 if compressed else 0)
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload


def record(record_type: int, flags: int, seq: int, body: bytes = b"") -> bytes:
    """A record of `kakitome.v1` in a frame of its own."""
    return frame(BINARY, struct.pack("!BBQ", record_type, flags, seq) + body)


def unread(sock: socket.socket) -> int:
    """How many bytes have come for it and were not taken."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]
