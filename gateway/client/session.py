"""A session of the record protocol `kakitome.v1`: messages that are known to have arrived, across any connections.

    async with open_session("wss://example.com/chat") as session:
        await session.send("hello")         # returns when the far side has it
        async for message in session:
            print(message)                  # acknowledged when the loop comes back

Invariant: a message is acknowledged after the application is done with it and never before: when its loop body has
ended, or when the block is left in good order behind a `break`. A message whose loop body raised or was cancelled is
not, and comes again to whoever takes the session up. What is caught outside the loop and inside the block looks like a
`break`, though: catch it in the loop's body, or acknowledge by hand (`Session.manual_ack`).
"""

import ssl
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio

from gateway.client.connection import (
    CLEAN_CODES,
    GOODBYE_SECONDS,
)
from gateway.client.credentials import Credential, check
from gateway.client.delivered import Message, deliver
from gateway.client.dialing import Target
from gateway.client.events import Event, SessionState
from gateway.client.faults import SessionEnded, WindowFull
from gateway.client.receipts import Receipt
from gateway.client.store import Store
from gateway.client.upkeep import Settings, Upkeep
from gateway.codes import GOING_AWAY, INTERNAL, NORMAL, TOO_BIG
from gateway.ends.messages import Data, check_code, encoded
from gateway.protocol.inbox import Inbox, OversizeMessage
from gateway.protocol.records import SUBPROTOCOL, Rung, SessionReport

DEFAULT_SETTINGS: Final = Settings()


class Session:
    """An open session; made by `open_session`. Any number of tasks may send, one receives."""

    def __init__(self, upkeep: Upkeep) -> None:
        self.manual_ack = False
        """Messages are acknowledged by `Message.ack` and not when their loop body ends."""
        self._upkeep = upkeep
        self._conversation = upkeep.conversation
        self._current: tuple[Inbox, int] | None = None
        self._turn = anyio.Lock(fast_acquire=True)
        """Held by whoever sends next: a large message would wait for ever beside small ones, which always find room."""

    @property
    def state(self) -> SessionState:
        """What the session is doing."""
        return self._upkeep.state

    @property
    def failure(self) -> Exception | None:
        """Why the session ended before its time: what kept it from connecting, or what the store raised."""
        return self._upkeep.failure

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
        return self._upkeep.is_leaving or self._conversation.end is not None

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
        ended.__cause__ = self._upkeep.failure
        return ended

    async def wait_open(self) -> None:
        """Waits until the session is open, or open again. Raises SessionEnded."""
        while not self._conversation.is_open:
            if self.has_ended:
                raise self._ended()
            await self._upkeep.moved.wait()

    # --- receiving --------------------------------------------------------------------------------------------------

    def __aiter__(self) -> "Session":
        return self

    async def __anext__(self) -> Message:
        """The next message, after acknowledging the one before. A cancellation loses no message.

        The iteration ends when the session was closed on this side, or by the gateway with 1000 or 1001, after the
        messages that came before. Raises SessionEnded for any other end.
        """
        self.finish_current()
        while not self._upkeep.is_leaving:
            taken = self._conversation.take_message(self._upkeep.settings.message_bytes)
            if taken is not None:
                inbox, message = taken
                self._upkeep.wake_reader()
                if isinstance(message, OversizeMessage):
                    limit = self._upkeep.settings.message_bytes
                    self._upkeep.reject(inbox, message.seq, TOO_BIG, f"message exceeds this client's {limit} bytes")
                    continue
                self._current = (inbox, message.seq)
                return deliver(self._upkeep, inbox, message.seq, message.data)
            end = self._conversation.end
            if end is not None:
                if end.code in CLEAN_CODES:
                    break
                raise self._ended()
            await self._upkeep.moved.wait()
        raise StopAsyncIteration

    def finish_current(self) -> None:
        """Acknowledges the message that iterating gave last, unless `manual_ack` is set."""
        current, self._current = self._current, None
        if current is not None and not self.manual_ack:
            self._upkeep.consume(*current)

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

        Who came first is served first. Raises SessionEnded, MessageTooBig; one that turns out to be too big once the
        gateway has told its limit is rejected as `TooBig`. A cancellation sends nothing.
        """
        text, payload = encoded(data)
        async with self._turn:
            while not (self.has_ended or self._conversation.has_room(len(payload))):
                await self._upkeep.moved.wait()
            return self._append(text, payload)

    def send_nowait(self, data: Data) -> Receipt:
        """Sends if the gateway's window has room and nobody waits for it.

        Raises WindowFull, SessionEnded, MessageTooBig; see `post`.
        """
        text, payload = encoded(data)
        if not self.has_ended and (self._turn.locked() or not self._conversation.has_room(len(payload))):
            raise WindowFull("the window is full of messages that are not settled")
        return self._append(text, payload)

    def _append(self, text: bool, payload: bytes) -> Receipt:
        if self.has_ended:
            raise self._ended()
        receipt = self._conversation.send(text=text, payload=payload)
        self._upkeep.wake_writer()
        return receipt

    async def drain(self) -> None:
        """Waits until no message is under way. Raises nothing for those that were rejected or lost."""
        while not self._conversation.is_settled:
            await self._upkeep.moved.wait()

    # --- leaving ----------------------------------------------------------------------------------------------------

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Ends the session for good, after its messages are settled.

        It waits for each of them for `Timeouts.settle`, and for all of them for `Timeouts.settle_total`. What is not
        settled by then is lost, as the receipts say. What came and was not taken is not acknowledged.
        Raises ValueError for a code outside 1000 to 4999, and nothing has happened then. A reason is cut to 123 bytes.
        """
        conversation, upkeep = self._conversation, self._upkeep
        check_code(code)
        self._stop_taking()
        timeouts = upkeep.settings.timeouts
        over_at = anyio.current_time() + timeouts.settle_total
        with anyio.CancelScope(deadline=min(anyio.current_time() + timeouts.settle, over_at)) as patience:
            # Even when all is settled, an end that nobody hears leaves the backend waiting until its grace is over.
            while conversation.end is None and not (conversation.is_settled and conversation.is_open):
                settled = conversation.outbox.settled
                await upkeep.moved.wait()
                if conversation.outbox.settled > settled:
                    patience.deadline = min(anyio.current_time() + timeouts.settle, over_at)
        conversation.close(code, reason)
        await upkeep.finish()

    async def end(self, code: int, reason: str = "", *, at_once: bool = False) -> None:
        """Ends the session for good, without waiting for its messages; `at_once`: ahead of those not sent yet.

        Code and reason are as for `close`.
        """
        check_code(code)
        self._stop_taking()
        self._conversation.close(code, reason, at_once=at_once)
        await self._upkeep.finish()

    async def release(self) -> None:
        """Leaves the session to whoever opens it with this store next."""
        self._stop_taking()
        self._upkeep.is_released = True
        await self._upkeep.finish()

    async def abandon(self, code: int, *, keeps_session: bool) -> None:
        """Leaves because something was raised: the message in hand is not acknowledged.

        The session ends at once with `code`, or is left to whoever opens it next if `keeps_session`.
        """
        self._current = None
        await (self.release() if keeps_session else self.end(code, at_once=True))

    def _stop_taking(self) -> None:
        if sys.exception() is None:
            self.finish_current()
        else:
            # We are called while an exception is handled, which the loop body may have raised.
            self._current = None
        self._upkeep.is_leaving = True
        self._upkeep.hurry()


