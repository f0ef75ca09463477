"""The backend's side of a relay under the record protocol: its application says itself how far messages got.

Invariant: every message of ours that the backend is sent has a number, every number is acknowledged or rejected once;
acknowledgements of ours are coalesced, at most one a turn. Credit, not the pausing of reads, holds the backend back:
it keeps at most its window unsettled, and exceeding it is a fault. So its ACKs and CLOSE are always heard, unless they
stand behind a message that alone is larger than the window: that is read as fast as the client takes it.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.codes import BAD_GATEWAY, SUPERSEDED
from gateway.errors import BackendFault, BackendVanished, FramingViolation, ProtocolViolation
from gateway.memory.account import Charge
from gateway.protocol.messages import is_legal_close_code
from gateway.protocol.pieces import Buffer, Piece
from gateway.protocol.records import (
    MAX_BODY_BYTES,
    CloseBody,
    OpenedByBackend,
    Record,
    RecordDecoder,
    RecordType,
    RejectBody,
    Rung,
    SessionReport,
    encode_prefixed_record,
)
from gateway.protocol.rejections import RejectedRange, tells_of
from gateway.protocol.sequencing import DataReceiver, DataSender
from gateway.relay.endpoint import FEW_PIECES, REPLIES_WITHHELD, Output
from gateway.relay.evidence import Evidence
from gateway.relay.place import Place
from gateway.relay.ports import Sample
from gateway.relay.socket_side import SocketSide


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedBackend:
    """A backend's consent to a session, and where its stream stands."""

    body: OpenedByBackend
    consumed: int
    """The highest message of ours that it has consumed."""
    decoder: RecordDecoder
    early: Sequence[Record]
    """Records that came right behind the OPENED."""
    window_messages: int
    """What it was told that it may have unsettled; its client may have a smaller window, and then we hold more back."""
    window_bytes: int
    acknowledged: int
    """The highest message of its own that OPEN told it is settled."""
    refused: tuple[RejectedRange, ...]
    """What OPEN told of those that were refused."""


