"""A client that goes while it is not read, because its backend takes nothing: it is parked, or its session ends."""

from typing import Any

import pytest
import trio

from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import MORE_FLAG, RecordType
from tests.sessions.harness import config_of, running, until
from tests.sessions.routes import records_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, scripted

CHUNK = bytes(64 * 1024)


def routed(port: int) -> dict[str, Any]:
    # A client that floods answers no ping meanwhile: its time for that is longer than a flood is.
    return records_route(port) | {"timeouts": {"close": "200ms", "keepalive": "2s"}}


async def flood(client: Client, messages: int) -> None:
    """Sends so much, or as much as is taken."""
    with trio.move_on_after(1):
        for seq in range(1, messages + 1):
            await client.send(RecordType.DATA, 0, seq, CHUNK)


async def whole(link: BackendLink) -> list[int]:
    """The number of the next message that is here to its end."""
    while (record := await link.next(RecordType.DATA))[1] & MORE_FLAG:
        pass
    return [record[2]]


@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_records_client_is_parked_and_comes_back(is_reset: bool) -> None:
    async with scripted() as service, running(config_of(routed(service.port))) as server:
        async with trio.open_nursery() as nursery:
            clients: list[Client] = []
            tokens: list[str] = []

            async def begin() -> None:
                client = await Client.connect(server)
                tokens.append((await client.open())["session"])
                clients.append(client)

            nursery.start_soon(begin)
            link = await service.accept()
            await link.opened()
        client = clients[0]
        await flood(client, 60)  # within its window; the backend reads nothing
        (session,) = server.registry
        assert session.relay.up.held_bytes, "it is far ahead of its backend"
        client.answers_pings = False  # a Pong would wait behind what is not read
        await client.pinged(1)
        if is_reset:
            await client.cut()
        else:
            await client.stream.aclose()
        await until(lambda: session.is_parked)
        assert session.relay.is_open
        again = await Client.connect(server)
        answer = await again.open(tokens[0])
        assert (answer["resumed"], answer["settled"]) == (True, 0)
        received: list[int] = []

        async def send_again() -> None:
            for seq in range(1, 61):
                await again.send(RecordType.DATA, 0, seq, CHUNK)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_again)
            while len(received) < 60:
                received += await whole(link)
        assert received == list(range(1, 61)), "each comes once, in order"


async def test_what_a_client_said_before_it_went_is_read_as_long_as_the_backend_takes_more() -> None:
    """Its Close is the last of it."""
    async with scripted() as service, running(config_of(routed(service.port))) as server:
        async with trio.open_nursery() as nursery:
            clients: list[Client] = []

            async def begin() -> None:
                clients.append(await Client.connect(server, records=False))

            nursery.start_soon(begin)
            link = await service.accept()
            await link.opened()
        client = clients[0]
        messages = 100

        async def say_all() -> None:
            for _ in range(messages):
                await client.stream.send_all(client.ws.send([(int(Opcode.BINARY), CHUNK, FIRST | LAST)]))
            await client.stream.send_all(client.ws.close(4000, "enough"))
            await client.stream.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say_all)
            for seq in range(1, messages + 1):
                await trio.sleep(0.02)  # slower than its client, in all longer than a session waits for a stuck backend
                assert await whole(link) == [seq]
                await link.ack(seq)
        assert (await link.closed())["code"] == 4000
