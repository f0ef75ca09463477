"""Plain connections, to `websockets`' server and to servers that misbehave: long, as there are many ways to."""

import asyncio
import gc
import socket
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable

import anyio
import pytest
import trio
from anyio.abc import SocketAttribute
from trio.testing import MockClock
from websockets.asyncio.server import ServerConnection

from gateway.client.connection import QUEUE_BYTES, Connection, Timeouts, connect
from gateway.client.faults import ConnectionClosed, HandshakeRejected
from gateway.protocol.messages import CloseFrame
from gateway.protocol.pieces import FIRST, LAST, Opcode
from tests.client.runtimes import RUNTIMES, on_both_runtimes
from tests.client.websockets_server import running
from tests.support.peers.gateway_double import listening

WHOLE = FIRST | LAST


# --- with a server that is not ours -------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [False, True])
@on_both_runtimes
async def test_messages_of_every_kind_and_size_come_back_as_they_were(compression: bool) -> None:
    messages: list[str | bytes] = ["どやさ", "", b"\x00\xff", b"", "x" * 70_000, bytes(range(256)) * 1000]
    with running(max_size=None) as url:
        async with connect(url, compression=compression) as connection:
            for message in messages:
                await connection.send(message)
                assert await connection.receive() == message
    assert connection.close_code == 1000


@on_both_runtimes
async def test_many_tasks_send_and_one_iterates() -> None:
    with running() as url:
        async with connect(url) as connection, anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(connection.send, str(number))
            received = set()
            async for message in connection:
                received.add(message)
                if len(received) == 50:
                    break
    assert received == {str(number) for number in range(50)}


@on_both_runtimes
async def test_fragments_of_the_servers_become_one_message() -> None:
    async def in_parts(server: ServerConnection) -> None:
        await server.send(["one ", "two ", "three"])
        await server.send([b"1", b"", b"2"])

    with running(in_parts) as url:
        async with connect(url) as connection:
            assert [message async for message in connection] == ["one two three", b"12"]
    assert (connection.close_code, connection.close_reason) == (1000, "")


@on_both_runtimes
async def test_the_handshakes_answer_can_be_looked_at() -> None:
    with running(subprotocols=["chat"], server_header="somebody") as url:
        async with connect(url, subprotocols=["echo", "chat"], headers=[("X-A", "b")]) as connection:
            assert connection.subprotocol == "chat"
            assert ("server", "somebody") in connection.headers


@on_both_runtimes
async def test_an_origin_that_is_not_allowed_is_refused() -> None:
    with running(origins=["https://a.example"]) as url:
        async with connect(url, origin="https://a.example") as connection:
            assert connection.is_open
        with pytest.raises(HandshakeRejected) as caught:
            async with connect(url, origin="https://b.example"):
                raise AssertionError("the block must not begin")
    assert caught.value.status == 403


@on_both_runtimes
async def test_a_ping_takes_as_long_as_it_takes() -> None:
    with running() as url:
        async with connect(url) as connection:
            assert 0.0 < await connection.ping() < 20.0


@on_both_runtimes
async def test_a_close_in_order_ends_the_iteration_and_any_other_is_raised() -> None:
    async def as_told(server: ServerConnection) -> None:
        await server.send("last words")
        code, _, reason = str(await server.recv()).partition(" ")
        await server.close(int(code), reason)

    with running(as_told) as url:
        for code in (1000, 1001):
            async with connect(url) as connection:
                await connection.send(f"{code} bye")
                assert [message async for message in connection] == ["last words"]
                assert (connection.close_code, connection.close_reason) == (code, "bye")
        async with connect(url) as connection:
            await connection.send("4000 enough")
            assert await connection.receive() == "last words"
            with pytest.raises(ConnectionClosed, match="was closed with 4000 enough") as caught:
                await anext(connection)
            assert (caught.value.code, caught.value.close_reason) == (4000, "enough")
            with pytest.raises(ConnectionClosed):
                await connection.send("too late")
            with pytest.raises(ConnectionClosed):
                await connection.ping()


@on_both_runtimes
async def test_what_the_block_raises_comes_out_as_it_is_and_closes_with_1011() -> None:
    with running() as url:
        with pytest.raises(ZeroDivisionError):
            async with connect(url) as connection:
                _ = 1 / 0
        assert connection.close_code == 1011


