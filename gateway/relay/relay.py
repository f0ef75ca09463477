"""Joins a client's link and a backend's link for the life of a session, bridges their absences, ends both sides well.

General theory of operation
---------------------------
A link (`websocket_client`, `records_client`, `framed_backend`, `records_backend`) turns one socket's bytes into pieces
and pieces into bytes. The relay lies between the two and decides: may these pieces go on, who has to wait (both in
`passage`), who is away, is it over. It does no I/O and reads no clock.

*Absence.* A records client may go and come back, a records backend may break and be dialled again. Meanwhile a link of
`absent` stands in its place; the other side notices nothing but that it may have to wait.

*Ending.* The first cause wins and is kept as `ending`. From then on each side goes its own way to its end: the backend
is *finished* once everything that was accepted for it is out, the client gets its Close once everything that was meant
for it is out, and the relay has ended when both are gone. A side that makes no progress for `close` seconds is cut.
Design section 6 is the table of causes; each has a method here.
"""

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from gateway.errors import BackendFault, ConnectionFault, ProtocolViolation
from gateway.protocol.messages import is_legal_close_code
from gateway.protocol.records import OpenedByGateway, Rung, SessionReport
from gateway.protocol.rejections import RejectedRange, tells_of
from gateway.relay.direction import Direction
from gateway.relay.ending import ABNORMAL, TAKEN_OVER, Ending, ending_by_fault
from gateway.relay.passage import Passage, RelaySettings
from gateway.relay.pump import Pump
from gateway.relay.timers import NEVER
from gateway.telemetry.metrics import ClosedBy, UnknownReason

if TYPE_CHECKING:
    from gateway.relay.absent import AbsentBackend
    from gateway.relay.links import BackendLink, ClientLink
    from gateway.relay.records_backend import RecordsBackend
    from gateway.relay.records_client import RecordsClient

ECHO_LINGER_SECONDS: Final = 1.0
"""How long a client's Close waits for the backend's last words. A client that closes wants its answer soon (browsers
drop what comes meanwhile), but a backend that answers at once should be heard to the end."""

log = structlog.get_logger("relay")


class Phase(Enum):
    """Where a relay stands."""

    OPEN = "open"
    ENDING = "ending"
    """There is an `ending`; at least one side has not reached its end."""
    ENDED = "ended"


class RelayHost(Protocol):
    """The session that a relay is the data path of; called from within turns, so it must not wait."""

    def relay_detached(self, relay: "Relay", now: float) -> None:
        """The client is away and may come back: `relay.client` is to be replaced by a parked one."""

    def relay_lost_backend(self, relay: "Relay", now: float) -> "AbsentBackend | None":
        """The backend's connection broke: what stands for it while it is dialled again; None if it will not be."""

    def relay_ended(self, relay: "Relay", ending: Ending) -> None:
        """Both sides are gone. Called once."""


