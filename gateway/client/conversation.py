"""One session as its client sees it, without I/O: long, for it is one state machine. Records in, records out, whatever
connections carry them.

Invariant: nothing is told to the gateway before it was saved. The caller takes `changes`, saves them, reports them with
`mark_saved`, and only then does `records_to_send` send what they say was sent and acknowledge what was consumed.

A turn of the caller's: `receive` with what came in, the application's calls to `send`, `inbox` and so on, `changes` and
`mark_saved`, `records_to_send`. `take_events` gives what happened.

General theory of operation. Where the gateway has the session no more, a new one takes its place: messages that were
settled according to the report are settled, those that were never forwarded are carried over under new numbers (unless
`carry_over` is false), and the rest is lost: the application is told, because only it can know what sending them again
would do. What came in the old session and waits to be taken is still handed out, and never acknowledged.

A CLOSE with a code of `BEGUN_ANEW` is no end that somebody meant: the session is lost. What its report says to be
settled is settled, and the rest waits for the next connection: OPENED on it says whether the session is back.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.client.events import Acknowledged, CredentialJudged, Event, MessageRejected, MessagesLost, Opened
from gateway.client.faults import Fate, Lost, Rejected, SessionEnded, TooBig
from gateway.client.receipts import Receipt
from gateway.client.store import Changes, StoredSession
from gateway.codes import BEGUN_ANEW, TRY_AGAIN_LATER
from gateway.ends.messages import MAX_REJECT_REASON_BYTES, check_code
from gateway.errors import ConnectionFault, MessageTooBig, ProtocolViolation, fitting_reason
from gateway.protocol.inbox import Inbox, OversizeMessage, WholeMessage
from gateway.protocol.outbox import MessageNotKept, Outbox, OutgoingMessage
from gateway.protocol.records import (
    FRAGMENT_BYTES,
    AuthByGateway,
    AuthFromClient,
    CloseBody,
    LossReport,
    OpenedByGateway,
    OpenFromClient,
    Record,
    RecordType,
    RejectBody,
    Rung,
    SessionReport,
    encode_record,
)
from gateway.protocol.rejections import Rejections, tells_of

TIMES_BEHIND: Final = 4
"""A gateway that knows less of the session than we do has not heard yet that another one had it. If it stays so, the
backend has forgotten something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnd:
    """How a session ended for good."""

    code: int
    reason: str
    by_gateway: bool


