"""Keeps a session going: connects, carries each connection to its end, waits, and connects again.

Invariant: what the conversation says is saved before it is told, whichever connection tells it; after the last word,
`conclude`, every message of the session is accounted for.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from gateway.client.background import Background
from gateway.client.connection import DEFAULT_MESSAGE_BYTES, DEFAULT_TIMEOUTS, Timeouts
from gateway.client.conversation import Conversation
from gateway.client.credentials import Credential, obtain
from gateway.client.dialing import Dialed, Target, dial
from gateway.client.events import Event, Opened, SessionState, StateChanged
from gateway.client.exchange import STALL_SECONDS, Exchange
from gateway.client.faults import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionTimeout,
    CredentialFailed,
    HandshakeFailed,
    NotRecords,
)
from gateway.client.link import Link
from gateway.client.reconnection import GHOST_SECONDS, BackOff, is_passing, is_taken_over, retry_after_seconds
from gateway.client.store import Store
from gateway.codes import ABNORMAL, GOING_AWAY, NORMAL, UNAUTHORIZED
from gateway.ends.wakeup import Signal
from gateway.protocol.inbox import Inbox
from gateway.protocol.messages import is_legal_close_code
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import (
    DEFAULT_WINDOW_BYTES,
    DEFAULT_WINDOW_MESSAGES,
    HEADER,
    MAX_BODY_BYTES,
    SUBPROTOCOL,
    RecordAssembler,
    Rung,
)

logger: Final = logging.getLogger("kakitome.client")

MAX_REFUSALS: Final = 3
"""A credential may expire on its way; one that is fresh and refused again and again is none."""

RENEWAL_RETRY_SECONDS: Final = 1.0

WRITE_BYTES: Final = 256 * 1024
"""What is taken from the conversation at a time: more would only wait in the connection's buffer."""