class Relay(Passage):
    """One session's data path. Made by the server, driven by its two links' sockets and the pump's timers."""

    __slots__ = (
        "_away",
        "_deadline",
        "_echo_deadline",
        "_grace_deadline",
        "_host",
        "_progress",
        "ending",
        "phase",
    )

    def __init__(self, *, pump: Pump, settings: RelaySettings, up: Direction, down: Direction, host: RelayHost) -> None:
        """Its links are made for it and given to `start`."""
        super().__init__(pump=pump, settings=settings, up=up, down=down)
        self.phase = Phase.OPEN
        self.ending: Ending | None = None
        self._host = host
        self._away: Ending | None = None
        self._grace_deadline = NEVER
        self._deadline = NEVER
        self._echo_deadline = NEVER
        self._progress = (0, 0)

    def start(self, client: "ClientLink", backend: "BackendLink", *, early: bytes, now: float) -> None:
        """Begins: from here on the pump drives. `early` is what the client sent behind its handshake."""
        self.join(client, backend, now=now)
        client.start(early, now)
        self.start_backend(now)

    def join(self, client: "ClientLink", backend: "BackendLink", *, now: float) -> None:
        """Takes its two links; neither is read yet."""
        self.client = client
        self.backend = backend
        self.last_message_at = self.opened_at = now

    def start_backend(self, now: float) -> None:
        """Begins to read the backend, its early words first."""
        if not self.backend.is_gone:
            self.backend.start(now)
        if self.phase is not Phase.ENDED:
            self._arm(now)

    # --- absence --------------------------------------------------------------------------------------------------

    def client_detached(self, now: float, *, code: int = ABNORMAL, reason: str = "") -> None:
        """A resumable client's connection ends, or is about to; the session waits for it, for `grace` at the most."""
        if self.phase is not Phase.OPEN or self.settings.grace_seconds is None:
            self._away = Ending(by=ClosedBy.CLIENT, code=code, reason=reason, unknown=UnknownReason.VANISHED)
            self.client_lost(now)
            return
        self._give_up_client_hop(now)
        self._away = Ending(by=ClosedBy.CLIENT, code=code, reason=reason, unknown=UnknownReason.GRACE_EXPIRED)
        self._grace_deadline = now + self.settings.grace_seconds
        self._host.relay_detached(self, now)
        self._steer(now)
        self._arm(now)

    def attach(self, client: "RecordsClient", body: OpenedByGateway, consumed: int, now: float) -> None:
        """The client is back on a new connection, having consumed our messages up to `consumed`.

        Raises ProtocolViolation, with nothing changed, for a number that was never sent.
        """
        ledger = self.down.ledger
        assert ledger is not None
        assert self.down.outbox is not None
        self._give_up_client_hop(now)
        settled = ledger.advance(Rung.CONSUMED, consumed)
        if settled:
            self.down.note_settled(settled, now)
            self.backend.downstream_settled(now)
        before, self.client = self.client, client
        before.leave(4001, "another connection took over", now)
        self._away = None
        self._grace_deadline = NEVER
        client.open(body, self.down.outbox.pieces, now)
        self.flush_downstream(now)
        if self.down.outbox.is_cut:
            # A message larger than the window was interrupted: only the backend can send it again.
            self.backend_lost(BackendFault("a message larger than the window must be sent again"), now)
        self._arm(now)

    def _give_up_client_hop(self, now: float) -> None:
        """Its connection goes: the last look at it. What it still holds may yet go out while it is being closed."""
        if not self.client.is_gone:
            self.client.take_stock(now)
        _, buffered = self.client.progress
        if buffered and self.down.ledger is not None:
            self.down.ledger.give_up_hop()

    def evict(self, now: float) -> None:
        """Ends a parked session before its time, for memory: at once, unless something is still on its way out."""
        self._expire(UnknownReason.EVICTED, now)
        _, buffered = self.backend.progress
        if not self.backend.is_gone and not buffered and not self.up.held:
            self._close_backend(now)
            self._ended(now)

    def _expire(self, unknown: UnknownReason, now: float) -> None:
        away = self._away or Ending(by=ClosedBy.CLIENT, code=ABNORMAL)
        self._away = Ending(by=away.by, code=away.code, reason=away.reason, unknown=unknown)
        self.client_lost(now)

    def backend_lost(self, fault: BackendFault, now: float) -> None:
        """A records backend's connection broke: it is dialled again while its client, whoever it is, stays."""
        outbox = self.up.outbox
        absent = None
        if self.phase is Phase.OPEN and outbox is not None and not outbox.is_cut:
            absent = self._host.relay_lost_backend(self, now)
        if absent is None:
            self.backend_ended(now, fault=fault)
            return
        self._close_backend(now)
        self.backend = absent
        self._steer(now)

    def backend_restored(
        self, backend: "RecordsBackend", consumed: int, rejected: Sequence[RejectedRange], now: float
    ) -> None:
        """The backend is back on a new connection, having consumed the client's messages up to `consumed`.

        `rejected` is what it has refused of them lately. Raises ProtocolViolation, with nothing changed, for a number
        that cannot be.
        """
        ledger, outbox = self.up.ledger, self.up.outbox
        assert ledger is not None
        assert outbox is not None
        if consumed < ledger.settled:
            raise ProtocolViolation(f"has consumed {consumed}, but has acknowledged {ledger.settled} before")
        if consumed == ledger.accepted + 1 and tells_of(rejected, consumed):
            consumed -= 1  # refused before it was whole: it settles when its end has come
        for seq, body in self.up.news_of(rejected):
            self.rejected_upstream(seq, body, now)
        settled = ledger.advance(Rung.CONSUMED, consumed)
        if settled:
            self.up.note_settled(settled, now)
            self.client.upstream_advanced(now)
        self.backend = backend
        backend.replay(outbox.pieces, now)
        backend.start(now)
        if self.phase is not Phase.ENDED:
            self.flush_upstream(now)
            self._arm(now)

    # --- endings --------------------------------------------------------------------------------------------------

    def _end(self, ending: Ending, now: float) -> bool:
        """Keeps the first cause; false if there is one already."""
        if self.phase is not Phase.OPEN:
            return False
        self.phase = Phase.ENDING
        self.ending = ending
        self._set_deadline(now)
        return True

    def client_closed(self, code: int, reason: str, now: float) -> None:
        """The client's Close frame came, the first of the two or the answer to ours."""
        self._end(Ending(by=ClosedBy.CLIENT, code=code, reason=reason), now)
        self._end_drain()
        self._finish_backend(code, reason, now)
        if self.client.close_sent:
            self.client.finish()
            self.client.resume()  # what is still to come is its end of stream
        elif self.backend.is_gone:
            self._close_client_once_flushed(code, reason, now)
        else:
            self._client_close = None
            self._echo_deadline = now + ECHO_LINGER_SECONDS
            self._arm(now)

    def client_lost(self, now: float, *, unknown: UnknownReason = UnknownReason.VANISHED) -> None:
        """The client's connection ended: without a Close, or after the closing handshake, when that is how it goes."""
        self._close_client_socket(now)
        ending = self._away or Ending(by=ClosedBy.CLIENT, code=ABNORMAL, reason="connection lost", unknown=unknown)
        self._end(ending, now)
        self._end_drain()
        self._finish_backend(ending.code, ending.reason, now)
        self.down.drop_held()
        if not self._ended(now):
            self._steer(now)  # what the backend still says is read to its end, for nobody

    def backend_ended(
        self, now: float, *, code: int = 1000, reason: str = "", fault: ConnectionFault | None = None
    ) -> None:
        """The backend's connection is over: in good order with `code`, or by a `fault`."""
        if not self.backend.is_gone:
            self._close_backend(now)
        ending = Ending(by=ClosedBy.BACKEND, code=code, reason=reason) if fault is None else ending_by_fault(fault)
        self._end(ending, now)
        self._backend_finish = self._backend_finish or (code, reason)
        assert self.ending is not None
        if self._echo_deadline != NEVER:
            self._echo_deadline = NEVER
            code, reason = self.ending.code, ""
        else:
            code, reason = ending.code, ending.reason
        self._close_client_once_flushed(code, reason, now)
        self._ended(now)

    def taken_over(self, now: float) -> None:
        """Another gateway has the session now: it is let go of here, and a client that is still on it is sent away.

        Its backend is told nothing. A plain client's session cannot be had elsewhere: there it is the backend's end.
        """
        if self.phase is not Phase.OPEN or not self.client.is_resumable:
            self.backend_ended(now, code=TAKEN_OVER.code, reason=TAKEN_OVER.reason)
            return
        self._give_up_client_hop(now)
        self._close_backend(now)
        self._end(TAKEN_OVER, now)
        self._grace_deadline = NEVER
        self.up.drop_held()
        self.down.drop_held()
        self.client.leave(TAKEN_OVER.code, TAKEN_OVER.reason, now)
        self._host.relay_detached(self, now)
        self.client.close()  # what stands for it; its socket looks after itself
        self._ended(now)

    def fail(self, fault: ConnectionFault, now: float) -> None:
        """The client, or we, did what ends the connection at once; nothing that is held goes on any more."""
        ending = ending_by_fault(fault)
        if not self._end(ending, now):
            self.client_lost(now)  # it is closing already: no second Close, just the end
            return
        self.up.drop_held()
        self.down.drop_held()
        self._close_client_once_flushed(ending.code, ending.reason, now)
        self._finish_backend(ending.code, ending.reason, now)

    def on_fault(self, error: Exception) -> None:
        """A bug of ours: this session ends with 1011, no other is touched."""
        log.error("internal_fault", exc_info=error)
        now = self.pump.clock()
        if self.phase is Phase.OPEN:
            self.fail(ConnectionFault("internal error"), now)
        else:
            self.cut(now)

    def drain(self, now: float, *, until: float) -> None:
        """We restart: what is under way is finished, then the client is told to come back (Close 1012), before `until`.

        The backend's message that has begun goes on to its end and no new one is begun; the client's go on until its
        Close is here. So none is cut off, unless its sender does not send the rest of it in time.
        """
        if not self._end(Ending(by=ClosedBy.GATEWAY, code=1012, reason="restarting", unknown=UnknownReason.DRAIN), now):
            return
        if self.client.is_resumable:
            self.backend.pause()
            self._leave(now)
            return
        # Half of the time is for the fence, half for the closing handshake: the answer to Close proves as much.
        self._drain_deadline = now + min(self.settings.close_seconds, max(until - now, 0.0)) / 2
        self._awaits_message_end = not self.down.drop_unfinished() and self.client.is_mid_message
        if not self._awaits_message_end:
            self.backend.pause()
        self._advance_drain(now)
        self._arm(now)

    def _advance_drain(self, now: float) -> None:
        """A fence goes behind the last message, and once it is answered Close."""
        if self._awaits_message_end or self.down.held:
            return
        ledger = self.down.ledger
        if ledger is None or not ledger.in_flight_messages or not self.client.fence(now):
            self._drained(now)

    def _leave(self, now: float) -> None:
        """The session goes on elsewhere if its backend can resume it; if not, its client learns what was settled."""
        self.backend.sample(now)
        self._give_up_client_hop(now)
        self.client.leave(1012, "restarting", now)
        self._host.relay_detached(self, now)
        self.client.close()  # what stands for it; its socket looks after itself
        if self.backend.leave():
            self._backend_finish = (1012, "")
            self._steer(now)
        else:
            self._finish_backend(1012, "", now)

    def _end_drain(self) -> None:
        """The fence is answered, or nobody is there to answer it: the backend may be read again."""
        self._drain_deadline = NEVER
        self._awaits_message_end = False

    def _drained(self, now: float) -> None:
        self._end_drain()
        self._close_client_once_flushed(1012, "restarting", now)

    def _close_client_once_flushed(self, code: int, reason: str, now: float) -> None:
        if not self.client.is_closing:
            self._client_close = (code, reason)
            self.flush_downstream(now)

    def _close_client(self, now: float) -> None:
        assert self._client_close is not None
        code, reason = self._client_close
        self._client_close = None
        self._echo_deadline = NEVER
        if self.client.is_gone:
            return
        if is_legal_close_code(code):
            self.client.send_close(code, reason)
        else:  # 1005 and 1006 stand for what no frame said
            self.client.send_close(None, "")
        if self._ended(now):
            return  # it was parked
        if self.client.close_received:
            self.client.finish()
        self._set_deadline(now)
        self.client.resume()

    def _close_client_socket(self, now: float) -> None:
        if not self.client.is_gone:
            self.client.take_stock(now)
            self.client.close()

    def _close_backend(self, now: float) -> None:
        self.backend.take_stock(now)
        self.backend.close()

    def _finish_backend(self, code: int, reason: str, now: float) -> None:
        if self._backend_finish is None:
            self._backend_finish = (code, reason)
            if not self.backend.is_gone:
                self.flush_upstream(now)

    def cut(self, now: float) -> None:
        """Closes both sides at once, whatever is unsent; a client that cannot resume is told why, if it can be."""
        if self.phase is Phase.OPEN:
            self._end(Ending(by=ClosedBy.GATEWAY, code=1011, unknown=UnknownReason.FAULT), now)
        assert self.ending is not None
        if not (self.client.is_closing or self.client.is_resumable) and is_legal_close_code(self.ending.code):
            self.client.send_close(self.ending.code, self.ending.reason)
        self._close_client_socket(now)
        if not self.backend.is_gone:
            self.backend.take_stock(now)
            self.backend.reset()
        self._ended(now)

    def _ended(self, now: float) -> bool:
        if not (self.client.is_gone and self.backend.is_gone):
            return False
        if self.phase is not Phase.ENDED:
            self.phase = Phase.ENDED
            self.pump.forget(self)
            self.up.paused_for(None, now)
            self.down.paused_for(None, now)
            assert self.ending is not None
            self._host.relay_ended(self, self.ending)
        return True

    def report(self) -> SessionReport | None:
        """What is known of both directions' messages at this moment; None where delivery is not tracked."""
        up, down = self.up.ledger, self.down.ledger
        now = self.pump.clock()
        if not self.client.is_gone:
            self.client.take_stock(now)
        if not self.backend.is_gone:
            self.backend.take_stock(now)
        if up is None or down is None:
            return None
        return SessionReport(
            upstream=replace(up.report(), rejected=self.up.rejections.ranges),
            downstream=replace(down.report(), rejected=self.down.rejections.ranges),
        )

    # --- time -----------------------------------------------------------------------------------------------------

    def _set_deadline(self, now: float) -> None:
        self._deadline = now + self.settings.close_seconds
        self._arm(now)

    def _arm(self, now: float) -> None:
        if self.phase is Phase.OPEN:
            deadline = min(self.client.next_deadline(now), self._grace_deadline)
            if self.settings.idle_seconds is not None:
                deadline = min(deadline, self.last_message_at + self.settings.idle_seconds)
            deadline = min(deadline, self._look_deadline)
        else:
            deadline = min(self._deadline, self._echo_deadline, self._drain_deadline)
        if deadline != NEVER:
            self.pump.wake_at(self, deadline)

    def on_timer(self, now: float) -> None:
        """Some deadline may have come: looks at each."""
        if self.phase is Phase.OPEN:
            idle = self.settings.idle_seconds
            if idle is not None and now - self.last_message_at >= idle:
                self._idle(now)
            elif now >= self._grace_deadline:
                self._expire(UnknownReason.GRACE_EXPIRED, now)
            else:
                if now >= self._look_deadline:
                    self._look(now)
                self.client.tick(now)
        elif self.phase is Phase.ENDING:
            if now >= self._echo_deadline and self.ending is not None:
                self._client_close = (self.ending.code, "")
                self._close_client(now)
            if now >= self._drain_deadline:
                self._drained(now)
            if now >= self._deadline:
                self._cut_if_stuck(now)
        if self.phase is not Phase.ENDED:
            self._arm(now)

    def _idle(self, now: float) -> None:
        ending = Ending(by=ClosedBy.GATEWAY, code=1000, reason=f"idle for {self.settings.idle_seconds:g} s")
        self._end(ending, now)
        self._finish_backend(ending.code, ending.reason, now)
        self._close_client_once_flushed(ending.code, ending.reason, now)

    def _cut_if_stuck(self, now: float) -> None:
        """The end takes longer than `close`: goes on as long as bytes still move, else cuts what does not end."""
        (to_client, client_buffered), (to_backend, backend_buffered) = self.client.progress, self.backend.progress
        if (to_client, to_backend) != self._progress and (client_buffered or backend_buffered):
            self._progress = (to_client, to_backend)
            self._deadline = now + self.settings.close_seconds
        elif self._client_close is not None and not self.client.is_gone:
            self.down.drop_held()  # it has no window for the rest, but it is to know why this is the end
            self._close_client(now)
        else:
            self.cut(now)
