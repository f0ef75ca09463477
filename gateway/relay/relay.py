"""Joins a client's side and a backend's side, bridges their absences, ends both well: long, as all ends meet here.

General theory of operation
---------------------------
A side (`plain_client`, `records_client`, `framed_backend`, `records_backend`) turns one socket's bytes into pieces and
pieces into bytes. The relay lies between the two and decides: may these pieces go on, who has to wait (both in
`traffic`), who is away, is it over. It does no I/O and reads no clock.

*Absence.* A records client may go and come back, a records backend may break and be dialled again. Meanwhile a side of
`away` stands in its place; the other side notices nothing but that it may have to wait. A client may also be away when
its backend ends: what it has not consumed waits for it.

*Ending.* `closing` says what is waited for; entering a state of it does what that state is for. Sides whose hosts
acknowledge nothing any more are cut. docs/life-of-a-connection.md has the table of causes; each has a method here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from gateway.codes import ABNORMAL, BEGUN_ANEW, INTERNAL, NORMAL, RESTART, SUPERSEDED
from gateway.errors import NOT_ENDED, BackendFault, ConnectionFault, ProtocolViolation
from gateway.memory.account import Tab
from gateway.protocol.messages import is_legal_close_code
from gateway.protocol.records import OpenedByGateway, Rung
from gateway.protocol.rejections import RejectedRange, tells_of
from gateway.relay.away import AbsentBackend, ParkedClient
from gateway.relay.closing import State, Step, Tail
from gateway.relay.ending import (
    CAME_TOO_EARLY,
    TAKEN_OVER,
    Ending,
    ending_by_fault,
    reason_for_unknown,
)
from gateway.relay.lane import Lane
from gateway.relay.ports import BackendSide, ClientSide
from gateway.relay.pump import Pump
from gateway.relay.records_backend import RecordsBackend
from gateway.relay.records_client import RecordsClient
from gateway.relay.settings import RelaySettings
from gateway.relay.timers import NEVER
from gateway.relay.traffic import Traffic
from gateway.telemetry.metrics import ClosedBy, UnknownReason

log = structlog.get_logger("relay")


class RelayHost(Protocol):
    """The session that a relay is the data path of; called from within turns, so it must not wait."""

    def relay_detached(self, relay: "Relay", now: float) -> None:
        """The client is away and may come back: a parked one stands in its place."""

    def relay_lost_backend(self, relay: "Relay", lost: RecordsBackend, fault: BackendFault, now: float) -> None:
        """The backend's connection broke, and an absent one stands in its place: it is to be dialled again."""

    def relay_ended(self, relay: "Relay", ending: Ending) -> None:
        """Both sides are gone. Called once."""


