"""Text in both frame codecs: UTF-8, strictly, and failing at the first impossible byte."""

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidUtf8
from gateway.protocol.frames import FIRST, LAST
from tests.protocol import frame_model
from tests.protocol.codecs import CODECS
from tests.protocol.wire import WHOLE, decode, error_of, frame, single_bytes

both = pytest.mark.parametrize("codec", CODECS)

GOOD_TEXTS = [
    "",
    "a" * 100,
    "Kakitome 書留",
    "κόσμε",
    "\u0000\u007f\u0080\u07ff\u0800\ud7ff\ue000\uffff",
    "\U00010000\U0010ffff",
]
BAD_TEXTS = [  # and the index of the first impossible byte
    (b"\x80", 0),
    (b"abc\xffdef", 3),
    (b"\xc0\x80", 0),
    (b"\xc1\xbf", 0),
    (b"\xe0\x9f\xbf", 1),
    (b"\xf0\x8f\xbf\xbf", 1),
    (b"\xed\xa0\x80", 1),
    (b"\xed\xbf\xbf", 1),
    (b"\xf4\x90\x80\x80", 1),
    (b"\xf5\x80\x80\x80", 0),
    (b"\xe3\x81x", 2),
    (b"\xf0\x9f\x98x", 3),
    (b"\xc3\xc3", 1),
    ("書留".encode() * 5 + b"\xe6\x9b\xff", 32),
]


@both
def test_valid_text_passes_cut_anywhere(codec: ModuleType) -> None:
    for text in GOOD_TEXTS:
        data = frame(1, text.encode())
        for cut in range(len(data)):
            pieces, decoder = decode(codec, [data[:cut], data[cut:]])
            assert decoder.error is None
            assert frame_model.merged(pieces) == [(1, text.encode(), WHOLE)]


@both
@pytest.mark.parametrize(("text", "impossible"), BAD_TEXTS)
def test_text_fails_at_the_first_impossible_byte_even_inside_an_unfinished_frame(
    codec: ModuleType, text: bytes, impossible: int
) -> None:
    header = frame(1, announced=1000, mask=None)
    decoder = codec.FrameDecoder(masked=False)
    pieces = decoder.feed(header)
    for byte in single_bytes(text)[:impossible]:
        pieces += decoder.feed(byte)
        assert decoder.error is None
    pieces += decoder.feed(text[impossible : impossible + 1])
    assert isinstance(decoder.error, InvalidUtf8)
    assert str(decoder.error) == f"text message is not UTF-8 at byte {impossible}"
    assert b"".join(piece[1] for piece in pieces) == text[:impossible]
    at_once, decoder = decode(codec, [header + text], masked=False)
    assert b"".join(piece[1] for piece in at_once) == text[:impossible]
    assert str(decoder.error) == f"text message is not UTF-8 at byte {impossible}"
    assert not any(piece[2] & LAST for piece in pieces + at_once)


@both
def test_text_must_not_end_inside_a_character_but_a_fragment_may(codec: ModuleType) -> None:
    euro = "€".encode()
    good = frame(1, euro[:1], fin=False) + frame(9) + frame(0, euro[1:2], fin=False) + frame(0, euro[2:])
    pieces, decoder = decode(codec, [good])
    assert decoder.error is None
    assert pieces == [(1, euro[:1], FIRST), (9, b"", WHOLE), (1, euro[1:2], 0), (1, euro[2:], LAST)]
    pieces, decoder = decode(codec, [frame(1, euro[:2])])
    assert pieces == [(1, euro[:2], FIRST)]
    assert str(decoder.error) == "text message ends inside a UTF-8 character"
    pieces, decoder = decode(codec, [frame(1, euro[:2], fin=False) + frame(0)])
    assert pieces == [(1, euro[:2], FIRST)]
    assert isinstance(decoder.error, InvalidUtf8)
    # The next text begins afresh, and binary is not looked at.
    assert error_of(codec, frame(1, euro) + frame(2, b"\xff") + frame(1, b"x")) is None


@both
def test_validator_agrees_with_the_model_on_every_sequence_of_interesting_bytes(codec: ModuleType) -> None:
    edges = b"\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe1\xec\xed\xee\xef\xf0\xf1\xf3\xf4\xf5\xff"
    sequences = [bytes((a, b)) for a in edges for b in edges]
    sequences += [bytes((a, b, c)) for a in edges for b in edges for c in edges]
    for text in sequences:
        impossible, complete = frame_model.utf8_verdict(text)
        validator = codec.Utf8Validator()
        assert validator.feed(text) == (impossible is None), text
        assert validator.complete == complete, text


@both
@given(text=st.one_of(st.text().map(str.encode), st.binary()), cut=st.integers(0, 64))
def test_validator_agrees_with_python_however_it_is_cut(codec: ModuleType, text: bytes, cut: int) -> None:
    validator = codec.Utf8Validator()
    assert validator.complete
    valid = validator.feed(text[:cut])
    valid = validator.feed(memoryview(text)[cut:]) and valid
    try:
        text.decode()
    except UnicodeDecodeError:
        assert not (valid and validator.complete)
    else:
        assert valid
        assert validator.complete


@both
def test_a_validator_that_has_failed_stays_failed(codec: ModuleType) -> None:
    validator = codec.Utf8Validator()
    assert not validator.feed(b"\xff")
    assert not validator.feed(b"fine")
    assert not validator.complete