_BINARY: Final = int(Opcode.BINARY)
_WHOLE: Final = FIRST | LAST


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a session behaves; sizes in bytes, times in seconds."""

    receipts: frozenset[Rung] = frozenset()
    """Rungs below the settling one that receipts are to climb, too."""
    window_messages: int = DEFAULT_WINDOW_MESSAGES
    """Messages that may come before older ones are consumed."""
    window_bytes: int = DEFAULT_WINDOW_BYTES
    message_bytes: int = DEFAULT_MESSAGE_BYTES
    """The largest message that is taken; a larger one is rejected with 1009."""
    carry_over: bool = True
    """When the gateway has lost the session, messages that were never forwarded are sent in the new one."""
    wait_open: bool = True
    """Entering the block waits for the session and raises what prevents it; else that is tried again, too."""
    first_delay: float = 0.25
    """The first attempt to connect again comes within so much after the break."""
    longest_delay: float = 30.0
    """What the delays grow to, doubling."""
    timeouts: Timeouts = DEFAULT_TIMEOUTS


class Upkeep:
    """A conversation, and the connections that carry it one after the other."""

    def __init__(
        self,
        target: Target,
        settings: Settings,
        store: Store | None,
        on_event: Callable[[Event], None] | None,
        credential: Credential | None = None,
    ) -> None:
        """Raises what the store raises."""
        self.state = SessionState.CONNECTING
        self.settings = settings
        self.conversation = Conversation(
            None if store is None else store.load(),
            receipts=settings.receipts,
            window_messages=settings.window_messages,
            window_bytes=settings.window_bytes,
            carry_over=settings.carry_over,
        )
        self.failure: Exception | None = None
        """Why the session ended before its time: what kept it from connecting, or what the store raised."""
        self.store_failed = False
        self.was_open = False
        """The gateway has opened the session at least once."""
        self.is_leaving = False
        """The application is leaving: no more waiting between attempts."""
        self.is_released = False
        """The session is left to another process, which will find it in the store."""
        self.moved = Signal()
        """For the application: something came, was settled, or ended."""
        self.finished = anyio.Event()
        self._target = target
        self._store = store
        self._on_event = on_event
        self._back_off = BackOff(initial=settings.first_delay, maximum=settings.longest_delay)
        self._link: Link | None = None
        self._hurry = Signal()
        self._running: Background | None = None
        self._credential = credential
        self._refusals = 0
        """How many connections in a row ended for want of a good credential before the session was open on them."""
        self._is_unanswered = False
        """OPEN went out on the newest connection, and no answer has come."""
        self._late_opens: deque[float] = deque()
        """Until when each of our OPENs that were given up without an answer may still arrive."""

    # --- the application's side -------------------------------------------------------------------------------------

    def consume(self, inbox: Inbox, seq: int) -> None:
        """Acknowledges a message of the gateway's. Raises ValueError if it has not come."""
        inbox.consume(seq)
        self.wake_writer()

    def reject(self, inbox: Inbox, seq: int, code: int, reason: str) -> None:
        """Refuses a message of the gateway's. Raises ValueError as `Conversation.reject`."""
        self.conversation.reject(inbox, seq, code, reason)
        self.wake_writer()

    def wake_writer(self) -> None:
        """There may be something to send, or to save."""
        if self._link is None:
            self.save()
        else:
            self._link.changed.wake()

    def wake_reader(self) -> None:
        """There may be room for more."""
        if self._link is not None:
            self._link.moved.wake()

    def hurry(self) -> None:
        """Waits no longer for the next attempt."""
        self._hurry.wake()

    async def finish(self) -> None:
        """Waits for the last word, no longer than `Timeouts.close`: then the connection is dropped.

        One that has no session yet is dropped at once.
        """
        if not self.conversation.is_open:
            self.drop()
        self.hurry()
        self.wake_writer()
        # A gateway that does not read would never see that we want to close.
        with anyio.move_on_after(self.settings.timeouts.close):
            await self.finished.wait()
        self.drop()
        await self.finished.wait()

    def drop(self) -> None:
        """Ends the connection, or the attempt at one, without a word; there will be no other."""
        if self._running is not None:
            self._running.cancel()

    def start(self) -> None:
        """Begins to connect, in a task of its own."""
        if self.conversation.token is not None:
            # The process before this one has gone with the session: its OPEN may be on its way.
            self._late_opens.append(anyio.current_time() + GHOST_SECONDS)
        self._running = Background(self._run, "kakitome session")

    async def stop(self) -> None:
        """Drops what there is, and waits for the last word. Raises what keeping the session going raised.

        A cancellation does not keep it from closing the socket.
        """
        running = self._running
        assert running is not None, "started"
        running.cancel()
        with anyio.CancelScope(shield=True):
            await running.wait()
        if running.failure is not None:
            raise running.failure

    # --- connections ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        """Connects until the session has ended."""
        try:
            while True:
                self._enter(SessionState.CONNECTING)
                was_lost = self.conversation.is_lost
                cause = await self._connect()
                if not was_lost:
                    self.conversation.cause = cause
                if self.is_released or self.conversation.end is not None:
                    break
                is_ghost = self._is_superseded_by_us(cause, now=anyio.current_time())
                may_pass = is_passing(cause) or is_ghost or self._may_have_another(cause)
                if not may_pass or (self.settings.wait_open and not self.was_open):
                    self.failure = cause
                    break
                await self._pause(cause)
        finally:
            self._conclude()

    def _is_superseded_by_us(self, cause: Exception, *, now: float) -> bool:
        """Whether `cause`, the end of the newest connection, can only be the work of an OPEN of ours that came late.

        Each of them can do so once. One that was answered, if only by a Close, is not on its way any more.
        """
        if self._is_unanswered and (not isinstance(cause, ConnectionClosed) or cause.code == ABNORMAL):
            self._late_opens.append(now + GHOST_SECONDS)
        if not is_taken_over(cause):
            return False
        while self._late_opens:
            if self._late_opens.popleft() > now:
                return True
        return False

    @property
    def renews(self) -> bool:
        """The application can be asked for another credential at any time."""
        return callable(self._credential)

    async def fresh_credential(self) -> str | None:
        """Asks the application for one. Raises CredentialFailed."""
        return await obtain(self._credential, timeout_seconds=self.settings.timeouts.connect)

    def _may_have_another(self, cause: Exception) -> bool:
        """Whether another credential may help: the one that was shown has expired, perhaps on its way."""
        if not (self.renews and isinstance(cause, ConnectionClosed) and cause.code == UNAUTHORIZED):
            return False
        self._refusals = self._refusals + 1 if self._is_unanswered else 0
        return self._refusals < MAX_REFUSALS

    async def _connect(self) -> Exception:
        """Dials and carries one connection; why it is not there any more."""
        timeout = self.settings.timeouts.connect
        self._is_unanswered = False
        try:
            credential = await self.fresh_credential()
            dialed = await dial(self._target, timeout_seconds=timeout)
        except (ConnectionFailed, HandshakeFailed) as failure:
            return failure
        if dialed.accepted.subprotocol != SUBPROTOCOL:
            await anyio.aclose_forcefully(dialed.stream)
            return NotRecords(f"the server does not speak {SUBPROTOCOL} at {self._target.url.target}")
        began = anyio.current_time()
        token, settled, accepted = self._position
        was_lost = self.conversation.is_lost
        carriage = _Carriage(self, dialed)
        self.save()
        self.conversation.attach(credential=credential, renews=self.renews)
        self._is_unanswered = True
        self._link = carriage.link
        try:
            await carriage.run()
        finally:
            self._link = None
            self.conversation.interrupt()
        now_token, now_settled, now_accepted = self._position
        if now_token != token:
            settled = accepted = 0
        has_served = now_settled > settled or now_accepted > accepted
        if has_served or anyio.current_time() - began > self.settings.longest_delay:
            self._back_off.succeeded()
        if self.conversation.is_lost and not was_lost:
            return ConnectionClosed(*self.conversation.goodbye)
        if carriage.is_late:
            return ConnectionTimeout(f"the gateway did not open the session within {timeout:g} s")
        ending = carriage.exchange.ending
        assert ending is not None
        return ConnectionClosed(ending.code, ending.reason)

    @property
    def _position(self) -> tuple[str | None, int, int]:
        conversation = self.conversation
        return conversation.token, conversation.outbox.settled, conversation.inbox.accepted

    async def _pause(self, cause: Exception) -> None:
        delay = self._back_off.next_delay(at_least=retry_after_seconds(cause))
        self._enter(SessionState.WAITING, cause=cause, delay_seconds=delay)
        if not self.is_leaving:
            with anyio.move_on_after(delay):
                await self._hurry.wait()

    def _conclude(self) -> None:
        """The last word: nothing more is sent, heard or tried."""
        self.save()
        if self.failure is not None:
            self.conversation.cause = self.failure
        if self.is_released and self.conversation.end is None:
            self.conversation.release()
        else:
            if isinstance(self.failure, ConnectionClosed):
                self.conversation.abandon(self.failure.code, self.failure.close_reason)
            else:
                self.conversation.abandon(ABNORMAL, "" if self.failure is None else str(self.failure))
            self.save()
        self.dispatch()
        self.finished.set()
        self._enter(SessionState.ENDED, cause=self.failure)

    # --- what the tasks share ---------------------------------------------------------------------------------------

    def save(self) -> None:
        """Saves what has changed; what the store raises ends the session, because nothing may be told any more."""
        changes = self.conversation.changes()
        if not changes or self.store_failed:
            return
        if self._store is not None:
            try:
                self._store.save(changes)
            except Exception as error:
                logger.exception("the session cannot be saved")
                self.failure = error
                self.store_failed = True
                self.drop()
                return
        self.conversation.mark_saved(changes)

    def dispatch(self) -> None:
        """Tells the application what has happened."""
        for event in self.conversation.take_events():
            if isinstance(event, Opened):
                self.was_open = True
                self._is_unanswered = False
                self._refusals = 0
                self._enter(SessionState.OPEN)
            self._tell(event)
        self.moved.wake()

    def _enter(
        self, state: SessionState, *, cause: Exception | None = None, delay_seconds: float | None = None
    ) -> None:
        if state is not self.state:
            self.state = state
            self._tell(StateChanged(state=state, cause=cause, delay_seconds=delay_seconds))
            self.moved.wake()

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("the callback for events failed")


