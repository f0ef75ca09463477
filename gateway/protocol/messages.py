"""One end of an open WebSocket connection, sans-I/O: bytes in, pieces out, and the closing handshake's state.

Invariant: everything that moves the state is in `TRANSITIONS`; after the peer's Close or fault nothing more is read,
after our own Close nothing more is sent.

General theory of operation. The frame decoder does the work of the common case, and its list of pieces is returned as
it is: without compression there is no Python step per piece. With compression the pieces go through a backlog, of
which each call inflates no more than `INFLATED_BYTES_PER_CALL`; what is left is what the caller fed, still compressed,
and is had by calling again with `b""` while `has_pending`. So a read of 64 KiB never becomes 64 MiB of memory.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Self

from gateway.codes import NO_CODE
from gateway.errors import (
    ConnectionFault,
    InvalidUtf8,
    KakitomeError,
    PolicyViolation,
    ProtocolViolation,
    fitting_reason,
)
from gateway.protocol.deflate import MIN_DEFLATE_WINDOW_BITS, DeflateParameters, Deflater, Inflater
from gateway.protocol.frame_rules import MAX_LENGTH, size_fault, utf8_end_fault
from gateway.protocol.frames import FrameDecoder, Utf8Validator, encode_pieces
from gateway.protocol.pieces import COMPRESSED, FIRST, LAST, Buffer, Opcode, Piece

INFLATED_PIECE_BYTES: Final = 64 * 1024
"""The most one piece of an inflated message holds: as much as one read brings without compression."""

INFLATED_BYTES_PER_CALL: Final = 4 * INFLATED_PIECE_BYTES

INFLATED_FREE_BYTES: Final = 4 * 2**20
"""What a connection may inflate before its ratio counts: some pictures of one colour are no bomb."""

INFLATER_BYTES: Final = 44 * 1024
"""What zlib takes to inflate with any window."""

DEFLATER_BYTES: Final = 40 * 1024
"""And to deflate with the small windows that are agreed on here."""

_TEXT: Final = int(Opcode.TEXT)
_CLOSE: Final = int(Opcode.CLOSE)


class State(Enum):
    """How far the closing handshake has come (RFC 6455 section 7.1)."""

    OPEN = auto()
    CLOSE_SENT = auto()
    """The peer's Close is awaited; until it comes, the peer may still send."""
    CLOSE_RECEIVED = auto()
    """Our Close is owed; before it, messages under way may still be sent."""
    CLOSED = auto()


# Reading a member off an Enum costs as much as sending does.
_CLOSE_SENT: Final = State.CLOSE_SENT
_CLOSED: Final = State.CLOSED


class Step(Enum):
    """What moves the state."""

    SEND_CLOSE = auto()
    RECEIVE_CLOSE = auto()
    """The peer's Close, or a fault of its: either way nothing more is read."""


TRANSITIONS: Final = {
    (State.OPEN, Step.SEND_CLOSE): State.CLOSE_SENT,
    (State.OPEN, Step.RECEIVE_CLOSE): State.CLOSE_RECEIVED,
    (State.CLOSE_SENT, Step.RECEIVE_CLOSE): State.CLOSED,
    (State.CLOSE_RECEIVED, Step.SEND_CLOSE): State.CLOSED,
}
"""A pair that is missing is illegal."""


class SentAfterClose(KakitomeError):
    """Something was to be sent after our Close: a mistake of the code that calls."""

    reason = "sent_after_close"


def is_legal_close_code(code: int) -> bool:
    """Whether a Close frame may carry this code, either way (RFC 6455 section 7.4, IANA's registry).

    1004 is reserved, 1005, 1006 and 1015 are for what no frame said; 1012 to 1014 are registered; 1016 to 2999 are
    for future versions and extensions; 3000 to 4999 are free for libraries and applications.
    """
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseFrame:
    """What a Close said: the code, 1005 if it carried none, and the reason."""

    code: int = NO_CODE
    reason: str = ""

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Reads a Close frame's payload (RFC 6455 section 5.5.1). Raises ProtocolViolation or InvalidUtf8."""
        if not payload:
            return cls()
        if len(payload) == 1:
            raise ProtocolViolation("CLOSE frame carries 1 byte, which is no code")
        code = int.from_bytes(payload[:2], "big")
        if not is_legal_close_code(code):
            raise ProtocolViolation(f"CLOSE frame carries the code {code}, which must not be sent")
        try:
            return cls(code=code, reason=payload[2:].decode())
        except UnicodeDecodeError:
            raise InvalidUtf8("the reason in a CLOSE frame is not UTF-8") from None

    def payload(self) -> bytes:
        """The payload to send; the reason is cut, at the end of a character, to the 123 bytes that there is room for.

        Raises ValueError for a code that must not be sent, and for a reason without a code.
        """
        if self.code == NO_CODE:
            if self.reason:
                raise ValueError("a Close without a code cannot carry a reason")
            return b""
        if not is_legal_close_code(self.code):
            raise ValueError(f"{self.code} is not a close code that may be sent")
        # JSON from a backend may bring half a surrogate pair, which has no UTF-8.
        return self.code.to_bytes(2, "big") + fitting_reason(self.reason).encode()


