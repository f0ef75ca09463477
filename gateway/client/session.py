"""A session of the record protocol `kakitome.v1`: messages that are known to have arrived, across any connections.

    async with open_session("wss://example.com/chat") as session:
        await session.send("hello")         # returns when the far side has it
        async for message in session:
            print(message)                  # acknowledged when the loop comes back

General theory of operation. One task connects, carries the connection to its end, waits, and connects again; the
conversation decides what is sent. The application's calls change the conversation and wake the link's writer.

Invariant: a message is acknowledged after the application is done with it and never before: when its loop body has
ended, or when the block is left in good order.
"""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio

from gateway.client.connection import (
    CLEAN_CODES,
    DEFAULT_MESSAGE_BYTES,
    DEFAULT_TIMEOUTS,
    GOING_AWAY,
    GOODBYE_SECONDS,
    INTERNAL_ERROR,
    NORMAL,
    Data,
    Timeouts,
    encoded,
)
from gateway.client.conversation import Conversation
from gateway.client.dialing import Dialed, Target, dial
from gateway.client.events import Event, Opened, SessionState, StateChanged
from gateway.client.exchange import Exchange
from gateway.client.faults import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionTimeout,
    HandshakeFailed,
    NotRecords,
    SessionEnded,
    WindowFull,
)
from gateway.client.link import Link, Signal
from gateway.client.receipts import Receipt
from gateway.client.reconnection import PASSING_CODES, BackOff, is_passing, retry_after_seconds
from gateway.client.store import Store
from gateway.protocol.inbox import Inbox, OversizeMessage
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
    SessionReport,
)

logger: Final = logging.getLogger("kakitome.client")

WRITE_BYTES: Final = 256 * 1024
"""What is taken from the conversation at a time: more would only wait in the connection's buffer."""

LOST_CODE: Final = 1006
TOO_BIG: Final = 1009

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


DEFAULT_SETTINGS: Final = Settings()


class _Delivered:
    """What every message can do."""

    seq: int
    """Its number in the session, from 1."""
    _session: "Session"
    _inbox: Inbox

    def ack(self) -> None:
        """Acknowledges the message; again does nothing. Only needed with `Session.manual_ack`."""
        self._session._consume(self._inbox, self.seq)

    def reject(self, code: int, reason: str = "") -> None:
        """Refuses the message: its sender is told why, and not that it was consumed.

        Raises ValueError for a code outside 1000 to 4999 or a reason of more than 1024 bytes.
        """
        self._session._reject(self._inbox, self.seq, code, reason)


class TextMessage(str, _Delivered):
    """A text message: a `str` that knows its number."""


class BinaryMessage(bytes, _Delivered):
    """A binary message: `bytes` that know their number."""


Message: TypeAlias = TextMessage | BinaryMessage


