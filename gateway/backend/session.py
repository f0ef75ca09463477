"""What a handler has in hand: the session, its messages, and receipts for what it sent.

    async def handler(session: Session) -> None:
        async for text in session.texts():
            await session.send("Pong: " + text)

Invariant: a message is acknowledged after the handler is done with it and never before: when its loop body has ended,
or when the handler has returned. A message whose handler raised comes again, a bounded number of times (`handling`); so
does, after a resume, one whose handler was cancelled because the process stops.
"""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Final, TypeAlias

import anyio.lowlevel
from pydantic import JsonValue

from gateway.backend.conversation import Conversation
from gateway.backend.live import LiveSession
from gateway.codes import NORMAL, TOO_BIG, UNSUPPORTED
from gateway.ends.messages import check_code, encoded
from gateway.protocol.inbox import IncomingPiece, OversizeMessage
from gateway.protocol.records import ClientAddress, OpenToBackend, Rung, SessionReport

MESSAGES_A_TURN: Final = 16
"""What one handler takes in a row before the others, and the connections, get their turn."""


class SessionEnded(Exception):
    """The session has ended for good; nothing can be sent in it, and what was not settled remains unknown."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the session ended with {code} {reason}".rstrip())
        self.code = code
        self.reason = reason


class MessageRejected(Exception):
    """The peer refused a message of ours."""

    def __init__(self, seq: int, code: int, reason: str) -> None:
        super().__init__(f"message {seq} was rejected with {code} {reason}".rstrip())
        self.seq = seq
        self.code = code
        self.reason = reason


class Transaction:
    """Effects, replies and the consumed position of one message, which become lasting all together or not at all."""

    __slots__ = ("effects", "staged")

    def __init__(self, effects: Any) -> None:
        self.effects = effects
        """What the store shares: of `SqliteStore` its `sqlite3.Connection`, of `MemoryStore` None."""
        self.staged: list[tuple[bool, bytes]] = []
        """(text, payload) of the replies."""

    def send(self, data: str | bytes) -> None:
        """Sends a reply when the transaction is committed.

        Never waits; the next transaction does, while there are more replies than the peer's windows take, or when a
        window full of them has overtaken a message that waits for room.
        """
        self.staged.append(encoded(data))


class _Delivered:
    """What every message of the peer's can do."""

    seq: int
    """Its number in the session, from 1."""
    _session: "Session"

    def ack(self) -> None:
        """Acknowledges the message; again, or inside its transaction, does nothing. Only needed with `manual_ack`."""
        self._session.acknowledge(self.seq)

    def reject(self, code: int, reason: str = "") -> None:
        """Refuses the message: its sender is told why, and not that it was consumed.

        Raises ValueError for a code outside 1000 to 4999. A reason is cut to 1024 bytes.
        """
        self._session.reject(self.seq, code, reason)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Joins the handler's effects, its replies and this message's position in one transaction of the store.

        At its end the message is consumed. An exception, a cancellation, a COMMIT that fails or the death of the
        process undoes it all, and the message can be tried again or comes again: effects are made exactly once. Other
        sessions of the store wait meanwhile, so be brief, and send with `Transaction.send`. Raises RuntimeError while a
        message before this one is not acknowledged, and what the store raises.
        """
        async with self._session.transaction(self.seq) as transaction:
            yield transaction


class TextMessage(str, _Delivered):
    """A text message: a `str` that knows its number."""


class BinaryMessage(bytes, _Delivered):
    """A binary message: `bytes` that know their number."""


Message: TypeAlias = TextMessage | BinaryMessage


class Receipt:
    """Stands for one message that was sent."""

    __slots__ = ("_fate", "_live", "seq")

    def __init__(self, live: LiveSession, seq: int) -> None:
        self._live = live
        self._fate = live.conversation.fate_of(seq)
        self.seq = seq
        """The message's number."""

    @property
    def is_settled(self) -> bool:
        """The message is settled (or was rejected)."""
        return self._live.conversation.outbox.settled >= self.seq

    async def settled(self) -> Rung | None:
        """Waits until the message is settled; the rung it is known to have reached, None if the peer did not say.

        Raises MessageRejected if the peer refused it, SessionEnded if nothing more will be learned about it.
        """
        conversation = self._live.conversation
        while True:
            rejection = self._fate.rejection
            if rejection is not None:
                raise MessageRejected(self.seq, rejection.code, rejection.reason)
            if self.is_settled:
                return conversation.settled_rung
            end = conversation.end
            if end is not None and (end.by_peer or self._live.retired):
                raise SessionEnded(end.code, end.reason)
            await self._live.moved.wait()