class WebSocketConnection:
    """One end of an open WebSocket connection.

    `client`: we are the client, so we mask and the peer must not. `message_bytes` limits a message, after inflation;
    None is no limit. `deflate` is what the handshake agreed on, None for no compression; `inflation_ratio` is how many
    times their compressed size the peer's messages may have on average, beyond the first `INFLATED_FREE_BYTES`.

    Pings are not answered here: their pieces are returned, and the caller sends `(PONG, payload, FIRST | LAST)`.
    """

    __slots__ = (
        "_decoder",
        "_deflation",
        "_inflation",
        "_mask",
        "close_received",
        "error",
        "has_pending",
        "state",
    )

    def __init__(
        self,
        *,
        client: bool,
        message_bytes: int | None = None,
        deflate: DeflateParameters | None = None,
        inflation_ratio: float | None = None,
    ) -> None:
        self.state = State.OPEN
        self.error: ConnectionFault | None = None
        """Why the peer must be failed: send `close(error.close_code, error.close_reason)` and read no more."""
        self.close_received: CloseFrame | None = None
        self.has_pending = False
        """More pieces are to be had from what was received: call `receive_data(b"")` before feeding new data."""
        self._decoder = FrameDecoder(masked=not client, message_bytes=message_bytes, compression=deflate is not None)
        self._mask = _masking_keys() if client else None
        self._inflation: _Inflation | None = None
        self._deflation: _Deflation | None = None
        if deflate is not None:
            server = (deflate.server_max_window_bits, deflate.server_no_context_takeover)
            peer = (deflate.client_max_window_bits, deflate.client_no_context_takeover)
            ours, theirs = (peer, server) if client else (server, peer)
            self._inflation = _Inflation(
                Inflater(window_bits=theirs[0], no_context_takeover=theirs[1]),
                message_bytes=message_bytes,
                ratio=inflation_ratio,
            )
            if ours[0] >= MIN_DEFLATE_WINDOW_BITS:
                self._deflation = _Deflation(Deflater(window_bits=ours[0], no_context_takeover=ours[1]))

    @property
    def compression_bytes(self) -> int:
        """What the two directions' compression takes of memory once it is used."""
        return (INFLATER_BYTES if self._inflation is not None else 0) + (
            DEFLATER_BYTES if self._deflation is not None else 0
        )

    @property
    def frames(self) -> int:
        """How many frames have come, fragments and control frames too."""
        return self._decoder.frames

    @property
    def pending(self) -> Sequence[Piece]:
        """What was received, still compressed, while it `has_pending`."""
        return () if self._inflation is None else self._inflation.backlog

    def receive_data(self, data: Buffer) -> list[Piece]:
        """The next pieces, never COMPRESSED; a fault sets `error`, a Close `close_received` and is the last piece.

        What is good before a fault is returned. Never raises for what the peer sent.
        """
        decoder = self._decoder
        pieces = decoder.feed(data)
        if self._inflation is not None:
            pieces = self._inflate(self._inflation, pieces)
        if (decoder.closed or decoder.error is not None) and not self.has_pending:
            self._end_reading(pieces)
        return pieces

    def send(self, pieces: Sequence[Piece]) -> bytes:
        """The frames of these pieces, which are data, PING or PONG; a Close is sent with `close`.

        The pieces of a message come in order, with nothing but control pieces between them. Raises SentAfterClose.
        """
        if self.state is _CLOSE_SENT or self.state is _CLOSED:
            raise SentAfterClose("nothing can be sent after Close")
        if self._deflation is not None:
            pieces = self._deflation.deflate(pieces)
        return encode_pieces(pieces, self._mask)

    def close(self, code: int | None, reason: str = "") -> bytes:
        """A Close frame, without payload if `code` is None; nothing if one was sent already.

        The reason is cut to what fits. Raises ValueError for a code that must not be sent.
        """
        payload = CloseFrame(code=NO_CODE if code is None else code, reason=reason).payload()
        if self.state is State.CLOSE_SENT or self.state is State.CLOSED:
            return b""
        self._move(Step.SEND_CLOSE)
        return encode_pieces(((_CLOSE, payload, FIRST | LAST),), self._mask)

    def _move(self, step: Step) -> None:
        state = TRANSITIONS.get((self.state, step))
        if state is None:
            raise RuntimeError(f"{step.name} is impossible in state {self.state.name}")
        self.state = state

    def _inflate(self, inflation: "_Inflation", pieces: list[Piece]) -> list[Piece]:
        if self.error is not None:
            return []
        inflated: list[Piece] = []
        try:
            self.has_pending = inflation.inflate(pieces, inflated)
        except ConnectionFault as fault:
            self.has_pending = False
            self._fail(fault)
        return inflated

    def _end_reading(self, pieces: list[Piece]) -> None:
        """Takes in the fault or the Close that the decoder stopped at; called again, there is nothing left to do."""
        if self.error is not None or self.close_received is not None:
            return
        if self._decoder.error is not None:
            self._fail(self._decoder.error)
            return
        try:
            self.close_received = CloseFrame.parse(pieces[-1][1])
        except ConnectionFault as fault:
            pieces.pop()
            self._fail(fault)
        else:
            self._move(Step.RECEIVE_CLOSE)

    def _fail(self, fault: ConnectionFault) -> None:
        self.error = fault
        self._move(Step.RECEIVE_CLOSE)


