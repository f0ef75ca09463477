"""A plain WebSocket connection: messages in, messages out, under trio or asyncio.

    async with connect("wss://example.com/chat") as connection:
        await connection.send("hello")
        async for message in connection:
            print(message)

Invariant: what is received and not taken is bounded: beyond `QUEUE_BYTES` nothing more is read.
"""

import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import anyio

from gateway.client.background import Background
from gateway.client.dialing import Dialed, Target, dial
from gateway.client.exchange import Exchange
from gateway.client.faults import ConnectionClosed
from gateway.client.link import Link
from gateway.codes import ABNORMAL, GOING_AWAY, INTERNAL, NO_CODE, NORMAL
from gateway.ends.messages import Data, encoded
from gateway.protocol.handshake import Headers
from gateway.protocol.messages import CloseFrame
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece

QUEUE_BYTES: Final = 1 << 20
MESSAGE_COST_BYTES: Final = 128
"""What a message that waits counts beyond its payload, so that empty ones are bounded too."""

DEFAULT_MESSAGE_BYTES: Final = 16 << 20

CLEAN_CODES: Final = frozenset({NORMAL, GOING_AWAY, NO_CODE})

GOODBYE_SECONDS: Final = 1.0
"""What a connection has to send its Close when its block is cancelled."""

_TEXT: Final = int(Opcode.TEXT)
_BINARY: Final = int(Opcode.BINARY)
_WHOLE: Final = FIRST | LAST


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a client waits, in seconds."""

    connect: float = 10.0
    """For TCP, TLS and the opening handshake together; and again for the session to be opened."""
    keepalive: float | None = 20.0
    """Of silence, before the server is pinged; it is given up when it is silent for as long again. None: never."""
    close: float = 5.0
    """For the server to answer our Close and to end the connection, from its last sign of life on."""
    close_total: float = 60.0
    """For that in all, however it shows that it lives."""
    settle: float = 10.0
    """For a session's last messages to be settled when it is closed, from the last of them on that was."""
    settle_total: float = 60.0
    """For that in all, however steadily they are settled."""


DEFAULT_TIMEOUTS: Final = Timeouts()


class _Messages:
    """What a connection carries: whole messages that wait to be taken, and how far sending is."""

    __slots__ = (
        "_in_hand",
        "_parts",
        "dropped",
        "exchange",
        "flushed",
        "handed_over",
        "is_taken",
        "queue",
        "queued_bytes",
    )

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.queue: deque[tuple[Data, int]] = deque()
        """Each with what it counts of `queued_bytes`."""
        self.queued_bytes = 0
        self.is_taken = True
        """Somebody takes what comes, so reading can wait for that."""
        self.dropped = 0
        """Messages that came and were not kept, because nobody took them any more."""
        self.handed_over = 0
        """Messages that were given to the exchange."""
        self.flushed = 0
        """Messages that the stream has taken."""
        self._in_hand = 0
        self._parts: list[bytes] = []

    def receive(self, pieces: Sequence[Piece]) -> None:
        for opcode, payload, flags in pieces:
            self._parts.append(payload)
            if flags & LAST:
                data = b"".join(self._parts)
                self._parts.clear()
                # Nobody may be receiving any more, and the server's Close must still be heard behind what it sent. Once
                # something is missing what follows is worth nothing.
                if self.dropped or (self._is_full and not self._waits):
                    self.dropped += 1
                else:
                    cost = len(data) + MESSAGE_COST_BYTES
                    self.queue.append((data.decode() if opcode == _TEXT else data, cost))
                    self.queued_bytes += cost
        self.exchange.echo_close(now=anyio.current_time())

    def take(self) -> Data:
        """The oldest message."""
        message, cost = self.queue.popleft()
        self.queued_bytes -= cost
        return message

    def prepare(self) -> None:
        # The writer asks for more when the stream has taken what it had in hand.
        self.flushed, self._in_hand = self._in_hand, self.handed_over

    @property
    def _is_full(self) -> bool:
        return self.queued_bytes > QUEUE_BYTES

    @property
    def _waits(self) -> bool:
        return self.exchange.can_send or self.is_taken

    @property
    def is_congested(self) -> bool:
        """The application is behind."""
        return self._is_full and self._waits


