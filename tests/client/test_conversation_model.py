"""The session's core against a model of the far side, cut, killed and forgotten at random.

Whatever happens: a message arrives at most once in a session and in order; what a receipt calls settled has arrived;
what it calls never forwarded has not; and once everything is healed, every message has been accounted for.
"""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.client.conversation import Conversation
from gateway.client.faults import Fate, Lost, Rejected
from gateway.client.receipts import Receipt
from gateway.client.store import StoredSession
from gateway.protocol.inbox import Inbox, WholeMessage
from gateway.protocol.records import (
    Record,
    parse_record,
)
from tests.client.gateway_model import GatewayModel, ModelConnection, ModelSession, ModelStore
from tests.support.peers.gateway_double import Payload

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
        self.refused: dict[tuple[str, int], bool] = {}
        """What was decided last about each message taken."""
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
        self.refused[token, message.seq] = refuse
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
        rejected = [session.arrived[seq - 1] for session in self.all_sessions() for seq in session.rejected]
        for payload, receipt in self.receipts:
            if receipt.is_settled:
                assert payload in arrived
                assert payload not in rejected
            if isinstance(receipt.failure, Rejected):
                assert payload in rejected
            if isinstance(receipt.failure, Lost) and receipt.failure.fate is Fate.NEVER_FORWARDED:
                assert payload not in arrived

    @invariant()
    def what_the_gateway_hears_is_what_was_decided(self) -> None:
        for token, session in self.gateway.sessions.items():
            for seq in range(1, session.consumed + 1):
                assert (seq in session.refused) == self.refused[token, seq]

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