class RecordsBackend(SocketSide):
    """A backend connection behind its OPENED."""

    __slots__ = (
        "_ack_due",
        "_ack_owed",
        "_acked",
        "_asked",
        "_asks_later",
        "_assembled",
        "_decoder",
        "_early",
        "_finished",
        "_hop_end",
        "_is_deaf",
        "_pong",
        "_refused_told",
        "_sender",
        "_untold",
        "_window_bytes",
        "_window_messages",
        "_withheld",
        "receiver",
    )

    def __init__(
        self, sock: socket.socket, place: Place, opened: OpenedBackend, receiver: DataReceiver, evidence: Evidence
    ) -> None:
        """Takes the socket over; `receiver` is the session's, and knows what has come on earlier connections."""
        super().__init__(sock, place, evidence)
        self.endpoint.trickles = True
        self._assembled = Charge(place.tab)
        """The unfinished record."""
        self._decoder = opened.decoder
        self._early = opened.early
        self._window_messages = opened.window_messages
        self._window_bytes = opened.window_bytes
        self.receiver = receiver
        self._sender = DataSender(start=opened.consumed)
        self._ack_due = False
        self._ack_owed = False
        """A full buffer has held it up; so are `_untold`, the REJECTs, and the answer to the newest PING."""
        self._untold: list[bytes] = []
        self._pong = b""
        self._withheld = 0
        self._asked = 0
        """PINGs of ours; each carries its number."""
        self._asks_later = False
        """A full buffer has held one up."""
        self._is_deaf = False
        """It does not take its replies, so it is not read."""
        self._acked = opened.acknowledged
        """What the backend has been told is settled of its messages."""
        self._refused_told = opened.refused
        self._finished = False
        self._hop_end = 0

    # --- what the relay asks and wants ----------------------------------------------------------------------------

    def replay(self, now: float) -> None:
        """Begins to send again, on a connection that was made anew, what the backend has not consumed."""
        self._outgoing.begin_replay()
        self._replay()

    def _replay(self) -> None:
        """Sends again as much as there is room for."""
        endpoint, sender = self.endpoint, self._sender
        while not endpoint.is_full:
            pieces = self._outgoing.replay_some(sender, self._hop_end)
            if not pieces:
                return
            endpoint.write(sender.encode_prefixed(pieces))
            self._hop_end = endpoint.bytes_taken + endpoint.buffered

    @property
    def is_full(self) -> bool:
        return self.endpoint.is_full or self._outgoing.replay is not None

    def start(self, now: float) -> None:
        # What the client has acknowledged or refused while OPEN was under way.
        for first, last, code, reason in self._incoming.rejections.ranges:
            for seq in range(first, last + 1):
                if not tells_of(self._refused_told, seq):
                    self.downstream_rejected(seq, RejectBody(code=code, reason=reason), now)
        self.downstream_settled(now)
        early, self._early = self._early, ()
        if early:
            self._take(early, now)
        if not self.is_gone:
            self.endpoint.resume()

    def send(self, pieces: list[Piece], now: float) -> None:
        data = self._sender.encode_prefixed(pieces)
        endpoint = self.endpoint
        # Ends are positions in all that this endpoint sends: ACKs and PONGs stand between the messages.
        hop_end = endpoint.bytes_taken + endpoint.buffered + len(data)
        self._outgoing.enter(pieces, hop_end - self._hop_end, now)
        self._hop_end = hop_end
        endpoint.write(data)

    @property
    def is_finished(self) -> bool:
        return self._finished

    def finish(self, code: int, reason: str, report: SessionReport | None, now: float) -> None:
        if not self._finished:
            self._finished = True
            self._tell_settled()  # behind CLOSE nothing is heard
            body = CloseBody(code=code, reason=reason, report=report)
            self.endpoint.write(encode_prefixed_record(RecordType.CLOSE, 0, 0, body.to_json()))
            self.endpoint.finish()

    def leave(self) -> bool:
        self.endpoint.finish()  # without CLOSE: the backend keeps the session
        self._finished = True
        return True

    def hold_back(self) -> None:
        # Its credit does, but for a message that is larger than its window.
        if self._incoming.held_bytes > self._window_bytes + MAX_BODY_BYTES:
            self.endpoint.pause()

    @property
    def written(self) -> int:
        return min(self.endpoint.bytes_taken, self._hop_end)

    def sample(self, receipts: frozenset[Rung]) -> Sample | None:
        # Its ACKs come by themselves; the rungs below are looked at only for a client that wants to hear of them.
        if not receipts or self.is_gone:
            return None
        found = Sample(self.written)
        if Rung.REACHED in receipts:
            reached = self._evidence.reached_offset(self.endpoint.bytes_taken)
            if reached is not None:
                found.reached = min(reached, self._hop_end)
        return found

    def downstream_settled(self, now: float) -> None:
        if not self._ack_due:
            self._ack_due = True
            self._pump.at_turn_end(self._acknowledge)

    def downstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        record = encode_prefixed_record(RecordType.REJECT, 0, seq, body.to_json())
        if self.endpoint.is_full:
            self._untold.append(record)
            self._withhold(1)
        else:
            self.endpoint.write(record)

    def ask(self) -> None:
        """Sends a PING; the junction is told when the newest one is answered."""
        self._asked += 1
        if self.endpoint.is_full:
            self._asks_later = True  # one is as good as many, once there is room
        else:
            self._send_ping()

    def _send_ping(self) -> None:
        self._asks_later = False
        self.endpoint.write(encode_prefixed_record(RecordType.PING, 0, 0, self._asked.to_bytes(8)))

    def _acknowledge(self, now: float) -> None:
        self._ack_due = False
        if self.endpoint.is_full:
            self._ack_owed = True  # one is as good as many, once there is room
        else:
            self._tell_settled()

    def _tell_settled(self) -> None:
        """The ACK, behind the REJECTs that it covers."""
        self._ack_owed = False
        if self._untold:
            untold, self._untold = self._untold, []
            self.endpoint.write(b"".join(untold))
        ledger = self._incoming.ledger
        if ledger is not None and ledger.settled > self._acked:
            self._acked = ledger.settled
            self.endpoint.write(encode_prefixed_record(RecordType.ACK, ledger.settles_at, self._acked))

    # --- replies that have to wait ----------------------------------------------------------------------------------

    def _withhold(self, replies: int) -> None:
        """So many replies are not sent now, because the buffer is full."""
        self._withheld += replies
        if self._withheld > REPLIES_WITHHELD and not self._is_deaf:
            self._is_deaf = True
            self.endpoint.pause()

    def _answer(self, pongs: list[bytes]) -> None:
        if self.endpoint.is_full:
            self._pong = pongs[-1]
            self._withhold(len(pongs))
        else:
            self.endpoint.write(b"".join(pongs))

    def resume(self) -> None:
        if not self._is_deaf:
            super().resume()

    def on_drained(self, now: float) -> None:
        if self.endpoint.output is Output.OPEN:
            if self._outgoing.replay is not None:
                self._replay()
            pong, self._pong = self._pong, b""
            self.endpoint.write(pong)
            if self._asks_later:
                self._send_ping()
            if self._ack_owed or self._untold:
                self._tell_settled()
        self._withheld = 0
        if self._is_deaf:
            self._is_deaf = False
            self.endpoint.resume()  # who has to wait for the client is paused again below
        super().on_drained(now)

    # --- the endpoint's news --------------------------------------------------------------------------------------

    def on_data(self, data: Buffer, now: float) -> None:
        records = self._decoder.feed(data)
        self._assembled.set_to(self._decoder.held_bytes)
        endpoint = self.endpoint
        if len(records) > FEW_PIECES:
            endpoint.weigh(len(data), len(records))
        self._take(records, now)

    def _take(self, records: Sequence[Record], now: float) -> None:
        duplicates = self.receiver.duplicates
        pieces, others = self.receiver.receive(records)
        self._incoming.metrics.duplicates += self.receiver.duplicates - duplicates
        if pieces:
            self._junction.from_backend(pieces, now)
            if self._exceeds_window():
                self._fail(
                    f"the backend has more than its window of {self._window_messages} messages "
                    f"or {self._window_bytes} bytes unsettled",
                    now,
                )
                return
        try:
            pongs: list[bytes] = []
            for record in others:
                if record[0] == RecordType.PING:
                    pongs.append(encode_prefixed_record(RecordType.PONG, 0, record[2], record[3]))
                else:
                    self._take_other(record, now)
            if pongs and not self.is_gone:
                self._answer(pongs)
        except ProtocolViolation as violation:
            self._fail(f"the backend broke the record protocol: {violation}", now)
            return
        error = self.receiver.error or self._decoder.error
        if error is not None:
            self._fail(f"the backend broke the record protocol: {error}", now)

    def _exceeds_window(self) -> bool:
        # What is held is unsettled, so a backend that keeps to its window never has more there; but its last message
        # may be of any size, if there was room when it began.
        down = self._incoming
        return down.held_messages > self._window_messages or down.held_bytes_before_newest > self._window_bytes

    def _take_other(self, record: Record, now: float) -> None:
        record_type, flags, seq, body = record
        if self.is_gone:
            return
        if record_type == RecordType.ACK:
            self._junction.settled_upstream(Rung(flags), seq, now)
        elif record_type == RecordType.CLOSE:
            close = CloseBody.from_json(body)
            if close.code == SUPERSEDED:  # ends this connection, not the session
                self._junction.taken_over(now)
                return
            code = close.code if is_legal_close_code(close.code) else BAD_GATEWAY
            self._junction.backend_ended(now, code=code, reason=close.reason)
        elif record_type == RecordType.REJECT:
            self._junction.rejected_upstream(seq, RejectBody.from_json(body), now)
        elif record_type == RecordType.PONG:
            if self._asked and body == self._asked.to_bytes(8):
                self._junction.backend_answered(now)
        else:
            raise ProtocolViolation(f"{RecordType(record_type).name} in an open session, expected it only to begin one")

    def _fail(self, problem: str, now: float) -> None:
        if not self.is_gone:
            self._junction.backend_ended(now, fault=FramingViolation(problem))

    def on_eof(self, now: float) -> None:
        if self._finished:
            self._junction.backend_ended(now)
        else:  # a session that is over ends with CLOSE, not with silence
            self._junction.backend_lost(BackendVanished("the backend ended its connection without CLOSE"), now)

    def _lost(self, fault: BackendFault, now: float) -> None:
        self._junction.backend_lost(fault, now)