class Relay(Traffic):
    """One session's data path. Made by the session, driven by its two sides' sockets and the pump's timers."""

    __slots__ = ("_absence", "_grace_deadline", "_host", "_is_drained", "_is_unsure")

    def __init__(self, *, pump: Pump, settings: RelaySettings, up: Lane, down: Lane, tab: Tab, host: RelayHost) -> None:
        """Its sides are made at its places and given to `start`. A lane that retains is for a side that may be away."""
        super().__init__(pump=pump, settings=settings, up=up, down=down, tab=tab)
        self._host = host
        self._absence: Ending | None = None
        """While the client is away: how the session ends if it stays away."""
        self._grace_deadline = NEVER
        self._is_drained = False
        """We restart: a client that goes now is not let in again."""
        self._is_unsure = False
        """The client is back, and the backend has not said since that the session is still ours."""

    def start(self, client: ClientSide, backend: BackendSide, *, early: bytes, now: float) -> None:
        """Begins: from here on the pump drives. `early` is what the client sent behind its handshake."""
        self.join(client, backend, now=now)
        client.start(early, now)
        self.start_backend(now)

    def join(self, client: ClientSide, backend: BackendSide, *, now: float) -> None:
        """Takes its two sides; neither is read yet."""
        self.client = client
        self.backend = backend
        self.last_message_at = self.opened_at = now

    def start_backend(self, now: float) -> None:
        """Begins to read the backend, its early words first."""
        if not self.backend.is_gone:
            self.backend.start(now)
        self._arm(now)

    @property
    def has_ended(self) -> bool:
        """Both sides are gone."""
        return self.closing.state is State.ENDED

    @property
    def ending(self) -> Ending | None:
        """The first cause of its end, once there is one."""
        return self.closing.ending

    @property
    def is_parked(self) -> bool:
        """The client is away and may come back, or has not, and that was the end."""
        return self._absence is not None

    # --- absence --------------------------------------------------------------------------------------------------

    @property
    def may_be_taken_up(self) -> bool:
        return self.is_resumable and self.settings.grace_seconds is not None and (self.is_open or self._owes_client)

    @property
    def _owes_client(self) -> bool:
        """The backend has ended the session, and the client has not said that it knows.

        That its host has the CLOSE proves nothing: a reset may have taken it from there.
        """
        closing, down = self.closing, self.down
        ending = closing.ending
        assert ending is not None, "it is ending"
        if ending.by is not ClosedBy.BACKEND or closing.client_closed or not self.backend.is_gone:
            return False
        if closing.state not in (State.FLUSHING, State.CLOSING, State.AWAITED):
            return False
        if down.retained is not None and down.retained.is_cut:
            return False  # only the backend could send it again
        # One that is to begin anew does so when it is not resumed, too.
        return down.is_unsettled or down.holds_back or ending.code not in BEGUN_ANEW

    def client_detached(self, now: float, *, code: int = ABNORMAL, reason: str = "") -> None:
        is_awaited = self.may_be_taken_up
        if not is_awaited or (self._is_drained and not self.is_open):
            unknown = UnknownReason.DRAIN if is_awaited else UnknownReason.VANISHED
            self._lose_client(Ending(by=ClosedBy.CLIENT, code=code, reason=reason, unknown=unknown), now)
            return
        assert self.settings.grace_seconds is not None
        self._grace_deadline = now + self.settings.grace_seconds
        self._park(Ending(by=ClosedBy.CLIENT, code=code, reason=reason, unknown=UnknownReason.GRACE_EXPIRED), now)
        if not self.is_open:
            self.closing.await_client(now, until=self._grace_deadline)
        self._steer(now)
        self._arm(now)

    def _park(self, absence: Ending, now: float) -> None:
        """Puts a parked client in the place of one that goes."""
        before = self.client
        if not isinstance(before, RecordsClient):
            return  # a drain finds it away already
        self._give_up_client_hop(now)
        self.down.drop_replay()
        self.client = ParkedClient(self.down, before.numbering)
        self._absence = absence
        self._host.relay_detached(self, now)

    def attach(self, client: RecordsClient, body: OpenedByGateway, consumed: int, now: float) -> None:
        """The client is back on a new connection, having consumed our messages up to `consumed`.

        Raises ProtocolViolation, with nothing changed, for a number that was never sent.
        """
        retained = self.down.retained
        assert retained is not None
        self._give_up_client_hop(now)
        if self.down.settle(Rung.CONSUMED, consumed, now):
            self.backend.downstream_settled(now)
        before, self.client = self.client, client
        if before.buffered:
            before.close()  # all of that is sent again: it is not held twice for the sake of a Close
        else:
            before.leave(SUPERSEDED, "another connection took over", now)
        self._absence = None
        self._grace_deadline = NEVER
        if not self.is_open:
            if self.closing.state is not State.AWAITED:
                self._move(Step.CLIENT_AWAY, now)  # and nobody had noticed
            self._move(Step.CLIENT_BACK, now)
        client.open(body, now)
        self.flush_downstream(now)
        if retained.is_cut:
            # A message larger than the window was interrupted: only the backend can send it again.
            self.backend_lost(BackendFault("a message larger than the window must be sent again"), now)
        self._arm(now)

    def hand_over(self, now: float) -> None:
        """The backend has ended it and is asked for the rest of it anew: here it is over, and nothing of it is lost."""
        closing = self.closing
        assert closing.ending is not None
        closing.ending = replace(closing.ending, taken_over=True)
        self.cut(now)

    def ask_backend(self) -> None:
        """Has the backend say whether the session is still ours, for a client that may have been elsewhere meanwhile.

        What it says in answer to a PING it says behind the CLOSE that tells of another gateway.
        """
        if self.backend.is_gone:
            return  # it has ended the session
        self._is_unsure = True
        if isinstance(self.backend, RecordsBackend):
            self.backend.ask()

    def backend_answered(self, now: float) -> None:
        self._is_unsure = False

    def _give_up_client_hop(self, now: float) -> None:
        """Its connection goes: the last look at it. What it still holds may yet go out while it is being closed."""
        self._take_stock_of_client(now)
        if self.client.buffered and self.down.ledger is not None:
            self.down.ledger.give_up_hop()

    def evict(self, now: float) -> None:
        """Ends a parked session before its time, for memory: at once, unless something is still on its way out."""
        self._expire(UnknownReason.EVICTED, now)
        if not (self.backend.is_gone or self.backend.buffered) and not self.up.holds_back:
            self._close_backend(now)
            self._end_if_gone(now)

    def _expire(self, unknown: UnknownReason, now: float) -> None:
        away = self._absence or Ending(by=ClosedBy.CLIENT, code=ABNORMAL)
        self._lose_client(Ending(by=away.by, code=away.code, reason=away.reason, unknown=unknown), now)

    def backend_lost(self, fault: BackendFault, now: float) -> None:
        retained = self.up.retained
        before = self.backend
        if (
            not self.is_open
            or retained is None
            or retained.is_cut
            or self.settings.grace_seconds is None
            or not isinstance(before, RecordsBackend)
        ):
            self.backend_ended(now, fault=fault)
            return
        self._close_backend(now)
        self.up.drop_replay()
        self.backend = AbsentBackend()
        self._host.relay_lost_backend(self, before, fault, now)
        self._steer(now)

    def backend_restored(
        self, backend: RecordsBackend, consumed: int, rejected: Sequence[RejectedRange], now: float
    ) -> None:
        """The backend is back on a new connection, having consumed the client's messages up to `consumed`.

        `rejected` is what it has refused of them lately. Raises ProtocolViolation, with nothing changed, for a number
        that cannot be.
        """
        ledger = self.up.ledger
        assert ledger is not None
        if consumed < ledger.settled:
            raise ProtocolViolation(f"has consumed {consumed}, but has acknowledged {ledger.settled} before")
        if consumed == ledger.accepted + 1 and tells_of(rejected, consumed):
            consumed -= 1  # refused before it was whole: it settles when its end has come
        for seq, body in self.up.news_of(rejected):
            self.rejected_upstream(seq, body, now)
        if self.up.settle(Rung.CONSUMED, consumed, now):
            self.client.upstream_advanced(now)
        self.backend = backend
        backend.replay(now)
        backend.start(now)
        if self._is_unsure:
            backend.ask()  # its OPENED may be older than the client's return
        if not self.has_ended:
            self.flush_upstream(now)
            self._arm(now)

    # --- the causes of an end ---------------------------------------------------------------------------------------

    def _move(self, step: Step, now: float, ending: Ending | None = None) -> State:
        """Goes on in `closing`, by a cause if there is an `ending`; where it is then."""
        if ending is None:
            self.closing.move(step, now)
        else:
            self.closing.begin(step, ending, now)
        self._arm(now)
        return self.closing.state

    def _tell_apart(self, side: ClosedBy, then: UnknownReason) -> None:
        """What is without evidence towards a side is told by what befell that one, not by what ended the other."""
        first = self.closing.ending
        if first is None or self.has_ended:
            return
        reason = reason_for_unknown(first, side, then)
        if side is ClosedBy.CLIENT:
            first = replace(first, unknown_downstream=reason)
        else:
            first = replace(first, unknown_upstream=reason)
        self.closing.ending = first

    def client_closed(self, code: int, reason: str, now: float) -> None:
        self.closing.client_closed = True
        self._tell_apart(ClosedBy.CLIENT, UnknownReason.CLOSED)
        state = self._move(Step.CLIENT_CLOSED, now, Ending(by=ClosedBy.CLIENT, code=code, reason=reason))
        self._finish_backend(code, reason, now)
        if self.down.held:
            self.down.waives_window = self._answers_no_more
            self.flush_downstream(now)
        if state is State.CLOSING:
            self.client.finish()
            self.client.resume()  # what is still to come is its end of stream
        elif self.backend.is_gone:
            self.closing.for_client = (code, reason)
            self._move(Step.BACKEND_ENDED, now)
            self.flush_downstream(now)

    def client_lost(
        self, now: float, *, unknown: UnknownReason = UnknownReason.VANISHED, reason: str = "connection lost"
    ) -> None:
        self._lose_client(Ending(by=ClosedBy.CLIENT, code=ABNORMAL, reason=reason, unknown=unknown), now)

    def _lose_client(self, ending: Ending, now: float) -> None:
        if not self.closing.client_closed:
            self._tell_apart(ClosedBy.CLIENT, ending.unknown)
        self._close_client_socket(now)
        self._move(Step.CLIENT_LOST, now, ending)
        self._finish_backend(ending.code, ending.reason, now)
        self.down.drop_all()
        if not self._end_if_gone(now):
            self._steer(now)  # what the backend still says is read to its end, for nobody

    def backend_ended(
        self, now: float, *, code: int = NORMAL, reason: str = "", fault: ConnectionFault | None = None
    ) -> None:
        if not self.backend.is_gone:
            self._close_backend(now)
        ending = Ending(by=ClosedBy.BACKEND, code=code, reason=reason) if fault is None else ending_by_fault(fault)
        closing = self.closing
        self._tell_apart(ClosedBy.BACKEND, ending.unknown)
        was_echoing = closing.state is State.ECHOING
        state = self._move(Step.BACKEND_ENDED, now, ending)
        closing.for_backend = closing.for_backend or (code, reason)
        if state is State.FLUSHING:
            assert closing.ending is not None
            closing.for_client = (closing.ending.code, "") if was_echoing else (ending.code, ending.reason)
            if self.is_parked and self.may_be_taken_up:
                closing.await_client(now, until=self._grace_deadline)
            self.flush_downstream(now)
        self._end_if_gone(now)

    def taken_over(self, now: float) -> None:
        # Its backend is told nothing. A plain client's session cannot be had elsewhere: there it is the backend's end.
        if not (self.is_open and self.is_resumable):
            self.backend_ended(now, code=TAKEN_OVER.code, reason=TAKEN_OVER.reason)
            return
        self._close_backend(now)
        self._grace_deadline = NEVER
        self.up.drop_all()
        self.down.drop_all()
        self._send_away(CAME_TOO_EARLY if self._is_unsure else TAKEN_OVER, now)
        self._end_if_gone(now)

    def fail(self, fault: ConnectionFault, now: float) -> None:
        if not self.is_open:
            self.client_lost(now)  # it is closing already: no second Close, just the end
            return
        self.up.drop_all()
        self.down.drop_all()
        self._decide(ending_by_fault(fault), now)

    def on_fault(self, error: Exception) -> None:
        log.error("internal_fault", exc_info=error)
        now = self.pump.clock()
        if self.is_open:
            self.fail(ConnectionFault("internal error"), now)
        else:
            self.cut(now)

    def _decide(self, ending: Ending, now: float) -> None:
        """We end it: both sides are told, behind what is held for them."""
        self._move(Step.CLOSE_DECIDED, now, ending)
        self.closing.for_client = (ending.code, ending.reason)
        self.flush_downstream(now)
        self._finish_backend(ending.code, ending.reason, now)

    # --- who may no longer ------------------------------------------------------------------------------------------

    def expire(self, code: int, reason: str, now: float) -> None:
        """The client's permission is over: one that can come back is parked until it does, another one gets Close."""
        if not self.is_open or self.is_parked:
            return
        if not self.is_resumable or self.settings.grace_seconds is None:
            self._decide(Ending(by=ClosedBy.GATEWAY, code=code, reason=reason), now)
            return
        client = self.client
        self._grace_deadline = now + self.settings.grace_seconds
        self._park(Ending(by=ClosedBy.GATEWAY, code=code, reason=reason, unknown=UnknownReason.GRACE_EXPIRED), now)
        client.leave(code, reason, now)
        self._steer(now)
        self._arm(now)

    def revoke(self, code: int, reason: str, now: float) -> None:
        """The client's permission is taken back: the session ends, and nothing that waits goes on, whoever is away."""
        if not self.is_open:
            self.cut(now)
            return
        self.up.drop_all()
        self.down.drop_all()
        self._decide(Ending(by=ClosedBy.GATEWAY, code=code, reason=reason), now)

    # --- a restart --------------------------------------------------------------------------------------------------

    def drain(self, now: float, *, until: float) -> None:
        """We restart: what is under way is finished, then the client is told to come back (Close 1012), before `until`.

        The backend's message that has begun goes on to its end and no new one is begun; the client's go on until its
        Close is here. So none is cut off, unless its sender does not send the rest of it in time. A session that is
        ending already goes on to its end, but for a client that is away.
        """
        self._is_drained = True
        if self.closing.state is State.AWAITED:
            self._expire(UnknownReason.DRAIN, now)  # nobody is here to be sent away
        if not self.is_open:
            return
        ending = Ending(by=ClosedBy.GATEWAY, code=RESTART, reason="restarting", unknown=UnknownReason.DRAIN)
        if self.is_resumable:
            self.backend.pause()
            self._leave(ending, now)
            return
        closing = self.closing
        closing.for_client = (RESTART, "restarting")
        mid_message = not self.down.drop_unfinished() and self.client.is_mid_message
        # Half of the time is for the fence, half for the closing handshake: the answer to Close proves as much.
        patience = min(self.settings.close_seconds, max(until - now, 0.0)) / 2
        closing.begin_drain(ending, now, amid_message=mid_message, patience_seconds=patience)
        self._go_on_ending(now)
        self._arm(now)

    def _leave(self, ending: Ending, now: float) -> None:
        """The session goes on elsewhere if its backend can resume it; if not, its client learns what was settled."""
        self._sample_backend(now)
        self._send_away(ending, now)
        if self.backend.leave():
            self.closing.for_backend = (RESTART, "")
            self._steer(now)
        else:
            self._finish_backend(RESTART, "", now)

    def _send_away(self, ending: Ending, now: float) -> None:
        """A client that can take its session up elsewhere is told to; here it counts as away for good."""
        self._move(Step.MOVED, now, ending)
        before = self.client
        self._park(ending, now)
        before.leave(ending.code, ending.reason, now)
        self.client.close()  # what stands for it; its socket looks after itself

    # --- ending each side -------------------------------------------------------------------------------------------

    def _go_on_ending(self, now: float) -> None:
        closing, backend = self.closing, self.backend
        if closing.for_backend is not None and not (self.up.holds_back or backend.is_gone or backend.is_finished):
            code, reason = closing.for_backend
            self.take_stock(now)
            backend.finish(code, reason, self.report(), now)
        state = closing.state
        if state is State.FLUSHING:
            if not self.down.holds_back:
                self._close_client(Step.FLUSHED, now)
        elif state is State.FENCING:
            backend.pause()
            # A fence goes behind the last message, and once it is answered Close.
            if not self.down.holds_back and not (self.down.is_unsettled and self.client.fence(now)):
                self._move(Step.FENCED, now)
                self.flush_downstream(now)

    def _close_client(self, step: Step, now: float) -> None:
        """The client gets the Close that is meant for it."""
        assert self.closing.for_client is not None
        code, reason = self.closing.for_client
        self._move(step, now)
        if self.client.is_gone:
            return
        self.take_stock(now)
        if is_legal_close_code(code):
            self.client.send_close(code, reason, self.report(), now)
        else:  # 1005 and 1006 stand for what no frame said
            self.client.send_close(None, "", self.report(), now)
        if self._end_if_gone(now):
            return  # it was parked
        if self.client.close_received:
            self.client.finish()
        self.client.resume()

    def _close_client_socket(self, now: float) -> None:
        self._take_stock_of_client(now)
        self.client.close()

    def _close_backend(self, now: float) -> None:
        self._take_stock_of_backend(now)
        self.backend.close()

    def _finish_backend(self, code: int, reason: str, now: float) -> None:
        if self.closing.for_backend is None:
            self.closing.for_backend = (code, reason)
            if not self.backend.is_gone:
                self.flush_upstream(now)

    def cut(self, now: float) -> None:
        """Closes both sides at once, whatever is unsent; a client that cannot resume is told why, if it can be."""
        if self.has_ended:
            return
        ending = self.ending or Ending(by=ClosedBy.GATEWAY, code=INTERNAL, unknown=UnknownReason.FAULT)
        if not (self.client.is_closing or self.is_resumable) and is_legal_close_code(ending.code):
            self.client.send_close(ending.code, ending.reason, None, now)
        self._close_client_socket(now)
        self._move(Step.CLIENT_LOST, now, ending)
        if not self.backend.is_gone:
            self._cut_backend(now)
        self._end_if_gone(now)

    def _cut_backend(self, now: float) -> None:
        self._take_stock_of_backend(now)
        if self.backend.is_finished and not self.backend.vitals().outstanding:
            self.backend.close()  # it has everything, the end of it too: what it reads of that yet is not to be spoilt
        else:
            self.backend.reset()

    def _end_if_gone(self, now: float) -> bool:
        if not (self.client.is_gone and self.backend.is_gone):
            return False
        if not self.has_ended:
            ending = self.closing.ending
            assert ending is not None
            self._move(Step.ALL_GONE, now)
            if not (self.is_resumable and ending.unknown is UnknownReason.DRAIN):  # it may be resumed elsewhere
                self.up.drop_all()
                self.down.drop_all()
            self.pump.forget(self)
            self.up.paused_for(None, now)
            self.down.paused_for(None, now)
            self._host.relay_ended(self, ending)
        return True

    # --- time -----------------------------------------------------------------------------------------------------

    def arm(self, now: float) -> None:
        if self.is_open:
            deadline = self.client.next_deadline(now)
            if deadline != NEVER:
                self.pump.wake_at(self, deadline)

    def _arm(self, now: float) -> None:
        """Sets the timer for whatever comes first."""
        if self.is_open:
            self._arm_by(min(self.client.next_deadline(now), self.backend.next_deadline(now)))
        elif self.closing.deadline != NEVER:
            self.pump.wake_at(self, self.closing.deadline)

    def _arm_by(self, deadline: float) -> None:
        """The same while it is open; the sides have something to do at `deadline`."""
        deadline = min(deadline, self._grace_deadline, self._looking.deadline)
        if self.settings.idle_seconds is not None:
            deadline = min(deadline, self.last_message_at + self.settings.idle_seconds)
        if deadline != NEVER:
            self.pump.wake_at(self, deadline)

    def on_timer(self, now: float) -> None:
        """Some deadline may have come: looks at each."""
        if self.is_open:
            idle = self.settings.idle_seconds
            if idle is not None and now - self.last_message_at >= idle:
                self._decide(Ending(by=ClosedBy.GATEWAY, code=NORMAL, reason=f"idle for {idle:g} s"), now)
            elif now >= self._grace_deadline:
                self._expire(UnknownReason.GRACE_EXPIRED, now)
            else:
                if now >= self._looking.deadline:
                    self._look(now)
                deadline = min(self.client.next_deadline(now), self.backend.next_deadline(now))
                if now < deadline and self.is_open:
                    self._arm_by(deadline)  # a look is all that nearly every timer is for
                    return
                self.client.tick(now)
                self.backend.tick(now)
        elif not self.has_ended:
            self._see_to_the_end(now)
        self._arm(now)

    def _see_to_the_end(self, now: float) -> None:
        """What takes too long is gone on without; it is not too long as long as a far host acknowledges more of it."""
        closing = self.closing
        looks = [self.backend.vitals()]
        settled = [lane.ledger.settled for lane in (self.up, self.down) if lane.ledger is not None]
        if closing.state is State.ECHOING:
            settled += [self.down.bytes + self.down.held_bytes, self.client.vitals().acknowledged]
        else:
            looks.append(self.client.vitals())
        awaits_backend = not (self.backend.is_gone or isinstance(self.backend, AbsentBackend))
        is_held = self.up.holds_back and awaits_backend
        assert closing.ending is not None
        # One that is to begin anew is told so in time, and of what is dropped for it.
        is_owed = self.may_be_taken_up and closing.ending.code not in BEGUN_ANEW
        if not closing.due(
            now,
            looks,
            settled=tuple(settled),
            is_held=is_held,
            is_full=self.client.is_full,
            is_consuming=is_owed and self.down.is_unsettled,
        ):
            return
        if closing.state is State.AWAITED:
            self._expire(UnknownReason.GRACE_EXPIRED, now)
        elif is_owed and not self._is_drained:
            before = self.client
            self.client_detached(now, reason="nothing was acknowledged in time")
            before.close()  # it may have gone without a word; if it is there it comes back
        elif closing.state is State.CLOSING:
            self._tell_too_slow()
            self.cut(now)
        elif closing.is_draining:
            self._move(Step.OVERDUE, now)
            self.flush_downstream(now)
        elif closing.state is State.FLUSHING:
            self.down.drop_all()  # it has no window for the rest, but it is to know why this is the end
            self._close_client(Step.OVERDUE, now)
        else:
            self._echo(now)

    def _tell_too_slow(self) -> None:
        """Who has not ended is cut off now: whose host answers nothing is gone, another one took too long."""
        closing = self.closing
        waited_for = ((ClosedBy.BACKEND, self.backend.is_gone), (ClosedBy.CLIENT, closing.client_closed))
        for (side, has_ended), is_silent in zip(waited_for, closing.silent, strict=False):
            if not has_ended:
                self._tell_apart(side, UnknownReason.VANISHED if is_silent else UnknownReason.FAULT)

    def _echo(self, now: float) -> None:
        """Answers the client's Close: as it was meant, if the backend's host has everything that came before it."""
        assert self.closing.ending is not None
        silence = f"{NOT_ENDED}, and said nothing for {self.closing.last_words_seconds:g} s"
        if self.down.held or self.client.is_full:
            silence = f"{NOT_ENDED}, and said more than was taken"
        self.closing.for_client = (self.closing.ending.code, "" if self.backend.is_gone else silence)
        if self.closing.tail is not Tail.NONE and not self.backend.is_gone:
            self.closing.for_client = (BackendFault.close_code, "the service did not take everything that was sent")
            self._tell_too_slow()
            self._take_stock_of_backend(now)
            self.backend.reset()
        self._close_client(Step.OVERDUE, now)
