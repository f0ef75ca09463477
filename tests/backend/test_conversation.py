"""One session without sockets, a long story: opening, resuming, saving before telling, ending; a peer cut, killed."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backend.conversation import CONTROL_BYTES, REJECTIONS_KEPT, Conversation, Refused, State
from gateway.backend.store import MemoryStore, SessionEnd, StoredSession
from gateway.protocol.inbox import WholeMessage
from gateway.protocol.records import (
    CloseBody,
    LossReport,
    OpenToBackend,
    Record,
    RecordDecoder,
    RecordType,
    RejectBody,
    Rung,
    SessionReport,
    encode_prefixed_record,
)
from tests.support.peers.initiator import open_body


def conversation(stored: StoredSession | None = None, **changed: int) -> Conversation:
    limits = {"window_messages": 8, "window_bytes": 100, "kept_bytes": 100} | changed
    return Conversation(stored, **limits)


def opening(epoch: int = 1, **more: Any) -> OpenToBackend:
    return OpenToBackend.from_json(open_body(epoch=epoch, **more))


def opened(stored: StoredSession | None = None, position: int = 0, **changed: int) -> Conversation:
    """A conversation with a connection that has had its OPENED."""
    one = conversation(stored, **changed)
    one.attach(position, opening(epoch=stored.epoch + 1 if stored else 1))
    assert turn(one)[0][0] == RecordType.OPENED
    return one


def turn(one: Conversation) -> list[Record]:
    """One turn of the caller's: saves, then sends. The records that leave."""
    one.mark_saved(one.changes())
    return RecordDecoder().feed(one.data_to_send(1 << 20))


def data(seq: int, payload: bytes = b"x") -> Record:
    return (RecordType.DATA, 0, seq, payload)


def close(code: int, reason: str = "") -> Record:
    return (RecordType.CLOSE, 0, 0, CloseBody(code=code, reason=reason).to_json())


ACK = int(RecordType.ACK)


# --- opening and resuming -----------------------------------------------------------------------------------------


def test_a_new_session_is_opened_with_its_windows() -> None:
    one = conversation()
    one.attach(0, opening())
    [(record_type, _, seq, body)] = turn(one)
    assert (record_type, seq) == (RecordType.OPENED, 0)
    assert json.loads(body) == {"resumed": False, "window_messages": 8, "window_bytes": 100}


def test_a_resume_tells_the_position_and_sends_the_outbox_again() -> None:
    one = opened()
    one.receive_records([data(1), data(2)])
    one.inbox.consume(1)
    one.outbox.append(text=False, payload=b"a")
    one.outbox.append(text=False, payload=b"b")
    turn(one)
    one.interrupt()
    one.attach(1, opening(epoch=2))
    answer, again = turn(one)
    assert (answer[0], answer[2], json.loads(answer[3])["resumed"]) == (RecordType.OPENED, 1, True)
    assert again == (RecordType.DATA, 0, 2, b"b")


def test_the_same_epoch_may_dial_again() -> None:
    one = opened()
    one.attach(0, opening(epoch=1))
    assert turn(one)[0][0] == RecordType.OPENED


def test_an_older_epoch_is_refused_and_changes_nothing() -> None:
    one = opened(StoredSession(epoch=5))
    with pytest.raises(Refused, match="epoch 5 is older than 6") as refused:
        one.attach(0, opening(epoch=5))
    assert refused.value.code == 4001
    one.receive_records([data(1)])
    one.inbox.consume(1)
    assert turn(one) == [(ACK, 4, 1, b"")]


def test_a_position_in_a_session_that_is_not_known_is_refused() -> None:
    with pytest.raises(Refused, match="does not know") as refused:
        conversation().attach(3, opening())
    assert refused.value.code == 4004


def test_a_session_that_is_to_be_resumed_is_not_begun() -> None:
    with pytest.raises(Refused, match="does not know") as refused:
        conversation().attach(0, opening(resume=True))
    assert refused.value.code == 4004


def test_a_position_that_was_passed_already_is_refused_and_changes_nothing() -> None:
    one = opened(StoredSession(epoch=1, sent=3, settled=3), position=3)
    with pytest.raises(Refused, match="OPEN at 2, but message 3 was consumed before") as refused:
        one.attach(2, opening(epoch=7))
    assert (refused.value.code, one.epoch, one.state) == (4004, 2, State.OPEN)
    one.receive_records([data(1)])
    one.inbox.consume(1)
    assert turn(one) == [(ACK, 4, 1, b"")]


