"""The session's core against a model of the far side, cut, killed and forgotten at random.

Whatever happens: a message arrives at most once in a session and in order; what a receipt calls settled has arrived;
what it calls never forwarded has not; and once everything is healed, every message has been accounted for.
"""

import json
from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.client.conversation import Conversation
from gateway.client.events import Acknowledged, MessageRejected
from gateway.client.faults import Fate, Lost, Rejected
from gateway.client.receipts import Receipt
from gateway.client.store import Changes, StoredSession
from gateway.protocol.inbox import Inbox, WholeMessage
from gateway.protocol.outbox import OutgoingMessage
from gateway.protocol.records import (
    FRAGMENT_BYTES,
    OpenFromClient,
    Record,
    RecordType,
    Rung,
    encode_record,
    parse_record,
)
from tests.client.gateway_model import GatewayModel, ModelConnection, ModelSession, ModelStore, Payload

WINDOW_MESSAGES = 4
WINDOW_BYTES = 200_000


class Sessions(RuleBasedStateMachine):
    @initialize(carry_over=st.booleans())
    def begin(self, carry_over: bool) -> None:
        self.gateway = GatewayModel(window_messages=WINDOW_MESSAGES, window_bytes=WINDOW_BYTES)
        self.store = ModelStore()
        self.carry_over = carry_over
        self.connection: ModelConnection | None = None
        self.up: list[bytes] = []
        """Records on their way to the gateway."""
        self.receipts: list[tuple[Payload, Receipt]] = []
        self.taken: list[tuple[str, int, Payload]] = []
        """(token of the session, number, payload)."""
        self.tokens: dict[Inbox, str] = {}
        self.offered: list[Payload] = []
        """What the far side has sent in all sessions."""
        self.forgotten: list[ModelSession] = []
        self.count = 0
        self.conversation = self.new_conversation()

    def new_conversation(self) -> Conversation:
        return Conversation(
            self.store.load(),
            receipts=(),
            window_messages=WINDOW_MESSAGES,
            window_bytes=WINDOW_BYTES,
            carry_over=self.carry_over,
        )

    @property
    def session(self) -> ModelSession | None:
        return None if self.connection is None else self.connection.session

    def save(self) -> None:
        changes = self.conversation.changes()
        if changes:
            self.store.save(changes)
            self.conversation.mark_saved(changes)

    # --- the application --------------------------------------------------------------------------------------------

    @rule(size=st.sampled_from([0, 5, 70_000, 150_000]), text=st.booleans())
    def send(self, size: int, text: bool) -> None:
        if not self.conversation.has_room(size + 8):
            return
        self.count += 1
        content = f"up {self.count:4} ".ljust(size + 8, "x")
        payload: Payload = content if text else content.encode()
        receipt = self.conversation.send(text=text, payload=content.encode())
        self.receipts.append((payload, receipt))

    @precondition(lambda self: self.conversation.inbox.queued_bytes or self.connection is None)
    @rule(refuse=st.booleans())
    def take(self, refuse: bool) -> None:
        taken = self.conversation.take_message(1 << 20)
        if taken is None:
            return
        inbox, message = taken
        assert isinstance(message, WholeMessage)
        token = self.tokens.setdefault(inbox, str(self.conversation.token))
        self.taken.append((token, message.seq, message.data))
        if refuse:
            self.conversation.reject(inbox, message.seq, 4009, "no")
        else:
            inbox.consume(message.seq)

    # --- the network ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.connection is None)
    @rule(opened=st.sampled_from([True, True, False]))
    def connect(self, opened: bool = False) -> None:
        self.save()
        self.connection = ModelConnection(self.gateway)
        self.conversation.attach()
        self.write()
        if opened:
            self.deliver_up(1)
            assert self.connection.session is not None
            known = self.conversation.token in self.gateway.sessions
            assert not known or self.connection.session.token == self.conversation.token
            self.deliver_down(1)

    @precondition(lambda self: self.connection is not None)
    @rule()
    def cut(self) -> None:
        self.connection = None
        self.up.clear()
        self.conversation.interrupt()

    @precondition(lambda self: self.connection is not None)
    @rule(max_bytes=st.sampled_from([1, 1 << 20]))
    def write(self, max_bytes: int = 1 << 20) -> None:
        self.save()
        self.up.extend(self.conversation.records_to_send(max_bytes))

    @precondition(lambda self: self.connection is not None)
    @rule(count=st.sampled_from([1, 2, 20]))
    def deliver_up(self, count: int) -> None:
        assert self.connection is not None
        if not self.up:
            self.write()
        for record in self.up[:count]:
            self.connection.receive(record)
        del self.up[:count]

    @precondition(lambda self: self.connection is not None)
    @rule(count=st.sampled_from([1, 2, 20]))
    def deliver_down(self, count: int) -> None:
        assert self.connection is not None
        records: list[Record] = []
        while self.connection.queue and len(records) < count:
            records.append(parse_record(self.connection.queue.popleft()))
        self.conversation.receive(records)
        assert self.conversation.end is None
        self.conversation.take_events()

    # --- the far side -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.session is not None)
    @rule(size=st.sampled_from([0, 100]), text=st.booleans())
    def offer(self, size: int, text: bool) -> None:
        assert self.connection is not None
        session = self.connection.session
        assert session is not None
        if len(session.outgoing) - session.consumed < WINDOW_MESSAGES:
            content = f"down {len(self.offered):4} ".ljust(size, "y")
            payload: Payload = content if text else content.encode()
            session.outgoing.append(payload)
            self.offered.append(payload)
        self.connection.send()

    @precondition(lambda self: self.session is not None)
    @rule(reject=st.booleans())
    def settle(self, reject: bool) -> None:
        assert self.connection is not None
        if reject:
            self.connection.reject()
        self.connection.settle()

    @precondition(lambda self: self.conversation.token in self.gateway.sessions)
    @rule(report=st.booleans(), forwarded=st.integers(0, WINDOW_MESSAGES))
    def forget(self, report: bool, forwarded: int) -> None:
        """The gateway loses the session, and the client finds out at once."""
        if self.connection is not None:
            self.cut()
        assert self.conversation.token is not None
        self.forgotten.append(self.gateway.forget(self.conversation.token, report=report, forwarded=forwarded))
        self.connect(opened=True)

    # --- the process ------------------------------------------------------------------------------------------------

    @rule()
    def kill(self) -> None:
        """The process dies between two turns: what was not saved is gone, and was never sent."""
        self.connection = None
        self.up.clear()
        stored = self.store.session or StoredSession()
        kept = stored.outbox
        self.receipts = [(payload, receipt) for payload, receipt in self.receipts if receipt.has_ended]
        # What it had taken, and not saved as consumed, comes again.
        self.taken = [taken for taken in self.taken if taken[0] != stored.token or taken[1] <= stored.consumed]
        self.conversation = self.new_conversation()
        assert [receipt.seq for receipt in self.conversation.receipts] == [message.seq for message in kept]

    # --- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def receipts_tell_the_truth(self) -> None:
        arrived = [payload for session in self.all_sessions() for payload in session.arrived]
        assert len(arrived) == len(set(arrived))
        for payload, receipt in self.receipts:
            if receipt.is_settled:
                assert payload in arrived
            if isinstance(receipt.failure, Lost) and receipt.failure.fate is Fate.NEVER_FORWARDED:
                assert payload not in arrived

    @invariant()
    def messages_come_once_and_in_order(self) -> None:
        order = [self.offered.index(payload) for _, _, payload in self.taken]
        assert order == sorted(set(order))

    def all_sessions(self) -> list[ModelSession]:
        return [*self.forgotten, *self.gateway.sessions.values()]

    def teardown(self) -> None:
        if not hasattr(self, "conversation"):
            return
        if self.connection is None:
            self.connect()
        for _ in range(50):
            self.deliver_up(1000)
            self.settle(False)
            while self.connection is not None and self.connection.send():
                pass
            self.deliver_down(1000)
            self.take(False)
        assert self.conversation.is_settled
        assert all(receipt.has_ended for _, receipt in self.receipts)
        session = self.session
        assert session is not None
        assert session.consumed == len(session.outgoing)
        assert session.settled == len(session.arrived)
        arrived = {payload for model in self.all_sessions() for payload in model.arrived}
        for payload, receipt in self.receipts:
            assert payload in arrived or isinstance(receipt.failure, Lost)
            if isinstance(receipt.failure, Rejected):
                assert receipt.failure.code == 4009