@on_both_runtimes
async def test_a_cancelled_block_still_says_goodbye() -> None:
    with running() as url:
        with anyio.move_on_after(0):
            async with connect(url) as connection:
                raise AssertionError("cancelled while connecting")
        with anyio.CancelScope() as scope:
            async with connect(url) as connection:
                scope.cancel()
                await connection.receive()
    assert scope.cancelled_caught
    assert connection.close_code == 1001


@on_both_runtimes
async def test_closing_says_code_and_reason_and_again_does_nothing() -> None:
    codes: list[tuple[int, str]] = []

    async def note(server: ServerConnection) -> None:
        await server.wait_closed()
        assert server.protocol.close_rcvd is not None
        codes.append((server.protocol.close_rcvd.code, server.protocol.close_rcvd.reason))

    with running(note) as url:
        async with connect(url) as connection:
            with pytest.raises(ValueError, match="1006 is not a close code"):
                await connection.close(1006, "no such code")
            await connection.close(4321, "なぜなら")
            await connection.close()
            with pytest.raises(ConnectionClosed, match="4321"):
                await connection.send("too late")
    assert codes == [(4321, "なぜなら")]


@on_both_runtimes
async def test_only_text_and_bytes_are_messages() -> None:
    with running() as url:
        async with connect(url) as connection:
            with pytest.raises(TypeError, match="a message is str or bytes, not int"):
                await connection.send(1)  # type: ignore[arg-type]
            for message in (bytearray(b"a"), memoryview(b"a")):
                await connection.send(message)  # type: ignore[arg-type]
                assert await connection.receive() == b"a"


# --- with a server that does what the test says -------------------------------------------------------------------


@on_both_runtimes
async def test_a_connection_that_is_lost_is_1006() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:

        async def lose() -> None:
            peer = await double.accept(None)
            await peer.send_pieces([(Opcode.TEXT, b"before", WHOLE)])
            await peer.cut()

        tasks.start_soon(lose)
        async with connect(double.url) as connection:
            assert await connection.receive() == "before"
            with pytest.raises(ConnectionClosed, match="the connection was lost"):
                await connection.receive()
            assert connection.close_code == 1006
            assert not connection.is_open


@on_both_runtimes
async def test_a_fault_of_the_servers_ends_the_connection_with_its_name() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        seen: list[CloseFrame | None] = []

        async def send_nonsense() -> None:
            peer = await double.accept(None)
            await peer.send_pieces([(Opcode.TEXT, b"good", WHOLE)])
            await peer.stream.send(b"\x81\x02\xc3\x28")
            seen.append(await peer.receive_end())

        tasks.start_soon(send_nonsense)
        async with connect(double.url) as connection:
            assert await connection.receive() == "good"
            with pytest.raises(ConnectionClosed, match="closed with 1007"):
                await connection.receive()
    assert seen[0] is not None
    assert seen[0].code == 1007


@on_both_runtimes
async def test_pings_are_answered_while_nobody_receives() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        answered = anyio.Event()

        async def ping() -> None:
            peer = await double.accept(None)
            await peer.send_pieces([(Opcode.PING, b"are you there", WHOLE)])
            while True:
                for opcode, payload, _ in peer.ws.receive_data(await peer.stream.receive()):
                    if opcode == Opcode.PONG:
                        assert payload == b"are you there"
                        answered.set()
                        return

        tasks.start_soon(ping)
        async with connect(double.url, timeouts=Timeouts(close=0.0)):
            await answered.wait()


async def test_what_nobody_takes_is_bounded(autojump_clock: MockClock) -> None:
    """The server can send no more than buffers hold, and all of it comes once somebody takes it."""
    message = b"x" * 100_000
    sent = 0
    async with listening() as double, trio.open_nursery() as nursery:

        async def flood() -> None:
            nonlocal sent
            peer = await double.accept(None)
            data = peer.ws.send([(Opcode.BINARY, message, WHOLE)])
            for _ in range(200):
                await peer.stream.send(data)
                sent += 1
            await peer.close(1000)
            await peer.receive_end()

        nursery.start_soon(flood)
        async with connect(double.url, timeouts=Timeouts(keepalive=None)) as connection:
            await trio.sleep(60)  # the clock jumps when everybody waits
            assert sent < 200
            assert connection._messages.queued_bytes < QUEUE_BYTES + 2 * len(message)
            assert len([message async for message in connection]) == 200


