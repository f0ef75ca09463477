"""The trial's plain backend: what reached its host counts, whatever it had read when its connection ended."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from gateway.protocol.handshake import ClientHandshake
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.trial.faults import Direction, Fault, FaultKind, FaultSchedule, Hop
from gateway.trial.stream_backend import READ_BYTES, Codec, PlainCodec, StreamBackend, WebSocketCodec
from gateway.trial.tally import Books, Witness
from gateway.trial.traffic import GREETING, LineReader, Traffic

TRAFFIC = Traffic(1)
PATIENCE_SECONDS = 10.0
WHOLE = FIRST | LAST
UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM


class Scene:
    def __init__(self, backend: StreamBackend, books: Books, schedule: FaultSchedule, port: int) -> None:
        self.backend = backend
        self.books = books
        self.schedule = schedule
        self.port = port
        self.streams: list[trio.SocketStream] = []

    async def connect(self, client: int) -> trio.SocketStream:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.streams.append(stream)
        await stream.send_all(TRAFFIC.message(UP, client, GREETING))
        return stream

    async def greeted(self, client: int) -> None:
        """Its greeting has been read: it is being sent to."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not self.books.down[client].sent:  # noqa: ASYNC110 -- nobody tells
                await trio.sleep(0.01)

    async def arrived(self, client: int, count: int) -> None:
        with trio.fail_after(PATIENCE_SECONDS):
            while self.books.up[client].arrived < count:  # noqa: ASYNC110 -- nobody tells
                await trio.sleep(0.01)


@asynccontextmanager
async def scene(
    *faults: FaultKind, messages: int = 1000, clients: int = 2, codec: Callable[[], Codec] = PlainCodec
) -> AsyncIterator[Scene]:
    schedule = FaultSchedule([Fault(kind=kind, at=0.5, hop=Hop.BACK, place=0.5, seconds=0.2) for kind in faults])
    books = Books(clients, messages)
    async with trio.open_nursery() as nursery:
        backend = StreamBackend(schedule, TRAFFIC, books, codec=codec)
        port = await nursery.start(partial(backend.serve, ("127.0.0.1", 0)))
        the = Scene(backend, books, schedule, port)
        yield the
        for stream in the.streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


def lines(client: int, first: int, last: int) -> bytes:
    return b"".join(TRAFFIC.message(UP, client, number) for number in range(first, last + 1))


async def test_it_takes_numbered_messages_down_and_sends_its_own() -> None:
    async with scene(messages=50) as the:
        stream = await the.connect(1)
        await stream.send_all(lines(1, 1, 50))
        reader = LineReader()
        found: list[bytes] = []
        with trio.fail_after(PATIENCE_SECONDS):
            while len(found) < 50:
                found += reader.feed(await stream.receive_some())
        assert [TRAFFIC.read(line) for line in found] == [(DOWN, 1, number) for number in range(1, 51)]
        await the.arrived(1, 50)
        tally = the.books.up[1]
        assert (tally.arrived, tally.doubled, tally.out_of_order, tally.damaged) == (50, 0, 0, 0)


async def test_what_it_had_not_read_when_it_was_killed_has_arrived() -> None:
    async with scene(FaultKind.STALL) as the:
        stream = await the.connect(0)
        await stream.send_all(lines(0, 1, 1))
        await the.arrived(0, 1)
        the.schedule.advance(1.0)
        await stream.send_all(lines(0, 2, 2))  # the stall strikes behind it
        await the.arrived(0, 2)
        await stream.send_all(lines(0, 3, 40))
        assert the.books.up[0].arrived < 40
        the.backend.kill()
        assert the.books.up[0].arrived == 40


@pytest.mark.parametrize("turns", range(4, 8))
async def test_a_kill_amid_its_reading_keeps_what_came_whole_and_in_order(turns: int) -> None:
    """Whatever the turn of the scheduler: no task may hold bytes that it has received and not yet entered."""
    async with scene(messages=400) as the:
        stream = await the.connect(0)
        await the.greeted(0)
        data = lines(0, 1, 400)
        assert len(data) > 8 * READ_BYTES
        assert await stream.socket.send(data) == len(data)
        for _ in range(turns):
            await trio.lowlevel.checkpoint()
        the.backend.kill()
        for _ in range(4):
            await trio.lowlevel.checkpoint()
        tally = the.books.up[0]
        assert (tally.arrived, tally.out_of_order, tally.damaged) == (400, 0, 0)


async def test_after_a_kill_nothing_listens_for_a_moment_and_then_a_new_connection_goes_on() -> None:
    async with scene(messages=10) as the:
        stream = await the.connect(0)
        first = await stream.receive_some()
        assert first
        the.backend.kill()
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                try:
                    again = await the.connect(0)
                except OSError:
                    refused = True
                    await trio.sleep(0.02)
                else:
                    break
        assert refused
        sent = the.books.down[0].sent
        if sent < 10:
            assert TRAFFIC.read((await again.receive_some()).splitlines(keepends=True)[0]) == (DOWN, 0, sent + 1)


@pytest.mark.parametrize(("kind", "is_reset"), [(FaultKind.RESET, True), (FaultKind.CUT, False)])
async def test_it_ends_a_connection_on_schedule(kind: FaultKind, is_reset: bool) -> None:
    async with scene(kind, messages=1) as the:
        stream = await the.connect(0)
        await stream.receive_some()
        the.schedule.advance(1.0)
        await stream.send_all(lines(0, 1, 1))
        with trio.fail_after(PATIENCE_SECONDS):
            try:
                while await stream.receive_some():
                    pass
                was_reset = False
            except trio.BrokenResourceError:
                was_reset = True
        assert was_reset is is_reset
        assert the.books.up[0].arrived == 1


