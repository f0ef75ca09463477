"""The frame codec in pure Python: what serves without a compiler, and what the compiled twin is tested against.

Invariant: data payload is handed on as it arrives and never kept; what is kept between reads is an unfinished header
(13 bytes at most) or an unfinished control frame (139 bytes at most).
"""

import codecs
from array import array
from collections.abc import Callable, Sequence

from gateway.errors import ConnectionFault
from gateway.protocol import frame_rules
from gateway.protocol.frame_rules import FIN, LENGTH, MASKED, OPCODE, RSV1
from gateway.protocol.pieces import COMPRESSED, FIRST, LAST, Buffer, Opcode, Piece

_TEXT = int(Opcode.TEXT)
_CLOSE = int(Opcode.CLOSE)


class Utf8Validator:
    """Checks UTF-8 as it arrives: strictly (no surrogates, no overlong forms), failing at the first impossible byte."""

    __slots__ = ("_decoder", "_valid", "complete")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._valid = True
        self.complete = True
        """All fed so far is valid and ends at the end of a character."""

    def feed(self, data: Buffer) -> bool:
        """Whether all bytes fed so far begin some valid text; once False, it stays so."""
        return self._valid and self._first_impossible(data) < 0

    def _first_impossible(self, data: Buffer) -> int:
        """The index in `data` of the first impossible byte, or -1."""
        held = len(self._decoder.getstate()[0])
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError as error:
            self._valid = self.complete = False
            # CPython counts from the character's first byte, and ends a bad sequence before the impossible byte.
            impossible = error.end if error.reason == "invalid continuation byte" else error.start
            return impossible - held
        rest = self._decoder.getstate()[0]
        self.complete = not rest
        if len(rest) == 2 and rest[0] == 0xED and rest[1] > 0x9F:
            # CPython waits for the third byte of a surrogate, in case an error handler wants to pass it.
            self._valid = False
            return len(data) - 1
        return -1


class FrameDecoder:
    """Turns the bytes of one direction of a WebSocket connection into pieces.

    `masked`: frames must be masked (they come from a client) or must not be. `message_bytes` limits what the frames of
    an uncompressed message announce, None is no limit. `compression` allows RSV1 on the first frame of a message.
    """

    __slots__ = (
        "_check_text",
        "_flags",
        "_is_final",
        "_key",
        "_legal",
        "_masked",
        "_message_bytes",
        "_opcode",
        "_partial",
        "_received",
        "_remaining",
        "_utf8",
        "closed",
        "error",
        "frames",
        "in_message",
    )

    def __init__(self, *, masked: bool, message_bytes: int | None = None, compression: bool = False) -> None:
        if message_bytes is not None and message_bytes < 0:
            raise ValueError(f"message_bytes must not be negative, got {message_bytes}")
        self.error: ConnectionFault | None = None
        """Why the peer must be failed; once set, nothing is decoded any more."""
        self.closed = False
        """A CLOSE frame was decoded; what came after it is ignored (RFC 6455 section 5.5.1)."""
        self.in_message = False
        """A data message has begun and not ended."""
        self.frames = 0
        """How many have begun, control frames included."""
        self._masked = bool(masked)
        self._message_bytes = (
            frame_rules.MAX_LENGTH if message_bytes is None else min(message_bytes, frame_rules.MAX_LENGTH)
        )
        self._legal = frame_rules.LEGAL_FIRST_BYTES[bool(compression)]
        self._partial = b""
        # the message under way
        self._opcode = 0
        self._flags = 0
        self._received = 0
        self._check_text = False
        self._utf8 = Utf8Validator()
        # the data frame under way
        self._remaining = 0
        self._is_final = False
        self._key = b""

    def feed(self, data: Buffer) -> list[Piece]:
        """The pieces in `data`, up to the first fault (then `error` is set) or CLOSE frame (then `closed` is).

        A piece has payload or ends its message; a flood of empty fragments yields none.
        """
        pieces: list[Piece] = []
        if self._has_ended():
            return pieces
        buffer = self._partial + data if self._partial else bytes(memoryview(data))
        position, end = 0, len(buffer)
        while position < end:
            if self._remaining:
                taken = min(self._remaining, end - position)
                self._take_payload(buffer[position : position + taken], pieces)
                position += taken
            else:
                payload_at = self._open_frame(buffer, position, pieces)
                if payload_at == position:
                    break
                position = payload_at
            if self._has_ended():
                break
        self._partial = b"" if self._has_ended() else buffer[position:]
        return pieces

    def _has_ended(self) -> bool:
        return self.error is not None or self.closed

    def _open_frame(self, buffer: bytes, position: int, pieces: list[Piece]) -> int:
        """Reads a header, and the whole frame if it is a control frame or empty; where reading goes on.

        That is `position` itself when there are too few bytes yet, or when `error` was set.
        """
        available = len(buffer) - position
        first = buffer[position]
        if not self._legal[self.in_message][first]:
            compression = self._legal is frame_rules.LEGAL_FIRST_BYTES[True]
            self.error = frame_rules.first_byte_fault(first, compression=compression, in_message=self.in_message)
            return position
        if available < 2:
            return position
        second = buffer[position + 1]
        if bool(second & MASKED) is not self._masked:
            self.error = frame_rules.masking_fault(expected=self._masked)
            return position
        length = second & LENGTH
        opcode = first & OPCODE
        header = 2
        if opcode >= _CLOSE and length > frame_rules.MAX_CONTROL_BYTES:
            self.error = frame_rules.control_length_fault(opcode)
            return position
        if length >= 126:
            width, shortest = (2, 126) if length == 126 else (8, 0x10000)
            header = 2 + width
            if available < header:
                return position
            length = int.from_bytes(buffer[position + 2 : position + header], "big")
            if not shortest <= length <= frame_rules.MAX_LENGTH:
                self.error = frame_rules.length_fault(length)
                return position
        if opcode >= _CLOSE:
            return self._take_control(buffer, position, opcode, length, pieces)
        received = self._received if self.in_message else 0
        compressed = self._flags & COMPRESSED if self.in_message else first & RSV1
        if not compressed and length > self._message_bytes - received:
            self.error = frame_rules.size_fault(received + length, self._message_bytes)
            return position
        if self._masked:
            if available < header + 4:
                return position
            self._key = buffer[position + header : position + header + 4]
            header += 4
        if not self.in_message:
            self.in_message = True
            self._opcode = opcode
            self._flags = FIRST | (COMPRESSED if compressed else 0)
            self._check_text = opcode == _TEXT and not compressed
            if self._check_text:
                self._utf8 = Utf8Validator()
        self.frames += 1
        self._received = received + length
        self._remaining = length
        self._is_final = bool(first & FIN)
        if not length:
            self._take_payload(b"", pieces)
        return position + header

    def _take_control(self, buffer: bytes, start: int, opcode: int, length: int, pieces: list[Piece]) -> int:
        payload_at = start + (6 if self._masked else 2)
        end = payload_at + length
        if len(buffer) < end:
            return start
        self.frames += 1
        payload = buffer[payload_at:end]
        if self._masked:
            payload = _apply_mask(payload, buffer[payload_at - 4 : payload_at])
        pieces.append((opcode, payload, FIRST | LAST))
        self.closed = opcode == _CLOSE
        return end

    def _take_payload(self, payload: bytes, pieces: list[Piece]) -> None:
        """Hands on the next bytes of the data frame under way, up to the first that makes text no UTF-8."""
        offset = self._received - self._remaining
        self._remaining -= len(payload)
        if self._masked:
            payload = _apply_mask(payload, self._key)
            turn = len(payload) & 3
            self._key = self._key[turn:] + self._key[:turn]
        ends = self._is_final and not self._remaining
        if self._check_text:
            impossible = self._utf8._first_impossible(payload)
            if impossible >= 0:
                self.error = frame_rules.utf8_fault(offset + impossible)
                payload, ends = payload[:impossible], False
            elif ends and not self._utf8.complete:
                self.error = frame_rules.utf8_end_fault()
                ends = False
        if ends:
            pieces.append((self._opcode, payload, self._flags | LAST))
            self.in_message = False
        elif payload:
            pieces.append((self._opcode, payload, self._flags))
            self._flags &= ~FIRST