class Session:
    """One client's conversation with this backend, whatever connections it takes. For one handler's tasks.

    After a restart of the process the handler of a resumed session runs anew, and so does one that raised:
    `sent_messages` and `consumed_messages` tell it how far it was.
    """

    def __init__(self, live: LiveSession, *, message_bytes: int, attempt: int = 1) -> None:
        """`message_bytes` is the largest message that iterating gathers; a larger one is rejected with 1009."""
        self.attempt = attempt
        """How many times the handler has been run because it raised, this one included; 1 if it did not."""
        self._live = live
        self._message_bytes = message_bytes
        self._current: int | None = None
        self._taken = 0
        self._in_transaction = 0
        """The message whose transaction is open, 0 for none."""
        self._closed = False
        """The handler takes no messages any more."""
        self.manual_ack = False
        """Messages are acknowledged by `Message.ack` and not when their loop body ends."""

    # --- who is there -------------------------------------------------------------------------------------------------

    @property
    def _conversation(self) -> Conversation:
        return self._live.conversation

    @property
    def _opening(self) -> OpenToBackend:
        opening = self._conversation.opening
        assert opening is not None, "a session begins with an OPEN"
        return opening

    @property
    def id(self) -> str:
        """The session's name, the same through all its connections."""
        return self._live.id

    @property
    def epoch(self) -> int:
        """Rises with every attach of the client."""
        return self._conversation.epoch

    @property
    def route(self) -> str:
        """The name of the gateway's route."""
        return self._opening.route

    @property
    def path(self) -> str:
        """The path of the client's request, percent-decoded."""
        return self._opening.path

    @property
    def query(self) -> str:
        """The query of the client's request, without the question mark; empty for none."""
        return self._opening.query

    @property
    def host(self) -> str:
        """The host that the client asked for."""
        return self._opening.host

    @property
    def origin(self) -> str | None:
        """The web page's origin; None for clients that are no browsers."""
        return self._opening.origin

    @property
    def subprotocol(self) -> str | None:
        """The WebSocket subprotocol that was agreed on."""
        return self._opening.subprotocol

    @property
    def client(self) -> ClientAddress:
        """Where the client connected from."""
        return self._opening.client

    @property
    def headers(self) -> Mapping[str, str]:
        """The request headers that the route passes on, names in lower case."""
        return self._opening.headers

    @property
    def claims(self) -> Mapping[str, JsonValue] | None:
        """What the gateway's authentication said about the client; None without one."""
        return self._opening.claims

    # --- how far it is ------------------------------------------------------------------------------------------------

    @property
    def consumed_messages(self) -> int:
        """All messages of the client's up to this number are consumed, also by an earlier run of the handler."""
        return self._conversation.inbox.consumed

    @property
    def sent_messages(self) -> int:
        """The number of the last message sent, also by an earlier run of the handler; 0 in a session that is new."""
        return self._conversation.outbox.sent

    @property
    def settled_messages(self) -> int:
        """All messages of ours up to this number are settled."""
        return self._conversation.outbox.settled

    @property
    def ended(self) -> bool:
        """The session has ended for good, though messages that came before the end may still be taken."""
        return self._conversation.end is not None

    @property
    def is_done(self) -> bool:
        """It has ended, and there is no message left that the handler could take, or take again."""
        inbox = self._conversation.inbox
        return self.ended and (self._closed or (inbox.is_empty and inbox.in_hand is None))

    @property
    def close_code(self) -> int | None:
        """The code the session ended with, None while it goes on."""
        return self._conversation.end.code if self._conversation.end is not None else None

    @property
    def close_reason(self) -> str | None:
        """The reason the session ended with, None while it goes on."""
        return self._conversation.end.reason if self._conversation.end is not None else None

    @property
    def loss_report(self) -> SessionReport | None:
        """What is known about unsettled messages, if the session ended and the peer told."""
        return self._conversation.report

    async def wait_ended(self) -> None:
        """Waits for the session's end: for handlers that only send."""
        while not self.ended:
            await self._live.moved.wait()

    # --- receiving ----------------------------------------------------------------------------------------------------

    def __aiter__(self) -> "Session":
        return self

    async def __anext__(self) -> Message:
        """The next message. The iteration ends when the session has, after the messages that came before its end."""
        self.finish_current()
        await self._let_others_run()
        inbox = self._conversation.inbox
        while not self._closed:
            taken = inbox.take_message(self._message_bytes)
            if taken is None:
                if self.ended:
                    break
                await self._live.arrived.wait()
            elif isinstance(taken, OversizeMessage):
                self.reject(taken.seq, TOO_BIG, f"message exceeds this backend's {self._message_bytes} bytes")
            else:
                self._live.moved.wake()
                self._current = taken.seq
                return self._message(taken.seq, taken.data)
        raise StopAsyncIteration

    async def _let_others_run(self) -> None:
        """Now and then: a handler that always finds the next message waiting would keep all others from running."""
        self._taken += 1
        if self._taken % MESSAGES_A_TURN == 0:
            await anyio.lowlevel.checkpoint()

    def _message(self, seq: int, data: str | bytes) -> Message:
        message: Message = TextMessage(data) if isinstance(data, str) else BinaryMessage(data)
        message.seq = seq
        message._session = self
        return message

    async def texts(self) -> AsyncIterator[TextMessage]:
        """Iterates over text messages; binary ones are rejected with 1003."""
        async for message in self:
            if isinstance(message, TextMessage):
                yield message
            else:
                message.reject(UNSUPPORTED, "this backend takes text only")

    def pieces(self) -> AsyncIterator[IncomingPiece]:
        """Iterates over the parts of messages as they come, so that a message of any size passes in bounded memory.

        A message is acknowledged after the loop body of its last piece. A session may end inside a message.
        """
        return _Pieces(self)

    async def next_piece(self) -> IncomingPiece | None:
        """The next piece, None when the session has ended. Acknowledges as `pieces` does."""
        self.finish_current()
        await self._let_others_run()
        while not self._closed:
            piece = self._conversation.inbox.take_piece()
            if piece is not None:
                self._live.moved.wake()
                if piece.last:
                    self._current = piece.seq
                return piece
            if self.ended:
                break
            await self._live.arrived.wait()
        return None

    def finish_current(self) -> None:
        """Acknowledges the message that iterating gave last, unless `manual_ack` is set."""
        seq, self._current = self._current, None
        if seq is not None and not self.manual_ack:
            self.acknowledge(seq)

    def acknowledge(self, seq: int) -> None:
        """Tells the sender that `seq` is consumed, once all before it are. Raises ValueError if it has not come.

        Inside its transaction it does nothing: at the end of that it is consumed, and if that fails it is not.
        """
        if seq == self._in_transaction:
            return
        self._conversation.inbox.consume(seq)
        self._live.changed.wake()

    def reject(self, seq: int, code: int, reason: str = "") -> None:
        """Refuses message `seq`. Raises as `Message.reject`."""
        self._conversation.reject(seq, code, reason)
        self._live.changed.wake()
        self._live.moved.wake()

    @asynccontextmanager
    async def transaction(self, seq: int) -> AsyncIterator[Transaction]:
        """See `Message.transaction`."""
        conversation = self._conversation
        # Replies are bounded so; a window that is only full holds nobody up who may have nothing to reply.
        while not (self.ended or self._live.admission.may_overtake):
            await self._live.moved.wait()
        shelf = self._live.shelf
        async with shelf.lock:
            if seq != conversation.inbox.consumed + 1:  # another task may have had a transaction of it meanwhile
                raise RuntimeError(
                    f"message {seq} is not the next to be consumed, {conversation.inbox.consumed + 1} is"
                )
            with ExitStack() as stack:
                transaction = Transaction(stack.enter_context(shelf.store.transaction()))
                stack.callback(self._leave_transaction)
                self._in_transaction = seq
                yield transaction
                self._live.commit(seq, transaction.staged, stack.close)
        self._live.changed.wake()

    def _leave_transaction(self) -> None:
        self._in_transaction = 0

    # --- sending ------------------------------------------------------------------------------------------------------

    async def send(self, data: str | bytes) -> Receipt:
        """Sends text or binary, as soon as the peer's windows have room; also while no connection is there.

        Of several tasks that wait the one that came first goes first, however large its message is. Raises
        SessionEnded. A cancellation while waiting sends nothing.
        """
        text, payload = encoded(data)
        async with self._live.admission.turn():
            while not (self.ended or self._conversation.outbox.has_room(len(payload))):
                await self._live.moved.wait()
            return self._append(text, payload)

    def send_nowait(self, data: str | bytes) -> Receipt | None:
        """Sends if the peer's windows have room and nobody waits for it; None if nothing was sent.

        Raises SessionEnded.
        """
        text, payload = encoded(data)
        self._check_not_ended()
        if self._live.admission.is_awaited or not self._conversation.outbox.has_room(len(payload)):
            return None
        return self._append(text, payload)

    def _append(self, text: bool, payload: bytes) -> Receipt:
        self._check_not_ended()
        seq = self._conversation.outbox.append(text=text, payload=payload)
        self._live.changed.wake()
        return Receipt(self._live, seq)

    async def send_piece(self, data: bytes, *, text: bool, last: bool) -> Receipt:
        """Sends a part of a message, the first or the next; waits for the connection to take it. Raises SessionEnded.

        A message that has grown beyond the window is not kept: a connection that breaks in it ends the session (1011).
        After a restart, or when it has raised, the handler must begin the unfinished message again with the same bytes.
        """
        if self._conversation.outbox.in_pieces:
            return await self._send_piece(data, text=text, last=last)
        async with self._live.admission.turn():
            return await self._send_piece(data, text=text, last=last)

    async def _send_piece(self, data: bytes, *, text: bool, last: bool) -> Receipt:
        outbox = self._conversation.outbox
        while not (self.ended or outbox.has_room_for_piece(len(data))):
            await self._live.moved.wait()
        self._check_not_ended()
        seq = outbox.append_piece(text=text, data=data, last=last)
        self._live.changed.wake()
        return Receipt(self._live, seq)

    def _check_not_ended(self) -> None:
        end = self._conversation.end
        if end is not None:
            raise SessionEnded(end.code, end.reason)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Ends the session for good, behind all that was sent; what came is not taken any more. Again does nothing.

        The message in hand is acknowledged, as when its loop body ends, but not while an exception is handled, which
        that body may have raised: then its sender is told that nobody knows.

        Raises ValueError for a code outside 1000 to 4999, and nothing has happened then. A reason is cut to 123 bytes.
        """
        check_code(code)
        if sys.exception() is None:
            self.finish_current()
        self._current = None
        self._closed = True
        self._conversation.close(code, reason)
        self._live.wake()


class _Pieces:
    """Iterates over a session's pieces."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> IncomingPiece:
        piece = await self._session.next_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece
