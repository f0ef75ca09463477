"""One session as a backend sees it, without I/O: records in, records out, whatever connections carry them.

Invariant: nothing is told to the peer before it was saved. The caller takes `changes`, saves them, reports them with
`mark_saved`, and only then does `data_to_send` acknowledge what they say was consumed and send what they say was sent.

A turn of the caller's: `receive_records` with what came in, the handler's calls to `inbox`, `send` and so on,
`changes` and `mark_saved`, `data_to_send`.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import Final
from weakref import WeakValueDictionary

from gateway.backend.store import Changes, SessionEnd, StoredSession
from gateway.codes import SESSION_LOST, SUPERSEDED
from gateway.ends.messages import MAX_REJECT_REASON_BYTES, check_code
from gateway.errors import ConnectionFault, ProtocolViolation, fitting_reason
from gateway.protocol.inbox import Inbox
from gateway.protocol.outbox import MessageNotKept, Outbox
from gateway.protocol.records import (
    CloseBody,
    OpenedByBackend,
    OpenToBackend,
    Record,
    RecordType,
    RejectBody,
    Rung,
    SessionReport,
    encode_prefixed_record,
)
from gateway.protocol.rejections import Rejections, tells_of

CONTROL_BYTES: Final = 64 * 1024
"""Answers that wait to be sent: beyond this no more is read, so a flood of PINGs fills no memory."""

REJECTIONS_KEPT: Final = 256
"""Of messages that nobody has a receipt of."""


class Refused(Exception):
    """This OPEN is answered with CLOSE, which ends its connection; the session itself, if there is one, goes on."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Fate:
    """What is known of one message of ours, for as long as somebody wants to know."""

    __slots__ = ("__weakref__", "rejection")

    def __init__(self, rejection: RejectBody | None) -> None:
        self.rejection = rejection
        """How the peer has refused it, None if it has not."""


class State(Enum):
    """How far a session has come."""

    OPEN = "open"
    ENDED_BY_US = "ended_by_us"
    """CLOSE follows what is still to be sent; the peer's messages are not taken any more."""
    ENDED_BY_PEER = "ended_by_peer"
    """What came before its CLOSE may still be consumed and acknowledged; nothing else is sent."""


