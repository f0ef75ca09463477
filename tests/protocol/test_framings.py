"""Each framing both ways, however the bytes were cut, and what it refuses."""

import struct
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import FramingViolation, MessageTooBig
from gateway.protocol.framings import (
    GATHER_BYTES,
    Framing,
    LengthPrefixedFraming,
    LinesFraming,
    MessageNotCarried,
    StreamFraming,
)
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece

WHOLE = FIRST | LAST
TEXT, BINARY = Opcode.TEXT, Opcode.BINARY
LIMIT = 64

cuts_strategy = st.lists(st.integers(0, 200), max_size=8)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in parts, some of them empty."""
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def receive(framing: Framing, *chunks: bytes, eof: bool = True) -> list[Piece]:
    pieces = [piece for chunk in chunks for piece in framing.receive_data(memoryview(chunk))]
    return pieces + (framing.receive_eof() if eof else [])


def messages_of(pieces: list[Piece]) -> list[bytes]:
    """Whole messages; fails where the flags are not those of messages one after the other."""
    messages: list[bytes] = []
    unfinished = False
    for _, payload, flags in pieces:
        assert bool(flags & FIRST) is not unfinished
        messages.append(payload if flags & FIRST else messages.pop() + payload)
        unfinished = not flags & LAST
    assert not unfinished
    return messages


def in_pieces(opcode: Opcode, *parts: bytes) -> list[Piece]:
    """One message, a piece for each part."""
    last = len(parts) - 1
    return [(opcode, part, (index == 0) * FIRST | (index == last) * LAST) for index, part in enumerate(parts)]


def error_of(framing: Framing) -> str:
    assert isinstance(framing.error, FramingViolation)
    return str(framing.error)


# --- stream ---


def test_stream_passes_payloads_on_as_they_come() -> None:
    framing = StreamFraming()
    assert framing.encode([(BINARY, b"ab", FIRST)]) == b"ab"
    assert framing.encode([(BINARY, b"c", LAST), (TEXT, b"", WHOLE), (TEXT, b"d", WHOLE)]) == b"cd"
    assert framing.encode([]) == b""


def test_stream_chunk_is_one_binary_message() -> None:
    framing = StreamFraming()
    assert receive(framing, b"\xff\x00", b"", b"b") == [(BINARY, b"\xff\x00", WHOLE), (BINARY, b"b", WHOLE)]
    assert framing.error is None


def test_stream_piece_does_not_share_the_read_buffer() -> None:
    buffer = bytearray(b"first")
    ((_, payload, _),) = StreamFraming().receive_data(memoryview(buffer))
    buffer[:] = b"later"
    assert payload == b"first"


@given(text=st.text(), cuts=cuts_strategy)
def test_text_stream_is_cut_only_between_characters(text: str, cuts: list[int]) -> None:
    framing = StreamFraming(text=True)
    pieces = receive(framing, *cut(text.encode(), cuts))
    assert "".join(payload.decode() for _, payload, _ in pieces) == text
    assert all(opcode == TEXT and flags == WHOLE and payload for opcode, payload, flags in pieces)
    assert framing.error is None


@given(prefix=st.text(), bad=st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xe3a"]), cuts=cuts_strategy)
def test_text_stream_that_is_not_utf8_fails_after_what_is(prefix: str, bad: bytes, cuts: list[int]) -> None:
    framing = StreamFraming(text=True)
    pieces = receive(framing, *cut(prefix.encode() + bad + b"rest", cuts))
    assert b"".join(payload for _, payload, _ in pieces) == prefix.encode()
    assert error_of(framing) == "the backend's stream is configured as text and is not UTF-8"


def test_text_stream_that_ends_inside_a_character_fails() -> None:
    framing = StreamFraming(text=True)
    assert receive(framing, "aど".encode()[:-1]) == [(TEXT, b"a", WHOLE)]
    assert error_of(framing) == "the backend's stream of text ended inside a character"


# --- lines ---


def test_message_is_one_line() -> None:
    framing = LinesFraming(LIMIT)
    assert framing.encode([(TEXT, b"a", WHOLE), (TEXT, b"", WHOLE), (BINARY, "ど".encode(), WHOLE)]) == (
        "a\n\nど\n".encode()
    )


def test_line_is_gathered_from_the_pieces_of_its_message() -> None:
    framing = LinesFraming(LIMIT)
    first, *rest = in_pieces(BINARY, b"\xe3", b"\x81\xa9", b"")
    assert framing.encode([(TEXT, b"a", WHOLE), first]) == b"a\n"
    assert framing.encode([*rest, (TEXT, b"b", WHOLE)]) == "ど\nb\n".encode()


@pytest.mark.parametrize("pieces", [in_pieces(TEXT, b"b\nc"), in_pieces(TEXT, b"b", b"\n", b"c")])
def test_message_with_a_line_feed_is_refused_behind_those_before_it(pieces: list[Piece]) -> None:
    with pytest.raises(MessageNotCarried, match="a line feed at byte 1 cannot be carried as one line") as refusal:
        LinesFraming(LIMIT).encode([(TEXT, b"a", WHOLE), *pieces, (TEXT, b"d", WHOLE)])
    assert (refusal.value.encoded, refusal.value.messages) == (b"a\n", 1)
    assert refusal.value.close_code == 1008


def test_binary_message_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(MessageNotCarried, match="binary message that is not UTF-8") as refusal:
        LinesFraming(LIMIT).encode([(BINARY, b"\xff", WHOLE)])
    assert (refusal.value.encoded, refusal.value.messages) == (b"", 0)


@pytest.mark.parametrize("make", [LinesFraming, LengthPrefixedFraming])
def test_gathering_stops_at_the_limit(make: Callable[[int], Framing]) -> None:
    framing = make(LIMIT)
    assert framing.encode([(BINARY, b"x" * LIMIT, FIRST)]) == b""
    with pytest.raises(MessageTooBig, match="message of 65 bytes or more exceeds the limit of 64 bytes"):
        framing.encode([(BINARY, b"x", 0)])


@given(
    lines=st.lists(st.text().filter(lambda line: "\n" not in line and len(line.encode()) <= LIMIT)), cuts=cuts_strategy
)
def test_each_line_is_one_text_message(lines: list[str], cuts: list[int]) -> None:
    framing = LinesFraming(LIMIT)
    expected = [(TEXT, line.encode(), WHOLE) for line in lines]
    assert receive(framing, *cut("".join(line + "\n" for line in lines).encode(), cuts)) == expected
    assert framing.error is None


@given(messages=st.lists(st.text(alphabet=st.characters(exclude_characters="\n", codec="utf-8"), max_size=16)))
def test_messages_come_back_as_they_went_out(messages: list[str]) -> None:
    framing = LinesFraming(LIMIT)
    data = framing.encode([(TEXT, message.encode(), WHOLE) for message in messages])
    assert messages_of(receive(framing, data)) == [message.encode() for message in messages]


def test_last_line_needs_no_line_feed() -> None:
    assert messages_of(receive(LinesFraming(LIMIT), b"a\nb", b"c")) == [b"a", b"bc"]
    assert receive(LinesFraming(LIMIT), b"a\n") == [(TEXT, b"a", WHOLE)]


def test_carriage_return_belongs_to_the_message() -> None:
    assert messages_of(receive(LinesFraming(LIMIT), b"a\r\nb")) == [b"a\r", b"b"]


@given(cuts=cuts_strategy)
def test_line_that_is_not_utf8_fails_after_those_that_are(cuts: list[int]) -> None:
    framing = LinesFraming(LIMIT)
    assert messages_of(receive(framing, *cut("ど\n\nや\n".encode() + b"\xe3\x81\nx\n", cuts))) == [
        "ど".encode(),
        b"",
        "や".encode(),
    ]
    assert error_of(framing) == "the backend sent a line that is not UTF-8"


def test_last_line_that_is_not_utf8_fails() -> None:
    framing = LinesFraming(LIMIT)
    assert receive(framing, b"a\n\xe3\x81") == [(TEXT, b"a", WHOLE)]
    assert error_of(framing) == "the backend sent a line that is not UTF-8"


@given(cuts=cuts_strategy, ended=st.booleans())
def test_line_above_the_limit_fails_after_those_within_it(cuts: list[int], ended: bool) -> None:
    framing = LinesFraming(LIMIT)
    data = b"a" * LIMIT + b"\nb\n" + b"c" * (LIMIT + 1) + b"\nd\n" * ended
    assert messages_of(receive(framing, *cut(data, cuts))) == [b"a" * LIMIT, b"b"]
    assert error_of(framing).endswith(f"expected at most {LIMIT}")
    assert framing.receive_data(b"e\n") == []


# --- length_prefixed ---


def prefixed(*messages: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(message)) + message for message in messages)


def test_each_message_goes_out_after_its_length() -> None:
    framing = LengthPrefixedFraming(LIMIT)
    assert framing.encode([(TEXT, b"ab", WHOLE), (BINARY, b"", WHOLE), (BINARY, b"c", FIRST)]) == prefixed(b"ab", b"")
    assert framing.encode([(BINARY, b"", 0), (BINARY, b"d", LAST)]) == prefixed(b"cd")


@given(messages=st.lists(st.binary(max_size=LIMIT)), cuts=cuts_strategy)
def test_each_length_prefixed_message_is_one_whole_piece(messages: list[bytes], cuts: list[int]) -> None:
    framing = LengthPrefixedFraming(LIMIT)
    expected = [(BINARY, message, WHOLE) for message in messages]
    assert receive(framing, *cut(prefixed(*messages), cuts)) == expected
    assert framing.error is None


@given(
    sizes=st.lists(st.sampled_from([0, 1, GATHER_BYTES - 1, GATHER_BYTES, GATHER_BYTES + 1, 100_000]), max_size=4),
    cuts=st.lists(st.integers(0, 400_000), max_size=8),
)
def test_large_messages_flow_on_in_pieces(sizes: list[int], cuts: list[int]) -> None:
    framing = LengthPrefixedFraming(100_000)
    messages = [bytes([index]) * size for index, size in enumerate(sizes)]
    assert messages_of(receive(framing, *cut(prefixed(*messages), cuts))) == messages
    assert framing.error is None


def test_large_message_is_not_held_until_its_end() -> None:
    framing = LengthPrefixedFraming(1 << 30)
    assert framing.receive_data(struct.pack(">I", 1 << 30) + b"start") == [(BINARY, b"start", FIRST)]
    assert framing.receive_data(b"more") == [(BINARY, b"more", 0)]


@pytest.mark.parametrize("cuts", [[], [1], [2, 3], [4]])
def test_length_above_the_limit_fails_before_the_message_comes(cuts: list[int]) -> None:
    framing = LengthPrefixedFraming(LIMIT)
    assert messages_of(receive(framing, prefixed(b"a"), *cut(struct.pack(">I", LIMIT + 1), cuts), eof=False)) == [b"a"]
    assert error_of(framing) == "the backend announced a message of 65 bytes, expected at most 64"
    assert framing.receive_data(prefixed(b"b")) == []


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x00\x00", "the backend ended after 2 of a length's 4 bytes"),
        (struct.pack(">I", 5) + b"ab", "the backend ended 3 bytes before the end of a message"),
        (struct.pack(">I", 20_000) + b"ab", "the backend ended 19998 bytes before the end of a message"),
    ],
)
def test_truncated_message_fails(data: bytes, problem: str) -> None:
    framing = LengthPrefixedFraming(100_000)
    receive(framing, data)
    assert error_of(framing) == problem


# --- all ---


@pytest.mark.parametrize(
    "framing", [StreamFraming(), StreamFraming(text=True), LinesFraming(LIMIT), LengthPrefixedFraming(LIMIT)]
)
def test_overhead_is_what_a_message_costs_beyond_its_payload(framing: Framing) -> None:
    assert len(framing.encode([(TEXT, b"12345", WHOLE)])) == 5 + framing.overhead_bytes


@pytest.mark.parametrize(
    "framing", [StreamFraming(), StreamFraming(text=True), LinesFraming(LIMIT), LengthPrefixedFraming(LIMIT)]
)
def test_end_between_messages_is_clean(framing: Framing) -> None:
    assert receive(framing, b"") == []
    assert framing.error is None