async def test_it_ends_its_direction_and_goes_on_reading() -> None:
    async with scene(FaultKind.HALF_CLOSE, messages=3) as the:
        stream = await the.connect(0)
        the.schedule.advance(1.0)
        await stream.send_all(lines(0, 1, 1))
        with trio.fail_after(PATIENCE_SECONDS):
            while await stream.receive_some():
                pass
        await stream.send_all(lines(0, 2, 3))
        await the.arrived(0, 3)


async def test_what_is_nobodys_or_another_clients_is_damage() -> None:
    async with scene() as the:
        stream = await the.connect(0)
        await stream.send_all(b"nonsense\n" + TRAFFIC.message(UP, 1, 1) + TRAFFIC.message(DOWN, 0, 1) + lines(0, 1, 1))
        await the.arrived(0, 1)
        assert the.books.up[0].damaged == 2
        assert the.books.up[1].damaged == 1


async def test_a_client_that_is_back_is_sent_nothing_on_its_old_connection() -> None:
    async with scene(messages=1_000_000) as the:
        old = await the.connect(0)
        await old.receive_some(1)
        new = await the.connect(0)
        await new.receive_some(1)
        with trio.fail_after(PATIENCE_SECONDS):
            while True:  # the old one's source has stopped: what is buffered comes to its end
                with trio.move_on_after(0.3) as silence:
                    await old.receive_some()
                if silence.cancelled_caught:
                    break


async def test_what_a_sender_believes_is_that_its_kernel_has_it() -> None:
    async with scene(messages=5) as the:
        stream = await the.connect(0)
        reader = LineReader()
        found: list[bytes] = []
        while len(found) < 5:
            found += reader.feed(await stream.receive_some())
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                if [report.told_settled for _, _, report in the.books.reports()] == [5]:
                    break
                await trio.sleep(0.01)
        ((direction, witness, report),) = the.books.reports()
        assert (direction, witness) == (DOWN, Witness.SEND)
        assert report.settled_not_arrived == 5  # the test's client keeps no books


async def open_websocket(the: Scene) -> tuple[trio.SocketStream, WebSocketConnection]:
    """A connection behind its handshake, which comes in two pieces."""
    stream = await trio.open_tcp_stream("127.0.0.1", the.port)
    the.streams.append(stream)
    handshake = ClientHandshake("ws://test/")
    request = handshake.request()
    await stream.send_all(request[:20])
    await stream.send_all(request[20:])
    while handshake.feed(await stream.receive_some()) is None:
        pass
    return stream, WebSocketConnection(client=True)


async def test_behind_a_gateway_that_passes_websockets_through_it_speaks_that() -> None:
    async with scene(messages=3, codec=WebSocketCodec) as the:
        stream, ws = await open_websocket(the)
        await stream.send_all(
            ws.send(
                [
                    (int(Opcode.TEXT), TRAFFIC.message(UP, 0, GREETING), WHOLE),
                    (int(Opcode.PING), b"there?", WHOLE),
                    (int(Opcode.BINARY), lines(0, 1, 3), WHOLE),
                ]
            )
        )
        pieces: list[Piece] = []
        with trio.fail_after(PATIENCE_SECONDS):
            while sum(piece[0] == Opcode.BINARY and bool(piece[2] & LAST) for piece in pieces) < 3:
                pieces += ws.receive_data(await stream.receive_some())
        assert (int(Opcode.PONG), b"there?", WHOLE) in pieces
        stream_bytes = b"".join(piece[1] for piece in pieces if piece[0] == Opcode.BINARY)
        assert [TRAFFIC.read(line) for line in stream_bytes.splitlines(keepends=True)] == [
            (DOWN, 0, number) for number in (1, 2, 3)
        ]
        await the.arrived(0, 3)
        await stream.send_all(ws.close(1000))
        with trio.fail_after(PATIENCE_SECONDS):
            while ws.close_received is None:
                ws.receive_data(await stream.receive_some())
        assert ws.close_received.code == 1000


async def test_an_answer_does_not_come_into_the_midst_of_a_message() -> None:
    async with scene(codec=WebSocketCodec) as the:
        stream, ws = await open_websocket(the)
        await stream.send_all(ws.send([(int(Opcode.TEXT), TRAFFIC.message(UP, 0, GREETING), WHOLE)]))
        await the.greeted(0)
        sent = 0
        while sent < the.books.down[0].sent:  # until nobody takes more of it
            sent = the.books.down[0].sent
            await trio.sleep(0.1)
        assert sent < 1000
        await stream.send_all(
            ws.send([(int(Opcode.PING), b"there?", WHOLE), (int(Opcode.BINARY), lines(0, 1, 1), WHOLE)])
        )
        await the.arrived(0, 1)  # so the ping, too, has been read
        pieces: list[Piece] = []
        with trio.fail_after(PATIENCE_SECONDS):
            while (int(Opcode.PONG), b"there?", WHOLE) not in pieces:
                pieces += ws.receive_data(await stream.receive_some())
        assert ws.error is None
        stream_bytes = b"".join(piece[1] for piece in pieces if piece[0] == Opcode.BINARY)
        whole = [TRAFFIC.read(line) for line in stream_bytes.splitlines(keepends=True) if line.endswith(b"\n")]
        assert whole == [(DOWN, 0, number) for number in range(1, len(whole) + 1)]
        assert len(whole) >= sent - 1
