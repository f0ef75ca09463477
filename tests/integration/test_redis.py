"""Redis behind a `stream` route: a WebSocket client speaks RESP to it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio
from websockets.exceptions import ConnectionClosedOK
from websockets.trio.client import ClientConnection, connect

from tests.integration.conftest import OpenEdge
from tests.support.gateway import route
from tests.support.services import redis_server

Connect = Callable[[], AbstractAsyncContextManager[ClientConnection]]


class Resp:
    """Just enough of the Redis protocol: commands out, whole replies in, wherever the messages are cut."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.buffer = b""

    async def send(self, *words: str | bytes) -> None:
        encoded = [word.encode() if isinstance(word, str) else word for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)]
        await self.connection.send(b"".join(parts))

    async def receive_exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            with trio.fail_after(20):
                message = await self.connection.recv()
            assert isinstance(message, bytes), "a stream route's messages are binary"
            self.buffer += message
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    async def receive_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += await self.receive_exactly(1)
        return line[:-2]

    async def receive(self) -> object:
        line = await self.receive_line()
        match line[:1]:
            case b"+":
                return line[1:].decode()
            case b":":
                return int(line[1:])
            case b"$":
                size = int(line[1:])
                return None if size < 0 else (await self.receive_exactly(size + 2))[:-2]
            case b"*":
                return [await self.receive() for _ in range(int(line[1:]))]
        raise AssertionError(f"Redis answered {line!r}")


@pytest.fixture
def connect_to_redis(open_edge: OpenEdge, tmp_path: Path) -> Iterator[Connect]:
    with redis_server(tmp_path) as port, open_edge([route("redis", "/redis", f"tcp://127.0.0.1:{port}")]) as edge:
        yield lambda: connect(edge.url("/redis"), ssl=edge.tls, max_size=None)


@pytest.fixture
async def redis(connect_to_redis: Connect) -> AsyncIterator[Resp]:
    async with connect_to_redis() as connection:
        yield Resp(connection)


async def test_a_value_is_set_and_read_back(redis: Resp) -> None:
    await redis.send("SET", "greeting", "どやさ")
    await redis.send("GET", "greeting")
    assert await redis.receive() == "OK"
    assert await redis.receive() == "どやさ".encode()


async def test_a_value_larger_than_every_buffer_survives_both_ways(redis: Resp) -> None:
    value = bytes(range(256)) * 3000  # 768 kB: above write buffers and sockets' low-water marks, below message_bytes
    await redis.send("SET", "large", value)
    assert await redis.receive() == "OK"
    await redis.send("GET", "large")
    assert await redis.receive() == value


async def test_a_thousand_pipelined_commands_are_answered_in_order(redis: Resp) -> None:
    for number in range(1000):
        await redis.send("ECHO", str(number))
    assert [await redis.receive() for _ in range(1000)] == [str(number).encode() for number in range(1000)]


async def test_what_one_connection_publishes_another_receives_unasked(redis: Resp, connect_to_redis: Connect) -> None:
    async with connect_to_redis() as other:
        subscriber = Resp(other)
        await subscriber.send("SUBSCRIBE", "news")
        assert await subscriber.receive() == [b"subscribe", b"news", 1]
        await redis.send("PUBLISH", "news", "hello")
        assert await redis.receive() == 1
        assert await subscriber.receive() == [b"message", b"news", b"hello"]


async def test_quit_ends_the_connection_with_1000_after_the_last_reply(redis: Resp) -> None:
    await redis.send("QUIT")
    assert await redis.receive() == "OK"
    with trio.fail_after(20), pytest.raises(ConnectionClosedOK, match="1000"):
        await redis.connection.recv()
