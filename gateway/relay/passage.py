"""What passes through a session: messages each way, the evidence of them, and who has to wait.

General theory of operation
---------------------------
*Waiting.* Pieces that may not go on are held in their direction. A paused client is read on through a bounded
look-ahead, so that its pings and its close are still heard. The two directions never wait for each other.

*Evidence.* What is unsettled is looked for: a sample of the kernel's numbers, a fence. That is done when data comes
down and the pace (`pace`) allows it, so that it costs no system call to the client, else by a timer. It is done at any
pace where somebody may be waiting for room. A fence takes its time, so one goes out with the first messages that use
up half of the window. The kernel answers at once: it is asked when there is no room, and at half a window only for a
records client, which counts its window itself and does not show that it waits.

Whether it is over is not decided here: that is the `Relay`'s, which builds on this.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import ConnectionFault, PolicyViolation
from gateway.policy.admission import MessageRate
from gateway.protocol.framings import MessageNotCarried
from gateway.protocol.ledger import Run
from gateway.protocol.pieces import LAST, Piece
from gateway.protocol.records import RejectBody, Rung
from gateway.relay.direction import LOOK_AHEAD_BYTES, Direction
from gateway.relay.pace import LOOK_SECONDS, next_tick
from gateway.relay.pump import Pump
from gateway.relay.timers import NEVER, Entry
from gateway.telemetry.metrics import PauseCause

if TYPE_CHECKING:
    from gateway.relay.links import BackendLink, ClientLink


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """What a route says of its established connections; seconds, None for never."""

    keepalive_seconds: float | None = 20.0
    keepalive_timeout_seconds: float | None = 20.0
    idle_seconds: float | None = None
    close_seconds: float = 5.0
    messages_per_second: float | None = None
    fence: bool = True
    grace_seconds: float | None = 120.0
    """How long a records client may be away."""


class Passage(ABC):
    """The two directions of a session between the links of its client and its backend."""

    __slots__ = (
        "_awaits_message_end",
        "_backend_finish",
        "_client_close",
        "_drain_deadline",
        "_look_deadline",
        "_may_look_at",
        "_rate",
        "backend",
        "client",
        "down",
        "last_message_at",
        "opened_at",
        "pump",
        "settings",
        "timer",
        "up",
    )

    def __init__(self, *, pump: Pump, settings: RelaySettings, up: Direction, down: Direction) -> None:
        """Its links are made for it, and given to it later."""
        self.pump = pump
        self.settings = settings
        self.up = up
        self.down = down
        self.client: ClientLink
        self.backend: BackendLink
        self.timer: Entry | None = None
        self.opened_at = self.last_message_at = pump.clock()
        rate = settings.messages_per_second
        self._rate = None if rate is None else MessageRate(rate, now=self.opened_at)
        self._backend_finish: tuple[int, str] | None = None
        """How upstream ends once what is held is out; then nothing more is taken from the client."""
        self._client_close: tuple[int, str] | None = None
        """How downstream ends once what is held is out."""
        self._drain_deadline = NEVER
        """Not NEVER while a drain waits for the last fence: nothing new is begun."""
        self._awaits_message_end = False
        """The drain waits for the end of a message of the backend's before it."""
        self._may_look_at = NEVER if up.ledger is None else self.opened_at
        self._look_deadline = NEVER

    # --- what is decided above --------------------------------------------------------------------------------------

    @abstractmethod
    def fail(self, fault: ConnectionFault, now: float) -> None:
        """The client, or we, did what ends the connection at once; nothing that is held goes on any more."""

    @abstractmethod
    def _close_client(self, now: float) -> None:
        """Everything meant for the client is out: it gets the Close that `_client_close` says."""

    @abstractmethod
    def _advance_drain(self, now: float) -> None:
        """A message ended or was settled during a drain: it may be over."""

    @abstractmethod
    def on_timer(self, now: float) -> None:
        """Some deadline may have come."""

    @abstractmethod
    def on_fault(self, error: Exception) -> None:
        """A bug of ours."""

    # --- upstream -------------------------------------------------------------------------------------------------

    def from_client(self, pieces: list[Piece], now: float) -> None:
        """Data of the client's, in order."""
        if self._backend_finish is not None:
            return  # upstream is over: after a fault, or after the client's own Close
        self.last_message_at = now
        if self._rate is not None and not self._rate.take(_messages(pieces), now):
            self.fail(PolicyViolation(f"more than {self.settings.messages_per_second:g} messages per second"), now)
            return
        up = self.up
        if up.held or self.backend.is_full:
            up.hold(pieces)
            self._steer(now)
            return
        ledger = up.ledger
        if ledger is not None and ledger.is_half_full and (self.client.is_resumable or not up.has_room_for(pieces)):
            self.backend.sample(now)
        if up.has_room_for(pieces):
            if self._send_upstream(pieces, now):
                self._steer(now)
        else:
            up.hold(pieces)
            self.flush_upstream(now)

    def _send_upstream(self, pieces: list[Piece], now: float) -> bool:
        """Hands the pieces on; whether the backend is full now."""
        try:
            self.backend.send(pieces, now)
        except MessageNotCarried as refusal:
            self._refuse_upstream(pieces, refusal, now)
            return self.backend.is_full
        except ConnectionFault as fault:
            self.fail(fault, now)
            return self.backend.is_full
        ledger = self.up.ledger
        if ledger is not None:
            if ledger.is_foretold:
                self._note_settled_upstream(ledger.fulfil(), now)
            if self._look_deadline == NEVER or (ledger.is_half_full and self.client.is_resumable):
                self._plan_look(now)
        return self.backend.is_full

    def _refuse_upstream(self, pieces: list[Piece], refusal: MessageNotCarried, now: float) -> None:
        """One message cannot be carried: a plain client is closed, a records client is told and goes on."""
        ledger = self.up.ledger
        if ledger is None or not self.client.is_resumable:
            self.fail(refusal, now)
            return
        seq = ledger.refuse(now=now)
        self.up.metrics.rejected += 1
        body = RejectBody(code=refusal.close_code, reason=refusal.close_reason)
        self.up.note_rejected(seq, body)
        self.client.upstream_rejected(seq, body, now)
        rest = _behind_message(pieces, refusal.messages + 1)
        if rest:
            self._send_upstream(rest, now)

    def flush_upstream(self, now: float) -> None:
        """The backend can take more, or its window has room again."""
        up = self.up
        backend = self.backend
        while up.held and not backend.is_full:
            pieces = up.admit_held()
            if not pieces:
                break
            self._send_upstream(pieces, now)
        if up.held:
            if not backend.is_full:
                self._plan_look(now)
        elif self._backend_finish is not None:
            backend.finish(*self._backend_finish)
        self._steer(now)

    def settled_upstream(self, rung: Rung, *, now: float, seq: int | None = None, offset: int | None = None) -> None:
        """Evidence of the backend's: all messages up to number `seq`, or up to byte `offset`, are at `rung`."""
        ledger = self.up.ledger
        if ledger is None:
            return
        settled = ledger.advance(rung, seq) if seq is not None else ledger.advance_to_offset(rung, offset or 0)
        if settled:
            self._note_settled_upstream(settled, now)
            if self.up.held:
                self.flush_upstream(now)
        elif self.client.receipts:
            self.client.upstream_advanced(now)

    def _note_settled_upstream(self, settled: list[Run], now: float) -> None:
        self.up.note_settled(settled, now)
        self.client.upstream_advanced(now)

    def rejected_upstream(self, seq: int, body: RejectBody, now: float) -> None:
        """The backend refuses message number `seq`; it counts as settled."""
        ledger = self.up.ledger
        if ledger is not None and ledger.reject(seq):
            self.up.metrics.rejected += 1
            self.up.note_rejected(seq, body)
            self.up.trim()
            self.client.upstream_rejected(seq, body, now)
            if self.up.held:
                self.flush_upstream(now)

    # --- downstream -----------------------------------------------------------------------------------------------

    def from_backend(self, pieces: list[Piece], now: float) -> None:
        """Data of the backend's, in order."""
        if not self._downstream_open:
            return  # the client is closing: nobody is there to take it
        if self._drain_deadline != NEVER:
            pieces = self._end_of_message(pieces)
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
        if self._drain_deadline != NEVER:
            self._advance_drain(now)

    def _end_of_message(self, pieces: list[Piece]) -> list[Piece]:
        """Of what the backend sends during a drain, the rest of the message that has begun."""
        if not self._awaits_message_end:
            return []
        rest = _first_message(pieces)
        if rest[-1][2] & LAST:
            self._awaits_message_end = False
            self.backend.pause()
        return rest

    def _send_downstream(self, pieces: list[Piece], now: float) -> bool:
        """Hands the pieces on; whether the client is full now."""
        ledger = self.down.ledger
        may_look = now >= self._may_look_at
        self.client.deliver(pieces, now, fence=may_look)
        if ledger is not None:
            if ledger.is_foretold:
                self.down.note_settled(ledger.fulfil(), now)
                self.backend.downstream_settled(now)
            if may_look:
                self._may_look_at = self.pump.pace.reserve(now)
            if (may_look or self.client.is_resumable or self.up.held) and self._has_unsettled_upstream:
                # Acknowledgements ride on data; and somebody may be waiting for room, or to be told, at any pace.
                self.backend.sample(now)
            if self._look_deadline == NEVER:
                self._plan_look(now)
        return self.client.is_full

    def flush_downstream(self, now: float) -> None:
        """The client can take more, or its window has room again."""
        down = self.down
        client = self.client
        while down.held and self._downstream_open and not client.is_full:
            pieces = down.admit_held()
            if not pieces:
                break
            self._send_downstream(pieces, now)
        if self._client_close is not None and not down.held:
            self._close_client(now)
        if self._drain_deadline != NEVER:
            self._advance_drain(now)
        self._steer(now)

    def settled_downstream(self, rung: Rung, *, now: float, seq: int | None = None, offset: int | None = None) -> None:
        """Evidence of the client's: all messages up to number `seq`, or up to byte `offset`, are at `rung`."""
        ledger = self.down.ledger
        if ledger is None:
            return
        settled = ledger.advance(rung, seq) if seq is not None else ledger.advance_to_offset(rung, offset or 0)
        if settled:
            self.down.note_settled(settled, now)
            self.backend.downstream_settled(now)
            if self.down.held:
                self.flush_downstream(now)
        if self._drain_deadline != NEVER:
            self._advance_drain(now)

    def rejected_downstream(self, seq: int, body: RejectBody, now: float) -> None:
        """The client refuses message number `seq`; it counts as settled."""
        ledger = self.down.ledger
        if ledger is not None and ledger.reject(seq):
            self.down.metrics.rejected += 1
            self.down.note_rejected(seq, body)
            self.down.trim()
            self.backend.downstream_rejected(seq, body, now)
            self.backend.downstream_settled(now)
            if self.down.held:
                self.flush_downstream(now)

    @property
    def _has_unsettled_upstream(self) -> bool:
        return self.up.ledger is not None and self.up.ledger.in_flight_messages > 0

    @property
    def _downstream_open(self) -> bool:
        return not self.client.is_closing

    # --- evidence -------------------------------------------------------------------------------------------------

    @property
    def _is_upstream_awaited(self) -> bool:
        """Somebody may be waiting for evidence of the backend's."""
        if self.up.held:
            return True
        ledger = self.up.ledger
        return ledger is not None and ledger.is_half_full and self.client.is_resumable

    def _plan_look(self, now: float) -> None:
        """Something is unsettled: a timer will look, if data does not bring the occasion before."""
        begin = now if self._is_upstream_awaited else max(self._may_look_at, now)
        deadline = next_tick(begin + LOOK_SECONDS)
        if deadline < self._look_deadline:
            self._look_deadline = deadline
            self.pump.wake_at(self, deadline)

    def _look(self, now: float) -> None:
        """Looks for evidence of what is unsettled each way, unless data brought the occasion meanwhile."""
        self._look_deadline = NEVER
        is_due = now >= self._may_look_at
        if is_due:
            self._may_look_at = self.pump.pace.reserve(now)
        may_find_more = False
        if self._has_unsettled_upstream:
            finds = self.backend.sample(now) if is_due or self._is_upstream_awaited else True
            may_find_more = finds and self._has_unsettled_upstream
        down = self.down.ledger
        if down is not None and down.in_flight_messages:
            may_find_more |= self.client.fence(now) if is_due else True
        if may_find_more:
            self._plan_look(now)

    # --- who may be read ------------------------------------------------------------------------------------------

    def _steer(self, now: float) -> None:
        """Reads each side exactly as far as the other can take it."""
        up, down = self.up, self.down
        client, backend = self.client, self.backend
        if not client.is_gone:
            if up.held and self._backend_finish is None:
                up.paused_for(backend.pause_cause if backend.is_full else PauseCause.WINDOW, now)
                if up.held_bytes >= LOOK_AHEAD_BYTES:
                    client.pause()
                    self._waive_window(now)
                else:
                    down.waives_window = False
                    client.resume()
            else:
                up.paused_for(None, now)
                down.waives_window = False
                client.resume()
        if not backend.is_gone:
            if down.held or (client.is_full and self._downstream_open):
                down.paused_for(client.pause_cause, now)
                backend.hold_back()
            elif self._drain_deadline == NEVER or self._awaits_message_end:
                down.paused_for(None, now)
                backend.resume()

    def _waive_window(self, now: float) -> None:
        """A client that is not read cannot answer fences: a backend that answers before it reads on would wait for it.

        Both would wait in a circle, the backend for its window, its window for a Pong, the Pong behind data that waits
        for the backend. So the window holds the backend back only while the client is heard.
        """
        if not self.down.waives_window:
            self.down.waives_window = True
            if self.down.held:
                self.flush_downstream(now)


def _messages(pieces: list[Piece]) -> int:
    return sum(1 for piece in pieces if piece[2] & LAST)


def _behind_message(pieces: list[Piece], count: int) -> list[Piece]:
    """The pieces behind the end of the `count`th message."""
    for index, piece in enumerate(pieces):
        count -= piece[2] >> 1 & 1
        if not count:
            return pieces[index + 1 :]
    return []


def _first_message(pieces: list[Piece]) -> list[Piece]:
    """The pieces up to the end of the first message, all of them if it does not end here."""
    end = next((index + 1 for index, piece in enumerate(pieces) if piece[2] & LAST), len(pieces))
    return pieces[:end]