class _Inflation:
    """The receiving half of compression: messages with COMPRESSED pieces become messages without."""

    __slots__ = (
        "_first",
        "_inflater",
        "_is_last",
        "_message_bytes",
        "_opcode",
        "_ratio",
        "_ratio_room",
        "_room",
        "_utf8",
        "backlog",
    )

    def __init__(self, inflater: Inflater, *, message_bytes: int | None, ratio: float | None = None) -> None:
        self._inflater = inflater
        self._ratio = ratio
        self._ratio_room = float(INFLATED_FREE_BYTES)
        """How much more may come of what was received."""
        self._message_bytes = MAX_LENGTH if message_bytes is None else message_bytes
        self.backlog: deque[Piece] = deque()
        # the message under way
        self._opcode = 0
        self._first = 0
        self._is_last = False
        self._room = 0
        self._utf8: Utf8Validator | None = None

    def inflate(self, pieces: list[Piece], inflated: list[Piece]) -> bool:
        """Adds the next pieces to `inflated`; whether more are to be had. Raises ConnectionFault."""
        backlog, inflater = self.backlog, self._inflater
        backlog.extend(pieces)
        budget = INFLATED_BYTES_PER_CALL
        while budget > 0 and (inflater.has_more or backlog):
            if not inflater.has_more:
                opcode, payload, flags = piece = backlog.popleft()
                if not flags & COMPRESSED:
                    inflated.append(piece)
                    continue
                if flags & FIRST:
                    self._opcode = opcode
                    self._first = FIRST
                    self._room = self._message_bytes
                    self._utf8 = Utf8Validator() if opcode == _TEXT else None
                self._is_last = bool(flags & LAST)
                inflater.feed(payload, last=self._is_last)
                if self._ratio is not None:
                    self._ratio_room += self._ratio * len(payload)
            size = self._read_piece(inflated)
            # A read that had to stop is charged in full, so that input which yields nothing is not worked off for free.
            budget -= INFLATED_PIECE_BYTES if inflater.has_more else size
        return bool(inflater.has_more or backlog)

    def _read_piece(self, inflated: list[Piece]) -> int:
        # One byte beyond the limit shows that it is exceeded.
        payload = self._inflater.read(min(INFLATED_PIECE_BYTES, self._room + 1))
        size = len(payload)
        ends = self._is_last and not self._inflater.has_more
        self._room -= size
        if self._room < 0:
            raise size_fault(self._message_bytes + 1, self._message_bytes)
        if self._ratio is not None:
            self._ratio_room -= size
            if self._ratio_room < 0:
                raise PolicyViolation(f"messages inflate to more than {self._ratio:g} times their compressed size")
        if self._utf8 is not None:
            if not self._utf8.feed(payload):
                raise InvalidUtf8("compressed text message is not UTF-8")
            if ends and not self._utf8.complete:
                raise utf8_end_fault()
        if payload or ends:
            inflated.append((self._opcode, payload, self._first | (LAST if ends else 0)))
            self._first = 0
        return size


class _Deflation:
    """The sending half of compression: every data message goes out compressed."""

    __slots__ = ("_deflater", "_first")

    def __init__(self, deflater: Deflater) -> None:
        self._deflater = deflater
        self._first = 0  # FIRST while a message that has begun has not put out a frame

    def deflate(self, pieces: Sequence[Piece]) -> list[Piece]:
        """The pieces to encode; all that was given is in them, so that no message waits for its end."""
        deflated: list[Piece] = []
        last_data = max((at for at, piece in enumerate(pieces) if piece[0] < _CLOSE), default=-1)
        for at, piece in enumerate(pieces):
            opcode, payload, flags = piece
            if opcode >= _CLOSE:
                deflated.append(piece)
                continue
            last = bool(flags & LAST)
            self._first |= flags & FIRST
            compressed = self._deflater.deflate(payload, last=last, flush=at == last_data)
            if compressed or last:
                deflated.append((opcode, compressed, self._first | flags & LAST | COMPRESSED))
                self._first = 0
        return deflated


def _masking_keys() -> Callable[[], bytes]:
    """A source of unpredictable masking keys (RFC 6455 section 10.3), one system call for 64 of them."""

    def keys() -> Iterator[bytes]:
        while True:
            block = os.urandom(256)
            for at in range(0, len(block), 4):
                yield block[at : at + 4]

    return keys().__next__