class Connection:
    """An open connection; made by `connect`. Any number of tasks may send, ping and receive."""

    def __init__(self, dialed: Dialed, *, message_bytes: int | None, timeouts: Timeouts) -> None:
        self.subprotocol = dialed.accepted.subprotocol
        """What the server chose of the subprotocols offered, None for none."""
        self.headers: Headers = dialed.accepted.headers
        """Of the server's answer, names in lower case."""
        self._exchange = Exchange(
            now=anyio.current_time(),
            message_bytes=message_bytes,
            deflate=dialed.deflate,
            keepalive_seconds=timeouts.keepalive,
            close_seconds=timeouts.close,
            close_total_seconds=timeouts.close_total,
        )
        self._messages = _Messages(self._exchange)
        self._link = Link(dialed.stream, self._exchange)
        self._early = dialed.early
        self._own_close: CloseFrame | None = None
        self._carrying: Background | None = None
        self._finished = anyio.Event()

    # --- how it ended -----------------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Messages can be sent: neither side has closed."""
        return self._exchange.ending is None and not self._exchange.is_closing

    @property
    def close_code(self) -> int | None:
        """The code of the server's Close, or of ours if a fault of the server's made us close; None while open.

        1005 if it carried none, 1006 if the connection ended without a Close.
        """
        ending = self._exchange.ending
        return None if ending is None else ending.code

    @property
    def close_reason(self) -> str | None:
        """The reason that came with the code; None while open."""
        ending = self._exchange.ending
        return None if ending is None else ending.reason

    def _closed(self) -> ConnectionClosed:
        ending = self._exchange.ending or self._own_close or CloseFrame(code=ABNORMAL)
        return ConnectionClosed(ending.code, ending.reason, dropped=self._messages.dropped)

    # --- receiving --------------------------------------------------------------------------------------------------

    async def receive(self) -> Data:
        """The next message. Raises ConnectionClosed when there will be no more, whatever the code.

        A cancellation loses no message.
        """
        while not self._messages.queue:
            if self._exchange.ending is not None:
                raise self._closed()
            await self._link.moved.wait()
        message = self._messages.take()
        self._link.moved.wake()
        return message

    def __aiter__(self) -> "Connection":
        return self

    async def __anext__(self) -> Data:
        """The next message; the iteration ends with a Close of 1000, 1001 or without a code.

        Raises ConnectionClosed for any other end, and where messages are missing at the end because they came when
        `close` had been called and nobody took them.
        """
        try:
            return await self.receive()
        except ConnectionClosed as closed:
            if closed.code in CLEAN_CODES and not closed.dropped:
                raise StopAsyncIteration from None
            raise

    # --- sending ----------------------------------------------------------------------------------------------------

    async def send(self, message: Data) -> None:
        """Sends one message; returns when the kernel has taken it, which says nothing of its arrival.

        Raises ConnectionClosed. A cancellation may come too late to keep the message back, but never sends half of it.
        """
        if not self.is_open:
            raise self._closed()
        text, payload = encoded(message)
        messages = self._messages
        self._exchange.send([(_TEXT if text else _BINARY, payload, _WHOLE)])
        messages.handed_over += 1
        mine = messages.handed_over
        self._link.changed.wake()
        while messages.flushed < mine:
            if self._finished.is_set():
                raise self._closed()
            await self._link.moved.wait()

    async def ping(self) -> float:
        """Asks the server for a sign of life; the seconds it took. Raises ConnectionClosed."""
        if not self.is_open:
            raise self._closed()
        begin = anyio.current_time()
        number = self._exchange.ping()
        self._link.changed.wake()
        while self._exchange.pings_answered < number:
            if self._exchange.ending is not None:
                raise self._closed()
            await self._link.moved.wait()
        return anyio.current_time() - begin

    async def close(self, code: int | None = NORMAL, reason: str = "") -> None:
        """Closes behind all that was sent, and waits for the server's answer, as long as `Timeouts.close`.

        Messages that came before it can still be received, as many as fit `QUEUE_BYTES`: see `finish_sending`. A reason
        is cut to 123 bytes. Raises ValueError for a code that must not be sent, and nothing has happened then.
        """
        self._send_close(code, reason)
        self._messages.is_taken = False
        self._link.moved.wake()
        await self._finished.wait()

    def finish_sending(self, code: int | None = NORMAL, reason: str = "") -> None:
        """Sends Close behind all that was sent, and returns at once; what the server still says is received as before.

        For services that answer at the end of what they get. Raises ValueError as `close`.
        """
        self._send_close(code, reason)

    def _send_close(self, code: int | None, reason: str) -> None:
        self._exchange.close(code, reason, now=anyio.current_time())
        if self._own_close is None:
            self._own_close = CloseFrame(code=NO_CODE if code is None else code, reason=reason)
        self._link.moved.wake()
        self._link.changed.wake()
        self._link.reschedule()

    async def wait_fenced(self) -> None:
        """Returns when the server has pinged behind all data, as Kakitome does to learn that it has reached us.

        A Close that is sent before overtakes the answer. Other servers may never ping, so give it little time.
        """
        while self._exchange.has_unfenced and self._exchange.ending is None:
            await self._link.moved.wait()

    def start(self) -> None:
        """Begins to carry the connection, in a task of its own."""
        self._carrying = Background(self._carry, "kakitome connection")

    async def _carry(self) -> None:
        try:
            await self._link.run(self._messages, early=self._early)
        finally:
            self._finished.set()
            self._link.moved.wake()

    async def drop(self) -> None:
        """Drops what there is of the connection, without a word. Raises what carrying it raised: a bug of ours.

        A cancellation does not keep it from closing the socket.
        """
        carrying = self._carrying
        if carrying is not None:
            carrying.cancel()
            with anyio.CancelScope(shield=True):
                await carrying.wait()
            if carrying.failure is not None:
                raise carrying.failure


