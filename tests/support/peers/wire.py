"""Requests, frames and records as bytes, legal and not, written apart from the codecs that they are tried on."""

import array
import fcntl
import socket
import struct
import termios
from collections.abc import Mapping
from itertools import cycle
from typing import Final

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
PING: Final = 9
PONG: Final = 10


def upgrade(
    path: str, *, host: str = "x", subprotocol: str = "", extensions: str = "", headers: Mapping[str, str] | None = None
) -> bytes:
    """A client's opening handshake; `headers` come behind, or in the place of, what it has."""
    fields = {
        "Host": host,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        **({"Sec-WebSocket-Protocol": subprotocol} if subprotocol else {}),
        **({"Sec-WebSocket-Extensions": extensions} if extensions else {}),
        **(headers or {}),
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


KEY: Final = b"\x37\xfa\x21\x3d"
PLAIN: Final = bytes(4)
"""A key that changes nothing, which RFC 6455 section 5.3 leaves to a test: the payload stays readable, and cheap."""


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = PLAIN,
    announced: int | None = None,
    width: int | None = None,
) -> bytes:
    """A frame as the wire has it, legal or not; `width` forces a length field of 0, 2 or 8 extra bytes."""
    length = len(payload) if announced is None else announced
    if width is None:
        width = 0 if length < 126 else 2 if length < 65536 else 8
    marker = {0: length, 2: 126, 8: 127}[width]
    header = bytes((fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | marker)) + length.to_bytes(8)[8 - width :]
    if mask is None:
        return header + payload
    if mask == PLAIN:
        return header + mask + payload
    return header + mask + bytes(a ^ b for a, b in zip(payload, cycle(mask), strict=False))


def record(record_type: int, flags: int, seq: int, body: bytes = b"") -> bytes:
    """A record of `kakitome.v1` in a frame of its own."""
    return frame(BINARY, struct.pack("!BBQ", record_type, flags, seq) + body)


def unread(sock: socket.socket) -> int:
    """How many bytes have come for it and were not taken."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]
