"""The client's side of a relay under `kakitome.v1`: one binary message, one record; the session outlives the socket.

Invariant: what this connection carries is numbered by `Numbering`, which the session keeps from one connection to the
next; so whatever is sent again is known again. ACKs are coalesced: at most one for each rung a turn.
"""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.codes import NO_CODE
from gateway.errors import ConnectionFault, KeepaliveTimeout, PolicyViolation, ProtocolViolation
from gateway.memory.account import Charge
from gateway.protocol.ledger import Ledger
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import Opcode, Piece
from gateway.protocol.records import (
    MAX_BODY_BYTES,
    AuthByGateway,
    AuthFromClient,
    CloseBody,
    OpenedByGateway,
    Record,
    RecordAssembler,
    RecordType,
    RejectBody,
    Rung,
    SessionReport,
    encode_record,
)
from gateway.protocol.sequencing import DataReceiver, DataSender
from gateway.relay.place import Place
from gateway.relay.websocket_side import WHOLE, WebSocketSide
from gateway.telemetry.metrics import UnknownReason

REJECT_BYTES = 160
"""Around a REJECT that is kept: its number, its entry, what a bytes object has before its data."""

_BINARY = int(Opcode.BINARY)


@dataclass(slots=True, kw_only=True, eq=False)
class Numbering:
    """Where the numbering of a session's messages stands, towards its client."""

    receiver: DataReceiver
    """Of the client's messages."""
    sender: DataSender
    """Of the messages for the client."""
    receipts: frozenset[Rung] = frozenset()
    """Rungs below the settling one that the client wants to hear of."""
    has_heartbeat: bool = False
    """The client wants to hear a record with each ping."""
    told_later: Charge
    """For `rejects`."""
    rejects: dict[int, bytes] = field(default_factory=dict)
    """REJECT records by message, kept until an ACK of ours covers them: the client may have missed them."""

    def keep_reject(self, seq: int, body: RejectBody) -> bytes:
        """The REJECT record for the client's message `seq`, remembered."""
        record = self.rejects[seq] = encode_record(RecordType.REJECT, 0, seq, body.to_json())
        self.told_later.set_to(self.told_later.size + len(record) + REJECT_BYTES)
        return record

    def drop_rejects(self, seq: int) -> None:
        """An ACK of ours up to `seq` is sent, and covers them."""
        size = self.told_later.size
        for number in [number for number in self.rejects if number <= seq]:
            size -= len(self.rejects.pop(number)) + REJECT_BYTES
        self.told_later.set_to(size)