class Conversation:
    """A session's state machine. `window_messages` and `window_bytes` are what the gateway may have unconsumed.

    `stored` is where an earlier process left it, None for a new session. `receipts` are the rungs below the settling
    one that are wanted.
    """

    def __init__(
        self,
        stored: StoredSession | None,
        *,
        receipts: Iterable[Rung],
        window_messages: int,
        window_bytes: int,
        carry_over: bool = True,
    ) -> None:
        self._stored = stored is not None
        stored = stored or StoredSession()
        self.token = stored.token
        """What the session is resumed with, None before the gateway has given it."""
        self.opened: OpenedByGateway | None = None
        """The newest OPENED: the limits to keep."""
        self.end: SessionEnd | None = None
        """How the session ended for good, None while it goes on."""
        self.report: SessionReport | None = None
        """The newest loss report: of this session if it has ended, else of the one before it."""
        self.cause: BaseException | None = None
        """Why there is no connection, as the caller knows it: the cause of what gets lost."""
        self.resumes = 0
        """How many times the session was taken up again by this process."""
        self.inbox = Inbox(
            consumed=stored.consumed,
            window_messages=window_messages,
            window_bytes=window_bytes,
            rejected=stored.rejected,
        )
        self.outbox = Outbox(
            settled=stored.settled, sent=stored.sent, messages=stored.outbox, kept_bytes=0, encode=encode_record
        )
        if stored.token is None:
            # The token is saved before the first byte leaves: nobody has seen any of these.
            self.outbox.begun = self.outbox.carried = stored.settled
        self._wanted = tuple(sorted(set(receipts)))
        self._carry_over = carry_over
        self._receipts = {message.seq: Receipt(message.seq) for message in stored.outbox}
        self._climbed: dict[Rung, int] = {}
        """Up to which message each rung below the settling one was told."""
        self._former: deque[Inbox] = deque()
        """Of sessions that are gone: what came in them and was not taken."""
        self._rejects: dict[int, bytes] = {}
        """REJECT records that no connection has carried yet."""
        self._refused = Rejections(stored.rejected, accepted=stored.consumed, window_messages=window_messages)
        """What we have refused of the gateway's messages, and it may not know of."""
        self._saved_refused = stored.rejected
        self._saved_refused_version = self._refused.version
        self._events: list[Event] = []
        self._begins_anew = False
        self._saved_token = stored.token
        self._saved_consumed = self._acked = stored.consumed
        self._saved_sent = stored.sent
        self._saved_settled = stored.settled
        self._lost: CloseBody | None = None
        """The CLOSE that said that the session is lost, until OPENED says what became of it."""
        self._times_behind = 0
        """Gateways in a row that knew less of the session than we do."""
        self._is_concluded = False
        """The session is over and all messages are accounted for: nothing of it need be kept."""
        self._store_is_done = False
        self._takes_messages = True
        self._control: list[bytes] = []
        self._attached = False
        self._is_open = False
        self._at_once = False
        self._close_sent = False
        self.is_credential_due = False
        """The gateway asks for another credential: it is to be given to `renew`."""
        self._auths = 0
        """The number of the newest AUTH of this connection."""

    # --- what it says -----------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """A connection is there, and the gateway has answered OPEN on it."""
        return self._is_open

    @property
    def is_settled(self) -> bool:
        """No message is under way."""
        return not self._receipts

    @property
    def receipts(self) -> Sequence[Receipt]:
        """Those of all messages under way, in order."""
        return tuple(self._receipts.values())

    @property
    def settles_at(self) -> Rung:
        """The rung that settles our messages."""
        return Rung.CONSUMED if self.opened is None else self.opened.settles_at

    def take_events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    # --- connections ------------------------------------------------------------------------------------------------

    def attach(self, *, credential: str | None = None, renews: bool = False) -> None:
        """A connection is there: OPEN goes out on it, with that credential; `renews`: another one can be asked for."""
        self.interrupt()
        self._attached = True
        # A message that was rejected must not be told as consumed: if not the list, its REJECT tells, and then the ACK.
        untold = [seq for seq in self._rejects if not tells_of(self._saved_refused, seq)]
        self._acked = min([self._saved_consumed, *(seq - 1 for seq in untold)])
        body = OpenFromClient(
            session=self._saved_token,
            receipts=self._wanted,
            window_messages=self.inbox.window_messages,
            window_bytes=self.inbox.window_bytes,
            rejected=self._saved_refused,
            token=credential,
            renew=renews,
        )
        self._control.append(encode_record(RecordType.OPEN, 0, self._acked, body.to_json()))

    def interrupt(self) -> None:
        """The connection is gone; the session waits for the next one."""
        self._attached = self._is_open = self._close_sent = self.is_credential_due = False
        self._auths = 0
        self._control.clear()
        self.inbox.interrupt()

    def renew(self, credential: str) -> None:
        """Shows another credential on the open connection; without effect where there is none that takes it."""
        self.is_credential_due = False
        if self._is_open and self.opened is not None and self.opened.renew:
            self._auths += 1
            body = AuthFromClient(token=credential)
            self._control.append(encode_record(RecordType.AUTH, 0, self._auths, body.to_json()))

    def is_congested(self, queued_bytes: int) -> bool:
        """Nothing more should be read: over `queued_bytes` wait for the application."""
        if self.end is not None:
            return False
        return self.inbox.queued_bytes + sum(former.queued_bytes for former in self._former) > queued_bytes

    @property
    def is_lost(self) -> bool:
        """The gateway has said that the session is lost, and no connection yet what became of it."""
        return self._lost is not None

    @property
    def goodbye(self) -> tuple[int, str]:
        """The code and the reason to close a connection with that `is_over`."""
        said = self.end or self._lost
        assert said is not None, "the connection is over"
        return said.code, said.reason

    @property
    def is_over(self) -> bool:
        """This connection has carried all that it will carry of ours: it can be closed."""
        if self.end is None:
            return self._lost is not None and not self._attached
        if not self.end.by_gateway:
            return self._close_sent or (self._at_once and not self._is_open)
        # What came before the end can still be consumed, and acknowledged until the connection closes.
        return not (self._is_open and self._takes_messages) or self._acked == self.inbox.accepted

    # --- from the gateway -------------------------------------------------------------------------------------------

    def receive(self, records: Sequence[Record]) -> None:
        """Takes what came on the attached connection. A fault of the gateway's ends the session, as `fail` does."""
        if not records or not self._attached or (self.end is not None and self.end.by_gateway):
            return
        try:
            if not self._is_open:
                self._receive_answer(*records[0])
                if self._lost is not None:
                    return
                records = records[1:]
            if self.end is None:
                others = self.inbox.receive(records)
            else:
                others = [record for record in records if record[0] != RecordType.DATA]
            for record in others:
                self._receive(*record)
        except (ConnectionFault, MessageNotKept) as fault:
            self.fail(fault)

    def _receive_answer(self, record_type: int, flags: int, seq: int, body: bytes) -> None:
        """The first record of a connection."""
        if record_type == RecordType.CLOSE:
            self._receive(record_type, flags, seq, body)
        elif record_type == RecordType.OPENED:
            self._open(seq, OpenedByGateway.from_json(body))
        else:
            raise ProtocolViolation(f"{RecordType(record_type).name} in answer to OPEN, expected OPENED or CLOSE")

    def _open(self, position: int, opened: OpenedByGateway) -> None:
        if opened.resumed:
            if self._saved_token is None:
                raise ProtocolViolation("OPENED says resumed, but no session was asked for")
            if position < self.outbox.settled and self._times_behind < TIMES_BEHIND:
                # It has the session as it was before another gateway had it, and will hear of that from the backend.
                self._times_behind += 1
                reason = f"OPENED at {position}, but message {self.outbox.settled} is settled: the gateway is behind"
                self._lose(CloseBody(code=TRY_AGAIN_LATER, reason=reason))
                return
            self.resumes += 1
        elif position:
            raise ProtocolViolation(f"OPENED of a new session at message {position}, expected 0")
        else:
            lost = None if self._lost is None else self._lost.report
            self._begin_session(opened.report or lost)
        self._lost = None
        self._times_behind = 0
        self.token = opened.session
        self.opened = opened
        self.outbox.window_messages = opened.window_messages
        self.outbox.window_bytes = opened.window_bytes
        before = self.outbox.settled
        begun = self.outbox.begun
        self._learn_rejected(self.outbox.resume(position, opened.rejected if opened.resumed else ()))
        self._is_open = True
        self._settle(before, opened.settles_at)
        if opened.message_bytes is not None:
            self._withdraw(opened.message_bytes)
        self.cause = None
        replayed = sum(1 for message in self.outbox.unsettled() if message.seq <= begun)
        self._events.append(Opened(resumed=opened.resumed, replayed=replayed))

    def _withdraw(self, message_bytes: int) -> None:
        """Takes back what this gateway would not take and no gateway has seen a byte of: it would end the session.

        Those are messages that were handed over before the limit was known, or under another one. What follows them
        moves up in the numbers, so all that is stored is stored anew.
        """
        outbox = self.outbox
        too_big = {
            message.seq: message.size
            for message in outbox.unsettled()
            if message.seq > outbox.begun and message.size > message_bytes
        }
        if not too_big:
            return
        receipts = {seq: self._receipts.pop(seq) for seq in tuple(self._receipts) if seq > outbox.begun}
        for old, new in outbox.withdraw(too_big).items():
            receipt = self._receipts[new] = receipts.pop(old)
            receipt.seq = new
        for seq, receipt in receipts.items():
            failure = TooBig(seq, size=too_big[seq], limit=message_bytes)
            receipt.fail(failure)
            self._events.append(MessageRejected(seq=seq, code=failure.code, reason=failure.reject_reason))
        self._begins_anew = True
        self._saved_token = None
        self._saved_consumed = self._saved_sent = self._saved_settled = 0

    def _begin_session(self, report: SessionReport | None) -> None:
        """The gateway has begun a new session; if there was another before, it is gone."""
        if self.token is None:
            return
        inbox = self.inbox
        self._former.append(inbox)
        self.inbox = Inbox(consumed=0, window_messages=inbox.window_messages, window_bytes=inbox.window_bytes)
        carried = self._conclude(report, carry_over=self._carry_over)
        receipts = [self._receipts.pop(message.seq) for message in carried]
        self._receipts.clear()
        self.outbox = Outbox(kept_bytes=0, encode=encode_record)
        for message, receipt in zip(carried, receipts, strict=True):
            receipt.seq = self.outbox.append(text=message.text, payload=b"".join(message.chunks))
            self._receipts[receipt.seq] = receipt
        self._rejects.clear()
        self._refused = Rejections()
        self._saved_refused = ()
        self._saved_refused_version = 0
        self._climbed.clear()
        self._begins_anew = True
        self._saved_consumed = self._acked = self._saved_sent = self._saved_settled = 0

    def _receive(self, record_type: int, flags: int, seq: int, body: bytes) -> None:
        if record_type == RecordType.ACK:
            self._acknowledge(Rung(flags), seq)
        elif record_type == RecordType.REJECT:
            self._reject(seq, RejectBody.from_json(body))
        elif record_type == RecordType.AUTH and self.opened is not None and self.opened.renew:
            self._hear_of_credential(seq, AuthByGateway.from_json(body))
        elif record_type == RecordType.CLOSE:
            close = CloseBody.from_json(body)
            if self.end is None and close.code in BEGUN_ANEW:
                self._lose(close)
                return
            if self.end is None:
                self.end = SessionEnd(code=close.code, reason=close.reason, by_gateway=True)
            self._close_sent = True  # should the two have crossed: the gateway takes nothing any more
            self._conclude(close.report, carry_over=False)
            self._is_concluded = True
        else:
            raise ProtocolViolation(f"{RecordType(record_type).name} in an open session")

    def _hear_of_credential(self, seq: int, judged: AuthByGateway) -> None:
        if not seq:
            self.is_credential_due = True
            return
        if seq != self._auths:
            raise ProtocolViolation(f"AUTH {seq}, expected the answer to {self._auths}")
        left = judged.expires_in_seconds
        self._events.append(CredentialJudged(expires_in_seconds=left, code=judged.code, reason=judged.reason))

    def _lose(self, close: CloseBody) -> None:
        """The gateway says that the session is lost: it may be back on another connection, or begin anew there."""
        if close.report is not None:
            before = self.outbox.settled
            self.outbox.settle(min(close.report.upstream.settled, self.outbox.carried))
            self._settle(before, self.settles_at)
        self.interrupt()
        self._lost = close

    def _acknowledge(self, rung: Rung, seq: int) -> None:
        outbox = self.outbox
        if rung >= self.settles_at:
            before = outbox.settled
            if outbox.settle(seq):
                self._settle(before, rung)
            return
        if seq > outbox.carried:
            raise ProtocolViolation(f"ACK {seq}, expected at most {outbox.carried}, the last message sent")
        before = max(self._climbed.get(rung, 0), outbox.settled)
        if seq <= before:
            return
        self._climbed[rung] = seq
        receipts = [self._receipts[climbed] for climbed in range(before + 1, seq + 1) if climbed in self._receipts]
        for receipt in receipts:
            receipt.climb(rung)
        self._events.append(Acknowledged(first=before + 1, last=seq, count=len(receipts), rung=rung, settled=False))

    def _settle(self, before: int, rung: Rung) -> None:
        """Tell of messages after `before` that are settled now; rejected ones among them have been told of."""
        settled = self.outbox.settled
        if settled == before:
            return
        receipts = [self._receipts.pop(seq) for seq in range(before + 1, settled + 1) if seq in self._receipts]
        for receipt in receipts:
            receipt.settle(rung)
        event = Acknowledged(first=before + 1, last=settled, count=len(receipts), rung=rung, settled=True)
        self._events.append(event)

    def _reject(self, seq: int, body: RejectBody) -> None:
        if self.outbox.reject(seq):
            self._learn_rejected([(seq, *body.told)])

    def _learn_rejected(self, news: Sequence[tuple[int, int, str]]) -> None:
        """The far side has refused messages of ours: (number, code, reason) of each."""
        for seq, code, reason in news:
            self._receipts.pop(seq).fail(Rejected(seq, code, reason))
            self._events.append(MessageRejected(seq=seq, code=code, reason=reason))

    def _conclude(self, report: SessionReport | None, *, carry_over: bool) -> Sequence[OutgoingMessage]:
        """The session is over: settle or lose all messages; those to be carried over are returned, not lost."""
        self.report = report or self.report
        upstream = None if report is None else report.upstream
        before = self.outbox.settled
        if upstream is not None:
            self._learn_rejected(self.outbox.refuse(upstream.rejected))
        unsettled = self.outbox.unsettled()
        if upstream is not None:
            settled = min(upstream.settled, self.outbox.carried)
            self.outbox.settle(settled)
            self._settle(before, self.settles_at)
        remaining = [message for message in unsettled if message.seq > self.outbox.settled]
        unknown = [message for message in remaining if _is_unknown(message, upstream, self.outbox.begun)]
        never_forwarded = remaining[len(unknown) :]
        carried = never_forwarded if carry_over else []
        lost = [(message, Fate.UNKNOWN) for message in unknown]
        if not carry_over:
            lost += [(message, Fate.NEVER_FORWARDED) for message in never_forwarded]
        for message, fate in lost:
            self._receipts.pop(message.seq).fail(self._lost_message(message.seq, fate, report))
        if lost:
            self._events.append(
                MessagesLost(
                    report=report,
                    unknown=tuple(unknown),
                    never_forwarded=() if carry_over else tuple(never_forwarded),
                )
            )
        return carried

    def _lost_message(self, seq: int, fate: Fate, report: SessionReport | None) -> Lost:
        lost = Lost(seq, fate, report)
        end = self.end
        # An end that was said is the cause; else whatever broke the connection.
        is_said = end is not None and (end.by_gateway or self.cause is None)
        lost.__cause__ = SessionEnded(end.code, end.reason) if end is not None and is_said else self.cause
        return lost

    def fail(self, fault: ConnectionFault) -> None:
        """Ends the session at once because of `fault`; without effect once it has ended."""
        self.close(fault.close_code, fault.close_reason, at_once=True)

    # --- from the application ---------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes fits the gateway's windows; one larger than the window fits alone."""
        return self.outbox.has_room(size)

    def send(self, *, text: bool, payload: bytes) -> Receipt:
        """Takes a message, room or not. Raises MessageTooBig for one that the gateway would not take."""
        limit = None if self.opened is None else self.opened.message_bytes
        if limit is not None and len(payload) > limit:
            raise MessageTooBig(f"message of {len(payload)} bytes exceeds the gateway's limit of {limit} bytes")
        seq = self.outbox.append(text=text, payload=payload)
        receipt = self._receipts[seq] = Receipt(seq)
        return receipt

    def take_message(self, max_bytes: int) -> tuple[Inbox, WholeMessage | OversizeMessage] | None:
        """The next message, and the inbox it is to be consumed in; None while there is none."""
        while self._former:
            taken = self._former[0].take_message(max_bytes)
            if taken is not None:
                return self._former[0], taken
            self._former.popleft()
        taken = self.inbox.take_message(max_bytes)
        return None if taken is None else (self.inbox, taken)

    def reject(self, inbox: Inbox, seq: int, code: int, reason: str) -> None:
        """Refuses one message of the gateway's, which counts as consumed then.

        Raises ValueError for a message that has not come or a code outside 1000 to 4999. A reason is cut to 1024 bytes.
        """
        check_code(code)
        if inbox.discard(seq) and inbox is self.inbox:
            why = fitting_reason(reason, MAX_REJECT_REASON_BYTES)
            self._refused.add(
                seq,
                code,
                why,
                accepted=inbox.accepted,
                consumed=inbox.consumed,
                window_messages=inbox.window_messages,
            )
            body = RejectBody(code=code, reason=why).to_json()
            self._rejects[seq] = encode_record(RecordType.REJECT, 0, seq, body)

    def close(self, code: int, reason: str, *, at_once: bool = False) -> None:
        """Ends the session for good; without effect once it has ended.

        CLOSE goes behind all that was sent, or `at_once`. What is not settled then may still be, until `abandon`.
        Raises ValueError for a code outside 1000 to 4999. A reason is cut to 123 bytes.
        """
        check_code(code)
        self._takes_messages = False
        if self.end is None:
            self.end = SessionEnd(code=code, reason=fitting_reason(reason), by_gateway=False)
            self._at_once = at_once

    def abandon(self, code: int, reason: str) -> None:
        """Nothing more will come, and nothing be sent: what is not settled is lost.

        A session that had not ended yet stays in the store, to be taken up by another process.
        """
        if self.end is None:
            self.end = SessionEnd(code=code, reason=reason, by_gateway=False)
            self._store_is_done = True
        self.interrupt()
        if not self._is_concluded:
            self._conclude(None if self._lost is None else self._lost.report, carry_over=False)
            self._is_concluded = True

    def release(self) -> None:
        """Another process will take the session up: what is not settled is lost to this one, and to nobody else."""
        self.interrupt()
        for receipt in self._receipts.values():
            receipt.fail(self._lost_message(receipt.seq, Fate.UNKNOWN, None))
        self._receipts.clear()

    # --- to the store -----------------------------------------------------------------------------------------------

    def changes(self) -> Changes:
        """What is to be saved, empty when nothing has changed since the last `mark_saved`."""
        if self._is_concluded:
            return Changes(ended=not self._store_is_done)
        inbox, outbox = self.inbox, self.outbox
        has_sent = outbox.sent != self._saved_sent
        return Changes(
            begins_anew=self._begins_anew,
            token=self.token if self.token != self._saved_token else None,
            consumed=inbox.consumed if inbox.consumed != self._saved_consumed else None,
            sent=outbox.sent if has_sent else None,
            settled=outbox.settled if outbox.settled != self._saved_settled else None,
            appended=outbox.unsaved() if has_sent else (),
            rejected=self._refused.ranges if self._refused.version != self._saved_refused_version else None,
        )

    def mark_saved(self, changes: Changes) -> None:
        """The store has `changes`; what they say may be told."""
        if changes.ended:
            self._store_is_done = True
        self._begins_anew = False
        if changes.token is not None:
            self._saved_token = changes.token
        if changes.consumed is not None:
            self._saved_consumed = changes.consumed
        if changes.sent is not None:
            self._saved_sent = changes.sent
            self.outbox.mark_saved(changes.sent)
        if changes.settled is not None:
            self._saved_settled = changes.settled
        if changes.rejected is not None:
            self._saved_refused = tuple(changes.rejected)
            self._saved_refused_version = self._refused.version

    # --- to the gateway ---------------------------------------------------------------------------------------------

    def records_to_send(self, max_bytes: int) -> list[bytes]:
        """The records to send now on the attached connection, a WebSocket message each; some `max_bytes` at most."""
        if not self._attached:
            return []
        records, self._control = self._control, []
        if not self._is_open:
            return records
        records.extend(self._rejects.values())
        self._rejects.clear()
        # After the REJECTs, because an ACK that covers a message settles it.
        consumed = self.inbox.consumed if self._store_is_done else self._saved_consumed
        if consumed > self._acked:
            self._acked = consumed
            records.append(encode_record(RecordType.ACK, Rung.CONSUMED, self._acked))
        if self.end is None or not (self.end.by_gateway or self._at_once):
            records.extend(self.outbox.pull(max_bytes))
        if self._may_close():
            assert self.end is not None
            self._close_sent = True
            body = CloseBody(code=self.end.code, reason=self.end.reason)
            records.append(encode_record(RecordType.CLOSE, 0, 0, body.to_json()))
        return records

    def _may_close(self) -> bool:
        """Whether our CLOSE is due: once, behind all messages unless something is wrong."""
        if self.end is None or self.end.by_gateway or self._close_sent:
            return False
        return self._at_once or self.outbox.is_drained


def _is_unknown(message: OutgoingMessage, upstream: LossReport | None, begun: int) -> bool:
    """Whether a message that is not settled may have been sent on; of several in order, those that may come first.

    `begun` is the newest message of which we sent a byte.
    """
    if message.seq > begun:
        return False
    if upstream is None:
        return True
    if upstream.never_forwarded is not None:
        return message.seq < upstream.never_forwarded[0]
    newest = upstream.settled if upstream.unknown is None else upstream.unknown[1]
    # What the report does not reach up to never came to the gateway whole, but it may have sent on fragments of it.
    return message.seq <= newest or (message.seq == newest + 1 and message.size > FRAGMENT_BYTES)
