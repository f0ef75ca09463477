"""The session's core where a model does not go: a gateway that breaks the protocol, what is told when, and the end."""

import json

import pytest

from gateway.client.conversation import TIMES_BEHIND
from gateway.client.events import Acknowledged, MessageRejected, Opened
from gateway.client.faults import Fate, Lost, Rejected
from gateway.client.store import Changes, StoredSession
from gateway.errors import MessageTooBig
from gateway.protocol.outbox import OutgoingMessage
from gateway.protocol.records import (
    FRAGMENT_BYTES,
    CloseBody,
    OpenFromClient,
    Record,
    RecordType,
    RejectBody,
    Rung,
    encode_record,
    parse_record,
)
from tests.client.conversations import (
    close_record,
    conversation,
    data,
    opened,
    save,
    sent,
    seq_of,
    take,
    types_sent,
)
from tests.client.gateway_model import ModelStore


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((RecordType.DATA, 0, 1, b"x"), "DATA in answer to OPEN, expected OPENED or CLOSE"),
        ((RecordType.ACK, 4, 0, b""), "ACK in answer to OPEN"),
        ((RecordType.OPENED, 0, 0, b"{}"), "OPENED body: session"),
        ((RecordType.OPENED, 0, 0, b"[]"), "OPENED body: "),
        (
            (RecordType.OPENED, 0, 0, b'{"session":"t","resumed":true,"settles_at":"consumed"}'),
            "OPENED says resumed, but no session was asked for",
        ),
        (
            (RecordType.OPENED, 0, 3, b'{"session":"t","resumed":false,"settles_at":"consumed"}'),
            "OPENED of a new session at message 3, expected 0",
        ),
    ],
)
def test_an_answer_that_breaks_the_protocol_ends_the_session(answer: Record, words: str) -> None:
    session = conversation()
    session.attach()
    session.receive([answer])
    assert session.end is not None
    assert (session.end.code, session.end.by_gateway) == (1002, False)
    assert words in session.end.reason
    assert session.is_over, "there is nobody to send CLOSE to"


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ((RecordType.OPENED, 0, 0, b"{}"), "OPENED in an open session"),
        ((RecordType.OPEN, 0, 0, b"{}"), "OPEN in an open session"),
        ((RecordType.ACK, Rung.CONSUMED, 3, b""), "ACK 3, expected at most 2, the last message sent"),
        ((RecordType.ACK, Rung.ACCEPTED, 3, b""), "ACK 3, expected at most 2, the last message sent"),
        ((RecordType.REJECT, 0, 3, b'{"code":4000}'), "REJECT 3, expected at most 2"),
        ((RecordType.REJECT, 0, 1, b'{"code":7}'), "REJECT body: code"),
        ((RecordType.CLOSE, 0, 0, b"no"), "CLOSE body: "),
        ((RecordType.DATA, 0, 2, b"x"), "DATA 2 after message 0, expected 1"),
    ],
)
def test_a_record_that_breaks_the_protocol_ends_the_session_and_says_why(record: Record, words: str) -> None:
    session = opened(conversation(receipts=[Rung.ACCEPTED]))
    sent(session, "a", "b")
    session.receive([record])
    assert session.end is not None
    assert words in session.end.reason
    # At once: what waits to be sent does not come first.
    session.send(text=True, payload=b"c")
    assert types_sent(session) == [RecordType.CLOSE]
    assert session.is_over


@pytest.mark.parametrize("position", [0, 3])
def test_a_resume_at_a_position_that_cannot_be_ends_the_session(position: int) -> None:
    session = opened(conversation())
    sent(session, "a", "b")
    session.receive([(RecordType.ACK, Rung.CONSUMED, 1, b"")])
    save(session)
    session.interrupt()
    for _ in range(0 if position else TIMES_BEHIND):
        opened(session, position, resumed=True)
        assert session.end is None
    opened(session, position, resumed=True)
    assert session.end is not None
    assert f"at {position}, expected 1 to 2" in session.end.reason


def test_a_gateway_that_is_behind_is_left_and_nothing_that_it_says_is_taken() -> None:
    """Another one had the session meanwhile, and this one has not heard of it yet."""
    session = opened(conversation())
    sent(session, "a", "b")
    session.receive([(RecordType.ACK, Rung.CONSUMED, 1, b"")])
    save(session)
    session.take_events()
    for _ in range(2):
        for _ in range(TIMES_BEHIND):
            session.attach()
            session.records_to_send(1 << 20)
            body = b'{"session":"token","resumed":true,"settles_at":"consumed"}'
            session.receive([(RecordType.OPENED, 0, 0, body), (RecordType.DATA, 0, 7, b"")])
            assert session.is_over
            assert session.goodbye[0] == 1013
            assert session.end is None
            assert session.take_events() == []
        opened(session, 1, resumed=True)
        assert session.is_open
        assert not session.is_lost
        assert [type(event) for event in session.take_events()] == [Opened]


