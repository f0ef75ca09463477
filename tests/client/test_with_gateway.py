"""The client and the real gateway: nothing is lost or doubled, whatever happens to connections and to the gateway."""

import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
from anyio.abc import SocketAttribute, SocketStream

from gateway.backend import Session as BackendSession
from gateway.client import (
    Event,
    Opened,
    Receipt,
    Rung,
    Session,
    Settings,
    connect,
    open_session,
)
from tests.client.kit_backend import kit_backend
from tests.client.runtimes import on_both_runtimes
from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess, route

RECEIPTS = frozenset({Rung.ACCEPTED, Rung.WRITTEN, Rung.REACHED})
BRISK = Settings(first_delay=0.01, longest_delay=0.1, receipts=RECEIPTS)


async def echo(session: BackendSession) -> None:
    async for message in session:
        await session.send(message)


@pytest.fixture(scope="module")
def routes() -> Iterator[list[dict[str, object]]]:
    with kit_backend(echo) as records, tcp_echo() as stream:
        yield [
            route("records", "/records", f"tcp://127.0.0.1:{records}", framing="records"),
            route("stream", "/stream", f"tcp://127.0.0.1:{stream}", compression={"enabled": True}),
        ]


@pytest.fixture(scope="module")
def gateway(routes: list[dict[str, object]]) -> Iterator[GatewayProcess]:
    with GatewayProcess({"routes": routes}) as gateway:
        yield gateway


class Cutter:
    """Stands between client and gateway, and cuts each connection after some bytes."""

    def __init__(self, goal: int, *, seed: int, bytes_each: int) -> None:
        self._goal = goal
        self._random = random.Random(seed)
        self._bytes_each = bytes_each
        self.port = 0

    async def carry(self, client: SocketStream) -> None:
        budget = self._random.randint(200, self._bytes_each)
        gateway = await anyio.connect_tcp("127.0.0.1", self._goal)

        async def pump(source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
            nonlocal budget
            try:
                async for data in source:
                    kept = data[: max(budget, 0)]
                    budget -= len(data)
                    await sink.send(kept)
                    if budget <= 0:
                        break
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            scope.cancel()

        async with client, gateway, anyio.create_task_group() as tasks:
            tasks.start_soon(pump, client, gateway, tasks.cancel_scope)
            tasks.start_soon(pump, gateway, client, tasks.cancel_scope)


@asynccontextmanager
async def cutting(goal: int, *, seed: int, bytes_each: int) -> AsyncIterator[Cutter]:
    cutter = Cutter(goal, seed=seed, bytes_each=bytes_each)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    cutter.port = listener.listeners[0].extra(SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, cutter.carry)
        yield cutter
        tasks.cancel_scope.cancel()


def numbered(number: int) -> str | bytes:
    """Messages of both kinds and of many sizes."""
    text = f"{number} ".ljust(10 + number * 97 % 3000, "x")
    return text if number % 2 else text.encode()


async def exchange(session: Session, count: int) -> tuple[list[Receipt], list[str | bytes]]:
    """Sends `count` messages and takes as many: what became of the ones, and the others."""
    answers: list[str | bytes] = []

    async def take() -> None:
        async for message in session:
            answers.append(message)
            if len(answers) == count:
                return

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        receipts = [await session.post(numbered(number)) for number in range(count)]
    await session.drain()
    return receipts, answers


# --- plain --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [False, True])
@on_both_runtimes
async def test_a_plain_connection_passes(gateway: GatewayProcess, compression: bool) -> None:
    async with connect(gateway.url("/stream"), compression=compression) as connection:
        await connection.send(b"\x00" * 100_000)
        received = 0
        while received < 100_000:
            message = await connection.receive()
            assert isinstance(message, bytes)
            received += len(message)
    assert connection.close_code == 1000


# --- records ------------------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_with_a_records_backend_messages_settle_when_they_are_consumed(gateway: GatewayProcess) -> None:
    async with open_session(gateway.url("/records"), settings=BRISK) as session:
        receipts, answers = await exchange(session, 200)
        assert session.settles_at is Rung.CONSUMED
    assert answers == [numbered(number) for number in range(200)]
    assert all(receipt.rung is Rung.CONSUMED for receipt in receipts)
    assert session.report is not None
    assert session.report.upstream.settled == 200


@on_both_runtimes
async def test_with_another_backend_they_settle_when_its_kernel_has_them(gateway: GatewayProcess) -> None:
    async with open_session(gateway.url("/stream")) as session:
        receipt = await session.send("hello")
        assert receipt.rung is Rung.REACHED
        assert session.settles_at is Rung.REACHED
        assert await anext(session) == b"hello"


@pytest.mark.parametrize("seed", range(3))
async def test_cut_connections_lose_and_double_nothing(gateway: GatewayProcess, seed: int) -> None:
    events: list[Event] = []
    async with cutting(gateway.port(), seed=seed, bytes_each=60_000) as cutter:
        url = f"ws://127.0.0.1:{cutter.port}/records"
        settings = Settings(first_delay=0.01, longest_delay=0.1, wait_open=False)
        async with open_session(url, settings=settings, on_event=events.append) as session:
            with trio.fail_after(60):
                receipts, answers = await exchange(session, 400)
            assert session.resumes > 5
            session.finish_current()
    assert answers == [numbered(number) for number in range(400)]
    assert all(receipt.is_settled for receipt in receipts)
    assert [event.resumed for event in events if isinstance(event, Opened)].count(False) == 1


async def test_a_stream_survives_cut_connections_too(gateway: GatewayProcess) -> None:
    """The gateway keeps the backend's connection: not a byte is lost or doubled."""
    async with cutting(gateway.port(), seed=7, bytes_each=60_000) as cutter:
        url = f"ws://127.0.0.1:{cutter.port}/stream"
        settings = Settings(first_delay=0.01, longest_delay=0.1, wait_open=False)
        sent = b"".join(number.to_bytes(4, "big") * 500 for number in range(100))
        received = b""
        async with open_session(url, settings=settings) as session:

            async def send() -> None:
                for begin in range(0, len(sent), 2000):
                    await session.post(sent[begin : begin + 2000])

            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send)
                    async for message in session:
                        assert isinstance(message, bytes)
                        received += message
                        if len(received) >= len(sent):
                            break
                await session.drain()
            assert session.resumes > 2
    assert received == sent


async def test_a_gateway_that_is_killed_loses_and_doubles_nothing(routes: list[dict[str, object]]) -> None:
    news, opened = trio.open_memory_channel[Opened](100)

    def note(event: Event) -> None:
        if isinstance(event, Opened):
            news.send_nowait(event)

    async with (
        GatewayProcess({"routes": routes}, covered=False) as gateway,
        open_session(gateway.url("/records"), settings=BRISK, on_event=note) as session,
    ):
        answers: list[str | bytes] = []
        receipts: list[Receipt] = []
        kills = 0

        async def kill() -> None:
            nonlocal kills
            for _ in range(3):
                await opened.receive()
                await trio.to_thread.run_sync(gateway.kill)
                await trio.to_thread.run_sync(gateway.restart)
                kills += 1

        with trio.fail_after(180):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill)
                while kills < 3:
                    more_receipts, more_answers = await exchange(session, 50)
                    receipts += more_receipts
                    answers += more_answers
        session.finish_current()
    assert session.resumes == 3
    assert answers == [numbered(number) for number in range(50)] * (len(answers) // 50)
    assert all(receipt.is_settled for receipt in receipts)
    news.close()
    opened.close()
