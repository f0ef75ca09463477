"""What is kept to be sent again: bounded, charged, and never with a hole that is not told."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.memory.account import Account
from gateway.protocol.pieces import FIRST, LAST, Piece
from gateway.protocol.records import parse_record
from gateway.protocol.sequencing import DataReceiver, DataSender
from gateway.relay.retained import REPLAY_BYTES, Replay, Retained
from tests.relay.harness import open_tab
from tests.relay.junction import message

LIMIT = 1000


def pieces_of(sizes: list[int]) -> list[Piece]:
    """One message, a piece for each size."""
    last = len(sizes) - 1
    return [
        message(bytes([index % 251]) * size, flags=(0 if index else FIRST) | (LAST if index == last else 0))
        for index, size in enumerate(sizes)
    ]


def payloads(retained: Retained) -> list[bytes]:
    """The messages that are kept, whole."""
    whole, parts = [], []
    for _, payload, flags in retained.pieces:
        parts.append(payload)
        if flags & LAST:
            whole.append(b"".join(parts))
            parts = []
    return whole


def test_what_is_settled_is_let_go_and_the_rest_stays_in_order() -> None:
    retained = Retained(open_tab(), limit_bytes=LIMIT, start=5)
    for number in range(6, 10):
        retained.add([message(b"%d" % number)])
    retained.settle(7)
    assert (payloads(retained), retained.settled, retained.bytes) == ([b"8", b"9"], 7, 2)
    retained.settle(6)
    assert retained.settled == 7
    retained.settle(9)
    assert (retained.pieces, retained.bytes) == ([], 0)


def test_a_message_larger_than_the_window_is_given_up_and_told_until_it_is_settled() -> None:
    retained = Retained(open_tab(), limit_bytes=LIMIT)
    retained.add([message(b"before")])
    retained.add(pieces_of([600, 600, 600]))
    retained.add([message(b"behind")])
    was_cut, size = retained.is_cut, retained.bytes
    retained.settle(2)
    assert (was_cut, retained.is_cut) == (True, False)
    assert size < LIMIT
    assert payloads(retained) == [b"behind"]


def test_what_is_kept_is_charged_and_given_back() -> None:
    account = Account(limit_bytes=1 << 20, holder_bytes=1 << 20)
    retained = Retained(account.open("127.0.0.1"), limit_bytes=LIMIT)
    before = account.used
    retained.add([message(bytes(500))])
    assert account.used >= before + 500
    retained.settle(1)
    assert account.used - before < 500


@given(st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=4), max_size=12), st.integers(0, 12))
def test_like_a_list_of_whole_messages(messages: list[list[int]], settled: int) -> None:
    retained = Retained(open_tab(), limit_bytes=1 << 20)
    for sizes in messages:
        retained.add(pieces_of(sizes))
    settled = min(settled, len(messages))
    retained.settle(settled)
    expected = [b"".join(piece[1] for piece in pieces_of(sizes)) for sizes in messages[settled:]]
    assert payloads(retained) == expected
    assert retained.bytes == sum(map(len, expected))


# --- sent again ---------------------------------------------------------------------------------------------------


def hear(receiver: DataReceiver, sender: DataSender, pieces: list[Piece], got: list[bytearray]) -> None:
    """What the receiver makes of the pieces; a gap or a wrong number is its error."""
    records = [parse_record(payload) for _, payload, _ in sender.encode_messages(pieces)]
    heard, others = receiver.receive(records)
    assert (receiver.error, others) == (None, [])
    for _, payload, flags in heard:
        if flags & FIRST:
            got.append(bytearray())
        got[-1] += payload


@given(
    st.lists(st.lists(st.integers(1, 40_000), min_size=1, max_size=5), max_size=8),
    st.lists(st.integers(0, 9), max_size=6),
    st.booleans(),
)
def test_what_is_sent_again_is_a_bounded_piece_at_a_time_and_without_a_gap(
    messages: list[list[int]], settled: list[int], is_unfinished: bool
) -> None:
    retained = Retained(open_tab(), limit_bytes=1 << 20)
    for sizes in messages:
        retained.add(pieces_of(sizes))
    if is_unfinished:
        retained.add(pieces_of([5000, 5000])[:1])
    account = Account(limit_bytes=1 << 30, holder_bytes=1 << 30)
    tab = account.open("a")
    replay, sender, receiver = Replay(retained, tab), DataSender(start=7), DataReceiver()
    got: list[bytearray] = []
    acks = iter(settled)
    while pieces := replay.take(sender):
        first = sender.sent + 1
        if first > receiver.accepted + 1:  # those between have settled, and their receiver knows them
            assert first <= retained.settled + 1
            receiver = DataReceiver(start=first - 1)
        hear(receiver, sender, pieces, got)
        assert sum(len(payload) for _, payload, _ in pieces[:-1]) < REPLAY_BYTES
        ack = next(acks, 0)
        retained.settle(min(retained.settled + ack, len(messages)))
    sent = [bytes(message) for message in got]
    expected = [b"".join(payload for _, payload, _ in pieces_of(sizes)) for sizes in messages]
    if is_unfinished:
        expected.append(pieces_of([5000, 5000])[0][1])
    rest = iter(expected)
    assert all(message in rest for message in sent), "in order, each whole"
    unsettled = len(expected) - retained.settled
    assert sent[len(sent) - unsettled :] == expected[len(expected) - unsettled :] if unsettled else True
    assert tab.used == 0


def test_a_message_that_settles_while_it_goes_out_again_goes_on_to_its_end() -> None:
    retained = Retained(open_tab(), limit_bytes=1 << 20)
    retained.add(pieces_of([REPLAY_BYTES] * 3))
    retained.add([message(b"behind")])
    account = Account(limit_bytes=1 << 30, holder_bytes=1 << 30)
    tab = account.open("a")
    replay, sender, receiver = Replay(retained, tab), DataSender(), DataReceiver()
    got: list[bytearray] = []
    hear(receiver, sender, replay.take(sender), got)
    retained.settle(1)
    assert tab.used >= 2 * REPLAY_BYTES, "nobody else is charged for the rest of it"
    while pieces := replay.take(sender):
        hear(receiver, sender, pieces, got)
    assert [len(message) for message in got] == [3 * REPLAY_BYTES, 6]
    assert tab.used == 0


def test_a_replay_that_is_dropped_gives_back_what_it_was_charged() -> None:
    retained = Retained(open_tab(), limit_bytes=1 << 20)
    retained.add(pieces_of([REPLAY_BYTES] * 3))
    account = Account(limit_bytes=1 << 30, holder_bytes=1 << 30)
    tab = account.open("a")
    replay = Replay(retained, tab)
    replay.take(DataSender())
    assert tab.used > 0
    replay.drop()
    assert tab.used == 0
