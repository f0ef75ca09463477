"""The far side of a client's sessions, in memory: slow, obvious, and strict about what a client may send."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

from gateway.client.store import Changes, StoredSession
from gateway.protocol.outbox import OutgoingMessage
from gateway.protocol.records import (
    MORE_FLAG,
    TEXT_FLAG,
    LossReport,
    OpenedByGateway,
    OpenFromClient,
    Record,
    RecordType,
    RejectBody,
    Rung,
    SessionReport,
    encode_record,
    parse_record,
)
from gateway.protocol.rejections import RejectedRange
from tests.support.peers.gateway_double import Payload, decoded


@dataclass(slots=True, kw_only=True, eq=False)
class ModelSession:
    """One session as the gateway and everything behind it know it."""

    token: str
    arrived: list[Payload] = field(default_factory=list)
    """Whole messages of the client's, in order: message n is `arrived[n - 1]`."""
    settled: int = 0
    rejected: set[int] = field(default_factory=set)
    outgoing: list[Payload] = field(default_factory=list)
    consumed: int = 0
    """Of `outgoing`, acknowledged by the client."""
    carried: int = 0
    """Of `outgoing`, the newest that was sent on any connection."""
    refused: set[int] = field(default_factory=set)
    """Of `outgoing`, rejected by the client."""


class GatewayModel:
    """All sessions, and the windows they grant."""

    def __init__(self, *, window_messages: int = 1024, window_bytes: int = 1 << 20) -> None:
        self.sessions: dict[str, ModelSession] = {}
        self.reports: dict[str, SessionReport | None] = {}
        self.window_messages = window_messages
        self.window_bytes = window_bytes
        self._numbers = itertools.count(1)

    def new_session(self) -> ModelSession:
        session = ModelSession(token=f"token-{next(self._numbers)}")
        self.sessions[session.token] = session
        return session

    def forget(self, token: str, *, report: bool, forwarded: int) -> ModelSession:
        """Loses a session, of whose unsettled messages at most `forwarded` had left it; reports it, or says nothing."""
        session = self.sessions.pop(token)
        accepted = len(session.arrived)
        del session.arrived[session.settled + forwarded :]
        self.reports[token] = report_of(session, accepted) if report else None
        return session


def ranges(seqs: set[int]) -> tuple[RejectedRange, ...]:
    return tuple((seq, seq, 4009, "no") for seq in sorted(seqs))


def report_of(session: ModelSession, accepted: int) -> SessionReport:
    arrived = len(session.arrived)
    return SessionReport(
        upstream=LossReport(
            settled=session.settled,
            rejected=ranges(session.rejected),
            unknown=(session.settled + 1, arrived) if arrived > session.settled else None,
            never_forwarded=(arrived + 1, accepted) if accepted > arrived else None,
        ),
        downstream=LossReport(settled=session.consumed),
    )