def test_nothing_but_open_goes_out_before_opened_has_come() -> None:
    session = conversation()
    session.send(text=True, payload=b"early")
    session.attach()
    assert types_sent(session) == [RecordType.OPEN]
    assert types_sent(session) == []


def test_nothing_is_sent_or_heard_without_a_connection() -> None:
    session = opened(conversation())
    session.interrupt()
    session.send(text=True, payload=b"a")
    assert types_sent(session) == []
    session.receive([(RecordType.OPENED, 0, 0, b"late, from a connection that is gone")])
    assert session.end is None


def test_a_token_is_not_used_before_it_was_saved() -> None:
    session = conversation()
    session.attach()
    session.records_to_send(1 << 20)
    session.receive([(RecordType.OPENED, 0, 0, b'{"session":"t1","resumed":false,"settles_at":"consumed"}')])
    assert session.changes() == Changes(token="t1")
    session.attach()
    [record] = session.records_to_send(1 << 20)
    assert OpenFromClient.from_json(parse_record(record)[3]).session is None


def test_a_token_that_the_gateway_changes_is_taken_over() -> None:
    session = opened(conversation(), token="t1")
    opened(session, token="t2", resumed=True)
    session.attach()
    [record] = session.records_to_send(1 << 20)
    assert OpenFromClient.from_json(parse_record(record)[3]).session == "t2"


def test_rungs_below_the_settling_one_are_told_once_and_survive_a_resume() -> None:
    session = opened(conversation(receipts=[Rung.WRITTEN]), settles_at="reached")
    receipts = sent(session, "a", "b")
    session.take_events()
    session.receive([(RecordType.ACK, Rung.WRITTEN, 2, b""), (RecordType.ACK, Rung.WRITTEN, 1, b"")])
    assert session.take_events() == [Acknowledged(first=1, last=2, count=2, rung=Rung.WRITTEN, settled=False)]
    opened(session, resumed=True, settles_at="reached")
    session.records_to_send(1 << 20)
    session.take_events()
    session.receive([(RecordType.ACK, Rung.WRITTEN, 2, b"")])
    assert session.take_events() == []
    session.receive([(RecordType.ACK, Rung.REACHED, 1, b""), (RecordType.ACK, Rung.CONSUMED, 2, b"")])
    assert [receipt.rung for receipt in receipts] == [Rung.REACHED, Rung.CONSUMED]
    assert [receipt.is_settled for receipt in receipts] == [True, True]


def test_a_message_is_rejected_once_and_not_counted_as_settled() -> None:
    session = opened(conversation())
    receipts = sent(session, "a", "b")
    session.take_events()
    reject: Record = (RecordType.REJECT, 0, 1, b'{"code":4009,"reason":"no"}')
    session.receive([reject, reject, (RecordType.ACK, Rung.CONSUMED, 2, b"")])
    assert session.take_events() == [
        MessageRejected(seq=1, code=4009, reason="no"),
        Acknowledged(first=2, last=2, count=1, rung=Rung.CONSUMED, settled=True),
    ]
    assert isinstance(receipts[0].failure, Rejected)


def test_an_orderly_close_goes_behind_all_messages_and_only_once() -> None:
    session = opened(conversation())
    session.send(text=True, payload=b"last")
    session.close(1000, "")
    session.close(4000, "too late")
    over = [session.is_over]
    assert types_sent(session) == [RecordType.DATA, RecordType.CLOSE]
    over.append(session.is_over)
    assert over == [False, True]
    assert types_sent(session) == []
    # Evidence that comes before the gateway's own CLOSE still counts.
    session.receive([(RecordType.ACK, Rung.CONSUMED, 1, b"")])
    assert session.is_settled


def test_a_close_that_the_window_holds_back_waits_for_it() -> None:
    session = opened(conversation(), window_messages=1)
    for text in (b"a", b"b"):
        session.send(text=True, payload=text)
    session.close(1000, "")
    assert types_sent(session) == [RecordType.DATA]
    session.receive([(RecordType.ACK, Rung.CONSUMED, 1, b"")])
    assert types_sent(session) == [RecordType.DATA, RecordType.CLOSE]