def test_a_position_that_cannot_be_ends_the_session() -> None:
    one = conversation(StoredSession(epoch=1, sent=3, settled=3))
    one.attach(4, opening(epoch=2))
    [(record_type, _, _, body)] = turn(one)
    assert (record_type, json.loads(body)["code"]) == (RecordType.CLOSE, 1002)
    assert one.state is State.ENDED_BY_US
    assert one.is_over


def test_a_message_that_was_not_kept_ends_the_session_at_its_resume() -> None:
    one = opened(kept_bytes=2)
    one.outbox.append_piece(text=False, data=b"123", last=False)
    turn(one)
    one.interrupt()
    one.attach(0, opening(epoch=2))
    [(record_type, _, _, body)] = turn(one)
    assert (record_type, json.loads(body)["code"]) == (RecordType.CLOSE, 1011)


def test_the_peers_windows_are_those_of_its_newest_open() -> None:
    one = conversation()
    one.attach(0, opening(window_messages=1, window_bytes=7))
    assert (one.outbox.window_messages, one.outbox.window_bytes) == (1, 7)
    one.attach(0, opening())
    assert (one.outbox.window_messages, one.outbox.window_bytes) == (1024, 4 << 20)


# --- saving before telling ----------------------------------------------------------------------------------------


def test_nothing_is_told_before_it_is_saved() -> None:
    one = opened()
    one.receive_records([data(1)])
    one.inbox.consume(1)
    one.outbox.append(text=False, payload=b"a")
    one.close(1000, "")
    changes = one.changes()
    assert (changes.consumed, changes.sent, changes.end) == (1, 1, SessionEnd(code=1000, reason="", by_peer=False))
    assert one.data_to_send(1000) == b""
    one.mark_saved(changes)
    sent = RecordDecoder().feed(one.data_to_send(1000))
    assert [record[0] for record in sent] == [RecordType.ACK, RecordType.DATA, RecordType.CLOSE]
    assert not one.changes()


def test_acks_of_one_turn_are_one_record() -> None:
    one = opened()
    one.receive_records([data(seq) for seq in range(1, 6)])
    for seq in range(1, 6):
        one.inbox.consume(seq)
    assert turn(one) == [(ACK, Rung.CONSUMED, 5, b"")]
    assert turn(one) == []


def test_a_save_after_the_end_tells_of_the_end_again() -> None:
    one = opened()
    one.receive_records([data(1), close(1000)])
    assert one.changes().end is not None
    one.mark_saved(one.changes())
    assert not one.changes()
    one.inbox.consume(1)
    assert one.changes().end is not None


# --- records ------------------------------------------------------------------------------------------------------


def test_a_ping_is_answered_with_what_it_carried() -> None:
    one = opened()
    one.receive_records([(RecordType.PING, 0, 7, b"abc"), (RecordType.PONG, 0, 0, b"unasked")])
    assert turn(one) == [(RecordType.PONG, 0, 7, b"abc")]


def test_an_ack_settles_and_tells_its_rung() -> None:
    one = opened()
    one.outbox.append(text=False, payload=b"a")
    turn(one)
    one.receive_records([(ACK, Rung.REACHED, 1, b"")])
    assert (one.outbox.settled, one.settled_rung) == (1, Rung.REACHED)


def test_a_reject_settles_and_is_remembered_for_a_while() -> None:
    one = opened(window_messages=2000)
    for _ in range(REJECTIONS_KEPT + 1):
        one.outbox.append(text=False, payload=b"")
    turn(one)
    body = RejectBody(code=4000, reason="no").to_json()
    one.receive_records([(RecordType.REJECT, 0, seq, body) for seq in range(1, REJECTIONS_KEPT + 2)])
    assert one.outbox.settled == REJECTIONS_KEPT + 1
    assert len(one.rejections) == REJECTIONS_KEPT
    assert one.rejections[REJECTIONS_KEPT + 1] == RejectBody(code=4000, reason="no")


