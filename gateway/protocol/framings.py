"""How messages stand on a backend's byte stream: `stream`, `lines` and `length_prefixed`.

Invariant: what a framing holds is bounded: nothing for `stream` but a cut character, one message of at most
`message_bytes` each way for the others. A message that a framing cannot carry is refused, never changed.

A framing belongs to one backend connection. Upstream it turns pieces of messages into bytes; downstream it turns bytes,
cut anywhere, into pieces. It is given data pieces only: control frames end at the gateway.
"""

import codecs
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Final

from mypy_extensions import mypyc_attr

from gateway.errors import FramingViolation, MessageTooBig, PolicyViolation
from gateway.protocol.pieces import FIRST, LAST, Buffer, Opcode, Piece

WHOLE: Final = FIRST | LAST
TEXT: Final = int(Opcode.TEXT)
BINARY: Final = int(Opcode.BINARY)

_LENGTH: Final = struct.Struct(">I")

GATHER_BYTES: Final = 16 * 1024
"""Up to this length a length-prefixed message is one WebSocket frame however the backend's bytes were cut; a longer one
flows on as it arrives."""


class MessageNotCarried(PolicyViolation):
    """The framing has no way to carry a message; those before it in the same batch were encoded.

    `encoded` are their bytes, `messages` is how many: so what is forwarded before the connection fails does not depend
    on how the network cut the client's stream.
    """

    def __init__(self, problem: str, *, encoded: bytes, messages: int) -> None:
        super().__init__(problem)
        self.encoded = encoded
        self.messages = messages


@mypyc_attr(allow_interpreted_subclasses=True)
class Framing(ABC):
    """One backend connection's framing, both directions.

    An abstract class and not a protocol: compiled, a call through one is a C call.
    """

    __slots__ = ("error",)

    overhead_bytes: ClassVar[int]
    """What a message costs upstream beyond its payload."""

    @property
    @abstractmethod
    def held_bytes(self) -> int:
        """What is gathered of messages that are not whole, both ways."""

    error: FramingViolation | None
    """Why downstream cannot be read any further; once set nothing is decoded any more."""

    @abstractmethod
    def encode(self, pieces: Sequence[Piece]) -> bytes:
        """The bytes for the backend. Raises MessageNotCarried, MessageTooBig (the client's fault)."""

    @abstractmethod
    def receive_data(self, data: Buffer) -> list[Piece]:
        """The pieces that the backend's bytes make. Never raises for bad input: sets `error`."""

    @abstractmethod
    def receive_eof(self) -> list[Piece]:
        """The pieces that the end of the backend's stream completes; sets `error` where it truncates a message."""


class StreamFraming(Framing):
    """No framing: upstream payloads as they come, downstream each chunk a message of its own.

    With `text` chunks are text messages, cut between characters; an invalid byte is the backend's fault.
    """

    __slots__ = ("_cut_character", "_text")

    overhead_bytes: ClassVar[int] = 0

    def __init__(self, *, text: bool = False) -> None:
        self.error: FramingViolation | None = None
        self._text = text
        self._cut_character = b""

    @property
    def held_bytes(self) -> int:
        """Nothing to speak of."""
        return 0

    def encode(self, pieces: Sequence[Piece]) -> bytes:
        """The payloads, one after the other."""
        if len(pieces) == 1:
            return pieces[0][1]
        return b"".join([payload for _, payload, _ in pieces])

    def receive_data(self, data: Buffer) -> list[Piece]:
        """One message, or none while a single character is still incomplete."""
        if not self._text:
            chunk = data if isinstance(data, bytes) else bytes(data)
            return [(BINARY, chunk, WHOLE)] if chunk else []
        if self.error is not None:
            return []
        chunk = self._cut_character + data
        valid_bytes, invalid = _scan_utf8(chunk)
        if invalid:
            self.error = FramingViolation("the backend's stream is configured as text and is not UTF-8")
            self._cut_character = b""
        else:
            self._cut_character = chunk[valid_bytes:]
        return [(TEXT, chunk[:valid_bytes], WHOLE)] if valid_bytes else []

    def receive_eof(self) -> list[Piece]:
        """Nothing is left to deliver; a character cut short is an error."""
        if self._cut_character and self.error is None:
            self.error = FramingViolation("the backend's stream of text ended inside a character")
        return []