@on_both_runtimes
async def test_closing_is_heard_even_where_nobody_takes_what_came() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:

        async def flood() -> None:
            peer = await double.accept(None)
            for _ in range(40):
                await peer.send_pieces([(Opcode.BINARY, b"x" * 100_000, WHOLE)])
            assert await peer.receive_end() == CloseFrame(code=1000)

        tasks.start_soon(flood)
        async with connect(double.url) as connection:
            await connection.receive()
            await connection.close()
            assert connection.close_code == 1000
            assert await connection.receive() == b"x" * 100_000


@on_both_runtimes
async def test_whoever_waits_learns_that_the_connection_is_lost() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:

        async def lose() -> None:
            peer = await double.accept(None)
            await anyio.wait_all_tasks_blocked()
            await peer.cut(reset=True)

        tasks.start_soon(lose)
        async with connect(double.url) as connection:
            failures: list[int] = []

            async def expect_failure(work: Callable[[], Awaitable[object]]) -> None:
                with pytest.raises(ConnectionClosed) as caught:
                    await work()
                failures.append(caught.value.code)

            async with anyio.create_task_group() as waiting:
                # More than the socket takes, as nobody reads it.
                waiting.start_soon(expect_failure, lambda: connection.send(bytes(32 << 20)))
                waiting.start_soon(expect_failure, connection.ping)
                waiting.start_soon(expect_failure, connection.receive)
            assert failures == [1006] * 3


async def test_a_server_that_falls_silent_is_given_up(autojump_clock: MockClock) -> None:
    async with listening() as double, trio.open_nursery() as nursery:

        async def be_silent() -> None:
            await double.accept(None)

        nursery.start_soon(be_silent)
        async with connect(double.url, timeouts=Timeouts(keepalive=20.0)) as connection:
            begin = trio.current_time()
            with pytest.raises(ConnectionClosed, match="the server did not answer a ping"):
                await connection.receive()
            assert trio.current_time() - begin == pytest.approx(40.0)


async def test_a_server_that_does_not_answer_our_close_is_not_waited_for_long(autojump_clock: MockClock) -> None:
    async with listening() as double, trio.open_nursery() as nursery:

        async def be_silent() -> None:
            await double.accept(None)

        nursery.start_soon(be_silent)
        async with connect(double.url, timeouts=Timeouts(close=5.0)) as connection:
            begin = trio.current_time()
            await connection.close(1000)
            assert trio.current_time() - begin == pytest.approx(5.0)
            assert connection.close_code == 1006


# --- leaving --------------------------------------------------------------------------------------------------------


class Unusual(BaseException):
    """Stands for what is no Exception."""


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, Unusual])
@on_both_runtimes
async def test_an_exit_or_an_interrupt_comes_out_as_it_is_and_closes_with_1001(kind: type[BaseException]) -> None:
    with running() as url:
        with pytest.raises(kind) as caught:
            async with connect(url) as connection:
                raise kind(3)
        assert caught.value.args == (3,)
        assert connection.close_code == 1001


@on_both_runtimes
async def test_the_block_can_be_left_in_another_task_than_it_was_entered_in() -> None:
    with running() as url:
        opening = connect(url)
        connections: list[Connection] = []

        async def enter() -> None:
            connections.append(await opening.__aenter__())

        async def leave() -> None:
            await opening.__aexit__(None, None, None)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(enter)
        await connections[0].send("still there")
        assert await connections[0].receive() == "still there"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
        assert connections[0].close_code == 1000


async def received(url: str) -> AsyncGenerator[object, None]:
    async with connect(url) as connection:
        for _ in range(3):
            await connection.send("again")
            yield await connection.receive()


def test_a_generator_that_is_dropped_after_a_break_cancels_nobody() -> None:
    """asyncio closes it in a task of its own, once it is collected."""
    codes: list[int | None] = []
    closed = threading.Event()

    async def note(server: ServerConnection) -> None:
        async for message in server:
            await server.send(message)
        codes.append(server.close_code)
        closed.set()

    async def main() -> None:
        async for message in received(url):
            assert message == "again"
            break
        gc.collect()
        assert await asyncio.to_thread(closed.wait, 20)

    with running(note) as url:
        asyncio.run(main())
    assert codes == [1001]