def test_when_both_close_the_gateways_report_still_tells_of_the_messages() -> None:
    session = opened(conversation())
    receipts = sent(session, "a", "b")
    session.close(1000, "")
    assert types_sent(session) == [RecordType.CLOSE]
    report = {"upstream": {"settled": 1, "unknown": [2, 2]}, "downstream": {"settled": 0}}
    session.receive([close_record(1001, report=report)])
    assert session.end is not None
    assert (session.end.code, session.end.by_gateway) == (1000, False)
    assert receipts[0].is_settled
    assert isinstance(receipts[1].failure, Lost)


def test_after_the_gateways_close_nothing_is_taken_any_more() -> None:
    session = opened(conversation())
    session.receive([close_record(1000)])
    session.receive([(RecordType.DATA, 0, 1, b"x"), (RecordType.OPEN, 0, 0, b"nonsense")])
    assert session.take_message(100) is None
    assert session.end is not None
    assert session.end.code == 1000


def test_messages_that_come_behind_our_close_are_dropped() -> None:
    session = opened(conversation())
    session.close(1000, "")
    types_sent(session)
    session.receive([(RecordType.DATA, 0, 1, b"x")])
    assert session.inbox.accepted == 0
    assert not session.is_congested(0)


@pytest.mark.parametrize("code", [999, 5000])
def test_an_end_that_the_gateway_would_not_take_is_refused(code: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        conversation().close(code, "")


@pytest.mark.parametrize(("reason", "told"), [("x" * 124, "x" * 123), ("é" * 62, "é" * 61), ("a\ud800", "a\ufffd")])
def test_a_reason_is_made_well_formed_and_cut_between_characters(reason: str, told: str) -> None:
    session = opened(conversation())
    session.receive([data(1)])
    session.reject(session.inbox, 1, 4009, reason * 9)
    session.close(1000, reason)
    save(session)
    [reject, _, close] = [parse_record(record) for record in session.records_to_send(1 << 20)]
    assert CloseBody.from_json(close[3]).reason == told
    assert len(RejectBody.from_json(reject[3]).reason.encode()) <= 1024


# --- messages that turn out to be too big ---------------------------------------------------------------------------


def test_what_is_too_big_for_the_gateway_is_withdrawn_before_a_byte_has_left() -> None:
    session = conversation()
    receipts = [session.send(text=True, payload=b"x" * size) for size in (5, 11, 10, 12, 1)]
    save(session)
    opened(session, message_bytes=10)
    assert [receipt.failure is None for receipt in receipts] == [True, False, True, False, True]
    assert isinstance(receipts[1].failure, Rejected)
    assert isinstance(receipts[1].failure, MessageTooBig)
    assert str(receipts[1].failure) == (
        "message 2 was rejected with 1009 message of 11 bytes exceeds the gateway's limit of 10 bytes"
    )
    assert [event.seq for event in session.take_events() if isinstance(event, MessageRejected)] == [2, 4]
    assert [parse_record(record)[2:] for record in session.records_to_send(1 << 20)] == [
        (1, b"x" * 5),
        (2, b"x" * 10),
        (3, b"x"),
    ]
    assert [receipts[at].seq for at in (0, 2, 4)] == [1, 2, 3]
    session.receive([(RecordType.ACK, Rung.CONSUMED, 3, b"")])
    assert session.is_settled


@pytest.mark.parametrize("has_token", [False, True])
def test_a_store_is_told_which_numbers_remain_when_messages_are_withdrawn(has_token: bool) -> None:
    store = ModelStore()
    session = conversation()

    def persist() -> None:
        changes = session.changes()
        store.save(changes)
        session.mark_saved(changes)

    def open_anew(**body: object) -> None:
        session.attach()
        session.records_to_send(1 << 20)
        answer = {"session": "t1", "settles_at": "consumed", **body}
        session.receive([(RecordType.OPENED, 0, 0, json.dumps(answer).encode())])
        persist()

    if has_token:
        open_anew(resumed=False)
        session.interrupt()
    for payload in (b"x" * 11, b"small"):
        session.send(text=True, payload=payload)
    persist()
    if not has_token:  # an earlier process left them
        session = conversation(stored=store.load())
    open_anew(resumed=has_token, message_bytes=10)
    stored = store.load()
    assert stored is not None
    assert (stored.token, stored.sent, stored.settled) == ("t1", 1, 0)
    assert [(message.seq, message.chunks) for message in stored.outbox] == [(1, (b"small",))]
    assert [parse_record(record)[2:] for record in session.records_to_send(1 << 20)] == [(1, b"small")]


def test_what_has_left_in_part_cannot_be_withdrawn() -> None:
    session = opened(conversation())
    [receipt, _] = sent(session, "x" * 11, "y")
    session.interrupt()
    opened(session, resumed=True, message_bytes=10)
    assert not receipt.has_ended
    assert [seq_of(record) for record in session.records_to_send(1 << 20)] == [1, 2]


def test_an_abandoned_session_stays_in_the_store_and_an_ended_one_does_not() -> None:
    session = opened(conversation())
    receipts = sent(session, "a")
    session.abandon(1006, "")
    assert not session.changes()
    assert isinstance(receipts[0].failure, Lost)
    session.abandon(4000, "again")
    assert session.end is not None
    assert session.end.code == 1006
    session = opened(conversation())
    session.receive([close_record(1000)])
    assert session.changes() == Changes(ended=True)
    save(session)
    assert not session.changes()


def test_a_report_that_claims_more_than_was_sent_settles_only_what_was() -> None:
    session = opened(conversation())
    receipts = sent(session, "a")
    waiting = session.send(text=True, payload=b"b")
    session.receive([close_record(1000, report={"upstream": {"settled": 99}, "downstream": {"settled": 0}})])
    assert receipts[0].is_settled
    assert isinstance(waiting.failure, Lost)
    assert waiting.failure.fate is Fate.NEVER_FORWARDED


def test_a_large_message_that_came_to_the_gateway_in_part_may_have_been_sent_on() -> None:
    """It is in no report, because it was never whole there; a small one goes in one record and was not there at all."""
    for size, fate in ((FRAGMENT_BYTES + 1, Fate.UNKNOWN), (FRAGMENT_BYTES, Fate.NEVER_FORWARDED)):
        session = opened(conversation())
        receipts = sent(session, "a", "x" * size)
        report = {"upstream": {"settled": 0, "unknown": [1, 1]}, "downstream": {"settled": 0}}
        session.receive([close_record(4014, report=report)])
        assert isinstance(receipts[1].failure, Lost)
        assert receipts[1].failure.fate is fate


def test_what_an_earlier_process_left_may_have_been_sent() -> None:
    message = OutgoingMessage(seq=3, text=True, chunks=(b"kept",))
    stored = StoredSession(token="t1", consumed=5, sent=3, settled=2, outbox=(message,))
    session = conversation(stored=stored)
    session.attach()
    [record] = session.records_to_send(1 << 20)
    assert parse_record(record)[2] == 5
    [receipt] = session.receipts
    opened(session, token="t2")
    assert isinstance(receipt.failure, Lost)
    assert receipt.failure.fate is Fate.UNKNOWN


def test_a_new_session_is_acknowledged_from_its_first_message() -> None:
    session = opened(conversation())
    session.receive([data(1), data(2), data(3)])
    for _ in range(3):
        inbox, seq = take(session)
        inbox.consume(seq)
    assert types_sent(session) == [RecordType.ACK]
    opened(session, token="t2")
    session.receive([data(1)])
    inbox, seq = take(session)
    inbox.consume(seq)
    save(session)
    assert session.records_to_send(1 << 20) == [encode_record(RecordType.ACK, Rung.CONSUMED, 1)]


def test_nothing_is_refused_in_a_new_session_that_came_in_the_old_one() -> None:
    session = opened(conversation())
    session.receive([data(1), data(2)])
    session.reject(*take(session), 4009, "decided before the break")
    waiting = take(session)
    opened(session, token="t2")
    session.reject(*waiting, 4009, "decided after it")
    assert types_sent(session) == []
    # The numbers are those of the new session's messages by now.
    session.receive([data(1), data(2)])
    session.reject(*take(session), 4009, "new")
    assert types_sent(session) == [RecordType.REJECT, RecordType.ACK]


def test_a_reject_that_no_connection_carried_is_told_by_open() -> None:
    session = opened(conversation())
    session.receive([data(1), data(2)])
    first, second = take(session), take(session)
    first[0].consume(first[1])
    session.reject(*second, 4009, "no")
    save(session)
    session.attach()
    [record] = session.records_to_send(1 << 20)
    assert parse_record(record)[2] == 2
    assert json.loads(parse_record(record)[3])["rejected"] == [[2, 2, 4009, "no"]]
    session.receive([(RecordType.OPENED, 0, 0, b'{"session":"token","resumed":true,"settles_at":"consumed"}')])
    assert types_sent(session) == [RecordType.REJECT]
