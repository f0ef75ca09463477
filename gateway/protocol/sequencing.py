"""DATA records and the pieces they carry: messages numbered without a gap, each handed on once, whatever is sent again.

Invariant: a byte that `DataReceiver` has handed on is never handed on again, until it is told to forget the message.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.errors import ConnectionFault, InvalidUtf8, MessageTooBig, ProtocolViolation
from gateway.protocol.frames import Utf8Validator
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import FRAGMENT_BYTES, HEADER, MORE_FLAG, PREFIXED_HEADER, TEXT_FLAG, Record, RecordType

_DATA: Final = int(RecordType.DATA)
_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)
_WHOLE: Final = FIRST | LAST


class DataReceiver:
    """The messages of one direction of a session, out of the DATA records of one connection after the other.

    `start` is the newest message that was accepted before; `message_bytes` limits a message, None is no limit.
    """

    __slots__ = (
        "_first",
        "_handed_on_bytes",
        "_opcode",
        "_skip_bytes",
        "_utf8",
        "accepted",
        "duplicates",
        "error",
        "message_bytes",
    )

    def __init__(self, *, start: int = 0, message_bytes: int | None = None) -> None:
        self.accepted = start
        """The newest message that has come whole."""
        self.duplicates = 0
        """Messages that came again, whole, and were dropped."""
        self.error: ConnectionFault | None = None
        """Why the sender must be failed (ProtocolViolation, InvalidUtf8, MessageTooBig); then nothing is taken."""
        self.message_bytes = message_bytes
        # the unfinished message, accepted+1
        self._opcode = 0
        """Its kind; 0 while there is none."""
        self._first = FIRST
        """FIRST until a piece of it was handed on."""
        self._handed_on_bytes = 0
        self._skip_bytes = 0
        """What is still to come again of the bytes that were handed on already."""
        self._utf8: Utf8Validator | None = None

    @property
    def in_message(self) -> bool:
        """A message was handed on in part, and its end has not come."""
        return not self._first

    def receive(self, records: Sequence[Record]) -> tuple[list[Piece], list[Record]]:
        """What is new in the DATA records, as pieces, and all other records, in their order.

        Never raises for bad input: sets `error` and returns what was good before.
        """
        pieces: list[Piece] = []
        others: list[Record] = []
        if self.error is not None:
            return pieces, others
        limit = self.message_bytes
        for record in records:
            record_type, flags, seq, body = record
            if record_type != _DATA:
                others.append(record)
            elif (
                seq == self.accepted + 1
                and not flags & MORE_FLAG
                and not self._opcode
                and (limit is None or len(body) <= limit)
                and (not flags & TEXT_FLAG or _is_utf8(body))
            ):
                # A whole message that is new: all but every record.
                self.accepted = seq
                pieces.append((_TEXT if flags & TEXT_FLAG else _BINARY, body, _WHOLE))
            elif seq <= self.accepted:
                self.duplicates += not flags & MORE_FLAG
            else:
                try:
                    self._take_fragment(flags, seq, body, pieces)
                except (ProtocolViolation, InvalidUtf8, MessageTooBig) as fault:
                    self.error = fault
                    break
        return pieces, others

    def interrupt(self) -> None:
        """The sender's connection ended: a message that came in part will be sent again, from its first byte.

        What was handed on of it is skipped when it comes again.
        """
        if self._first:
            self.forget_unfinished()
        else:
            self._skip_bytes = self._handed_on_bytes

    def forget_unfinished(self) -> None:
        """Whoever took the pieces has lost those of the unfinished message: it is taken anew from its first byte."""
        self._opcode = 0
        self._first = FIRST
        self._handed_on_bytes = self._skip_bytes = 0
        self._utf8 = None

    def _take_fragment(self, flags: int, seq: int, body: bytes, pieces: list[Piece]) -> None:
        """One record that is not a whole, valid message. Raises the fault that ends the connection."""
        if seq != self.accepted + 1:
            raise ProtocolViolation(f"DATA {seq} after message {self.accepted}, expected {self.accepted + 1}")
        opcode = _TEXT if flags & TEXT_FLAG else _BINARY
        if not self._opcode:
            self._opcode = opcode
            self._utf8 = Utf8Validator() if opcode == _TEXT else None
        elif self._opcode != opcode:
            began, goes_on = Opcode(self._opcode).name.lower(), Opcode(opcode).name.lower()
            raise ProtocolViolation(f"DATA {seq} goes on as {goes_on}, but message {seq} began as {began}")
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(body))
            self._skip_bytes -= skipped
            body = body[skipped:]
        ends = not flags & MORE_FLAG
        if ends and self._skip_bytes:
            raise ProtocolViolation(
                f"DATA {seq} ended {self._skip_bytes} bytes before the {self._handed_on_bytes} that it had before"
            )
        size = self._handed_on_bytes + len(body)
        if self.message_bytes is not None and size > self.message_bytes:
            raise MessageTooBig(f"message of {size} bytes or more exceeds the limit of {self.message_bytes} bytes")
        if self._utf8 is not None:
            if not self._utf8.feed(body):
                raise InvalidUtf8(f"text message {seq} is not UTF-8")
            if ends and not self._utf8.complete:
                raise InvalidUtf8(f"text message {seq} ends inside a UTF-8 character")
        if ends:
            pieces.append((opcode, body, self._first | LAST))
            self.accepted = seq
            self.forget_unfinished()
        elif body:
            pieces.append((opcode, body, self._first))
            self._first = 0
            self._handed_on_bytes = size


class DataSender:
    """Numbers the messages of one direction of a session and puts their pieces into DATA records.

    `start` is the number of the newest message that was sent before. Pieces are data pieces, in order.
    """

    __slots__ = ("sent",)

    def __init__(self, *, start: int = 0) -> None:
        self.sent = start
        """The newest message that was encoded to its end."""

    def rewind(self, seq: int) -> None:
        """The next message to encode, from its first byte, is `seq` + 1: what follows is sent again."""
        self.sent = seq

    def encode_prefixed(self, pieces: Sequence[Piece]) -> bytes:
        """The records as they stand on TCP."""
        parts: list[bytes] = []
        pack, header_bytes = PREFIXED_HEADER.pack, HEADER.size
        seq = self.sent + 1
        for opcode, payload, flags in _joined(pieces):
            size = len(payload)
            if flags & LAST and size <= FRAGMENT_BYTES:
                parts.append(pack(header_bytes + size, _DATA, TEXT_FLAG if opcode == _TEXT else 0, seq))
                parts.append(payload)
                seq += 1
                continue
            for record_flags, body in _fragments(opcode, payload, flags):
                parts.append(pack(header_bytes + len(body), _DATA, record_flags, seq))
                parts.append(body)
            if flags & LAST:
                seq += 1
        self.sent = seq - 1
        return b"".join(parts)

    def encode_messages(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The records as WebSocket binary messages, one each."""
        messages: list[Piece] = []
        pack = HEADER.pack
        seq = self.sent + 1
        for opcode, payload, flags in _joined(pieces):
            if flags & LAST and len(payload) <= FRAGMENT_BYTES:
                header = pack(_DATA, TEXT_FLAG if opcode == _TEXT else 0, seq)
                messages.append((_BINARY, header + payload, _WHOLE))
                seq += 1
                continue
            for record_flags, body in _fragments(opcode, payload, flags):
                messages.append((_BINARY, pack(_DATA, record_flags, seq) + body, _WHOLE))
            if flags & LAST:
                seq += 1
        self.sent = seq - 1
        return messages


def _joined(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """The pieces with those of the same message made one: a peer's many small fragments need not be as many records."""
    if len(pieces) < 2 or all(flags & LAST for _, _, flags in pieces):
        return pieces
    joined: list[Piece] = []
    payloads: list[bytes] = []
    first = 0
    for index, (opcode, payload, flags) in enumerate(pieces):
        first |= flags & FIRST
        payloads.append(payload)
        if flags & LAST or index == len(pieces) - 1:
            joined.append((opcode, b"".join(payloads), first | (flags & LAST)))
            payloads.clear()
            first = 0
    return joined


def _fragments(opcode: int, payload: bytes, flags: int) -> Iterator[tuple[int, bytes]]:
    """(record flags, body) of each record that a piece makes; an empty piece in the midst of a message makes none."""
    text = TEXT_FLAG if opcode == _TEXT else 0
    for begin in range(0, len(payload), FRAGMENT_BYTES):
        is_last = flags & LAST and begin + FRAGMENT_BYTES >= len(payload)
        yield text | (0 if is_last else MORE_FLAG), payload[begin : begin + FRAGMENT_BYTES]


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