@asynccontextmanager
async def open_session(
    url: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    token: Credential | None = None,
    store: Store | None = None,
    settings: Settings = DEFAULT_SETTINGS,
    on_event: Callable[[Event], None] | None = None,
) -> AsyncIterator[Session]:
    """A session that is open when the block begins and over when it has ended, whatever becomes of its connections.

    Leaving the block in good order waits for what is under way to be settled and closes the session, see
    `Session.close`; an exception in it closes it at once with 1011, a cancellation, an exit or an interrupt with 1001.
    Whatever is raised comes out as it is, in no group, and the message that was in hand is not acknowledged. The block
    may be left in another task than it was entered in. With a `store` the session is neither begun nor ended by the
    block: it is taken up where the store has it, and left there for the next one, unless it was closed. `on_event` is
    called with what happens, on the event loop's thread. `token` is the credential that OPEN carries, for routes that
    take it there; an async function is asked for a fresh one before each connection and before the permission ends.

    Raises ConnectionFailed, HandshakeFailed (and HandshakeRejected, its kind for an answer that is no upgrade),
    ConnectionClosed or SessionEnded when the session does not come about; ValueError for a URL, header or token that
    cannot be; what the store raises.
    """
    target = Target.of(url, subprotocols=(SUBPROTOCOL,), headers=headers, origin=origin, ssl_context=ssl_context)
    check(token)
    upkeep = Upkeep(target, settings, store, on_event, token)
    session = Session(upkeep)
    failure: BaseException | None = None
    upkeep.start()
    try:
        if settings.wait_open:
            await session.wait_open()
        yield session
        session.finish_current()
        await (session.close() if store is None else session.release())
    except Exception as error:  # noqa: BLE001  # raised again below, or what caused it
        failure = error
        await session.abandon(INTERNAL, keeps_session=store is not None)
    except BaseException as error:  # noqa: BLE001  # as above
        failure = error
        with anyio.move_on_after(GOODBYE_SECONDS, shield=True):
            await session.abandon(GOING_AWAY, keeps_session=store is not None)
    finally:
        await upkeep.stop()
    is_told = failure is None or isinstance(failure, SessionEnded)  # which only says that there is a cause
    if is_told and upkeep.failure is not None and (upkeep.store_failed or not upkeep.was_open):
        raise upkeep.failure
    if failure is not None:
        raise failure
