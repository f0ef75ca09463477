"""A connection as it is carried: read, written, paused and ended; what is decided is decided elsewhere."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

from gateway.client.exchange import Exchange
from gateway.client.link import READ_BYTES, Link
from gateway.codes import ABNORMAL
from gateway.protocol.messages import CloseFrame, WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from tests.client.runtimes import on_both_runtimes

WHOLE = FIRST | LAST
TEXT, BINARY = int(Opcode.TEXT), int(Opcode.BINARY)
PATIENCE_SECONDS = 20.0


class Carried:
    """Traffic that a test queues, and takes in as long as it may."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.came: list[Piece] = []
        self.queue: list[Piece] = []
        self.is_congested = False

    def receive(self, pieces: Sequence[Piece]) -> None:
        self.came += pieces

    def prepare(self) -> None:
        if self.queue:
            self.exchange.send(self.queue)
            self.queue = []


class Scene:
    """A link over a real socket, its traffic, and the server's end."""

    def __init__(self, stream: ByteStream, server: SocketStream, keepalive_seconds: float | None) -> None:
        self.exchange = Exchange(now=anyio.current_time(), keepalive_seconds=keepalive_seconds, close_seconds=0.2)
        self.link = Link(stream, self.exchange)
        self.traffic = Carried(self.exchange)
        self.server = server
        self.ws = WebSocketConnection(client=False)
        self.heard: list[Piece] = []
        self.is_over = anyio.Event()

    async def run(self, early: bytes = b"") -> None:
        await self.link.run(self.traffic, early=early)
        self.is_over.set()

    async def hears(self, payload: bytes) -> None:
        """Waits until the server has that message."""
        while (TEXT, payload, WHOLE) not in self.heard:
            self.heard += self.ws.receive_data(await self.server.receive())

    async def says(self, payload: bytes) -> None:
        await self.server.send(self.ws.send([(TEXT, payload, WHOLE)]))

    async def has(self, count: int) -> None:
        """Waits until so many pieces have been taken in."""
        while len(self.traffic.came) < count:
            await self.link.moved.wait()


@asynccontextmanager
async def scene(keepalive_seconds: float | None = None) -> AsyncIterator[Scene]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    stream = await anyio.connect_tcp("127.0.0.1", port)
    server = await listener.listeners[0].accept()  # type: ignore[attr-defined]
    with anyio.fail_after(PATIENCE_SECONDS):
        async with listener, server:
            yield Scene(stream, server, keepalive_seconds)


@on_both_runtimes
async def test_what_came_behind_the_handshake_is_taken_in_first() -> None:
    async with scene() as it, anyio.create_task_group() as tasks:
        tasks.start_soon(it.run, it.ws.send([(TEXT, b"early", WHOLE)]))
        await it.has(1)
        await it.says(b"later")
        await it.has(2)
        assert it.traffic.came == [(TEXT, b"early", WHOLE), (TEXT, b"later", WHOLE)]
        tasks.cancel_scope.cancel()


@on_both_runtimes
async def test_what_is_queued_goes_out_when_it_is_told_of() -> None:
    async with scene() as it, anyio.create_task_group() as tasks:
        tasks.start_soon(it.run)
        for payload in (b"one", b"two"):
            it.traffic.queue.append((TEXT, payload, WHOLE))
            it.link.changed.wake()
            await it.hears(payload)
        tasks.cancel_scope.cancel()


@on_both_runtimes
async def test_nothing_is_read_while_there_is_no_room_and_nothing_is_lost_of_it() -> None:
    async with scene() as it, anyio.create_task_group() as tasks:
        tasks.start_soon(it.run)
        await it.says(b"first")
        await it.has(1)
        it.traffic.is_congested = True
        await it.says(b"second")
        await it.has(2)
        await it.server.send(it.ws.send([(BINARY, bytes(8 * READ_BYTES), WHOLE)]))
        await anyio.wait_all_tasks_blocked()
        assert len(it.traffic.came) == 2, "it pauses"
        it.traffic.is_congested = False
        it.link.moved.wake()
        while sum(len(payload) for _, payload, _ in it.traffic.came[2:]) < 8 * READ_BYTES:
            await it.link.moved.wait()
        tasks.cancel_scope.cancel()


@on_both_runtimes
async def test_a_connection_that_ends_is_told_as_one_that_broke_and_its_stream_is_closed() -> None:
    async with scene() as it, anyio.create_task_group() as tasks:
        tasks.start_soon(it.run)
        await it.says(b"last")
        await it.server.aclose()
        await it.is_over.wait()
        assert it.traffic.came[0] == (TEXT, b"last", WHOLE)
        assert it.exchange.ending == CloseFrame(code=ABNORMAL)


@on_both_runtimes
async def test_a_close_is_sent_and_answered_and_then_it_is_over() -> None:
    async with scene() as it, anyio.create_task_group() as tasks:
        tasks.start_soon(it.run)
        it.exchange.close(1000, "done", now=anyio.current_time())
        it.link.changed.wake()
        it.link.reschedule()
        while it.ws.close_received is None:
            it.ws.receive_data(await it.server.receive())
        assert (it.ws.close_received.code, it.ws.close_received.reason) == (1000, "done")
        await it.server.send(it.ws.close(1000))
        await it.server.aclose()
        await it.is_over.wait()


@on_both_runtimes
async def test_a_server_that_does_not_answer_a_close_is_left() -> None:
    async with scene() as it, anyio.create_task_group() as tasks:
        tasks.start_soon(it.run)
        it.exchange.close(1000, now=anyio.current_time())
        it.link.changed.wake()
        it.link.reschedule()
        await it.is_over.wait()
        assert it.exchange.ending is not None


@on_both_runtimes
async def test_a_server_that_says_nothing_at_all_is_given_up() -> None:
    async with scene(keepalive_seconds=0.05) as it, anyio.create_task_group() as tasks:
        tasks.start_soon(it.run)
        await it.is_over.wait()
        assert it.exchange.ending is not None


@on_both_runtimes
async def test_a_cancellation_drops_the_connection_without_a_close() -> None:
    async with scene() as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.run)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE_SECONDS):
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                assert await it.server.receive() == b"", "no Close frame"
        assert it.exchange.ending is not None
