"""What passes through a session: messages each way, the evidence of them, and who has to wait.

General theory of operation
---------------------------
*Waiting.* Pieces that may not go on are held in their lane. A paused client is read on through a bounded look-ahead, so
that its pings and its close are still heard. The two lanes never wait for each other.

*Evidence.* What is unsettled is looked for when `looking` says so; what a look finds is applied here.

This is the half of a junction by which messages pass. How it ends is the other half, the `Relay`'s: it is told, by one
method, that there is nothing more to wait for.
"""

from abc import abstractmethod
from dataclasses import replace

from gateway.errors import ConnectionFault
from gateway.memory.account import Tab
from gateway.protocol.framings import MessageNotCarried
from gateway.protocol.pieces import Piece
from gateway.protocol.records import LossReport, RejectBody, Rung, SessionReport
from gateway.relay.closing import Closing, State
from gateway.relay.lane import Lane, behind_message
from gateway.relay.looking import Looking
from gateway.relay.place import Place
from gateway.relay.ports import UNKNOWN, BackendSide, ClientSide, Junction
from gateway.relay.pump import Pump
from gateway.relay.settings import RelaySettings
from gateway.relay.timers import NEVER, Entry
from gateway.telemetry.metrics import PauseCause


class Traffic(Junction):
    """The two lanes of a session between the sides of its client and its backend."""

    __slots__ = (
        "_looking",
        "_settles_written",
        "backend",
        "client",
        "closing",
        "down",
        "is_resumable",
        "last_message_at",
        "opened_at",
        "pump",
        "settings",
        "tab",
        "timer",
        "up",
    )

    def __init__(self, *, pump: Pump, settings: RelaySettings, up: Lane, down: Lane, tab: Tab) -> None:
        """Its sides are made at its places and given later. A lane that retains is for a side that may be away.

        `tab` is the session's in the account of memory.
        """
        self.tab = tab
        self.pump = pump
        self.settings = settings
        self.up = up
        self.down = down
        self.client: ClientSide
        self.backend: BackendSide
        self.closing = Closing(close_seconds=settings.close_seconds, total_seconds=settings.close_total_seconds)
        self.timer: Entry | None = None
        self.opened_at = self.last_message_at = pump.clock()
        self.is_resumable = down.retained is not None
        """The client may be away and come back: it speaks records."""
        self._looking = Looking(pump.pace, up=up, down=down, now=self.opened_at)
        self._settles_written = down.ledger is not None and down.ledger.settles_at is Rung.WRITTEN

    @abstractmethod
    def _go_on_ending(self, now: float) -> None:
        """What an ending waits for may have happened: nothing is held any more, or something was settled."""

    @abstractmethod
    def on_timer(self, now: float) -> None:
        """Some deadline may have come."""

    @property
    def for_client(self) -> Place:
        """Where its client's side stands."""
        return Place(self.pump, self, incoming=self.up, outgoing=self.down, settings=self.settings, tab=self.tab)

    @property
    def for_backend(self) -> Place:
        """Where its backend's side stands."""
        return Place(self.pump, self, incoming=self.down, outgoing=self.up, settings=self.settings, tab=self.tab)

    # --- what is known --------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        return self.closing.is_open

    def report(self) -> SessionReport | None:
        """What was known of both lanes' messages at the last look; None where delivery is not tracked."""
        if self.up.ledger is None or self.down.ledger is None:
            return None
        return SessionReport(upstream=_report_of(self.up), downstream=_report_of(self.down))

    def progress_upstream(self) -> tuple[int, ...]:
        ledger = self.up.ledger
        return self.up.bytes, self.backend.vitals().acknowledged, 0 if ledger is None else ledger.settled

    # --- upstream -------------------------------------------------------------------------------------------------

    def from_client(self, pieces: list[Piece], now: float) -> None:
        if self.closing.for_backend is not None:
            self.up.drop(pieces)  # upstream is over: after a fault, or after the client's own Close
            return
        self.last_message_at = now
        up = self.up
        if up.held or self.backend.is_full:
            up.hold(pieces)
            self._steer(now)
            return
        ledger = up.ledger
        if ledger is not None and ledger.is_half_full and self._looking.asks_before(pieces):
            self._sample_backend(now)
        if up.has_room_for(pieces):
            if self._send_upstream(pieces, now):
                self._steer(now)
        else:
            up.hold(pieces)
            self.flush_upstream(now)

    def _send_upstream(self, pieces: list[Piece], now: float) -> bool:
        """Hands the pieces on; whether the backend is full now."""
        while True:
            try:
                self.backend.send(pieces, now)
            except MessageNotCarried as refusal:
                pieces = self._refuse_upstream(pieces, refusal, now)
                if pieces:
                    continue
                return self.backend.is_full
            except ConnectionFault as fault:
                self.fail(fault, now)
                return self.backend.is_full
            break
        ledger = self.up.ledger
        if ledger is not None:
            if ledger.is_foretold:
                self.up.fulfil(now)
                self.client.upstream_advanced(now)
            looking = self._looking
            if looking.deadline == NEVER or (looking.waits_unseen and looking.has_reason()):
                self._plan_look(now)
        return self.backend.is_full

    def _refuse_upstream(self, pieces: list[Piece], refusal: MessageNotCarried, now: float) -> list[Piece]:
        """One message cannot be carried: a plain client is closed, a records client is told; what goes on behind it."""
        ledger = self.up.ledger
        if ledger is None or not self.is_resumable:
            self.fail(refusal, now)
            return []
        seq = ledger.refuse(now=now)
        body = RejectBody(code=refusal.close_code, reason=refusal.close_reason)
        self.up.note_rejected(seq, body)
        self.client.upstream_rejected(seq, body, now)
        return behind_message(pieces, refusal.messages + 1)

    def flush_upstream(self, now: float) -> None:
        up = self.up
        while up.held and not self.backend.is_full:
            pieces = up.admit_held()
            if not pieces:
                self._plan_look(now)
                break
            self._send_upstream(pieces, now)
        if not up.holds_back and self.closing.for_backend is not None:
            self._go_on_ending(now)
        self._steer(now)

    def settled_upstream(self, rung: Rung, seq: int, now: float) -> None:
        self._upstream_advanced(self.up.settle(rung, seq, now), now)

    def _upstream_advanced(self, has_settled: bool, now: float) -> None:
        if has_settled or self.client.receipts:
            self.client.upstream_advanced(now)
        if has_settled and self.up.held:
            self.flush_upstream(now)

    def rejected_upstream(self, seq: int, body: RejectBody, now: float) -> None:
        if self.up.reject(seq, body):
            self.client.upstream_rejected(seq, body, now)
            if self.up.held:
                self.flush_upstream(now)

    # --- downstream -----------------------------------------------------------------------------------------------

    def from_backend(self, pieces: list[Piece], now: float) -> None:
        if self.client.is_closing:
            self.down.drop(pieces)  # nobody is there to take it
            return
        if self.closing.is_draining:
            pieces = self.closing.rest_of_message(pieces)
            if not pieces:
                return
        self.last_message_at = now
        down = self.down
        if down.held or self.client.is_full:
            down.hold(pieces)
            self._steer(now)
        elif down.has_room_for(pieces):
            if self._send_downstream(pieces, now):
                self._steer(now)
        else:
            down.hold(pieces)
            self.flush_downstream(now)
        if self.closing.is_draining:
            self._go_on_ending(now)

    def _send_downstream(self, pieces: list[Piece], now: float) -> bool:
        """Hands the pieces on; whether the client is full now."""
        looking = self._looking
        is_due = now >= looking.may_look_at
        self.client.deliver(pieces, now, fence=is_due)
        ledger = self.down.ledger
        if ledger is not None:
            if ledger.is_foretold:
                self.down.fulfil(now)
                self.backend.downstream_settled(now)
            if self._settles_written:
                self._settle_written(now)
            if is_due:
                looking.take_turn(now)
            if (is_due or looking.waits_unseen or self.up.held) and looking.asks_behind_answer(is_due):
                self._sample_backend(now)
            if looking.deadline == NEVER:
                self._plan_look(now)
        return self.client.is_full

    def flush_downstream(self, now: float) -> None:
        down = self.down
        client = self.client
        if self._settles_written:
            self._settle_written(now)
        while down.held and not client.is_closing and not client.is_full:
            pieces = down.admit_held()
            if not pieces:
                break
            self._send_downstream(pieces, now)
        if not down.holds_back and not self.closing.is_open:
            self._go_on_ending(now)
        self._steer(now)

    def settled_downstream(self, rung: Rung, seq: int, now: float) -> None:
        if self.down.settle(rung, seq, now):
            self.backend.downstream_settled(now)
            if self.down.held:
                self.flush_downstream(now)
        if self.closing.is_draining:
            self._go_on_ending(now)

    def _settle_written(self, now: float) -> None:
        """Without fences there is no other evidence than that the kernel has taken it."""
        written = self.client.written
        if written != UNKNOWN and self.down.settle_to(Rung.WRITTEN, written, now):
            self.backend.downstream_settled(now)

    def rejected_downstream(self, seq: int, body: RejectBody, now: float) -> None:
        if self.down.reject(seq, body):
            self.backend.downstream_rejected(seq, body, now)
            self.backend.downstream_settled(now)
            if self.down.held:
                self.flush_downstream(now)

    # --- evidence -------------------------------------------------------------------------------------------------

    def _sample_backend(self, now: float) -> bool:
        """Asks how far upstream got, and lets what has settled make room; false if no evidence is to be had."""
        found = self.backend.sample(self.client.receipts)
        if found is None:
            return False
        has_settled = found.reached != UNKNOWN and self.up.settle_to(Rung.REACHED, found.reached, now)
        has_settled |= self.up.settle_to(Rung.WRITTEN, found.written, now)
        self._upstream_advanced(has_settled, now)
        return True

    def take_stock(self, now: float) -> None:
        """Looks at both sides once more, so that `report` says what is known by now."""
        self._take_stock_of_client(now)
        self._take_stock_of_backend(now)

    def _take_stock_of_client(self, now: float) -> None:
        written = self.client.written
        if written != UNKNOWN and not self.client.is_gone and self.down.settle_to(Rung.WRITTEN, written, now):
            self.backend.downstream_settled(now)

    def _take_stock_of_backend(self, now: float) -> None:
        if self.backend.is_gone:
            return
        self._sample_backend(now)
        # What settles makes room, and what goes out into it is not to be told as never forwarded.
        taken = UNKNOWN
        while taken != self.backend.written:
            taken = self.backend.written
            self._upstream_advanced(self.up.settle_to(Rung.WRITTEN, taken, now), now)

    def _plan_look(self, now: float) -> None:
        if self._looking.plan(now):
            self.pump.wake_at(self, self._looking.deadline)

    def _look(self, now: float) -> None:
        """Looks for evidence of what is unsettled each way, unless data brought the occasion meanwhile."""
        looking = self._looking
        looking.deadline = NEVER
        is_due = looking.is_due(now)
        if is_due:
            looking.take_turn(now)
        may_find_more = False
        self.up.reckon()
        self.down.reckon()
        if self.up.is_unsettled:
            finds = self._sample_backend(now) if is_due or looking.is_upstream_awaited else True
            may_find_more = finds and self.up.is_unsettled
        if self.down.is_unsettled:
            may_find_more |= self.client.fence(now) if is_due else True
        if may_find_more:
            self._plan_look(now)

    # --- who may be read ------------------------------------------------------------------------------------------

    def _steer(self, now: float) -> None:
        """Reads each side exactly as far as the other can take it."""
        up, down, closing = self.up, self.down, self.closing
        client, backend = self.client, self.backend
        if not client.is_gone:
            if up.held and closing.for_backend is None:
                up.paused_for(backend.pause_cause if backend.is_full else PauseCause.WINDOW, now)
                if up.is_far_ahead:
                    client.pause()
                    self._waive_window(now)
                else:
                    down.waives_window = self._answers_no_more
                    client.resume()
            else:
                up.paused_for(PauseCause.RATE if client.is_throttled else None, now)
                down.waives_window = self._answers_no_more
                client.resume()
        if not backend.is_gone:
            if down.held or (client.is_full and not client.is_closing):
                down.paused_for(client.pause_cause, now)
                backend.hold_back()
            elif closing.state is not State.FENCING:
                down.paused_for(None, now)
                backend.resume()

    @property
    def _answers_no_more(self) -> bool:
        """A plain client has said Close, so no fence is answered: what the backend still says waits for no Pong."""
        return self.client.close_received and not self.is_resumable

    def _waive_window(self, now: float) -> None:
        """A client that is not read cannot answer fences: a backend that answers before it reads on would wait for it.

        Both would wait in a circle, the backend for its window, its window for a Pong, the Pong behind data that waits
        for the backend. So the window holds the backend back only while the client is heard.
        """
        if not self.down.waives_window:
            self.down.waives_window = True
            if self.down.held:
                self.flush_downstream(now)


def _report_of(lane: Lane) -> LossReport:
    report, rejected = lane.report(), lane.rejections.ranges
    return replace(report, rejected=rejected) if rejected else report