class Session:
    """An open session; made by `open_session`. Any number of tasks may send, one receives."""

    def __init__(
        self, target: Target, settings: Settings, store: Store | None, on_event: Callable[[Event], None] | None
    ) -> None:
        self.state = SessionState.CONNECTING
        self.manual_ack = False
        """Messages are acknowledged by `Message.ack` and not when their loop body ends."""
        self.failure: Exception | None = None
        """Why the session ended before its time: what kept it from connecting, or what the store raised."""
        self.store_failed = False
        self._target = target
        self._settings = settings
        self._store = store
        self._on_event = on_event
        self._conversation = Conversation(
            None if store is None else store.load(),
            receipts=settings.receipts,
            window_messages=settings.window_messages,
            window_bytes=settings.window_bytes,
            carry_over=settings.carry_over,
        )
        self._back_off = BackOff(initial=settings.first_delay, maximum=settings.longest_delay)
        self._link: Link | None = None
        self._moved = Signal()
        """For the application: something came, was settled, or ended."""
        self._hurry = Signal()
        """For the connecting task: wait no longer."""
        self._trying = anyio.CancelScope(shield=True)
        self._current: tuple[Inbox, int] | None = None
        self._is_leaving = False
        """The application is leaving: nothing more is taken, sent or tried."""
        self._leaves_session = False
        """The connection is to be closed while the session is left to another process."""
        self.was_open = False
        """The gateway has opened the session at least once."""
        self._finished = anyio.Event()

    # --- how far it is ----------------------------------------------------------------------------------------------

    @property
    def token(self) -> str | None:
        """What the session is resumed with; a secret. None before it was opened."""
        return self._conversation.token

    @property
    def report(self) -> SessionReport | None:
        """The newest loss report: of this session if it has ended, else of the one before it."""
        return self._conversation.report

    @property
    def resumes(self) -> int:
        """How many times the session was taken up again on a new connection."""
        return self._conversation.resumes

    @property
    def settles_at(self) -> Rung:
        """The rung that settles what is sent: `consumed` where the backend says so, else the highest provable one."""
        return self._conversation.settles_at

    @property
    def receipts(self) -> Sequence[Receipt]:
        """Of all messages under way, in order; those that an earlier process left in the store included."""
        return self._conversation.receipts

    @property
    def is_settled(self) -> bool:
        """No message is under way."""
        return self._conversation.is_settled

    @property
    def has_ended(self) -> bool:
        """Nothing more can be sent, though messages that came before may still be taken."""
        return self._is_leaving or self._conversation.end is not None

    @property
    def close_code(self) -> int | None:
        """The code the session ended with, None while it goes on."""
        end = self._conversation.end
        return None if end is None else end.code

    @property
    def close_reason(self) -> str | None:
        """The reason the session ended with, None while it goes on."""
        end = self._conversation.end
        return None if end is None else end.reason

    def _ended(self) -> SessionEnded:
        end = self._conversation.end
        ended = SessionEnded(GOING_AWAY, "left") if end is None else SessionEnded(end.code, end.reason)
        ended.__cause__ = self.failure
        return ended

    async def wait_open(self) -> None:
        """Waits until the session is open, or open again. Raises SessionEnded."""
        while not self._conversation.is_open:
            if self.has_ended:
                raise self._ended()
            await self._moved.wait()

    # --- receiving --------------------------------------------------------------------------------------------------

    def __aiter__(self) -> "Session":
        return self

    async def __anext__(self) -> Message:
        """The next message, after acknowledging the one before. A cancellation loses no message.

        The iteration ends when the session was closed on this side, or by the gateway with 1000 or 1001, after the
        messages that came before. Raises SessionEnded for any other end.
        """
        self.finish_current()
        while not self._is_leaving:
            taken = self._conversation.take_message(self._settings.message_bytes)
            if taken is not None:
                inbox, message = taken
                self._wake_reader()
                if isinstance(message, OversizeMessage):
                    limit = self._settings.message_bytes
                    self._reject(inbox, message.seq, TOO_BIG, f"message exceeds this client's {limit} bytes")
                    continue
                self._current = (inbox, message.seq)
                return self._message(inbox, message.seq, message.data)
            end = self._conversation.end
            if end is not None:
                if end.code in CLEAN_CODES:
                    break
                raise self._ended()
            await self._moved.wait()
        raise StopAsyncIteration

    def _message(self, inbox: Inbox, seq: int, data: Data) -> Message:
        message: Message = TextMessage(data) if isinstance(data, str) else BinaryMessage(data)
        message.seq = seq
        message._session = self
        message._inbox = inbox
        return message

    def finish_current(self) -> None:
        """Acknowledges the message that iterating gave last, unless `manual_ack` is set."""
        current, self._current = self._current, None
        if current is not None and not self.manual_ack:
            self._consume(*current)

    def _consume(self, inbox: Inbox, seq: int) -> None:
        inbox.consume(seq)
        self._wake_writer()

    def _reject(self, inbox: Inbox, seq: int, code: int, reason: str) -> None:
        self._conversation.reject(inbox, seq, code, reason)
        self._wake_writer()

    # --- sending ----------------------------------------------------------------------------------------------------

    async def send(self, data: Data) -> Receipt:
        """Sends text or binary and waits until it is settled, through any number of connections.

        Raises Rejected, Lost, SessionEnded, MessageTooBig. A cancellation before there was room sends nothing; after
        that it only ends the waiting.
        """
        receipt = await self.post(data)
        await receipt.settled()
        return receipt

    async def post(self, data: Data) -> Receipt:
        """Sends as soon as the gateway's window has room, and does not wait for more; also while not connected.

        Raises SessionEnded, MessageTooBig. A cancellation sends nothing.
        """
        text, payload = encoded(data)
        while not (self.has_ended or self._conversation.has_room(len(payload))):
            await self._moved.wait()
        return self._append(text, payload)

    def send_nowait(self, data: Data) -> Receipt:
        """Sends if the gateway's window has room. Raises WindowFull, SessionEnded, MessageTooBig."""
        text, payload = encoded(data)
        if not self.has_ended and not self._conversation.has_room(len(payload)):
            raise WindowFull("the window is full of messages that are not settled")
        return self._append(text, payload)

    def _append(self, text: bool, payload: bytes) -> Receipt:
        if self.has_ended:
            raise self._ended()
        receipt = self._conversation.send(text=text, payload=payload)
        if self._link is None:
            self.save()
        self._wake_writer()
        return receipt

    async def drain(self) -> None:
        """Waits until no message is under way. Raises nothing for those that were rejected or lost."""
        while not self._conversation.is_settled:
            await self._moved.wait()

    # --- leaving ----------------------------------------------------------------------------------------------------

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Ends the session for good, after its messages are settled, for which it waits `Timeouts.settle`.

        What is not settled by then is lost, as the receipts say. What came and was not taken is not acknowledged.
        Raises ValueError for a code outside 1000 to 4999 or a reason of more than 123 bytes.
        """
        conversation = self._conversation
        self._leave()
        with anyio.move_on_after(self._settings.timeouts.settle):
            # Even when all is settled, an end that nobody hears leaves the backend waiting until its grace is over.
            while conversation.end is None and not (conversation.is_settled and conversation.is_open):
                await self._moved.wait()
        await self._end(code, reason, at_once=False)

    def _leave(self) -> None:
        self.finish_current()
        self._is_leaving = True
        self._hurry.wake()

    async def _end(self, code: int, reason: str, *, at_once: bool) -> None:
        self._is_leaving = True
        self._conversation.close(code, reason, at_once=at_once)
        await self._finish()

    async def _detach(self) -> None:
        """Leaves the session to another process, which will find it in the store."""
        self._leave()
        self._leaves_session = True
        await self._finish()

    async def _finish(self) -> None:
        if not self._conversation.is_open:
            self.drop()
        self._hurry.wake()
        self._wake_writer()
        await self._finished.wait()

    # --- connections ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connects until the session has ended; `open_session` does it in a task beside the application's.

        A cancellation does not reach it, so that the application can still say goodbye: `drop` ends it.
        """
        try:
            with self._trying:
                while True:
                    self._enter(SessionState.CONNECTING)
                    cause = await self._connect()
                    if self._leaves_session or self._conversation.end is not None:
                        break
                    if not _may_pass(cause) or (self._settings.wait_open and not self.was_open):
                        self.failure = cause
                        break
                    await self._pause(cause)
        finally:
            self._conclude()

    def drop(self) -> None:
        """Ends the connection, or the attempt at one, without a word."""
        self._trying.cancel()

    async def _connect(self) -> Exception:
        """Dials and carries one connection; why it is not there any more."""
        timeout = self._settings.timeouts.connect
        try:
            dialed = await dial(self._target, timeout_seconds=timeout)
        except (ConnectionFailed, HandshakeFailed) as failure:
            return failure
        if dialed.accepted.subprotocol != SUBPROTOCOL:
            await anyio.aclose_forcefully(dialed.stream)
            return NotRecords(f"the server does not speak {SUBPROTOCOL} at {self._target.url.target}")
        before = self._progress
        carriage = _Carriage(self, self._conversation, self._settings.timeouts)
        await carriage.run(dialed)
        self._conversation.interrupt()
        if self._progress != before:
            self._back_off.succeeded()
        ending = carriage.exchange.ending
        if carriage.is_late:
            return ConnectionTimeout(f"the gateway did not open the session within {timeout:g} s")
        return ConnectionClosed(LOST_CODE, "") if ending is None else ConnectionClosed(ending.code, ending.reason)

    @property
    def _progress(self) -> tuple[int, int]:
        return self._conversation.outbox.settled, self._conversation.inbox.accepted

    async def _pause(self, cause: Exception) -> None:
        delay = self._back_off.next_delay(at_least=retry_after_seconds(cause))
        self._enter(SessionState.WAITING, cause=cause, delay_seconds=delay)
        if not self._is_leaving:
            with anyio.move_on_after(delay):
                await self._hurry.wait()

    def _conclude(self) -> None:
        """The last word: nothing more is sent, heard or tried."""
        conversation = self._conversation
        self.save()
        if self._leaves_session and conversation.end is None:
            conversation.release()
        else:
            code, reason = LOST_CODE, ""
            if isinstance(self.failure, ConnectionClosed):
                code, reason = self.failure.code, self.failure.close_reason
            elif self.failure is not None:
                reason = str(self.failure)
            conversation.abandon(code, reason)
            self.save()
        self.dispatch()
        self._finished.set()
        self._enter(SessionState.ENDED, cause=self.failure)

    # --- what the tasks share ---------------------------------------------------------------------------------------

    def save(self) -> None:
        """Saves what has changed; what the store raises ends the session, because nothing may be told any more."""
        conversation = self._conversation
        changes = conversation.changes()
        if not changes:
            return
        if self._store is not None and not self.store_failed:
            try:
                self._store.save(changes)
            except Exception as error:
                logger.exception("the session cannot be saved")
                self.failure = error
                self.store_failed = True
                self.drop()
                return
        conversation.mark_saved(changes)

    def dispatch(self) -> None:
        """Tells the application what has happened."""
        for event in self._conversation.take_events():
            if isinstance(event, Opened):
                self.was_open = True
                self._enter(SessionState.OPEN)
            self._tell(event)
        self._moved.wake()

    def _enter(
        self, state: SessionState, *, cause: Exception | None = None, delay_seconds: float | None = None
    ) -> None:
        if state is not self.state or cause is not None:
            self.state = state
            self._tell(StateChanged(state=state, cause=cause, delay_seconds=delay_seconds))
            self._moved.wake()

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            try:
                self._on_event(event)
            except Exception:
                logger.exception("the callback for events failed")

    def _wake_writer(self) -> None:
        if self._link is not None:
            self._link.changed.wake()

    def _wake_reader(self) -> None:
        if self._link is not None:
            self._link.moved.wake()