def test_a_connection_that_nobody_leaves_does_not_keep_the_event_loop() -> None:
    entered: list[object] = []

    async def main() -> None:
        entered.append(opening := connect(url))
        await opening.__aenter__()
        await anyio.wait_all_tasks_blocked()

    with running() as url:
        for runtime in RUNTIMES:
            anyio.run(main, backend=runtime)
    assert len(entered) == 2


# --- after our Close ------------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_behind_a_message_that_was_dropped_none_is_kept_and_no_end_is_clean() -> None:
    """A slow reader, after `close`: nothing with holes, and nothing that looks complete."""
    message = b"x" * 100_000
    async with listening() as double, anyio.create_task_group() as tasks:
        go_on = anyio.Event()

        async def flood() -> None:
            peer = await double.accept(None)
            for number in range(40):
                if number == 30:
                    await go_on.wait()
                await peer.send_pieces([(Opcode.BINARY, number.to_bytes(1, "big") + message, WHOLE)])
            assert await peer.receive_end() == CloseFrame(code=1000)

        tasks.start_soon(flood)
        async with connect(double.url) as connection:
            taken = [await connection.receive()]
            async with anyio.create_task_group() as closing:
                closing.start_soon(connection.close)
                while not connection._messages.dropped:
                    await connection._link.moved.wait()
                # There is room again, but not for what stands behind a hole.
                taken += [await connection.receive() for _ in range(5)]
                go_on.set()

            async def take_all() -> None:
                async for data in connection:
                    taken.append(data)

            with pytest.raises(ConnectionClosed, match="messages that came meanwhile were dropped") as caught:
                await take_all()
            assert caught.value.code == 1000
            assert [data[0] for data in taken] == list(range(len(taken)))
            assert caught.value.dropped == 40 - len(taken)


@on_both_runtimes
async def test_what_a_service_answers_at_the_end_comes_however_slowly_it_is_taken() -> None:
    message = b"x" * 100_000
    async with listening() as double, anyio.create_task_group() as tasks:

        async def answer_at_the_end() -> None:
            peer = await double.accept(None)
            while peer.ws.close_received is None:
                assert await peer.pull()
            data = peer.ws.send([(Opcode.BINARY, message, WHOLE)])
            for _ in range(40):
                await peer.stream.send(data)
            await peer.close(1000)
            await peer.cut()

        tasks.start_soon(answer_at_the_end)
        async with connect(double.url) as connection:
            connection.finish_sending()
            assert not connection.is_open
            taken = 0
            async for data in connection:
                assert data == message
                taken += 1
                await anyio.wait_all_tasks_blocked()
            assert taken == 40


async def test_a_tail_that_a_slow_line_takes_time_for_is_not_cut_by_the_limit_of_the_close(
    autojump_clock: MockClock,
) -> None:
    """The server reads on, slower than `Timeouts.close` for all of it."""
    async with listening() as double, trio.open_nursery() as nursery:
        came = 0

        async def read_slowly() -> None:
            nonlocal came
            peer = await double.accept(None)
            # A small buffer, so that what is read is acknowledged soon.
            peer.stream.extra(SocketAttribute.raw_socket).setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            while peer.ws.close_received is None:
                data = await peer.stream.receive(65536)
                came += sum(len(payload) for opcode, payload, _ in peer.ws.receive_data(data) if opcode < Opcode.CLOSE)
                await trio.sleep(2.0)
            await peer.receive_end()

        nursery.start_soon(read_slowly)
        async with connect(double.url, timeouts=Timeouts(close=5.0, close_total=600.0)) as connection:
            nursery.start_soon(connection.send, bytes(2 << 20))
            await trio.testing.wait_all_tasks_blocked()
            await connection.close()
            assert connection.close_code == 1000
    assert came == 2 << 20


@pytest.mark.parametrize(("reason", "told"), [("é" * 62, "é" * 61), ("half \ud83d", "half \ufffd")])
@on_both_runtimes
async def test_a_reason_is_made_well_formed_and_cut_between_characters(reason: str, told: str) -> None:
    with running() as url:
        async with connect(url) as connection:
            await connection.close(4000, reason)
            assert (connection.close_code, connection.close_reason) in ((4000, told), (4000, ""))
