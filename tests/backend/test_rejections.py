"""A REJECT that is lost together with its ACK is told all the same, in both directions, whoever is killed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.backend import MessageRejected, Receipt
from gateway.backend.conversation import REJECTIONS_KEPT, Conversation
from gateway.backend.live import LiveSession, Shelf
from gateway.backend.sqlite_store import SqliteStore
from gateway.backend.store import MemoryStore, Store, StoredSession
from gateway.protocol.outbox import Outbox
from gateway.protocol.records import (
    CloseBody,
    LossReport,
    OpenedByBackend,
    OpenToBackend,
    Record,
    RecordDecoder,
    RecordType,
    RejectBody,
    Rung,
    SessionReport,
)
from gateway.protocol.rejections import RejectedRange
from tests.support.peers.initiator import open_body

WINDOW = 4


def conversation(stored: StoredSession | None = None) -> Conversation:
    return Conversation(stored, window_messages=WINDOW, window_bytes=1000, kept_bytes=1000)


def opening(epoch: int, *, rejected: tuple[RejectedRange, ...] = (), window: int = WINDOW) -> OpenToBackend:
    return OpenToBackend.from_json(open_body(epoch=epoch, window_messages=window, rejected=rejected))


def saved(one: Conversation, store: Store) -> list[Record]:
    """Saves what has changed; the records that leave then."""
    changes = one.changes()
    if changes:
        store.save("s1", changes)
        one.mark_saved(changes)
    return RecordDecoder().feed(one.data_to_send(1 << 20))


def opened_body(records: list[Record]) -> OpenedByBackend:
    assert records[0][0] == RecordType.OPENED
    return OpenedByBackend.from_json(records[0][3])


async def test_a_receipt_tells_of_a_refusal_however_many_follow_it() -> None:
    many = 4 * REJECTIONS_KEPT
    one = Conversation(None, window_messages=WINDOW, window_bytes=1000, kept_bytes=1000)
    one.attach(0, opening(1, window=many))
    live = LiveSession("s1", one, Shelf(MemoryStore()))
    for _ in range(many):
        one.outbox.append(text=False, payload=b"")
    receipts = [Receipt(live, seq) for seq in (1, 2, many)]
    saved(one, live.shelf.store)
    body = RejectBody(code=4000, reason="no").to_json()
    rejects: list[Record] = [(RecordType.REJECT, 0, seq, body) for seq in range(1, many + 1)]
    one.receive_records(rejects)
    for receipt in receipts:
        with pytest.raises(MessageRejected, match="4000 no"):
            await receipt.settled()
    with pytest.raises(MessageRejected):
        await Receipt(live, many).settled()  # a late one, of what is still remembered


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "s.db")


@pytest.mark.parametrize("restarted", [False, True])
def test_opened_tells_what_was_rejected_before(store: Store, restarted: bool) -> None:
    one = conversation()
    one.attach(0, opening(1))
    saved(one, store)
    one.receive_records([(RecordType.DATA, 0, seq, b"x") for seq in (1, 2, 3)])
    one.reject(2, 4022, "no such room")
    one.inbox.consume(1)
    assert [record[:3] for record in saved(one, store)] == [(RecordType.REJECT, 0, 2), (RecordType.ACK, 4, 2)]
    one.interrupt()  # and both were lost
    if restarted:
        one = conversation(store.load("s1"))
    one.attach(0, opening(2))
    records = saved(one, store)
    assert records[0][2] == 2
    assert opened_body(records).rejected == ((2, 2, 4022, "no such room"),)
    store.close()


def test_a_rejection_that_no_connection_has_carried_yet_is_told_by_opened(store: Store) -> None:
    one = conversation()
    one.attach(0, opening(1))
    saved(one, store)
    one.receive_records([(RecordType.DATA, 0, 1, b"x")])
    one.interrupt()
    one.reject(1, 4022, "no")
    assert saved(one, store) == []
    for epoch in (2, 3):  # the REJECT behind it may be lost again, and the position never goes back
        one.attach(0, opening(epoch))
        changes = one.changes()
        store.save("s1", changes)
        one.mark_saved(changes)
        first = RecordDecoder().feed(one.data_to_send(1))[0]
        assert (first[2], opened_body([first]).rejected) == (1, ((1, 1, 4022, "no"),))
        one.interrupt()
    store.close()


def test_a_message_rejected_ahead_of_its_turn_is_not_handed_out_after_a_restart(store: Store) -> None:
    one = conversation()
    one.attach(0, opening(1))
    saved(one, store)
    one.receive_records([(RecordType.DATA, 0, seq, b"%d" % seq) for seq in (1, 2, 3)])
    one.reject(2, 4022, "no")
    saved(one, store)
    one = conversation(store.load("s1"))
    one.attach(0, opening(2))
    records = saved(one, store)
    assert (records[0][2], opened_body(records).rejected) == (0, ((2, 2, 4022, "no"),))
    one.receive_records([(RecordType.DATA, 0, 1, b"1"), (RecordType.DATA, 2, 2, b"2"), (RecordType.DATA, 0, 2, b"2")])
    one.receive_records([(RecordType.DATA, 0, 3, b"3")])
    taken = [one.inbox.take_message(10) for _ in range(3)]
    assert [message and message.seq for message in taken] == [1, 3, None]
    one.inbox.consume(1)
    assert one.inbox.consumed == 2
    store.close()


def test_a_message_that_is_acknowledged_cannot_be_rejected_any_more() -> None:
    one = conversation()
    one.attach(0, opening(1))
    saved(one, MemoryStore())
    one.receive_records([(RecordType.DATA, 0, 1, b"x")])
    one.inbox.consume(1)
    one.reject(1, 4022, "too late")
    assert [record[0] for record in saved(one, MemoryStore())] == [RecordType.ACK]
    one.attach(0, opening(2))
    assert opened_body(saved(one, MemoryStore())).rejected == ()


async def test_receipts_hear_of_a_rejection_from_the_next_open_and_from_the_end() -> None:
    def end(one: Conversation) -> None:
        report = LossReport(settled=2, rejected=((2, 2, 4000, "no"),))
        close = CloseBody(code=1006, report=SessionReport(upstream=LossReport(settled=0), downstream=report))
        one.receive_records([(RecordType.CLOSE, 0, 0, close.to_json())])

    def resume(one: Conversation) -> None:
        one.attach(2, opening(2, rejected=((2, 2, 4000, "no"),)))

    hear: Callable[[Conversation], None]
    for hear in (end, resume):
        one = conversation()
        one.attach(0, opening(1))
        for _ in range(2):
            one.outbox.append(text=False, payload=b"x")
        saved(one, MemoryStore())
        one.receive_records([(RecordType.ACK, Rung.CONSUMED, 1, b"")])
        hear(one)
        live = LiveSession("s1", one, Shelf(MemoryStore()))
        assert await Receipt(live, 1).settled() is Rung.CONSUMED
        assert one.rejections == {2: RejectBody(code=4000, reason="no")}
        assert one.outbox.settled == 2
        assert one.end is None or one.end.by_peer


def test_rejecting_what_was_never_sent_is_a_fault() -> None:
    one = conversation()
    one.attach(0, opening(1, rejected=((1, 1, 4000, ""),)))
    assert one.end is not None
    assert (one.end.code, "rejects message 1" in one.end.reason) == (1002, True)


def test_a_message_that_is_refused_before_it_was_sent_to_its_end_may_be_the_position() -> None:
    one = conversation()
    one.attach(0, opening(1))
    one.outbox.append_piece(text=False, data=b"begun", last=False)
    saved(one, MemoryStore())
    one.attach(1, opening(2, rejected=((1, 1, 1009, "too big"),)))
    assert one.end is None
    assert one.rejections[1].code == 1009
    one.outbox.append_piece(text=False, data=b"ended", last=True)
    assert [record[2] for record in saved(one, MemoryStore())] == [0, 1, 1]
    assert one.outbox.settled == 1


# --- whatever is lost, and whoever is killed ----------------------------------------------------------------------


class Sender:
    """The far side of a backend: sends messages, and writes down what it is told of them."""

    def __init__(self) -> None:
        self.outbox = Outbox(kept_bytes=0)
        self.outbox.window_messages = WINDOW
        self.told: dict[int, RejectBody | None] = {}
        self.epoch = 0

    def tell(self, seq: int, rejected: RejectBody | None) -> None:
        assert seq not in self.told
        self.told[seq] = rejected

    def settle_up_to(self, before: int) -> None:
        for seq in range(before + 1, self.outbox.settled + 1):
            if seq not in self.told:
                self.tell(seq, None)

    def hear(self, record: Record) -> None:
        record_type, _, seq, body = record
        before = self.outbox.settled
        if record_type == RecordType.OPENED:
            for number, code, reason in self.outbox.resume(seq, OpenedByBackend.from_json(body).rejected):
                self.tell(number, RejectBody(code=code, reason=reason))
        elif record_type == RecordType.REJECT:
            if self.outbox.reject(seq):
                self.tell(seq, RejectBody.from_json(body))
        elif record_type == RecordType.ACK:
            self.outbox.settle(seq)
        else:
            pytest.fail(f"{RecordType(record_type).name} {json.loads(body or b'{}')}")
        self.settle_up_to(before)


STEPS = st.sampled_from(["send", "save", "hear", "consume", "reject", "reject late", "cut", "kill"])


@example(steps=["send"] * 4 + ["reject late", "save", "kill", "send", "reject", "save", "kill", "send"])
@given(steps=st.lists(STEPS, min_size=40, max_size=80))
def test_what_a_sender_is_told_is_what_became_of_its_messages(steps: list[str]) -> None:
    """Cuts lose what is under way, kills what was not saved; what was told before the last word stays true."""
    store, sender = MemoryStore(), Sender()
    one = conversation()
    fates: dict[int, RejectBody | None] = {}
    under_way: list[Record] = []
    taken: list[int] = []

    def connect() -> None:
        under_way.clear()
        sender.epoch += 1
        one.attach(0, opening(sender.epoch))
        for record in saved(one, store):
            sender.hear(record)

    def decide(seq: int, fate: RejectBody | None) -> None:
        if fate is None:
            one.inbox.consume(seq)
        else:
            one.reject(seq, *fate.told)
        fates[seq] = fate

    connect()
    for step in [*steps, "cut", "save", "hear"]:
        while (message := one.inbox.take_message(100)) is not None:
            taken.append(message.seq)
        match step:
            case "send":
                if sender.outbox.has_room(1):
                    sender.outbox.append(text=False, payload=b"x")
                    sender.outbox.mark_saved(sender.outbox.sent)
                one.receive_records(RecordDecoder().feed(b"".join(sender.outbox.pull(1000))))
            case "consume" if taken:
                decide(taken.pop(0), None)
            case "reject" if taken:
                seq = taken.pop(0)
                decide(seq, RejectBody(code=4000 + seq % 2, reason=f"{seq}"))
            case "reject late" if taken:
                seq = taken.pop()
                decide(seq, RejectBody(code=4000, reason="late"))
            case "save":
                under_way.extend(saved(one, store))
            case "hear":
                for record in under_way:
                    sender.hear(record)
                under_way.clear()
            case "cut":
                connect()
            case "kill":
                one = conversation(store.load("s1"))
                taken.clear()
                connect()
    for seq, told in sender.told.items():
        assert fates[seq] == told, f"message {seq} was told as {told}"