class _Carriage:
    """One connection of a session."""

    __slots__ = ("_assembler", "_conversation", "_queued_bytes", "_session", "_timeouts", "exchange", "is_late")

    def __init__(self, session: Session, conversation: Conversation, timeouts: Timeouts) -> None:
        self._session = session
        self._conversation = conversation
        self._timeouts = timeouts
        settings = session._settings
        self._queued_bytes = max(settings.window_bytes, settings.message_bytes)
        self._assembler = RecordAssembler()
        self.exchange: Exchange
        self.is_late = False
        """The gateway did not answer OPEN in time."""

    async def run(self, dialed: Dialed) -> None:
        """Carries records until the connection is over."""
        session = self._session
        self.exchange = Exchange(
            now=anyio.current_time(),
            message_bytes=HEADER.size + MAX_BODY_BYTES,
            deflate=dialed.deflate,
            keepalive_seconds=self._timeouts.keepalive,
            close_seconds=self._timeouts.close,
        )
        session.save()
        self._conversation.attach()
        link = session._link = Link(dialed.stream, self.exchange)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._expect_opened, tasks.cancel_scope)
                await link.run(self, early=dialed.early)
                tasks.cancel_scope.cancel()
        finally:
            session._link = None

    async def _expect_opened(self, carrying: anyio.CancelScope) -> None:
        await anyio.sleep(self._timeouts.connect)
        if not self._conversation.is_open:
            self.is_late = True
            carrying.cancel()

    def receive(self, pieces: Sequence[Piece]) -> None:
        records = self._assembler.feed(pieces)
        self._conversation.receive(records)
        if self._assembler.error is not None:
            self._conversation.fail(self._assembler.error)
        self._session.dispatch()

    def prepare(self) -> None:
        session, conversation, exchange = self._session, self._conversation, self.exchange
        session.save()
        if session.store_failed or not exchange.can_send:
            return
        records = conversation.records_to_send(WRITE_BYTES)
        if records:
            exchange.send([(_BINARY, record, _WHOLE) for record in records])
            return  # the writer asks again when these are out
        now = anyio.current_time()
        if conversation.is_over:
            assert conversation.end is not None
            code = conversation.end.code
            exchange.close(code if is_legal_close_code(code) else NORMAL, conversation.end.reason, now=now)
        elif session._leaves_session:
            exchange.close(GOING_AWAY, now=now)
        elif conversation.end is None:
            # Closed, and not ended: the session is to be taken up on another connection.
            exchange.echo_close(now=now)

    @property
    def is_congested(self) -> bool:
        """The application is behind."""
        return self._conversation.is_congested(self._queued_bytes)