@pytest.mark.parametrize(
    ("record", "code", "reason"),
    [
        (data(2), 1002, "DATA 2 after message 0"),
        ((RecordType.DATA, 1, 1, b"\xff"), 1007, "not UTF-8"),
        ((ACK, 4, 1, b""), 1002, "ACK 1, expected at most 0"),
        ((RecordType.REJECT, 0, 1, b"{}"), 1002, "REJECT 1"),
        ((RecordType.OPEN, 0, 0, open_body()), 1002, "OPEN in an open session"),
        ((RecordType.OPENED, 0, 0, b"{}"), 1002, "OPENED in an open session"),
        ((RecordType.CLOSE, 0, 0, b"{}"), 1002, "CLOSE body: code"),
    ],
)
def test_what_breaks_the_protocol_ends_the_session_with_the_reason(record: Record, code: int, reason: str) -> None:
    one = opened()
    one.receive_records([record])
    assert one.state is State.ENDED_BY_US
    [(record_type, _, _, body)] = turn(one)
    told = json.loads(body)
    assert (record_type, told["code"]) == (RecordType.CLOSE, code)
    assert reason in told["reason"]


def test_a_fault_closes_without_waiting_for_the_window() -> None:
    one = opened()
    one.outbox.window_messages = 1
    one.outbox.append(text=False, payload=b"a")
    one.outbox.append(text=False, payload=b"b")
    one.receive_records([data(9)])
    assert [record[0] for record in turn(one)] == [RecordType.DATA, RecordType.CLOSE]


