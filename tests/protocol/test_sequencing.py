"""DATA records in and out: fragments, duplicates, interruptions, and what breaks the numbering."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConnectionFault, InvalidUtf8, MessageTooBig, ProtocolViolation
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import (
    FRAGMENT_BYTES,
    MORE_FLAG,
    TEXT_FLAG,
    Record,
    RecordDecoder,
    RecordType,
    parse_record,
)
from gateway.protocol.sequencing import DataReceiver, DataSender

WHOLE = FIRST | LAST
TEXT, BINARY = Opcode.TEXT, Opcode.BINARY


def data(seq: int, body: bytes, flags: int = 0) -> Record:
    return (RecordType.DATA, flags, seq, body)


def receive(receiver: DataReceiver, *records: Record) -> list[Piece]:
    pieces, others = receiver.receive(records)
    assert receiver.error is None
    assert others == []
    return pieces


def fault_of(receiver: DataReceiver, *records: Record) -> ConnectionFault:
    receiver.receive(records)
    assert receiver.error is not None
    return receiver.error


def messages_of(pieces: list[Piece]) -> list[tuple[int, bytes]]:
    """Whole messages; fails where the flags are not those of messages one after the other."""
    messages: list[tuple[int, bytes]] = []
    open_message = False
    for opcode, payload, flags in pieces:
        assert bool(flags & FIRST) is not open_message
        if flags & FIRST:
            messages.append((opcode, payload))
        else:
            assert messages[-1][0] == opcode
            messages[-1] = (opcode, messages[-1][1] + payload)
        open_message = not flags & LAST
    assert not open_message
    return messages


# --- receiving ---


def test_whole_records_are_whole_messages() -> None:
    receiver = DataReceiver()
    assert receive(receiver, data(1, b"a"), data(2, "ä".encode(), TEXT_FLAG), data(3, b"")) == [
        (BINARY, b"a", WHOLE),
        (TEXT, "ä".encode(), WHOLE),
        (BINARY, b"", WHOLE),
    ]
    assert receiver.accepted == 3


def test_other_records_are_handed_back_in_order() -> None:
    ack, close = (RecordType.ACK, 4, 1, b""), (RecordType.CLOSE, 0, 0, b"{}")
    assert DataReceiver().receive([ack, data(1, b"a"), close]) == ([(BINARY, b"a", WHOLE)], [ack, close])


def test_fragments_flow_on_as_they_come() -> None:
    receiver = DataReceiver()
    assert receive(receiver, data(1, b"ab", MORE_FLAG)) == [(BINARY, b"ab", FIRST)]
    assert receiver.in_message
    assert receiver.accepted == 0
    assert receive(receiver, data(1, b"", MORE_FLAG)) == []
    assert receive(receiver, data(1, b"c")) == [(BINARY, b"c", LAST)]
    assert receiver.accepted == 1


def test_empty_first_fragment_delays_the_first_piece() -> None:
    receiver = DataReceiver()
    assert receive(receiver, data(1, b"", MORE_FLAG)) == []
    assert receive(receiver, data(1, b"a", MORE_FLAG)) == [(BINARY, b"a", FIRST)]
    assert receive(receiver, data(1, b"")) == [(BINARY, b"", LAST)]


def test_character_may_be_cut_by_fragments() -> None:
    receiver = DataReceiver()
    pieces = receive(receiver, data(1, b"\xe3\x81", TEXT_FLAG | MORE_FLAG), data(1, b"\xa9", TEXT_FLAG))
    assert messages_of(pieces) == [(TEXT, "ど".encode())]


def test_duplicates_are_dropped_and_counted_once_each() -> None:
    receiver = DataReceiver(start=2)
    assert receive(receiver, data(1, b"x", MORE_FLAG), data(1, b"y"), data(2, b"z")) == []
    assert receiver.duplicates == 2
    assert receive(receiver, data(3, b"new")) == [(BINARY, b"new", WHOLE)]


@pytest.mark.parametrize("seq", [2, 5, 2**63 - 1])
def test_gap_is_refused_with_both_numbers(seq: int) -> None:
    fault = fault_of(DataReceiver(), data(seq, b"x"))
    assert isinstance(fault, ProtocolViolation)
    assert str(fault) == f"DATA {seq} after message 0, expected 1"


def test_next_message_inside_an_unfinished_one_is_refused() -> None:
    fault = fault_of(DataReceiver(), data(1, b"x", MORE_FLAG), data(2, b"y"))
    assert str(fault) == "DATA 2 after message 0, expected 1"


def test_kind_that_changes_between_fragments_is_refused() -> None:
    fault = fault_of(DataReceiver(), data(1, b"x", MORE_FLAG), data(1, b"y", TEXT_FLAG))
    assert isinstance(fault, ProtocolViolation)
    assert str(fault) == "DATA 1 goes on as text, but message 1 began as binary"


@pytest.mark.parametrize("body", [b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe3\x81"])
def test_text_that_is_not_utf8_is_refused_whole_and_in_fragments(body: bytes) -> None:
    assert isinstance(fault_of(DataReceiver(), data(1, body, TEXT_FLAG)), InvalidUtf8)
    fragments = [data(1, body[at : at + 1], TEXT_FLAG | MORE_FLAG) for at in range(len(body))]
    assert isinstance(fault_of(DataReceiver(), *fragments, data(1, b"", TEXT_FLAG)), InvalidUtf8)


def test_impossible_byte_fails_in_the_fragment_that_has_it() -> None:
    receiver = DataReceiver()
    assert isinstance(fault_of(receiver, data(1, b"\xe3\xff", TEXT_FLAG | MORE_FLAG)), InvalidUtf8)


def test_message_above_the_limit_is_refused_whole_and_at_the_fragment_that_exceeds_it() -> None:
    assert isinstance(fault_of(DataReceiver(message_bytes=4), data(1, b"12345")), MessageTooBig)
    receiver = DataReceiver(message_bytes=4)
    assert receive(receiver, data(1, b"1234", MORE_FLAG)) == [(BINARY, b"1234", FIRST)]
    assert (
        str(fault_of(receiver, data(1, b"5", MORE_FLAG))) == "message of 5 bytes or more exceeds the limit of 4 bytes"
    )


def test_what_was_good_before_a_fault_is_handed_on_and_nothing_after_it() -> None:
    receiver = DataReceiver()
    assert receiver.receive([data(1, b"a"), data(3, b"c"), data(2, b"b")]) == ([(BINARY, b"a", WHOLE)], [])
    assert receiver.error is not None
    assert receiver.receive([data(2, b"b")]) == ([], [])


# --- interruption ---


def test_interrupted_message_goes_on_where_it_stopped() -> None:
    receiver = DataReceiver()
    assert receive(receiver, data(1, b"abcd", MORE_FLAG)) == [(BINARY, b"abcd", FIRST)]
    receiver.interrupt()
    assert receive(receiver, data(1, b"abc", MORE_FLAG)) == []
    assert receive(receiver, data(1, b"def", MORE_FLAG)) == [(BINARY, b"ef", 0)]
    assert receive(receiver, data(1, b"g")) == [(BINARY, b"g", LAST)]


def test_message_interrupted_again_while_it_is_skipped_starts_the_skip_anew() -> None:
    receiver = DataReceiver()
    receive(receiver, data(1, b"abcd", MORE_FLAG))
    receiver.interrupt()
    receive(receiver, data(1, b"abc", MORE_FLAG))
    receiver.interrupt()
    assert receive(receiver, data(1, b"abcdef")) == [(BINARY, b"ef", LAST)]


def test_interrupted_message_of_which_all_was_handed_on_ends_with_an_empty_piece() -> None:
    receiver = DataReceiver()
    receive(receiver, data(1, b"abcd", MORE_FLAG))
    receiver.interrupt()
    assert receive(receiver, data(1, b"abcd")) == [(BINARY, b"", LAST)]


def test_duplicates_before_an_interrupted_message_are_dropped() -> None:
    receiver = DataReceiver()
    receive(receiver, data(1, b"one"), data(2, b"ab", MORE_FLAG))
    receiver.interrupt()
    assert receive(receiver, data(1, b"one"), data(2, b"abc")) == [(BINARY, b"c", LAST)]


def test_interrupted_text_keeps_its_half_character() -> None:
    receiver = DataReceiver()
    receive(receiver, data(1, b"\xe3\x81", TEXT_FLAG | MORE_FLAG))
    receiver.interrupt()
    assert receive(receiver, data(1, "どや".encode(), TEXT_FLAG)) == [(TEXT, b"\xa9\xe3\x82\x84", LAST)]


def test_message_that_comes_again_shorter_is_refused() -> None:
    receiver = DataReceiver()
    receive(receiver, data(1, b"abcd", MORE_FLAG))
    receiver.interrupt()
    assert str(fault_of(receiver, data(1, b"abc"))) == "DATA 1 ended 1 bytes before the 4 that it had before"


def test_message_that_comes_again_as_another_kind_is_refused() -> None:
    receiver = DataReceiver()
    receive(receiver, data(1, b"abcd", MORE_FLAG))
    receiver.interrupt()
    assert "goes on as text" in str(fault_of(receiver, data(1, b"abcd", TEXT_FLAG)))


def test_message_of_which_nothing_was_handed_on_may_come_again_as_anything() -> None:
    receiver = DataReceiver()
    receive(receiver, data(1, b"", MORE_FLAG))
    receiver.interrupt()
    assert receive(receiver, data(1, b"a", TEXT_FLAG)) == [(TEXT, b"a", WHOLE)]


def test_forgotten_message_is_taken_anew_from_its_first_byte() -> None:
    receiver = DataReceiver()
    receive(receiver, data(1, b"abcd", MORE_FLAG))
    receiver.interrupt()
    receiver.forget_unfinished()
    assert receive(receiver, data(1, b"abcdef")) == [(BINARY, b"abcdef", WHOLE)]


# --- sending ---

message_lists = st.lists(
    st.tuples(st.sampled_from([TEXT, BINARY]), st.lists(st.text(max_size=8).map(str.encode), min_size=1, max_size=4)),
    max_size=8,
)


def as_pieces(messages: list[tuple[Opcode, list[bytes]]]) -> list[Piece]:
    return [
        (opcode, part, (FIRST if index == 0 else 0) | (LAST if index == len(parts) - 1 else 0))
        for opcode, parts in messages
        for index, part in enumerate(parts)
    ]


@given(messages=message_lists, start=st.integers(0, 2**40))
def test_what_is_sent_is_received_on_both_hops(messages: list[tuple[Opcode, list[bytes]]], start: int) -> None:
    expected = [(opcode, b"".join(parts)) for opcode, parts in messages]
    pieces = as_pieces(messages)
    tcp, websocket = DataSender(start=start), DataSender(start=start)
    from_tcp = RecordDecoder().feed(tcp.encode_prefixed(pieces))
    from_websocket = [parse_record(payload) for _, payload, _ in websocket.encode_messages(pieces)]
    assert from_tcp == from_websocket
    assert messages_of(receive(DataReceiver(start=start), *from_tcp)) == expected
    assert tcp.sent == websocket.sent == start + len(messages)


@given(messages=message_lists, cuts=st.lists(st.integers(0, 40), max_size=4))
def test_connections_cut_at_any_record_lose_and_double_nothing(
    messages: list[tuple[Opcode, list[bytes]]], cuts: list[int]
) -> None:
    """After each cut the sender goes back to what was accepted, as a resume does."""
    pieces = as_pieces(messages)
    records = RecordDecoder().feed(DataSender().encode_prefixed(pieces))
    receiver = DataReceiver()
    received: list[Piece] = []
    for cut in cuts:
        resent = [record for record in records if record[2] > receiver.accepted]
        received += receive(receiver, *resent[:cut])
        receiver.interrupt()
    received += receive(receiver, *[record for record in records if record[2] > receiver.accepted])
    assert messages_of(received) == [(opcode, b"".join(parts)) for opcode, parts in messages]


@pytest.mark.parametrize("size", [FRAGMENT_BYTES, FRAGMENT_BYTES + 1, 3 * FRAGMENT_BYTES])
def test_large_message_is_sent_in_fragments(size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    piece = (BINARY, payload, WHOLE)
    records = RecordDecoder().feed(DataSender().encode_prefixed([piece]))
    assert all(0 < len(body) <= FRAGMENT_BYTES for _, _, _, body in records)
    assert len(records) == -(-size // FRAGMENT_BYTES)
    assert [flags for _, flags, _, _ in records] == [MORE_FLAG] * (len(records) - 1) + [0]
    assert records == [parse_record(message) for _, message, _ in DataSender().encode_messages([piece])]
    assert messages_of(receive(DataReceiver(), *records)) == [(BINARY, payload)]


def test_empty_piece_in_the_midst_of_a_message_makes_no_record() -> None:
    assert DataSender().encode_prefixed([(BINARY, b"", FIRST), (BINARY, b"", 0)]) == b""


def test_rewound_sender_gives_the_same_numbers_again() -> None:
    sender = DataSender()
    first = sender.encode_messages([(TEXT, b"a", WHOLE), (TEXT, b"b", WHOLE)])
    sender.rewind(1)
    assert sender.encode_messages([(TEXT, b"b", WHOLE)]) == first[1:]


def test_many_small_fragments_of_one_message_are_one_record() -> None:
    pieces: list[Piece] = [(TEXT, b"before", WHOLE), (TEXT, b"0", FIRST), *[(TEXT, b"1", 0)] * 98, (TEXT, b"2", LAST)]
    pieces.append((BINARY, b"begun", FIRST))
    records = RecordDecoder().feed(DataSender().encode_prefixed(pieces))
    assert [(flags, seq, body) for _, flags, seq, body in records] == [
        (TEXT_FLAG, 1, b"before"),
        (TEXT_FLAG, 2, b"0" + b"1" * 98 + b"2"),
        (MORE_FLAG, 3, b"begun"),
    ]
    assert [parse_record(message) for _, message, _ in DataSender().encode_messages(pieces)] == records