@asynccontextmanager
async def open_session(
    url: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    store: Store | None = None,
    settings: Settings = DEFAULT_SETTINGS,
    on_event: Callable[[Event], None] | None = None,
) -> AsyncIterator[Session]:
    """A session that is open when the block begins and over when it has ended, whatever becomes of its connections.

    Leaving the block in good order waits for what is under way to be settled and closes the session, see
    `Session.close`; an exception in it closes it at once with 1011, and comes out as it is, in no group. With a `store`
    the session is neither begun nor ended by the block: it is taken up where the store has it, and left there for the
    next one, unless it was closed. `on_event` is called with what happens, on the event loop's thread.

    Raises ConnectionFailed, HandshakeFailed (and HandshakeRejected, its kind for an answer that is no upgrade),
    ConnectionClosed or SessionEnded when the session does not come about; ValueError for a URL or header that cannot
    be; what the store raises.
    """
    target = Target.of(url, subprotocols=(SUBPROTOCOL,), headers=headers, origin=origin, ssl_context=ssl_context)
    session = Session(target, settings, store, on_event)
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.run)
        try:
            if settings.wait_open:
                await session.wait_open()
            yield session
            await (session.close() if store is None else session._detach())
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(GOODBYE_SECONDS, shield=True):
                await (session._end(GOING_AWAY, "", at_once=True) if store is None else session._detach())
            raise
        except Exception as error:  # noqa: BLE001  # raised again below, where no task group wraps it
            failure = error
            await (session._end(INTERNAL_ERROR, "", at_once=True) if store is None else session._detach())
        finally:
            session.drop()
    is_told = failure is None or isinstance(failure, SessionEnded)  # which only says that there is a cause
    if is_told and session.failure is not None and (session.store_failed or not session.was_open):
        raise session.failure
    if failure is not None:
        raise failure


def _may_pass(cause: Exception) -> bool:
    """Whether a session that lost its connection so may be had again."""
    if isinstance(cause, ConnectionClosed):
        return cause.code in PASSING_CODES
    return isinstance(cause, ConnectionFailed | HandshakeFailed) and is_passing(cause)
