"""The frame decoders and encoders: both codecs do the same, which is what the plain model does."""

from typing import Final

from gateway.protocol.pieces import COMPRESSED, FIRST, LAST, Piece
from tests.fuzz.target import MAX_INPUT_BYTES, Target, split
from tests.protocol import frame_model
from tests.protocol.codecs import COMPILED, PURE

_LIMITS: Final = (None, 0, 5, 300)
_PARTIAL_BYTES: Final = 6 + 125 + 8
"""A control frame that lacks its last byte is the most that the pure decoder keeps."""


def check(data: bytes) -> None:
    """Input: a byte of options, a byte that says how to cut, then what is read from the wire."""
    options, cut, wire = data[:1] or b"\0", data[1:2] or b"\0", data[2:]
    masked, compression = bool(options[0] & 1), bool(options[0] & 2)
    message_bytes = _LIMITS[options[0] >> 2 & 3]
    pure = PURE.FrameDecoder(masked=masked, compression=compression, message_bytes=message_bytes)
    twin = COMPILED or PURE
    compiled = twin.FrameDecoder(masked=masked, compression=compression, message_bytes=message_bytes)
    pieces: list[Piece] = []
    for read in split(wire, cut[0]):
        found = pure.feed(read)
        assert compiled.feed(read) == found
        assert (compiled.closed, compiled.in_message) == (pure.closed, pure.in_message)
        assert repr(compiled.error) == repr(pure.error)
        assert len(pure._partial) < _PARTIAL_BYTES
        pieces += found
    expected = frame_model.decode(wire, masked=masked, compression=compression, message_bytes=message_bytes)
    assert frame_model.merged(pieces) == frame_model.merged(expected.pieces)
    assert (pure.error and type(pure.error)) == expected.error
    assert (pure.closed, pure.in_message) == (expected.closed, expected.in_message)
    assert sum(len(payload) for _, payload, _ in pieces) <= len(wire)
    _check_encoding(pieces)
    _check_text(wire, cut[0])


def _check_encoding(pieces: list[Piece]) -> None:
    """What was decoded is encoded alike by both, and decodes to the same again, masked and not."""
    for key in (None, b"\x81\x00\xff\x7e"):
        mask = None if key is None else (lambda key=key: key)
        encoded = PURE.encode_pieces(pieces, mask)
        assert (COMPILED or PURE).encode_pieces(pieces, mask) == encoded
        decoder = PURE.FrameDecoder(masked=key is not None, compression=True)
        assert decoder.feed(encoded) == [piece for piece in pieces if piece[1] or piece[2] & LAST]
        assert decoder.error is None


def _check_text(data: bytes, cut: int) -> None:
    pure, compiled = PURE.Utf8Validator(), (COMPILED or PURE).Utf8Validator()
    for read in split(data, cut):
        assert pure.feed(read) == compiled.feed(read)
        assert pure.complete == compiled.complete
    try:
        data.decode()
    except UnicodeDecodeError:
        assert not pure.complete
    else:
        assert pure.complete


def _seed(options: int, cut: int, pieces: list[Piece]) -> bytes:
    key = (lambda: b"\x37\xfa\x21\x3d") if options & 1 else None
    return bytes((options, cut)) + PURE.encode_pieces(pieces, key)


_TEXT: Final[list[Piece]] = [
    (1, "Kakitome 書留".encode(), FIRST),
    (9, b"ping", FIRST | LAST),
    (1, "😀 é".encode(), 0),
    (10, b"", FIRST | LAST),
    (1, b"", LAST),
    (8, b"\x03\xe8bye", FIRST | LAST),
]
_SIZES: Final[list[Piece]] = [(2, bytes(range(size)), FIRST | LAST) for size in (0, 1, 7, 125, 126, 127, 255)]
_COMPRESSED: Final[list[Piece]] = [
    (1, b"\xf2H\xcd\xc9\xc9\x07\x00", FIRST | LAST | COMPRESSED),
    (2, b"\xff", FIRST | COMPRESSED),
    (2, b"\xff", LAST | COMPRESSED),
]

TARGET: Final = Target(
    name="frames",
    check=check,
    seeds=tuple(
        _seed(options, cut, pieces)
        for options in (0, 1, 2, 3, 12, 13)
        for cut in (0, 130, 150, 200)
        for pieces in (_TEXT, _SIZES, _COMPRESSED, _TEXT[:3], _SIZES[2:3] * 20)
    ),
    tokens=(
        "書".encode(),
        "😀".encode(),
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\x82\x7f" + bytes(6) + b"\xff\xff",
        b"\x89\x00",
    ),
    # Every byte may become a piece of its own, a tuple, a bytes and its place in four lists.
    peak_bytes=1 << 16 | MAX_INPUT_BYTES * 1024,
)