@asynccontextmanager
async def connect(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    origin: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    compression: bool = False,
    message_bytes: int | None = DEFAULT_MESSAGE_BYTES,
    timeouts: Timeouts = DEFAULT_TIMEOUTS,
) -> AsyncIterator[Connection]:
    """A connection that is open when the block begins and closed when it has ended.

    `headers` are added to the request. `ssl_context` is for wss; by default the system's authorities are trusted.
    `message_bytes` limits a message that comes in, None does not. Leaving the block closes with 1000, an exception in
    it with 1011; a cancellation, an exit or an interrupt with 1001. Whatever is raised comes out as it is, in no group,
    and the block may be left in another task than it was entered in.

    Raises ConnectionFailed, HandshakeRejected (the server answered, but not with an upgrade), HandshakeFailed, and
    ValueError for a URL, header or subprotocol that cannot be.
    """
    target = Target.of(
        url,
        subprotocols=subprotocols,
        headers=headers,
        origin=origin,
        ssl_context=ssl_context,
        compression=compression,
    )
    dialed = await dial(target, timeout_seconds=timeouts.connect)
    connection = Connection(dialed, message_bytes=message_bytes, timeouts=timeouts)
    connection.start()
    try:
        yield connection
        await connection.close(NORMAL)
    except Exception:
        await connection.close(INTERNAL)
        raise
    except BaseException:
        with anyio.move_on_after(GOODBYE_SECONDS, shield=True):
            await connection.close(GOING_AWAY)
        raise
    finally:
        await connection.drop()