def _check_piece(piece: Piece) -> None:
    """Refuses what is no piece, and a piece that is no legal frame."""
    if type(piece) is not tuple or len(piece) != 3:
        raise TypeError("a piece is a tuple of opcode, payload and flags")
    opcode, payload, flags = piece
    if not isinstance(opcode, int) or not isinstance(payload, bytes) or not isinstance(flags, int):
        raise TypeError("a piece is a tuple of an int, bytes and an int")
    if opcode in (Opcode.CLOSE, Opcode.PING, Opcode.PONG):
        if len(payload) > frame_rules.MAX_CONTROL_BYTES:
            raise ValueError(f"a control frame carries at most 125 bytes, not {len(payload)}")
        if flags != FIRST | LAST:
            raise ValueError("a control frame is always whole and never compressed")
    elif opcode not in (Opcode.TEXT, Opcode.BINARY):
        raise ValueError(f"{opcode} is not the opcode of a message")
    elif not 0 <= flags <= FIRST | LAST | COMPRESSED:
        raise ValueError(f"{flags} is not a combination of flags")


def encode_pieces(pieces: Sequence[Piece], mask: Callable[[], bytes] | None = None) -> bytes:
    """The frames of `pieces`, one each, in one bytes; `mask` gives each frame's 4-byte key (RFC 6455 section 5.3).

    A piece without FIRST becomes a CONTINUATION frame, LAST sets FIN, COMPRESSED sets RSV1 on a FIRST one.
    Raises ValueError for what is no legal frame by itself, TypeError for what is no piece.
    """
    parts: list[bytes] = []
    for piece in tuple(pieces):
        _check_piece(piece)
        opcode, payload, flags = piece
        length = len(payload)
        first = (opcode | (RSV1 if flags & COMPRESSED else 0)) if flags & FIRST else 0
        if flags & LAST:
            first |= FIN
        masked = 0 if mask is None else MASKED
        if length < 126:
            header = bytes((first, masked | length))
        elif length < 0x10000:
            header = bytes((first, masked | 126)) + length.to_bytes(2, "big")
        else:
            header = bytes((first, masked | 127)) + length.to_bytes(8, "big")
        parts.append(header)
        if mask is not None:
            key = mask()
            if not isinstance(key, bytes) or len(key) != 4:
                raise ValueError("a masking key is 4 bytes")
            parts.append(key)
            payload = _apply_mask(payload, key)
        parts.append(payload)
    return b"".join(parts)


def _apply_mask(payload: bytes, key: bytes) -> bytes:
    # One big XOR: some 50 times as fast as a loop over the bytes at 1 KiB.
    size = len(payload)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")


def message_ends(pieces: list[Piece], begin: int, overhead: int) -> tuple[bytes, int]:
    """Where messages end in a stream that is at `begin`: 8 bytes each, in this machine's order; and where all ends.

    A message costs `overhead` bytes beyond its payload; the last one of the pieces may be unfinished. Raises TypeError
    for what is no piece, ValueError for what is no legal frame.
    """
    ends = array("Q")
    end = begin
    for piece in pieces:
        _check_piece(piece)
        _, payload, flags = piece
        end += len(payload)
        if flags & LAST:
            end += overhead
            ends.append(end)
    return ends.tobytes(), end