class ModelConnection:
    """One connection: `receive` takes the client's records, `queue` holds what is on its way to it."""

    def __init__(self, gateway: GatewayModel) -> None:
        self.gateway = gateway
        self.session: ModelSession | None = None
        self.queue: deque[bytes] = deque()
        self.sent = 0
        """Messages that went out on this connection, counted from the session's first."""
        self.opened_at = 0
        """The position that OPENED told."""
        self.parts: list[bytes] = []
        self.closed: Record | None = None

    def receive(self, message: bytes) -> None:
        record_type, flags, seq, body = record = parse_record(message)
        assert self.closed is None, "nothing may follow CLOSE"
        if self.session is None:
            assert record_type == RecordType.OPEN, "OPEN comes first"
            self._open(seq, OpenFromClient.from_json(body))
        elif record_type == RecordType.DATA:
            self._data(self.session, flags, seq, body)
        elif record_type == RecordType.ACK:
            assert flags == Rung.CONSUMED
            assert self.session.consumed < seq <= self.session.carried, "an ACK is news, and of what was sent"
            self.session.consumed = seq
        elif record_type == RecordType.REJECT:
            assert self.session.consumed < seq <= self.session.carried
            self.session.refused.add(seq)
        elif record_type == RecordType.CLOSE:
            self.closed = record
        else:
            raise AssertionError(f"the client sent {record}")

    def _open(self, position: int, body: OpenFromClient) -> None:
        gateway = self.gateway
        known = gateway.sessions.get(body.session or "")
        session = self.session = known or gateway.new_session()
        if known is not None:
            # It may have missed the ACK of what it sent, never the other way round.
            assert session.consumed <= position <= len(session.outgoing)
            session.consumed = position
            session.refused.update(seq for first, last, *_ in body.rejected for seq in range(first, last + 1))
            self.sent = position
        else:
            assert body.session is not None or position == 0
        opened = OpenedByGateway(
            session=session.token,
            resumed=known is not None,
            settles_at=Rung.CONSUMED,
            window_messages=gateway.window_messages,
            window_bytes=gateway.window_bytes,
            rejected=ranges(session.rejected),
            report=None if known else gateway.reports.get(body.session or ""),
        )
        self.opened_at = session.settled
        self.queue.append(encode_record(RecordType.OPENED, 0, self.opened_at, opened.to_json()))

    def _data(self, session: ModelSession, flags: int, seq: int, body: bytes) -> None:
        assert self.opened_at < seq <= len(session.arrived) + 1, "no gap, and nothing that OPENED said is settled"
        self.parts.append(body)
        if flags & MORE_FLAG:
            return
        payload = decoded(flags, b"".join(self.parts))
        self.parts.clear()
        if seq <= len(session.arrived):
            assert session.arrived[seq - 1] == payload, "a number belongs to one message"
            return
        session.arrived.append(payload)
        unsettled = [*session.arrived[session.settled :]]
        assert len(unsettled) <= self.gateway.window_messages
        assert len(unsettled) == 1 or sum(map(size_of, unsettled)) <= self.gateway.window_bytes

    # --- towards the client -----------------------------------------------------------------------------------------

    def send(self) -> bool:
        """Puts the session's next message on its way; false when there is none."""
        session = self.session
        if session is None or self.sent >= len(session.outgoing):
            return False
        payload = session.outgoing[self.sent]
        self.sent += 1
        session.carried = max(session.carried, self.sent)
        body = payload.encode() if isinstance(payload, str) else payload
        text = TEXT_FLAG if isinstance(payload, str) else 0
        half = len(body) // 2
        if half:
            self.queue.append(encode_record(RecordType.DATA, text | MORE_FLAG, self.sent, body[:half]))
        self.queue.append(encode_record(RecordType.DATA, text, self.sent, body[half:]))
        return True

    def settle(self) -> None:
        """Acknowledges all that has arrived."""
        session = self.session
        if session is not None and session.settled < len(session.arrived):
            session.settled = len(session.arrived)
            self.queue.append(encode_record(RecordType.ACK, Rung.CONSUMED, session.settled))

    def reject(self) -> None:
        """Refuses the newest message, unless that is settled already."""
        session = self.session
        if session is not None and session.settled < len(session.arrived):
            seq = len(session.arrived)
            if seq not in session.rejected:
                session.rejected.add(seq)
                self.queue.append(
                    encode_record(RecordType.REJECT, 0, seq, RejectBody(code=4009, reason="no").to_json())
                )


def size_of(payload: Payload) -> int:
    return len(payload.encode() if isinstance(payload, str) else payload)


class ModelStore:
    """A client's store that is a plain picture of what it was told."""

    def __init__(self) -> None:
        self.session: StoredSession | None = None
        self.saves = 0

    def load(self) -> StoredSession | None:
        return self.session

    def save(self, changes: Changes) -> None:
        assert changes, "a save has something to save"
        self.saves += 1
        if changes.ended:
            self.session = None
            return
        old = StoredSession() if changes.begins_anew or self.session is None else self.session
        settled = old.settled if changes.settled is None else changes.settled
        messages: list[OutgoingMessage] = [*old.outbox, *changes.appended]
        self.session = StoredSession(
            token=old.token if changes.token is None else changes.token,
            consumed=old.consumed if changes.consumed is None else changes.consumed,
            sent=old.sent if changes.sent is None else changes.sent,
            settled=settled,
            outbox=tuple(message for message in messages if message.seq > settled),
            rejected=old.rejected if changes.rejected is None else tuple(changes.rejected),
        )