class Conversation:
    """A session's state machine. `window_messages` and `window_bytes` are what the peer may have unconsumed.

    `stored` is what the store had of it, None for a new session. `kept_bytes` is how much of a message that is sent, or
    taken, in pieces is kept for sending it, or giving it to the handler, again.
    """

    def __init__(
        self, stored: StoredSession | None, *, window_messages: int, window_bytes: int, kept_bytes: int
    ) -> None:
        self._known = stored is not None
        stored = stored or StoredSession()
        self.epoch = stored.epoch
        self.opening: OpenToBackend | None = None
        """The body of the newest OPEN."""
        self.end = stored.end
        """How the session ended for good, None while it goes on."""
        self.report: SessionReport | None = None
        """What the peer's CLOSE told of losses."""
        self.inbox = Inbox(
            consumed=stored.consumed,
            window_messages=window_messages,
            window_bytes=window_bytes,
            kept_bytes=kept_bytes,
            rejected=stored.rejected,
        )
        self.outbox = Outbox(settled=stored.settled, sent=stored.sent, messages=stored.outbox, kept_bytes=kept_bytes)
        self.settled_rung: Rung | None = None
        """What the newest ACK proved of the messages it settled."""
        self.rejections: dict[int, RejectBody] = {}
        """The newest of our messages that the peer has refused, and why."""
        self._fates: WeakValueDictionary[int, Fate] = WeakValueDictionary()
        self._refused = Rejections(stored.rejected, accepted=stored.consumed, window_messages=window_messages)
        """What we have refused of the peer's messages, and it may not know of."""
        self._saved_refused = stored.rejected
        self._saved_refused_version = self._refused.version
        self._saved_epoch = stored.epoch
        self._saved_consumed = stored.consumed
        self._saved_sent = stored.sent
        self._saved_settled = stored.settled
        self._end_saved = stored.end is not None
        self._acked = stored.consumed
        self._rejects: dict[int, bytes] = {}
        """REJECT records that no connection has carried yet."""
        self._control: list[bytes] = []
        self._control_bytes = 0
        self._attached = False
        self._opened = False
        self._at_once = False
        self._close_sent = False

    @property
    def state(self) -> State:
        """Where in its life the session is."""
        if self.end is None:
            return State.OPEN
        return State.ENDED_BY_PEER if self.end.by_peer else State.ENDED_BY_US

    # --- connections ------------------------------------------------------------------------------------------------

    def attach(self, position: int, opening: OpenToBackend) -> None:
        """A connection came with OPEN: what follows `position` is sent again on it, in place of any earlier one.

        Raises Refused for a stale epoch or position, a session that is not known, or one that the peer has ended: then
        nothing has changed. A position beyond what was sent ends the session, as `fail` does.
        """
        if opening.epoch < self.epoch:
            raise Refused(SUPERSEDED, f"epoch {opening.epoch} is older than {self.epoch}")
        if self.end is not None and self.end.by_peer:
            raise Refused(self.end.code, self.end.reason)
        if not self._known and (position > 0 or opening.resume):
            raise Refused(SESSION_LOST, "this backend does not know the session")
        if position < self.outbox.settled:
            # An OPEN that was overtaken on its way, whose client is long somewhere else, or goes by an old backup.
            raise Refused(SESSION_LOST, f"OPEN at {position}, but message {self.outbox.settled} was consumed before")
        self.interrupt()
        resumed, self._known = self._known, True
        self.epoch = opening.epoch
        self.opening = opening
        self.outbox.window_messages = opening.window_messages
        self.outbox.window_bytes = opening.window_bytes
        self._attached = True
        self._at_once = False
        try:
            self._learn_rejected(self.outbox.resume(position, opening.rejected))
        except (ProtocolViolation, MessageNotKept) as fault:
            self.fail(fault)
            return
        body = OpenedByBackend(
            resumed=resumed,
            window_messages=self.inbox.window_messages,
            window_bytes=self.inbox.window_bytes,
            rejected=self._saved_refused,
        )
        self._opened = True
        # A message that was rejected must not be told as consumed: if not the list, its REJECT tells, and then the ACK.
        untold = [seq for seq in self._rejects if not tells_of(self._saved_refused, seq)]
        self._acked = min([self._saved_consumed, *(seq - 1 for seq in untold)])
        self._control.append(encode_prefixed_record(RecordType.OPENED, 0, self._acked, body.to_json()))

    def interrupt(self) -> None:
        """The connection is gone; the session waits for the next one."""
        self._attached = self._opened = self._close_sent = False
        self._control.clear()
        self._control_bytes = 0
        self.inbox.interrupt()

    def is_congested(self, queued_bytes: int) -> bool:
        """Nothing more should be read: over `queued_bytes` wait for the handler, or answers for the connection."""
        if self._control_bytes > CONTROL_BYTES:
            return True
        return self.end is None and self.inbox.queued_bytes > queued_bytes

    @property
    def is_over(self) -> bool:
        """This connection has carried all that it will carry of ours, CLOSE included."""
        return self._close_sent

    # --- from the peer ----------------------------------------------------------------------------------------------

    def receive_records(self, records: Sequence[Record]) -> None:
        """Takes what came on the attached connection. A fault of the peer's ends the session, as `fail` does."""
        if self.state is State.ENDED_BY_PEER:
            return
        try:
            if self.end is None:
                others = self.inbox.receive(records)
            else:
                others = [record for record in records if record[0] != RecordType.DATA]
            for record in others:
                self._receive(*record)
        except ConnectionFault as fault:
            self.fail(fault)

    def _receive(self, record_type: int, flags: int, seq: int, body: bytes) -> None:
        if record_type == RecordType.ACK:
            # The gateway acknowledges to a backend at the settling rung only, so any ACK settles.
            if self.outbox.settle(seq):
                self.settled_rung = Rung(flags)
        elif record_type == RecordType.REJECT:
            if self.outbox.reject(seq):
                self._learn_rejected([(seq, *RejectBody.from_json(body).told)])
        elif record_type == RecordType.PING:
            self._answer(encode_prefixed_record(RecordType.PONG, 0, seq, body))
        elif record_type == RecordType.PONG:
            pass  # that something came is all a PONG says, and the caller has noticed
        elif record_type == RecordType.CLOSE:
            close = CloseBody.from_json(body)
            self.report = close.report
            if close.report is not None:  # an ACK or REJECT may have been lost with an earlier connection
                self._learn_rejected(self.outbox.refuse(close.report.downstream.rejected))
                self.outbox.settle(min(close.report.downstream.settled, self.outbox.carried))
            if self.end is None:
                self.end = SessionEnd(code=close.code, reason=close.reason, by_peer=True)
            else:
                self._close_sent = True  # the two crossed: the peer takes nothing any more
        else:
            raise ProtocolViolation(f"{RecordType(record_type).name} in an open session")

    def _learn_rejected(self, news: Sequence[tuple[int, int, str]]) -> None:
        """The peer has refused messages of ours: (number, code, reason) of each."""
        for seq, code, reason in news:
            self.rejections[seq] = body = RejectBody(code=code, reason=reason)
            fate = self._fates.get(seq)
            if fate is not None:
                fate.rejection = body
        while len(self.rejections) > REJECTIONS_KEPT:
            del self.rejections[next(iter(self.rejections))]

    def fate_of(self, seq: int) -> Fate:
        """What becomes of message `seq` of ours: who holds this is told, however many are refused after it."""
        fate = self._fates.get(seq)
        if fate is None:
            fate = self._fates[seq] = Fate(self.rejections.get(seq))
        return fate

    def fail(self, fault: ConnectionFault) -> None:
        """Ends the session at once because of `fault`; without effect once it has ended."""
        self.close(fault.close_code, fault.close_reason, at_once=True)

    # --- from the handler -------------------------------------------------------------------------------------------

    def reject(self, seq: int, code: int, reason: str) -> None:
        """Refuses one message of the peer's, which counts as consumed then; one that is consumed already stays so.

        Raises ValueError as `Inbox.consume`, and for a code outside 1000 to 4999. A reason is cut to 1024 bytes.
        """
        check_code(code)
        reason = fitting_reason(reason, MAX_REJECT_REASON_BYTES)
        body = RejectBody(code=code, reason=reason).to_json()
        if not self.inbox.discard(seq):
            return
        inbox = self.inbox
        self._refused.add(
            seq,
            code,
            reason,
            accepted=inbox.accepted,
            consumed=inbox.consumed,
            window_messages=inbox.window_messages,
        )
        self._rejects[seq] = encode_prefixed_record(RecordType.REJECT, 0, seq, body)

    def ping(self, payload: bytes) -> None:
        """Asks the peer for a sign of life."""
        self._answer(encode_prefixed_record(RecordType.PING, 0, 0, payload))

    def close(self, code: int, reason: str, *, at_once: bool = False) -> None:
        """Ends the session for good; without effect once it has ended.

        CLOSE goes behind all that was sent, or `at_once`: then the messages wait for a connection that asks for them.
        Raises ValueError for a code outside 1000 to 4999. A reason is cut to 123 bytes.
        """
        check_code(code)
        if self.end is None:
            self.end = SessionEnd(code=code, reason=fitting_reason(reason), by_peer=False)
            self._at_once = at_once

    def _answer(self, record: bytes) -> None:
        self._control.append(record)
        self._control_bytes += len(record)

    # --- to the store -----------------------------------------------------------------------------------------------

    def changes(self) -> Changes:
        """What is to be saved, empty when nothing has changed since the last `mark_saved`."""
        inbox, outbox = self.inbox, self.outbox
        has_sent = outbox.sent != self._saved_sent
        takes_messages = self.state is not State.ENDED_BY_PEER
        changes = Changes(
            epoch=self.epoch if self.epoch != self._saved_epoch else None,
            consumed=inbox.consumed if inbox.consumed != self._saved_consumed else None,
            sent=outbox.sent if has_sent else None,
            settled=outbox.settled if outbox.settled != self._saved_settled else None,
            appended=outbox.unsaved() if has_sent and takes_messages else (),
            rejected=self._refused.ranges if self._refused.version != self._saved_refused_version else None,
        )
        if self.end is None or (self._end_saved and not changes):
            return changes
        # With every save after the end too: the store may have forgotten the session, and must not open it again.
        return replace(changes, end=self.end)

    def mark_saved(self, changes: Changes) -> None:
        """The store has `changes`; what they say may be told."""
        if changes.epoch is not None:
            self._saved_epoch = changes.epoch
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
        if changes.end is not None:
            self._end_saved = True

    def changes_with(self, seq: int, replies: Sequence[tuple[bool, bytes]]) -> Changes:
        """What is to be saved if message `seq` is consumed and `replies` (text, payload) are sent; nothing is yet.

        Raises ValueError for a message that has not come whole, RuntimeError while one of ours is sent in pieces.
        """
        changes, outbox = self.changes(), self.outbox
        appended = outbox.numbered(replies)
        consumed = self.inbox.consumed_after(seq)
        takes_messages = self.state is not State.ENDED_BY_PEER
        return replace(
            changes,
            consumed=consumed if consumed != self._saved_consumed else None,
            sent=outbox.sent + len(appended) if appended else changes.sent,
            appended=[*changes.appended, *appended] if takes_messages else (),
        )

    def complete(self, seq: int, replies: Sequence[tuple[bool, bytes]], changes: Changes) -> None:
        """The store has `changes`, which are those that `changes_with` gave just now for the same arguments."""
        for text, payload in replies:
            self.outbox.append(text=text, payload=payload)
        self.inbox.consume(seq)
        self.mark_saved(changes)

    # --- to the peer ------------------------------------------------------------------------------------------------

    def data_to_send(self, max_bytes: int) -> bytes:
        """The bytes to send now on the attached connection, some `max_bytes` at most; empty when there is nothing."""
        if not self._attached:
            return b""
        parts, self._control = self._control, []
        self._control_bytes = 0
        if self._opened:
            parts.extend(self._rejects.values())
            self._rejects.clear()
            # After the REJECTs, because an ACK that covers a message settles it.
            if self._saved_consumed > self._acked:
                self._acked = self._saved_consumed
                parts.append(encode_prefixed_record(RecordType.ACK, Rung.CONSUMED, self._acked))
            if self.state is not State.ENDED_BY_PEER:
                parts.extend(self.outbox.pull(max_bytes))
        if self.end is not None and self._end_saved and self._may_close():
            self._close_sent = True
            body = CloseBody(code=self.end.code, reason=self.end.reason)
            parts.append(encode_prefixed_record(RecordType.CLOSE, 0, 0, body.to_json()))
        return b"".join(parts)

    def _may_close(self) -> bool:
        """Whether our CLOSE is due: once, behind all messages unless something is wrong."""
        if self._close_sent or self.state is not State.ENDED_BY_US:
            return False
        return self._at_once or not self._opened or self.outbox.is_drained