def test_a_flood_of_pings_congests() -> None:
    one = opened()
    one.receive_records([(RecordType.PING, 0, 0, bytes(64))] * (CONTROL_BYTES // 78))
    assert not one.is_congested(1000)
    one.receive_records([(RecordType.PING, 0, 0, bytes(64))])
    assert one.is_congested(1000)
    turn(one)
    assert not one.is_congested(1000)


def test_messages_that_wait_for_the_handler_congest_until_the_session_ends() -> None:
    one = opened()
    one.receive_records([data(1, bytes(11))])
    assert one.is_congested(10)
    one.close(1000, "")
    assert not one.is_congested(10)


# --- rejecting ----------------------------------------------------------------------------------------------------


def test_a_reject_is_sent_before_the_ack_that_covers_it() -> None:
    one = opened()
    one.receive_records([data(1), data(2)])
    one.inbox.consume(1)
    one.reject(2, 4000, "not this one")
    reject, ack = turn(one)
    assert (reject[0], reject[2], json.loads(reject[3])) == (2 + 3, 2, {"code": 4000, "reason": "not this one"})
    assert ack == (ACK, 4, 2, b"")


def test_a_message_rejected_without_a_connection_is_not_told_as_consumed() -> None:
    one = opened()
    one.receive_records([data(1), data(2), data(3)])
    one.interrupt()
    one.inbox.consume(1)
    one.reject(2, 4000, "")
    one.inbox.consume(3)
    one.mark_saved(one.changes())
    one.attach(0, opening(epoch=2))
    answer, reject = turn(one)
    assert (answer[0], answer[2]) == (RecordType.OPENED, 3)
    assert json.loads(answer[3])["rejected"] == [[2, 2, 4000, ""]]
    assert (reject[0], reject[2]) == (RecordType.REJECT, 2)


@pytest.mark.parametrize(
    ("reason", "told"), [("x" * 1025, "x" * 1024), ("x" + "ü" * 512, "x" + "ü" * 511), ("\ud83d half", "\ufffd half")]
)
def test_a_reason_of_any_length_and_form_is_told_as_far_as_it_fits(reason: str, told: str) -> None:
    one = opened()
    one.receive_records([data(1)])
    one.reject(1, 4000, reason)
    one.close(4001, reason)
    rejects = [RejectBody.from_json(body) for kind, _, _, body in turn(one) if kind == RecordType.REJECT]
    assert rejects == [RejectBody(code=4000, reason=told)]
    assert one.end is not None
    assert one.end.reason == told.encode()[:123].decode(errors="ignore")


@pytest.mark.parametrize(("code", "reason"), [(999, ""), (5000, "")])
def test_what_no_peer_would_take_as_a_rejection_is_refused(code: int, reason: str) -> None:
    one = opened()
    one.receive_records([data(1)])
    with pytest.raises(ValueError, match="expected"):
        one.reject(1, code, reason)
    assert one.inbox.consumed == 0


# --- ending -------------------------------------------------------------------------------------------------------


def test_close_follows_all_messages_also_those_the_window_holds_back() -> None:
    one = opened()
    one.outbox.window_messages = 1
    one.outbox.append(text=False, payload=b"a")
    one.outbox.append(text=False, payload=b"b")
    one.close(4000, "done")
    assert [record[0] for record in turn(one)] == [RecordType.DATA]
    one.receive_records([(ACK, 4, 1, b"")])
    assert [record[0] for record in turn(one)] == [RecordType.DATA, RecordType.CLOSE]
    assert one.is_over
    assert turn(one) == []


def test_a_message_that_was_never_finished_does_not_hold_close_back() -> None:
    one = opened()
    one.outbox.append_piece(text=False, data=b"a", last=False)
    one.close(1000, "")
    assert [record[0] for record in turn(one)] == [RecordType.DATA, RecordType.CLOSE]


def test_a_session_we_ended_is_told_again_with_its_messages() -> None:
    one = opened()
    one.outbox.append(text=False, payload=b"a")
    one.close(4000, "done")
    turn(one)
    store = MemoryStore()
    store.save("s1", one.changes())
    one.interrupt()
    one.attach(0, opening(epoch=2))
    assert [record[0] for record in turn(one)] == [RecordType.OPENED, RecordType.DATA, RecordType.CLOSE]


def test_a_stored_session_we_ended_is_told_again() -> None:
    end = SessionEnd(code=4000, reason="done", by_peer=False)
    one = conversation(StoredSession(epoch=1, consumed=2, end=end))
    one.attach(0, opening(epoch=2))
    answer, told = turn(one)
    assert (answer[0], answer[2]) == (RecordType.OPENED, 2)
    assert (told[0], json.loads(told[3])["code"]) == (RecordType.CLOSE, 4000)


def test_a_session_the_peer_ended_is_not_opened_again() -> None:
    one = opened()
    one.receive_records([close(1001, "gone")])
    with pytest.raises(Refused, match="gone") as refused:
        one.attach(0, opening(epoch=2))
    assert refused.value.code == 1001


def test_what_came_before_the_peers_close_can_still_be_consumed_and_told() -> None:
    one = opened()
    one.outbox.append(text=False, payload=b"never sent")
    one.receive_records([data(1), close(1000), data(2)])
    assert one.state is State.ENDED_BY_PEER
    assert one.inbox.take_message(1000) == WholeMessage(1, b"x")
    one.inbox.consume(1)
    assert turn(one) == [(ACK, 4, 1, b"")]
    assert not one.is_over


def test_the_peers_loss_report_is_kept() -> None:
    one = opened()
    report = {"upstream": {"settled": 3, "unknown": [4, 5]}, "downstream": {"settled": 0}}
    one.receive_records([(RecordType.CLOSE, 0, 0, json.dumps({"code": 1006, "report": report}).encode())])
    assert one.report is not None
    assert one.report.upstream.unknown == (4, 5)


def test_what_the_peers_report_says_was_settled_is_settled_though_its_ack_was_lost() -> None:
    one = opened()
    for payload in (b"a", b"b", b"c"):
        one.outbox.append(text=False, payload=payload)
    turn(one)
    nothing = LossReport(settled=0)
    report = SessionReport(upstream=nothing, downstream=LossReport(settled=2, unknown=(3, 3)))
    body = CloseBody(code=1000, report=report).to_json()
    one.receive_records([(RecordType.ACK, Rung.CONSUMED, 1, b""), (RecordType.CLOSE, 0, 0, body)])
    assert one.outbox.settled == 2
    assert [message.seq for message in one.outbox.unsettled()] == [3]


def test_closes_that_cross_leave_nothing_to_send() -> None:
    one = opened()
    one.close(4000, "ours")
    one.receive_records([close(1000, "theirs")])
    assert one.end == SessionEnd(code=4000, reason="ours", by_peer=False)
    assert one.is_over
    assert turn(one) == []


@pytest.mark.parametrize(("code", "reason"), [(0, ""), (5000, "")])
def test_what_no_peer_would_take_as_an_end_is_refused(code: int, reason: str) -> None:
    one = opened()
    with pytest.raises(ValueError, match="expected"):
        one.close(code, reason)
    assert one.state is State.OPEN


# --- a peer that is cut and killed --------------------------------------------------------------------------------


class Peer:
    """An honest initiator: keeps what is not settled, sends it again after a resume, takes every message once."""

    def __init__(self, messages: int, window: int) -> None:
        self.messages = [str(number).encode() * (1 + number % 3) for number in range(1, messages + 1)]
        self.window = window
        self.settled = 0
        self.sent = 0
        self.ever_sent = 0
        self.replies: list[bytes] = []
        self.acked = 0
        self.outgoing = b""
        self.decoder = RecordDecoder()
        self.connected = False
        self.epoch = 0

    def dial(self, one: Conversation) -> None:
        self.epoch += 1
        self.decoder = RecordDecoder()
        self.outgoing = b""
        self.connected = False
        one.attach(len(self.replies), opening(epoch=self.epoch, window_messages=3, window_bytes=20))

    def fill(self) -> None:
        """Puts all that the window allows on the wire, cut into records of two bytes."""
        while self.connected and self.sent < min(len(self.messages), self.settled + self.window):
            payload = self.messages[self.sent]
            self.sent += 1
            self.ever_sent = max(self.ever_sent, self.sent)
            for at in range(0, len(payload), 2):
                flags = 2 if at + 2 < len(payload) else 0
                self.outgoing += encode_prefixed_record(RecordType.DATA, flags, self.sent, payload[at : at + 2])

    def receive(self, stream: bytes) -> None:
        for record_type, _, seq, body in self.decoder.feed(stream):
            if record_type == RecordType.OPENED:
                assert self.settled <= seq <= len(self.messages)
                self.settled = self.sent = seq
                self.connected = True
            elif record_type == RecordType.ACK:
                # The handler may have been behind with what an earlier connection carried.
                assert self.settled < seq <= self.ever_sent
                self.settled = seq
                self.sent = max(self.sent, seq)
            else:
                assert record_type == RecordType.DATA
                if seq == len(self.replies) + 1:
                    self.replies.append(body)
                assert seq <= len(self.replies), "a gap"
        assert self.decoder.error is None


STEPS = ("feed", "handle", "send", "acknowledge", "break", "break", "kill")


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(1, 40)), max_size=60),
    messages=st.integers(0, 12),
    window=st.integers(1, 5),
)
def test_every_message_is_answered_exactly_once_whatever_breaks(
    steps: list[tuple[str, int]], messages: int, window: int
) -> None:
    """The handler's reply and the consumed position are saved as one, so cuts and kills lose and double nothing."""
    store, peer, decoder = MemoryStore(), Peer(messages, window), RecordDecoder()
    effects: list[bytes] = []

    def start() -> Conversation:
        return conversation(store.load("s1"), window_messages=window)

    def save() -> None:
        changes = one.changes()
        if changes:
            store.save("s1", changes)
            one.mark_saved(changes)

    def handle() -> None:
        message = one.inbox.take_message(1000)
        if isinstance(message, WholeMessage):
            assert isinstance(message.data, bytes)
            effects.append(message.data)
            one.inbox.consume(message.seq)
            one.outbox.append(text=False, payload=message.data)
            save()

    one = start()
    # At the end one connection that holds carries all that is left.
    for step, amount in [*steps, ("break", 1), *[(name, 1000) for _ in range(60) for name in STEPS[:4]]]:
        match step:
            case "feed":
                peer.fill()
                chunk, peer.outgoing = peer.outgoing[:amount], peer.outgoing[amount:]
                one.receive_records(decoder.feed(chunk))
                assert one.end is None
            case "handle":
                handle()
            case "send":
                save()
                peer.receive(one.data_to_send(amount))
            case "acknowledge" if peer.connected and peer.acked < len(peer.replies):
                peer.acked = len(peer.replies)
                peer.outgoing += encode_prefixed_record(RecordType.ACK, 4, peer.acked)
            case "break" | "kill":
                if step == "kill":
                    one = start()
                else:
                    one.interrupt()
                decoder = RecordDecoder()
                peer.dial(one)
    assert effects == peer.messages
    assert peer.replies == peer.messages
    assert peer.settled == len(peer.messages) == one.outbox.settled