class _Carriage:
    """One connection of a session."""

    __slots__ = (
        "_asked",
        "_assembler",
        "_conversation",
        "_early",
        "_queued_bytes",
        "_upkeep",
        "exchange",
        "is_late",
        "link",
    )

    def __init__(self, upkeep: Upkeep, dialed: Dialed) -> None:
        settings = upkeep.settings
        self._upkeep = upkeep
        self._conversation = upkeep.conversation
        self._queued_bytes = max(settings.window_bytes, settings.message_bytes)
        self._assembler = RecordAssembler()
        self._early = dialed.early
        self._asked = Signal()
        self.exchange = Exchange(
            now=anyio.current_time(),
            message_bytes=HEADER.size + MAX_BODY_BYTES,
            deflate=dialed.deflate,
            keepalive_seconds=settings.timeouts.keepalive,
            close_seconds=settings.timeouts.close,
            close_total_seconds=settings.timeouts.close_total,
        )
        self.link = Link(dialed.stream, self.exchange)
        self.is_late = False
        """The gateway did not answer OPEN in time."""

    async def run(self) -> None:
        """Carries records until the connection is over."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._expect_opened, tasks.cancel_scope)
            if self._upkeep.renews:
                tasks.start_soon(self._renew)
            await self.link.run(self, early=self._early)
            tasks.cancel_scope.cancel()

    async def _expect_opened(self, carrying: anyio.CancelScope) -> None:
        timeout = self._upkeep.settings.timeouts.connect
        deadline = anyio.current_time() + timeout
        await anyio.sleep_until(deadline)
        if anyio.current_time() - deadline > STALL_SECONDS:
            # It was we who stood still, and the answer may be there.
            await anyio.sleep(timeout)
        if not self._conversation.is_open:
            self.is_late = True
            carrying.cancel()

    async def _renew(self) -> None:
        """Shows another credential whenever the gateway asks for one; what goes wrong is tried again."""
        conversation = self._conversation
        while True:
            while not conversation.is_credential_due:
                await self._asked.wait()
            try:
                credential = await self._upkeep.fresh_credential()
            except CredentialFailed as failure:
                logger.warning("the credential cannot be renewed: %s", failure)
                await anyio.sleep(RENEWAL_RETRY_SECONDS)
                continue
            assert credential is not None  # a function gives one
            conversation.renew(credential)
            self.link.changed.wake()

    def receive(self, pieces: Sequence[Piece]) -> None:
        self._conversation.receive(self._assembler.feed(pieces))
        if self._assembler.error is not None:
            self._conversation.fail(self._assembler.error)
        if self._conversation.is_credential_due:
            self._asked.wake()
        self._upkeep.dispatch()

    def prepare(self) -> None:
        upkeep, conversation, exchange = self._upkeep, self._conversation, self.exchange
        upkeep.save()
        if upkeep.store_failed or not exchange.can_send:
            return
        end = conversation.end
        exchange.holds_close |= end is not None and end.by_gateway and not conversation.is_over
        records = conversation.records_to_send(WRITE_BYTES)
        if records:
            exchange.send([(_BINARY, record, _WHOLE) for record in records])
            return  # the writer asks again when these are out
        now = anyio.current_time()
        if conversation.is_over:
            code, reason = conversation.goodbye
            exchange.close(code if is_legal_close_code(code) else NORMAL, reason, now=now)
        elif upkeep.is_released:
            exchange.close(GOING_AWAY, now=now)
        elif conversation.end is None:
            # Closed, and not ended: the session is to be taken up on another connection.
            exchange.echo_close(now=now)

    @property
    def is_congested(self) -> bool:
        """The application is behind."""
        return self._conversation.is_congested(self._queued_bytes)
