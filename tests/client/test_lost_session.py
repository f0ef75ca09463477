"""The session's core where its session or a REJECT is lost: what is told, what goes along into the next one."""

import pytest

from gateway.client.conversation import Conversation
from gateway.client.events import Acknowledged, MessageRejected
from gateway.client.faults import ConnectionClosed, Fate, Lost, Rejected, SessionEnded
from gateway.client.receipts import Receipt
from gateway.client.store import Changes
from gateway.protocol.records import (
    OpenFromClient,
    RecordType,
    Rung,
    parse_record,
)
from tests.client.conversations import close_record, conversation, opened, save, sent, seq_of, types_sent, upstream
from tests.client.gateway_model import ModelStore

# --- a session that is lost -----------------------------------------------------------------------------------------


def lost(session: Conversation, *, code: int = 1012, report: object = None) -> Conversation:
    """The session after a CLOSE that says so, and before the next connection."""
    session.receive([close_record(code, report=report)])
    assert session.end is None
    assert session.is_lost
    assert session.is_over
    assert session.goodbye == (code, "because")
    session.interrupt()
    return session


@pytest.mark.parametrize("code", [1011, 1012, 1013, 1014])
def test_a_session_that_is_lost_comes_back_with_its_token_and_may_go_on(code: int) -> None:
    session = opened(conversation())
    receipts = sent(session, "a", "b", "c")
    lost(session, code=code, report=upstream(1, unknown=[2, 3]))
    assert [receipt.is_settled for receipt in receipts] == [True, False, False]
    assert receipts[1].failure is None
    session.attach()
    assert not session.is_over
    [record] = session.records_to_send(1 << 20)
    assert OpenFromClient.from_json(parse_record(record)[3]).session == "token"
    opened(session, 2, resumed=True)
    assert not session.is_lost
    assert [seq_of(record) for record in session.records_to_send(1 << 20)] == [3]
    assert [receipt.has_ended for receipt in receipts] == [True, True, False]


@pytest.mark.parametrize("told_again", [True, False])
def test_a_lost_session_begins_anew_and_its_report_tells_what_goes_along(told_again: bool) -> None:
    session = opened(conversation())
    receipts = sent(session, "settled", "unknown", "never forwarded")
    report = upstream(1, unknown=[2, 2], never_forwarded=[3, 3])
    session.cause = ConnectionClosed(1012, "because")
    lost(session, report=report)
    opened(session, token="t2", report=report if told_again else None)
    assert receipts[0].is_settled
    assert isinstance(receipts[1].failure, Lost)
    assert receipts[1].failure.fate is Fate.UNKNOWN
    assert isinstance(receipts[1].failure.__cause__, ConnectionClosed)
    assert isinstance(receipts[1].failure.again().__cause__, ConnectionClosed)
    assert [seq_of(record) for record in session.records_to_send(1 << 20)] == [1]
    assert (receipts[2].has_ended, receipts[2].seq) == (False, 1)


def test_a_lost_session_that_is_given_up_has_the_report_of_its_close() -> None:
    session = opened(conversation())
    receipts = sent(session, "unknown", "never forwarded")
    lost(session, report=upstream(0, unknown=[1, 1], never_forwarded=[2, 2]))
    session.abandon(1006, "")
    assert [type(receipt.failure) for receipt in receipts] == [Lost, Lost]
    assert [receipt.failure.fate for receipt in receipts if isinstance(receipt.failure, Lost)] == [
        Fate.UNKNOWN,
        Fate.NEVER_FORWARDED,
    ]


def test_a_loss_in_answer_to_our_own_end_is_the_end() -> None:
    session = opened(conversation())
    session.close(1000, "")
    types_sent(session)
    session.receive([close_record(1012)])
    assert session.end is not None
    assert not session.is_lost


def test_what_a_gateways_close_loses_has_it_as_its_cause() -> None:
    session = opened(conversation())
    [receipt] = sent(session, "a")
    session.receive([close_record(4000)])
    assert isinstance(receipt.failure, Lost)
    assert isinstance(receipt.failure.__cause__, SessionEnded)
    assert receipt.failure.__cause__.code == 4000


# --- a REJECT that was lost together with its ACK -----------------------------------------------------------------


async def outcome(receipt: Receipt) -> Rung | Rejected | Lost:
    try:
        return await receipt.settled()
    except (Rejected, Lost) as failure:
        return failure


async def test_opened_tells_what_was_rejected_before() -> None:
    one = opened(conversation())
    receipts = sent(one, "taken", "refused", "taken", "under way")
    one.interrupt()
    one.take_events()
    opened(one, 3, resumed=True, rejected=[[2, 2, 4022, "no such room"]])
    assert await outcome(receipts[0]) is Rung.CONSUMED
    refused = await outcome(receipts[1])
    assert isinstance(refused, Rejected)
    assert (refused.seq, refused.code, refused.reject_reason) == (2, 4022, "no such room")
    assert await outcome(receipts[2]) is Rung.CONSUMED
    assert [receipt.seq for receipt in one.receipts] == [4]
    events = one.take_events()
    assert MessageRejected(seq=2, code=4022, reason="no such room") in events
    assert Acknowledged(first=1, last=3, count=2, rung=Rung.CONSUMED, settled=True) in events


async def test_a_loss_report_tells_what_was_rejected_before() -> None:
    report = {
        "upstream": {"settled": 2, "rejected": [[1, 1, 4000, "no"]], "unknown": [3, 3]},
        "downstream": {"settled": 0},
    }
    for hear in (
        lambda one: opened(one, token="new", report=report),
        lambda one: one.receive([close_record(1000, report=report)]),
    ):
        one = opened(conversation())
        receipts = sent(one, "refused", "taken", "unknown")
        if hear(one) is None or not one.is_open:
            one.interrupt()
        outcomes = [await outcome(receipt) for receipt in receipts]
        assert isinstance(outcomes[0], Rejected)
        assert outcomes[1] is Rung.CONSUMED
        assert isinstance(outcomes[2], Lost)


@pytest.mark.parametrize("restarted", [False, True])
def test_open_tells_what_was_rejected_before(restarted: bool) -> None:
    store = ModelStore()
    one = opened(conversation())
    store.save(Changes(token="token"))
    one.receive([(RecordType.DATA, 0, seq, b"x") for seq in (1, 2)])
    one.reject(one.inbox, 1, 4022, "no")
    one.inbox.consume(2)
    changes = one.changes()
    store.save(changes)
    one.mark_saved(changes)
    assert [parse_record(record)[0] for record in one.records_to_send(1 << 20)] == [RecordType.REJECT, RecordType.ACK]
    one.interrupt()  # and both were lost
    if restarted:
        one = conversation(stored=store.load())
    one.attach()
    [record] = one.records_to_send(1 << 20)
    _, _, position, body = parse_record(record)
    assert (position, OpenFromClient.from_json(body).rejected) == (2, ((1, 1, 4022, "no"),))


def test_a_new_session_knows_nothing_of_what_was_rejected_in_the_old_one() -> None:
    one = opened(conversation())
    one.receive([(RecordType.DATA, 0, 1, b"x")])
    one.reject(one.inbox, 1, 4022, "no")
    save(one)
    opened(one, token="new")
    one.attach()
    [record] = one.records_to_send(1 << 20)
    assert OpenFromClient.from_json(parse_record(record)[3]).rejected == ()
