"""The open connection: compression within bounds, messages well-formed, the closing handshake always answered."""

from typing import Final

from gateway.protocol.deflate import DeflateParameters, Deflater
from gateway.protocol.frames import encode_pieces
from gateway.protocol.messages import INFLATED_BYTES_PER_CALL, INFLATED_PIECE_BYTES, State, WebSocketConnection
from gateway.protocol.pieces import COMPRESSED, FIRST, LAST, Piece
from tests.fuzz.target import Target, split

_LIMITS: Final = (None, 0, 100, 1 << 20)
_MAX_CALLS: Final = 20_000
"""How often an input may ask to be called again: 4 KiB inflate to 4 MiB, and of empty streams there are 2,048."""


def check(data: bytes) -> None:
    """Input: a byte of options, a byte that says how to cut, then what is read from the wire."""
    options, cut, wire = (data[:1] or b"\0")[0], (data[1:2] or b"\0")[0], data[2:]
    client = bool(options & 1)
    message_bytes = _LIMITS[options >> 1 & 3]
    deflate = None
    if options & 8:
        deflate = DeflateParameters(
            client_no_context_takeover=bool(options & 16),
            server_no_context_takeover=bool(options & 16),
            client_max_window_bits=8 + (options >> 5),
            server_max_window_bits=8 + (options >> 5),
        )
    near = WebSocketConnection(client=client, message_bytes=message_bytes, deflate=deflate)
    reader = _MessageReader(message_bytes)
    calls = 0
    for read in split(wire, cut):
        ended = near.state is not State.OPEN
        pieces = near.receive_data(read)
        assert not (ended and pieces)
        while True:
            reader.take(pieces)
            inflated = sum(len(piece[1]) for piece in pieces)
            assert inflated <= INFLATED_BYTES_PER_CALL + INFLATED_PIECE_BYTES + len(data)
            if not near.has_pending:
                break
            calls += 1
            assert calls < _MAX_CALLS
            pieces = near.receive_data(b"")
    assert (near.state is State.OPEN) == (near.error is None and near.close_received is None)
    _check_answer(near, client)


def _check_answer(near: WebSocketConnection, client: bool) -> None:
    """Whatever came, what we close with is legal, and the state ends where it should."""
    error, received = near.error, near.close_received
    if error is not None:
        closing, code = near.close(error.close_code, error.close_reason), error.close_code
    elif received is not None:
        closing, code = near.close(received.code, received.reason), received.code
    else:
        closing, code = near.close(1001), 1001
    far = WebSocketConnection(client=not client)
    far.receive_data(closing)
    assert far.error is None
    assert far.close_received is not None
    assert far.close_received.code == code
    assert near.state is (State.CLOSE_SENT if error is None and received is None else State.CLOSED)


class _MessageReader:
    """Checks that pieces make up messages as they should."""

    def __init__(self, message_bytes: int | None) -> None:
        self._limit = message_bytes
        self._opcode = 0
        self._payload = b""
        self._size = 0

    def take(self, pieces: list[Piece]) -> None:
        for opcode, payload, flags in pieces:
            assert not flags & COMPRESSED
            if opcode >= 8:
                assert flags == FIRST | LAST
                assert len(payload) <= 125
                continue
            assert bool(flags & FIRST) == (self._opcode == 0)
            if flags & FIRST:
                self._opcode, self._payload, self._size = opcode, b"", 0
            assert opcode == self._opcode
            self._size += len(payload)
            assert self._limit is None or self._size <= self._limit
            if opcode == 1 and self._size <= INFLATED_PIECE_BYTES:
                self._payload += payload
            if flags & LAST:
                self._payload.decode() if self._size <= INFLATED_PIECE_BYTES else None
                self._opcode = 0


def _seed(options: int, cut: int, pieces: list[Piece]) -> bytes:
    return bytes((options, cut)) + encode_pieces(pieces, None if options & 1 else (lambda: b"\0\0\0\0"))


def _messages() -> list[list[Piece]]:
    over = Deflater(window_bits=9, no_context_takeover=False)
    text = "どやさ、書留。".encode() * 3
    first, second = (over.deflate(text, last=True, flush=True) for _ in range(2))
    bomb = over.deflate(bytes(1 << 20), last=True, flush=True)
    whole = FIRST | LAST | COMPRESSED
    return [
        [(1, first, whole), (1, second, whole), (9, b"p", FIRST | LAST), (8, b"\x03\xe8bye", FIRST | LAST)],
        [(1, first[:5], FIRST | COMPRESSED), (10, b"", FIRST | LAST), (1, first[5:], LAST | COMPRESSED)],
        [(2, bomb, whole), (1, text, FIRST | LAST)],
        [(2, b"\x03\x00" * 50 + b"\x00", whole), (2, b"\xf3H\xcd\xc9\xc9\x07\x00\x00", whole), (2, b"\x00", whole)],
        [(1, text, FIRST), (9, b"", FIRST | LAST), (1, text, LAST), (8, b"\x0f\xa0", FIRST | LAST)],
    ]


TARGET: Final = Target(
    name="messages",
    check=check,
    seeds=tuple(
        _seed(options, cut, pieces)
        for options in (0b111_0_1_00_0, 0b001_0_1_10_1, 0b111_1_1_11_0, 0b000_0_0_00_0, 0b010_0_1_01_0)
        for cut in (0, 130, 150, 200)
        for pieces in _messages()
    ),
    tokens=(b"\x00\x00\xff\xff", b"\x03\x00", b"\xc2\x80", b"\xc1\x80", b"\x88\x82\0\0\0\0\x03\xe8", b"\xed\xa0\x80"),
    # What a call inflates, twice while it is joined, two windows and zlib's state.
    peak_bytes=4 * INFLATED_BYTES_PER_CALL,
)