TestSessions = Sessions.TestCase


# --- what the model does not do: a gateway that breaks the protocol, and the end ------------------------------------


def conversation(*, receipts: Sequence[Rung] = (), stored: StoredSession | None = None) -> Conversation:
    return Conversation(stored, receipts=receipts, window_messages=1024, window_bytes=1 << 20)


def save(conversation: Conversation) -> None:
    conversation.mark_saved(conversation.changes())


def opened(
    conversation: Conversation, position: int = 0, *, token: str = "token", resumed: bool = False, **body: object
) -> Conversation:
    """The conversation, open on a new connection."""
    conversation.attach()
    conversation.records_to_send(1 << 20)
    answer = {"session": token, "resumed": resumed, "settles_at": "consumed", **body}
    conversation.receive([(RecordType.OPENED, 0, position, json.dumps(answer).encode())])
    save(conversation)
    return conversation


def sent(conversation: Conversation, *texts: str) -> list[Receipt]:
    """The receipts of messages that have left."""
    receipts = [conversation.send(text=True, payload=text.encode()) for text in texts]
    save(conversation)
    conversation.records_to_send(1 << 20)
    return receipts


def types_sent(conversation: Conversation) -> list[int]:
    save(conversation)
    return [parse_record(record)[0] for record in conversation.records_to_send(1 << 20)]


def close_record(code: int, **body: object) -> Record:
    return RecordType.CLOSE, 0, 0, json.dumps({"code": code, "reason": "because", **body}).encode()


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
    opened(session, position, resumed=True)
    assert session.end is not None
    assert f"at {position}, expected 1 to 2" in session.end.reason


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


@pytest.mark.parametrize(("code", "reason"), [(999, ""), (5000, ""), (4000, "x" * 124)])
def test_an_end_that_the_gateway_would_not_take_is_refused(code: int, reason: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        conversation().close(code, reason)


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
        session.receive([close_record(1014, report=report)])
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


def data(seq: int, payload: bytes = b"x") -> Record:
    return RecordType.DATA, 0, seq, payload


def take(session: Conversation) -> tuple[Inbox, int]:
    """(inbox, number) of the next message."""
    taken = session.take_message(1 << 20)
    assert taken is not None
    return taken[0], taken[1].seq


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


def test_a_reject_that_no_connection_carried_goes_out_on_the_next_one_before_its_ack() -> None:
    session = opened(conversation())
    session.receive([data(1), data(2)])
    first, second = take(session), take(session)
    first[0].consume(first[1])
    session.reject(*second, 4009, "no")
    save(session)
    session.attach()
    [record] = session.records_to_send(1 << 20)
    assert parse_record(record)[2] == 1, "OPEN must not call the rejected message consumed"
    session.receive([(RecordType.OPENED, 0, 0, b'{"session":"token","resumed":true,"settles_at":"consumed"}')])
    assert types_sent(session) == [RecordType.REJECT, RecordType.ACK]
