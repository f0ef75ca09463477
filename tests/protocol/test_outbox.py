"""The outbox: numbering, windows, fragments, sending again, settling, and messages too large to be kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.protocol.outbox import PIECES_AHEAD_BYTES, MessageNotKept, Outbox, OutgoingMessage
from gateway.protocol.records import FRAGMENT_BYTES, MORE_FLAG, TEXT_FLAG, RecordDecoder, RecordType, encode_record


def outbox(*, messages: int = 10, size: int = 1000, kept: int = 1000) -> Outbox:
    box = Outbox(kept_bytes=kept)
    box.window_messages = messages
    box.window_bytes = size
    return box


def save(box: Outbox) -> list[OutgoingMessage]:
    unsaved = list(box.unsaved())
    box.mark_saved(box.sent)
    return unsaved


def pulled(box: Outbox, max_bytes: int = 1 << 30) -> list[tuple[int, bytes, bool]]:
    """(number, payload, more) of the records that may leave now, everything being saved."""
    save(box)
    records = RecordDecoder().feed(b"".join(box.pull(max_bytes)))
    assert all(record_type == RecordType.DATA for record_type, *_ in records)
    return [(seq, body, bool(flags & MORE_FLAG)) for _, flags, seq, body in records]


def whole(*seqs: int, payload: bytes = b"x") -> list[tuple[int, bytes, bool]]:
    return [(seq, payload, False) for seq in seqs]


def test_messages_leave_in_order_with_their_kind() -> None:
    box = outbox()
    assert box.append(text=True, payload=b"a") == 1
    assert box.append(text=False, payload=b"") == 2
    save(box)
    records = RecordDecoder().feed(b"".join(box.pull(1000)))
    assert records == [(RecordType.DATA, TEXT_FLAG, 1, b"a"), (RecordType.DATA, 0, 2, b"")]
    assert box.is_drained
    assert box.pull(1000) == []


def test_nothing_leaves_before_it_is_saved() -> None:
    box = outbox()
    box.append(text=False, payload=b"a")
    assert box.pull(1000) == []
    assert save(box) == [OutgoingMessage(seq=1, text=False, chunks=(b"a",))]
    box.append(text=False, payload=b"b")
    assert len(box.pull(1000)) == 1
    assert pulled(box) == [(2, b"b", False)]


def test_a_large_message_leaves_in_fragments_no_more_at_a_time_than_asked_for() -> None:
    box = outbox(size=1 << 20)
    payload = bytes(range(256)) * (FRAGMENT_BYTES // 256) * 2 + b"end"
    box.append(text=False, payload=payload)
    first = pulled(box, FRAGMENT_BYTES)
    assert first == [(1, payload[:FRAGMENT_BYTES], True)]
    assert not box.is_drained
    rest = pulled(box)
    assert rest == [(1, payload[FRAGMENT_BYTES : 2 * FRAGMENT_BYTES], True), (1, b"end", False)]
    assert box.unsent_bytes == 0


def test_the_window_of_messages_holds_the_next_one_back() -> None:
    box = outbox(messages=2)
    for _ in range(4):
        box.append(text=False, payload=b"x")
    assert pulled(box) == whole(1, 2)
    assert not box.has_room(0)
    box.settle(1)
    assert pulled(box) == whole(3)
    box.settle(3)
    assert pulled(box) == whole(4)
    assert box.has_room(0)


def test_the_window_of_bytes_holds_back_all_but_a_message_that_is_alone() -> None:
    box = outbox(size=10)
    assert box.has_room(1000)
    box.append(text=False, payload=bytes(30))
    box.append(text=False, payload=b"x")
    assert pulled(box) == whole(1, payload=bytes(30))
    assert not box.has_room(0)
    box.settle(1)
    assert pulled(box) == whole(2)
    assert box.has_room(9)
    assert not box.has_room(10)


def test_it_is_overfull_only_beyond_its_windows() -> None:
    box = outbox(messages=2, size=10)
    found = []
    for payload in (bytes(11), b""):  # one that is larger than the window fits alone
        box.append(text=False, payload=payload)
        found.append(box.is_overfull)
    pulled(box)
    box.settle(1)
    for payload in (bytes(10), b""):
        box.append(text=False, payload=payload)
        found.append(box.is_overfull)
    assert found == [False, True, False, True]


def test_a_resume_sends_again_what_follows_the_peers_position() -> None:
    box = outbox()
    for _ in range(3):
        box.append(text=False, payload=b"x")
    assert pulled(box) == whole(1, 2, 3)
    box.resume(1)
    assert box.settled == 1
    assert pulled(box) == whole(2, 3)
    assert (box.unsettled_messages, box.unsettled_bytes, box.unsent_bytes) == (2, 2, 0)


def test_a_restored_outbox_sends_what_it_was_given() -> None:
    kept = [OutgoingMessage(seq=seq, text=False, chunks=(b"a", b"b")) for seq in (4, 5)]
    box = Outbox(settled=3, sent=5, messages=kept, kept_bytes=1000)
    box.resume(3)
    assert pulled(box) == [(4, b"a", True), (4, b"b", False), (5, b"a", True), (5, b"b", False)]
    assert box.append(text=False, payload=b"x") == 6
    assert [message.seq for message in save(box)] == [6]


@pytest.mark.parametrize("position", [1, 4])
def test_a_position_that_cannot_be_is_refused(position: int) -> None:
    box = outbox()
    for _ in range(3):
        box.append(text=False, payload=b"x")
    pulled(box)
    box.settle(2)
    with pytest.raises(ProtocolViolation, match=f"OPEN at {position}, expected 2 to 3"):
        box.resume(position)


def test_an_ack_beyond_what_was_sent_is_refused() -> None:
    box = outbox(messages=1)
    for _ in range(2):
        box.append(text=False, payload=b"x")
    pulled(box)
    with pytest.raises(ProtocolViolation, match="ACK 2, expected at most 1"):
        box.settle(2)
    with pytest.raises(ProtocolViolation, match="REJECT 2, expected at most 1"):
        box.reject(2)


def test_an_ack_may_overtake_what_is_sent_again() -> None:
    box = outbox(size=1 << 20)
    box.append(text=False, payload=bytes(2 * FRAGMENT_BYTES))
    box.append(text=False, payload=b"x")
    box.append(text=False, payload=b"x")
    pulled(box)
    box.resume(0)
    assert pulled(box, 1) == [(1, bytes(FRAGMENT_BYTES), True)]
    assert box.settle(2)
    # The message that is under way goes on to its end, the settled one behind it is left out.
    assert pulled(box) == [(1, bytes(FRAGMENT_BYTES), False), *whole(3)]
    assert (box.unsettled_messages, box.unsettled_bytes, box.unsent_bytes) == (1, 1, 0)


def test_acks_that_say_nothing_new_change_nothing() -> None:
    box = outbox()
    box.append(text=False, payload=b"x")
    pulled(box)
    assert box.settle(1)
    assert not box.settle(1)
    assert not box.settle(0)
    assert box.unsettled_messages == 0


def test_a_rejected_message_counts_as_settled_once_those_before_it_are() -> None:
    box = outbox(messages=3)
    for _ in range(3):
        box.append(text=False, payload=b"x")
    pulled(box)
    assert box.reject(2)
    assert not box.reject(2)
    assert (box.settled, box.unsettled_messages) == (0, 2)
    box.settle(1)
    assert (box.settled, box.unsettled_messages) == (2, 1)
    assert box.reject(3)
    assert (box.settled, box.unsettled_messages, box.unsettled_bytes) == (3, 0, 0)
    assert not box.reject(3)


def test_a_rejected_message_is_sent_again_lest_there_be_a_gap() -> None:
    box = outbox()
    for _ in range(3):
        box.append(text=False, payload=b"x")
    pulled(box)
    box.reject(2)
    box.resume(0)
    assert pulled(box) == whole(1, 2, 3)
    box.settle(3)
    assert (box.settled, box.unsettled_messages, box.unsettled_bytes, box.unsent_bytes) == (3, 0, 0, 0)


def test_a_message_in_pieces_leaves_as_it_grows() -> None:
    box = outbox()
    assert box.append_piece(text=False, data=b"ab", last=False) == 1
    assert pulled(box) == [(1, b"ab", True)]
    assert not save(box)
    box.append_piece(text=False, data=b"", last=False)
    assert pulled(box) == []
    box.append_piece(text=False, data=b"c", last=True)
    assert box.pull(1000) == []
    assert save(box) == [OutgoingMessage(seq=1, text=False, chunks=(b"ab", b"c"))]
    assert pulled(box) == [(1, b"c", False)]
    assert (box.sent, box.is_drained) == (1, True)


def test_a_message_whose_last_piece_is_empty_is_ended_all_the_same() -> None:
    box = outbox()
    box.append_piece(text=False, data=b"ab", last=False)
    assert pulled(box) == [(1, b"ab", True)]
    box.append_piece(text=False, data=b"", last=True)
    assert pulled(box) == [(1, b"", False)]
    box.append_piece(text=False, data=b"", last=True)
    assert pulled(box) == [(2, b"", False)]


def test_pieces_are_of_one_kind_and_nothing_comes_between_them() -> None:
    box = outbox()
    box.append_piece(text=True, data=b"ab", last=False)
    with pytest.raises(ValueError, match="all pieces of a message are text"):
        box.append_piece(text=False, data=b"c", last=True)
    with pytest.raises(RuntimeError, match="end it with its last piece first"):
        box.append(text=True, payload=b"c")


def test_an_unfinished_message_is_begun_again_on_a_new_connection() -> None:
    box = outbox()
    box.append_piece(text=False, data=b"ab", last=False)
    pulled(box)
    box.resume(0)
    box.append_piece(text=False, data=b"c", last=True)
    assert pulled(box) == [(1, b"ab", True), (1, b"c", False)]


def test_pieces_wait_for_the_connection() -> None:
    box = outbox(size=1 << 30, kept=1 << 30)
    assert box.has_room_for_piece(1 << 29)
    box.append_piece(text=False, data=bytes(PIECES_AHEAD_BYTES), last=False)
    assert not box.has_room_for_piece(1)
    pulled(box)
    assert box.has_room_for_piece(1)


def test_a_message_begins_within_the_window_and_goes_on_beyond_it() -> None:
    box = outbox(size=4)
    box.append(text=False, payload=b"1234")
    assert box.has_room_for_piece(0)
    box.append_piece(text=False, data=b"56", last=False)
    assert pulled(box) == [(1, b"1234", False)]
    assert box.has_room_for_piece(100)
    box.settle(1)
    box.append_piece(text=False, data=b"78910", last=True)
    assert pulled(box) == [(2, b"56", True), (2, b"78910", False)]


def test_a_message_larger_than_what_is_kept_passes_but_cannot_be_sent_again() -> None:
    box = outbox(kept=4)
    sent = b""
    for chunk in (b"123", b"456", b"789"):
        box.append_piece(text=False, data=chunk, last=False)
        sent += b"".join(body for _, body, _ in pulled(box))
    box.append_piece(text=False, data=b"!", last=True)
    assert save(box) == []
    sent += b"".join(body for _, body, _ in pulled(box))
    assert sent == b"123456789!"
    with pytest.raises(MessageNotKept, match="message 1"):
        box.resume(0)
    box.resume(1)
    assert box.append(text=False, payload=b"x") == 2
    assert pulled(box) == whole(2)


def test_a_restored_outbox_knows_what_was_not_kept() -> None:
    kept = [OutgoingMessage(seq=2, text=False, chunks=(b"x",))]
    with pytest.raises(MessageNotKept, match="message 1"):
        Outbox(sent=2, messages=kept, kept_bytes=4).resume(0)
    box = Outbox(sent=2, messages=kept, kept_bytes=4)
    box.resume(1)
    assert pulled(box) == whole(2)


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(0, 8)),
            st.tuples(st.just("piece"), st.integers(0, 8)),
            st.tuples(st.just("pull"), st.integers(1, 60)),
            st.tuples(st.just("settle"), st.integers(0, 3)),
            st.tuples(st.just("reject"), st.integers(1, 3)),
            st.tuples(st.just("resume"), st.integers(0, 3)),
        ),
        max_size=40,
    )
)
def test_the_counts_always_agree_with_what_was_done(steps: list[tuple[str, int]]) -> None:
    """A model keeps every message; the outbox may hold and count only those that are not settled."""
    box = outbox(messages=3, size=12)
    sizes: dict[int, int] = {}
    rejected: set[int] = set()
    growing = False
    received: dict[int, bool] = {}  # complete?
    for step, value in steps:
        newest = max((seq for seq, complete in received.items() if complete), default=0)
        if step == "append" and not growing:
            sizes[box.append(text=False, payload=bytes(value))] = value
        elif step == "piece":
            seq = box.append_piece(text=False, data=bytes(value), last=value % 2 == 0)
            sizes[seq] = sizes.get(seq, 0) + value
            growing = value % 2 == 1
        elif step == "pull":
            for seq, _, more in pulled(box, value):
                received[seq] = received.get(seq, False) or not more
        elif step == "settle":
            box.settle(min(newest, box.settled + value))
        elif step == "reject" and box.settled + value <= newest:
            rejected.add(box.settled + value)
            box.reject(box.settled + value)
        elif step == "resume":
            box.resume(min(newest, box.settled + value))
        counted = [seq for seq in sizes if seq > box.settled and seq not in rejected]
        assert box.unsettled_messages == len(counted)
        assert box.unsettled_bytes == sum(sizes[seq] for seq in counted)
        assert box.sent == len(sizes) - growing
        assert 0 <= box.unsent_bytes <= sum(sizes.values())
    if growing:
        sizes[box.append_piece(text=False, data=b"", last=True)] += 0
    for _ in sizes:
        for seq, _, more in pulled(box):
            received[seq] = received.get(seq, False) or not more
        box.settle(max((seq for seq, complete in received.items() if complete), default=0))
    assert box.settled == len(sizes)
    assert (box.unsettled_messages, box.unsettled_bytes, box.unsent_bytes, box.is_drained) == (0, 0, 0, True)


# --- what is known of messages that are not settled -----------------------------------------------------------------


def test_unsettled_messages_are_had_in_order_without_those_that_were_rejected() -> None:
    box = Outbox(kept_bytes=1000)
    for payload in (b"a", b"b", b"c", b"d"):
        box.append(text=True, payload=payload)
    box.mark_saved(4)
    box.pull(1000)
    box.settle(1)
    box.reject(3)
    assert [(message.seq, message.chunks) for message in box.unsettled()] == [(2, (b"b",)), (4, (b"d",))]


def test_a_message_counts_as_begun_with_its_first_byte_and_for_ever() -> None:
    box = Outbox(kept_bytes=1000)
    for _ in range(3):
        box.append(text=False, payload=bytes(2 * FRAGMENT_BYTES))
    box.mark_saved(3)
    assert (box.begun, box.carried) == (0, 0)
    box.pull(1)
    assert (box.begun, box.carried) == (1, 0)
    box.pull(2 * FRAGMENT_BYTES)
    assert (box.begun, box.carried) == (2, 1)
    box.resume(0)
    assert (box.begun, box.carried) == (2, 1)


def test_records_are_encoded_as_their_hop_wants_them() -> None:
    box = Outbox(kept_bytes=1000, encode=encode_record)
    box.append(text=True, payload=b"a")
    box.mark_saved(1)
    assert box.pull(1000) == [encode_record(RecordType.DATA, TEXT_FLAG, 1, b"a")]