class LinesFraming(Framing):
    """One message, one line of UTF-8 that ends in a line feed.

    Only the line feed is taken off: a carriage return before it is part of the message, so that every message comes
    through unchanged. Upstream a message with a line feed in it is refused, and so is a binary message that is not
    UTF-8, because the backend could not send it back. Downstream a last line without a line feed is delivered.
    """

    __slots__ = ("_gathered", "_held", "message_bytes")

    overhead_bytes: ClassVar[int] = 1

    def __init__(self, message_bytes: int) -> None:
        self.error: FramingViolation | None = None
        self.message_bytes = message_bytes
        # Bytearrays and not lists of chunks: a peer that sends byte by byte makes us hold no more than it sent.
        self._gathered = bytearray()
        self._held = bytearray()

    @property
    def held_bytes(self) -> int:
        """The unfinished message of each direction."""
        return len(self._gathered) + len(self._held)

    def encode(self, pieces: Sequence[Piece]) -> bytes:
        """The lines that are complete. Raises MessageNotCarried, MessageTooBig."""
        lines: list[bytes] = []
        for opcode, payload, flags in pieces:
            if flags != WHOLE:
                _gather(self._gathered, payload, self.message_bytes)
                if not flags & LAST:
                    continue
                payload = bytes(self._gathered)
                self._gathered.clear()
            if b"\n" in payload:
                problem = f"message with a line feed at byte {payload.index(10)} cannot be carried as one line"
                raise MessageNotCarried(problem, encoded=_join_lines(lines), messages=len(lines))
            if opcode == BINARY and not payload.isascii() and not _is_utf8(payload):
                problem = "binary message that is not UTF-8 cannot be carried as a line of text"
                raise MessageNotCarried(problem, encoded=_join_lines(lines), messages=len(lines))
            lines.append(payload)
        return _join_lines(lines)

    def receive_data(self, data: Buffer) -> list[Piece]:
        """One text message for each line that is complete."""
        if self.error is not None:
            return []
        chunk = bytes(data)
        end = chunk.rfind(b"\n")
        if end < 0:
            self._hold(chunk)
            return []
        block = chunk[:end]
        if self._held:
            self._held += block
            block = bytes(self._held)
            self._held.clear()
        pieces = self._deliver(block)
        if end + 1 < len(chunk):
            self._hold(chunk[end + 1 :])
        return pieces

    def receive_eof(self) -> list[Piece]:
        """The last line, where it has no line feed."""
        if self.error is not None or not self._held:
            return []
        block = bytes(self._held)
        self._held.clear()
        return self._deliver(block)

    def _deliver(self, block: bytes) -> list[Piece]:
        """The lines of a block whose last line feed was taken off, up to the first that is no message."""
        lines = block.split(b"\n")
        # A line feed is no part of any longer character, so the block is UTF-8 exactly when each line is.
        if not block.isascii() and not _is_utf8(block):
            del lines[next(number for number, line in enumerate(lines) if not _is_utf8(line)) :]
            self._fail("the backend sent a line that is not UTF-8")
        if len(block) > self.message_bytes:
            for number, line in enumerate(lines):
                if len(line) > self.message_bytes:
                    del lines[number:]
                    self._fail(f"the backend sent a line of {len(line)} bytes, expected at most {self.message_bytes}")
                    break
        return [(TEXT, line, WHOLE) for line in lines]

    def _hold(self, start: bytes) -> None:
        """Keep the start of a line until its end comes."""
        if self.error is not None:
            return
        size = len(self._held) + len(start)
        if size > self.message_bytes:
            self._fail(f"the backend sent a line of {size} bytes or more, expected at most {self.message_bytes}")
        else:
            self._held += start

    def _fail(self, problem: str) -> None:
        self.error = FramingViolation(problem)
        self._held.clear()


