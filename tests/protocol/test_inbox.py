"""The inbox: numbering, windows, breaks in the midst of a message, consumption in any order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidUtf8, PolicyViolation, ProtocolViolation
from gateway.protocol.inbox import Inbox, IncomingPiece, OversizeMessage, WholeMessage
from gateway.protocol.records import MORE_FLAG, TEXT_FLAG, Record, RecordType


def inbox(*, consumed: int = 0, messages: int = 10, size: int = 1000) -> Inbox:
    return Inbox(consumed=consumed, window_messages=messages, window_bytes=size)


def data(seq: int, payload: bytes, *, more: bool = False, text: bool = False) -> Record:
    return (RecordType.DATA, (TEXT_FLAG if text else 0) | (MORE_FLAG if more else 0), seq, payload)


def taken(box: Inbox, max_bytes: int = 1000) -> list[str | bytes]:
    """All whole messages that wait, each consumed."""
    messages = []
    while isinstance(message := box.take_message(max_bytes), WholeMessage):
        box.consume(message.seq)
        messages.append(message.data)
    return messages


def test_a_message_is_given_once_it_is_whole() -> None:
    box = inbox()
    box.receive([data(1, b"ab", more=True)])
    assert box.take_message(1000) is None
    box.receive([data(1, b"cd"), data(2, "書留".encode(), text=True)])
    assert taken(box) == [b"abcd", "書留"]
    assert (box.consumed, box.queued_bytes, box.unconsumed_bytes) == (2, 0, 0)


def test_other_records_are_given_back_in_order() -> None:
    ack, close = (RecordType.ACK, 4, 1, b""), (RecordType.CLOSE, 0, 0, b"{}")
    assert inbox().receive([ack, data(1, b"a"), close]) == [ack, close]


def test_a_message_that_comes_again_is_dropped() -> None:
    box = inbox(consumed=3)
    box.receive([data(2, b"old"), data(3, b"old"), data(4, b"new"), data(4, b"new")])
    assert taken(box) == [b"new"]
    assert box.duplicates == 3


def test_a_gap_is_refused_behind_what_was_good() -> None:
    box = inbox()
    with pytest.raises(ProtocolViolation, match="DATA 3 after message 1"):
        box.receive([data(1, b"a"), data(3, b"c")])
    assert taken(box) == [b"a"]


def test_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(InvalidUtf8):
        inbox().receive([data(1, b"\xff", text=True)])


def test_a_message_may_not_begin_beyond_the_window_of_messages() -> None:
    box = inbox(messages=2)
    box.receive([data(1, b""), data(2, b"")])
    box.consume(1)
    box.receive([data(3, b"")])
    with pytest.raises(PolicyViolation, match="DATA 4 exceeds the window of 2 messages"):
        box.receive([data(4, b"")])


def test_a_message_may_not_begin_beyond_the_window_of_bytes_but_go_on_to_its_end() -> None:
    box = inbox(size=10)
    box.receive([data(1, b"123"), data(2, bytes(20), more=True), data(2, bytes(20))])
    with pytest.raises(PolicyViolation, match="DATA 3 exceeds the window of 10 bytes"):
        box.receive([data(3, b"")])


def test_a_break_forgets_a_message_of_which_nothing_was_taken() -> None:
    box = inbox()
    box.receive([data(1, b"first try", more=True)])
    box.interrupt()
    assert (box.queued_bytes, box.unconsumed_bytes) == (0, 0)
    box.receive([data(1, b"another"), data(2, b"next")])
    assert taken(box) == [b"another", b"next"]


def test_a_break_goes_on_where_the_handler_had_got_to() -> None:
    box = inbox()
    box.receive([data(1, b"abc", more=True), data(1, b"def", more=True)])
    assert box.take_piece() == IncomingPiece(1, False, b"abc", True, False)
    box.interrupt()
    box.receive([data(1, b"ab", more=True), data(1, b"cdefgh")])
    assert box.take_piece() == IncomingPiece(1, False, b"def", False, False)
    assert box.take_piece() == IncomingPiece(1, False, b"gh", False, True)
    assert box.take_piece() is None
    box.consume(1)
    assert (box.consumed, box.queued_bytes, box.unconsumed_bytes) == (1, 0, 0)


def test_messages_may_be_consumed_in_any_order() -> None:
    box = inbox()
    box.receive([data(seq, b"x") for seq in (1, 2, 3)])
    box.consume(3)
    box.consume(2)
    assert box.consumed == 0
    box.consume(1)
    box.consume(1)
    assert box.consumed == 3


def test_only_a_whole_message_can_be_consumed() -> None:
    box = inbox()
    box.receive([data(1, b"x", more=True)])
    with pytest.raises(ValueError, match="message 1 has not come whole"):
        box.consume(1)


def test_a_message_too_large_to_gather_is_told_before_it_is_whole_and_discarded() -> None:
    box = inbox()
    box.receive([data(1, b"12345", more=True), data(1, b"67890", more=True)])
    assert box.take_message(10) is None
    box.receive([data(1, b"!", more=True)])
    assert box.take_message(10) == OversizeMessage(1)
    box.discard(1)
    assert box.queued_bytes == 0
    box.receive([data(1, b"rest", more=True), data(1, b"end"), data(2, b"ok")])
    assert taken(box, 10) == [b"ok"]
    assert (box.consumed, box.queued_bytes, box.unconsumed_bytes) == (2, 0, 0)


def test_a_discarded_message_that_broke_is_not_awaited_again() -> None:
    box = inbox()
    box.receive([data(1, b"part", more=True)])
    box.discard(1)
    box.interrupt()
    box.receive([data(2, b"next")])
    assert taken(box) == [b"next"]


def test_a_discarded_message_that_broke_behind_an_unconsumed_one_comes_again_and_is_dropped() -> None:
    box = inbox()
    box.receive([data(1, b"first"), data(2, b"part", more=True)])
    box.discard(2)
    box.interrupt()
    box.receive([data(1, b"first"), data(2, b"part", more=True), data(2, b"rest"), data(3, b"next")])
    assert taken(box) == [b"first", b"next"]
    assert (box.consumed, box.queued_bytes, box.unconsumed_bytes) == (3, 0, 0)


def test_discarding_forgets_only_that_message() -> None:
    box = inbox()
    box.receive([data(1, b"a"), data(2, b"bb"), data(3, b"c")])
    box.discard(2)
    assert box.queued_bytes == 2
    assert taken(box) == [b"a", b"c"]
    with pytest.raises(ValueError, match="message 4 has not come"):
        box.discard(4)


@given(
    messages=st.lists(st.binary(max_size=6), max_size=6),
    cuts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=6),
    streaming=st.booleans(),
)
def test_whatever_breaks_every_byte_is_given_once(
    messages: list[bytes], cuts: list[tuple[int, int]], streaming: bool
) -> None:
    """Each cut is (whole messages, bytes of the next one) that a connection carries before it breaks."""
    box = inbox()
    given_bytes: list[bytes] = []

    def take() -> None:
        if not streaming:
            given_bytes.extend(message if isinstance(message, bytes) else message.encode() for message in taken(box))
        while streaming and (piece := box.take_piece()) is not None:
            if piece.first:
                given_bytes.append(b"")
            given_bytes[-1] += piece.data
            if piece.last:
                box.consume(piece.seq)

    for whole, partial in [*cuts, (len(messages), 0)]:
        begin = box.consumed
        end = min(len(messages), begin + whole)
        box.receive([data(seq + 1, messages[seq]) for seq in range(begin, end)])
        if end < len(messages):
            box.receive([data(end + 1, messages[end][:partial][i : i + 2], more=True) for i in range(0, partial, 2)])
        take()
        box.interrupt()
    assert given_bytes == messages
    assert (box.consumed, box.queued_bytes, box.unconsumed_bytes) == (len(messages), 0, 0)