class RecordsClient(WebSocketSide):
    """One connection of a session whose client speaks records."""

    __slots__ = (
        "_ack_due",
        "_ack_owed",
        "_assembled",
        "_permissions",
        "_reader",
        "_told",
        "_untold",
        "numbering",
        "on_auth",
    )

    def __init__(
        self, sock: socket.socket, place: Place, ws: WebSocketConnection, numbering: Numbering, reader: RecordAssembler
    ) -> None:
        """`reader` has read up to the OPEN."""
        super().__init__(sock, place, ws)
        self.numbering = numbering
        self.on_auth: Callable[[int, AuthFromClient, float], None] | None = None
        """Called with the number and the body of an AUTH of the client's; None where OPENED offered none."""
        self._reader = reader
        self._assembled = Charge(self._tab)
        """The unfinished record."""
        self._ack_due = False
        self._ack_owed = False
        """A full buffer has held it up."""
        self._untold: list[int] = []
        """Of `numbering.rejects` those that a full buffer has held up."""
        self._permissions: list[bytes] = []
        """AUTH records that a full buffer has held up."""
        self._told: dict[Rung, int] = {}

    @property
    def receipts(self) -> frozenset[Rung]:
        return self.numbering.receipts

    # --- beginning ------------------------------------------------------------------------------------------------

    def open(self, body: OpenedByGateway, now: float) -> None:
        """Answers the client's OPEN and begins to send again what it has not consumed."""
        up = self._incoming
        assert up.ledger is not None
        self._send_record(RecordType.OPENED, 0, up.ledger.settled, body.to_json())
        for reject in self.numbering.rejects.values():
            self.endpoint.write(self.ws.send([(_BINARY, reject, WHOLE)]))
        self._told = dict.fromkeys(Rung, up.ledger.settled)
        self.numbering.receiver.interrupt()
        self._mid_message = False
        self._hop_end = self.endpoint.bytes_taken + self.endpoint.buffered
        self._outgoing.begin_replay()
        self._replay()

    def _replay(self) -> None:
        """Sends again as much as there is room for."""
        endpoint, sender = self.endpoint, self.numbering.sender
        while not endpoint.is_full:
            pieces = self._outgoing.replay_some(sender, self._hop_end)
            if not pieces:
                return
            endpoint.write(self.ws.send(sender.encode_messages(pieces)))
            self._hop_end = endpoint.bytes_taken + endpoint.buffered

    # --- what the relay asks and wants ----------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return self.endpoint.is_full or self._outgoing.replay is not None

    def on_drained(self, now: float) -> None:
        if self._outgoing.replay is not None and not self.is_closing:  # a side that was left is closing
            self._replay()
        super().on_drained(now)

    def deliver(self, pieces: list[Piece], now: float, *, fence: bool) -> None:
        endpoint = self.endpoint
        data = self.ws.send(self.numbering.sender.encode_messages(pieces))
        hop_end = endpoint.bytes_taken + endpoint.buffered + len(data)
        self._outgoing.enter(pieces, hop_end - self._hop_end, now)
        self._hop_end = hop_end
        endpoint.write(data)

    def fence(self, now: float) -> bool:
        return False  # its ACKs come by themselves

    def _raise_fence(self, now: float) -> bytes:
        ping = super()._raise_fence(now)
        ledger = self._incoming.ledger
        if not self.numbering.has_heartbeat or ledger is None:
            return ping
        # A page's pings are answered behind its back. What it was told last costs it nothing to hear again.
        rung = ledger.settles_at
        return ping + self.ws.send([(_BINARY, encode_record(RecordType.ACK, rung, self._told[rung]), WHOLE)])

    def upstream_advanced(self, now: float) -> None:
        if not self._ack_due:
            self._ack_due = True
            self._pump.at_turn_end(self._acknowledge)

    def _acknowledge(self, now: float) -> None:
        self._ack_due = False
        ledger = self._incoming.ledger
        if ledger is None or self.is_closing or not self._told:
            return
        if self.endpoint.is_full:
            self._ack_owed = True  # one is as good as many, once there is room
            return
        self._tell_settled(ledger)

    def _tell_settled(self, ledger: Ledger) -> None:
        """The ACKs, behind the REJECTs that they cover."""
        self._ack_owed = False
        if self._untold:
            untold, self._untold = self._untold, []
            rejects = self.numbering.rejects
            self.endpoint.write(self.ws.send([(_BINARY, rejects[seq], WHOLE) for seq in untold if seq in rejects]))
        numbering = self.numbering
        told_above = ledger.settled
        if ledger.settled > self._told[ledger.settles_at]:
            self._told[ledger.settles_at] = ledger.settled
            self._send_record(RecordType.ACK, ledger.settles_at, ledger.settled)
            if numbering.rejects:
                numbering.drop_rejects(ledger.settled)
        for rung in (Rung.REACHED, Rung.WRITTEN, Rung.ACCEPTED):
            if rung in numbering.receipts and rung < ledger.settles_at:
                position = numbering.receiver.accepted if rung is Rung.ACCEPTED else ledger.position(rung)
                if position > max(told_above, self._told[rung]):
                    self._told[rung] = position
                    self._send_record(RecordType.ACK, rung, position)
                told_above = max(told_above, position)

    def upstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        record = self.numbering.keep_reject(seq, body)
        if not self.is_closing:
            if self.endpoint.is_full:
                self._untold.append(seq)
                self._withhold(1)
                self._ack_owed = True
                return
            self.endpoint.write(self.ws.send([(_BINARY, record, WHOLE)]))
            self.upstream_advanced(now)

    def send_close(self, code: int | None, reason: str, report: SessionReport | None, now: float) -> None:
        if not self.is_closing and self.ws.error is None:
            self._tell_all(now)
            body = CloseBody(code=NO_CODE if code is None else code, reason=reason, report=report)
            self._send_record(RecordType.CLOSE, 0, 0, body.to_json())
        super().send_close(code, reason, report, now)

    def leave(self, code: int | None, reason: str, now: float) -> None:
        if not self._left:
            self._tell_all(now)
        super().leave(code, reason, now)

    def tell_permission(self, seq: int, body: AuthByGateway) -> None:
        """Answers the client's AUTH of that number or, as number 0, asks for one."""
        if self.is_closing or self.ws.error is not None:
            return
        record = encode_record(RecordType.AUTH, 0, seq, body.to_json())
        if self.endpoint.is_full:
            self._permissions.append(record)
            self._withhold(1)
        else:
            self.endpoint.write(self.ws.send([(_BINARY, record, WHOLE)]))

    def _tell_all(self, now: float) -> None:
        """The last words: they are said whether the buffer is full or not."""
        ledger = self._incoming.ledger
        if ledger is not None and not self.is_closing and self._told:
            self._tell_settled(ledger)

    def _send_withheld(self, now: float) -> None:
        super()._send_withheld(now)
        if self._permissions:
            permissions, self._permissions = self._permissions, []
            self.endpoint.write(self.ws.send([(_BINARY, record, WHOLE) for record in permissions]))
        if self._ack_owed:
            self._acknowledge(now)

    def _send_record(self, record_type: RecordType, flags: int, seq: int, body: bytes = b"") -> None:
        self.endpoint.write(self.ws.send([(_BINARY, encode_record(record_type, flags, seq, body), WHOLE)]))

    # --- the client's news ----------------------------------------------------------------------------------------

    def _take(self, pieces: list[Piece], now: float) -> None:
        junction = self._junction
        records = self._reader.feed(pieces)
        self._assembled.set_to(self._reader.held_bytes)
        receiver = self.numbering.receiver
        duplicates = receiver.duplicates
        data, others = receiver.receive(records)
        self._incoming.metrics.duplicates += receiver.duplicates - duplicates
        if data:
            fault_found = self._overrun()
            if fault_found is not None:
                junction.fail(fault_found, now)
                return
            if not self._may_pass(data, now):
                return
            junction.from_client(data, now)
            if Rung.ACCEPTED in self.numbering.receipts or Rung.WRITTEN in self.numbering.receipts:
                self.upstream_advanced(now)
        try:
            for record in others:
                if not self._left:
                    self._take_other(record, now)
        except ConnectionFault as fault:
            junction.fail(fault, now)
            return
        error = receiver.error or self._reader.error
        if error is not None and not self._left:
            junction.fail(error, now)

    def _overrun(self) -> PolicyViolation | None:
        """Whether the client has more unsettled than its window allows."""
        up = self._incoming
        ledger = up.ledger
        assert ledger is not None
        unsettled = self.numbering.receiver.accepted - ledger.settled
        if unsettled > ledger.window_messages:
            return PolicyViolation(f"{unsettled} messages unsettled, expected at most {ledger.window_messages}")
        unsettled_bytes = ledger.in_flight_bytes + up.held_bytes
        if unsettled > 1 and unsettled_bytes > ledger.window_bytes + MAX_BODY_BYTES:
            return PolicyViolation(f"{unsettled_bytes} bytes unsettled, expected at most {ledger.window_bytes}")
        return None

    def _take_other(self, record: Record, now: float) -> None:
        record_type, flags, seq, body = record
        junction = self._junction
        if record_type == RecordType.ACK:
            junction.settled_downstream(Rung(flags), seq, now)
        elif record_type == RecordType.REJECT:
            junction.rejected_downstream(seq, RejectBody.from_json(body), now)
        elif record_type == RecordType.CLOSE:
            close = CloseBody.from_json(body)
            junction.client_closed(close.code, close.reason, now)
        elif record_type == RecordType.AUTH and self.on_auth is not None:
            self.on_auth(seq, AuthFromClient.from_json(body), now)
        else:
            raise ProtocolViolation(f"{RecordType(record_type).name} in an open session")

    def _closed(self, code: int, reason: str, now: float) -> None:
        if self.close_sent or not self._junction.may_be_taken_up:
            self._junction.client_closed(code, reason, now)
        else:
            # Without CLOSE it may come back: only the connection ends.
            self._junction.client_detached(now, code=code, reason=reason)
            self.leave(None if code == NO_CODE else code, "", now)

    def _lost(self, unknown: UnknownReason, reason: str, now: float) -> None:
        self._junction.client_detached(now, reason=reason)
        self.close()

    def _timed_out(self, fault: KeepaliveTimeout, now: float) -> None:
        self._junction.client_detached(now)
        self.leave(fault.close_code, fault.close_reason, now)
