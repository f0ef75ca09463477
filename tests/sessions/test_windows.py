"""Windows: what a side may have unsettled, what happens when it has more, and that a smaller one is kept by waiting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from gateway.protocol.records import MORE_FLAG, RecordType, Rung
from gateway.relay.pump import BUFFER_BYTES
from gateway.server import Server
from tests.sessions.harness import config_of, running, until
from tests.sessions.routes import records_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, scripted


@asynccontextmanager
async def opened(
    client_body: dict[str, Any] | None = None, backend_body: dict[str, Any] | None = None, **route: Any
) -> AsyncIterator[tuple[Client, BackendLink, Server]]:
    """A client and a backend with an open session between them."""
    async with scripted() as service, running(config_of(records_route(service.port, **route))) as server:
        client = await Client.connect(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.open(**(client_body or {})))
            link = await service.accept()
            await link.opened(**(backend_body or {}))
        yield client, link, server


async def test_a_client_may_fill_its_window_and_no_more() -> None:
    async with opened(window_messages=3) as (client, link, _):
        for seq in (1, 2, 3):
            await client.data(seq, "x")
            await link.next(RecordType.DATA)
        await link.ack(1)
        await client.consumed(1)
        await client.data(4, "x")
        assert (await link.next(RecordType.DATA))[2] == 4
        await client.data(5, "x")
        assert await client.closed() == 1008
        assert client.close_reason == "4 messages unsettled, expected at most 3"
        close = await link.closed()
        assert (close["code"], close["reason"]) == (1008, client.close_reason)
        assert close["report"]["upstream"] == {"settled": 1, "unknown": [2, 4], "never_forwarded": None}


async def test_a_client_beyond_its_window_of_bytes_is_not_read_on() -> None:
    async with opened(window_bytes="1KiB", limits={"message_bytes": "8MiB"}) as (client, link, server):
        (session,) = server.registry
        sizes = [1000, 500_000, 500_000, 500_000]
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for seq, size in enumerate(sizes, 1):
                    await client.send(RecordType.DATA, 0, seq, bytes(size))

            nursery.start_soon(send)
            for seq, size in enumerate(sizes, 1):
                got = 0
                while got < size:
                    _, _, number, body = await link.next(RecordType.DATA)
                    assert number == seq
                    got += len(body)
                assert session.relay.up.held_bytes < 1_000_000
                await link.ack(seq)
        await client.consumed(4)


async def test_a_message_larger_than_the_window_passes_alone() -> None:
    async with opened(window_bytes="1KiB") as (client, link, _):
        for seq in (1, 2):
            await client.send(RecordType.DATA, MORE_FLAG, seq, bytes(60_000))
            await client.send(RecordType.DATA, 0, seq, bytes(60_000))
            size = 0
            while True:
                _, flags, number, body = await link.next(RecordType.DATA)
                assert number == seq
                size += len(body)
                if not flags & MORE_FLAG:
                    break
            assert size == 120_000
            await link.ack(seq)
            await client.consumed(seq)


async def test_a_backend_that_exceeds_its_window_ends_its_session() -> None:
    async with opened(window_messages=2) as (client, link, server):
        for seq in range(1, 6):
            await link.data(seq, "x")
        assert await client.closed() == 1014
        await client.stream.send_all(client.ws.close(1014))
        await until(lambda: not len(server.registry))
        (ended,) = server.registry.ended(limit=1)
        assert "more than its window of 2 messages or 4194304 bytes unsettled" in str(ended["reason"])


async def test_what_the_client_has_no_window_for_waits_at_the_gateway() -> None:
    async with opened({"window_messages": 2}, window_messages=8) as (client, link, server):
        for seq in range(1, 9):
            await link.data(seq, f"message {seq}")
        assert [(await client.next(RecordType.DATA))[2] for _ in range(2)] == [1, 2]
        (session,) = server.registry
        await until(lambda: len(session.relay.down.held) == 6)
        for seq in range(1, 9):
            await client.send(RecordType.ACK, Rung.CONSUMED, seq)
            await link.consumed(seq)
            if seq < 7:
                assert (await client.next(RecordType.DATA))[2] == seq + 2
        assert not client.records


async def test_a_rejected_message_makes_room_in_the_window() -> None:
    async with opened(window_messages=2) as (client, link, _):
        for seq in (1, 2):
            await client.data(seq, "x")
            await link.next(RecordType.DATA)
        await link.send(RecordType.REJECT, 0, 1, b'{"code": 4000}')
        assert (await client.next(RecordType.REJECT))[2] == 1
        await client.consumed(1)
        await client.data(3, "x")
        assert (await link.next(RecordType.DATA))[2] == 3


async def test_a_backends_message_of_more_fragments_than_its_window_has_messages_waits_for_a_slow_client() -> None:
    """It is one message, however many pieces of it are held, and it is not taken into memory without bound."""
    fragments, size = 800, 60_000
    async with opened(window_messages=4, window_bytes="1MiB", limits={"message_bytes": None}) as (client, link, server):
        (session,) = server.registry
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for number in range(fragments):
                    flags = MORE_FLAG if number < fragments - 1 else 0
                    await link.send(RecordType.DATA, flags, 1, bytes([number % 251]) * size)

            nursery.start_soon(send)
            await until(lambda: session.relay.down.held_bytes > 2_000_000)  # the client does not read
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert session.relay.down.held_bytes < 2 * 1024 * 1024 + 2 * BUFFER_BYTES
            got = 0
            while got < fragments * size:
                _, _, seq, body = await client.next(RecordType.DATA)
                assert seq == 1
                assert body[0] == got // size % 251
                got += len(body)
        assert got == fragments * size
        await client.send(RecordType.ACK, Rung.CONSUMED, 1)
        await link.consumed(1)