class LengthPrefixedFraming(Framing):
    """Each message after its length, a big-endian u32. Downstream messages are binary.

    Upstream a message is gathered, because its length comes first. Downstream one of more than 16 KiB is passed on in
    pieces as it arrives.
    """

    __slots__ = ("_gathered", "_held", "_left_bytes", "message_bytes")

    overhead_bytes: ClassVar[int] = 4

    def __init__(self, message_bytes: int) -> None:
        self.error: FramingViolation | None = None
        self.message_bytes = message_bytes
        self._gathered = bytearray()
        self._held = b""
        """The start of a length, or of a message that is to be delivered whole, with its length."""
        self._left_bytes = 0
        """What is still to come of a message that is passed on in pieces."""

    @property
    def held_bytes(self) -> int:
        """The unfinished message of each direction."""
        return len(self._gathered) + len(self._held)

    def encode(self, pieces: Sequence[Piece]) -> bytes:
        """The messages that are complete, each after its length. Raises MessageTooBig."""
        parts: list[bytes] = []
        for _, payload, flags in pieces:
            if flags == WHOLE:
                parts.append(_LENGTH.pack(len(payload)))
                parts.append(payload)
                continue
            _gather(self._gathered, payload, self.message_bytes)
            if flags & LAST:
                parts.append(_LENGTH.pack(len(self._gathered)))
                parts.append(bytes(self._gathered))
                self._gathered.clear()
        return b"".join(parts)

    def receive_data(self, data: Buffer) -> list[Piece]:
        """The messages, and pieces of a message, that have arrived."""
        pieces: list[Piece] = []
        if self.error is not None or not data:
            return pieces
        chunk = self._held + data
        self._held = b""
        at, size = 0, len(chunk)
        if self._left_bytes:
            at = min(self._left_bytes, size)
            self._left_bytes -= at
            pieces.append((BINARY, chunk[:at], 0 if self._left_bytes else LAST))
        while size - at >= 4:
            (length,) = _LENGTH.unpack_from(chunk, at)
            if length > self.message_bytes:
                self.error = FramingViolation(
                    f"the backend announced a message of {length} bytes, expected at most {self.message_bytes}"
                )
                return pieces
            begin = at + 4
            end = begin + length
            if end <= size:
                pieces.append((BINARY, chunk[begin:end], WHOLE))
                at = end
            elif length > GATHER_BYTES:
                self._left_bytes = end - size
                pieces.append((BINARY, chunk[begin:], FIRST))
                return pieces
            else:
                break
        self._held = chunk[at:]
        return pieces

    def receive_eof(self) -> list[Piece]:
        """Nothing is left to deliver; a message cut short is an error."""
        if self.error is None and self._left_bytes:
            self.error = FramingViolation(f"the backend ended {self._left_bytes} bytes before the end of a message")
        elif self.error is None and len(self._held) >= 4:
            (length,) = _LENGTH.unpack_from(self._held)
            missing = 4 + length - len(self._held)
            self.error = FramingViolation(f"the backend ended {missing} bytes before the end of a message")
        elif self.error is None and self._held:
            self.error = FramingViolation(f"the backend ended after {len(self._held)} of a length's 4 bytes")
        return []


def _is_utf8(data: bytes) -> bool:
    try:
        codecs.utf_8_decode(data, "strict", True)
    except UnicodeDecodeError:
        return False
    return True


def _scan_utf8(data: bytes) -> tuple[int, bool]:
    """How many bytes are whole characters, and whether what follows them can never become one."""
    if data.isascii():
        return len(data), False
    try:
        return codecs.utf_8_decode(data, "strict", False)[1], False
    except UnicodeDecodeError as error:
        return error.start, True


def _join_lines(lines: list[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n" if lines else b""


def _gather(gathered: bytearray, payload: bytes, limit: int) -> None:
    """Add a piece to the message that is being gathered. Raises MessageTooBig before it would exceed `limit` bytes."""
    size = len(gathered) + len(payload)
    if size > limit:
        raise MessageTooBig(f"message of {size} bytes or more exceeds the limit of {limit} bytes")
    gathered += payload
