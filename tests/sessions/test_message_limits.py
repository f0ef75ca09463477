"""How large a message may be: by the framing, by compression, and what is said of it."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import MORE_FLAG, RecordType, Rung
from gateway.routes import DEFAULT_MESSAGE_BYTES, LARGEST_GATHERED_BYTES
from tests.sessions.harness import backend, config_of, running, tcp_echo
from tests.sessions.routes import records_route, stream_route
from tests.support.peers.client import PATIENCE_SECONDS, Client

LARGE, PART = 3_000_000, 60_000


def binary(client: Client, *payloads: bytes) -> bytes:
    """One message, a fragment for each payload."""
    last = len(payloads) - 1
    return client.ws.send(
        [
            (int(Opcode.BINARY), payload, (FIRST if not index else 0) | (LAST if index == last else 0))
            for index, payload in enumerate(payloads)
        ]
    )


async def received(client: Client, size: int) -> int:
    """Waits for so many payload bytes of a plain client's; how many came before the connection ended."""
    got = 0
    with trio.fail_after(PATIENCE_SECONDS):
        while got < size and (data := await client.stream.receive_some()):
            got += sum(len(piece[1]) for piece in client.ws.receive_data(data) if piece[0] == Opcode.BINARY)
    return got


async def test_a_plain_client_of_a_stream_sends_what_it_wants_as_one_message() -> None:
    async with tcp_echo() as port, running(config_of(stream_route(port))) as server:
        client = await Client.connect(server, records=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.stream.send_all, binary(client, bytes(LARGE)))
            assert await received(client, LARGE) == LARGE


async def test_a_limit_that_is_configured_holds_on_a_stream_too() -> None:
    route = stream_route(1) | {"limits": {"message_bytes": "1MiB"}}
    async with tcp_echo() as port:
        route["backend"]["endpoints"] = [f"tcp://127.0.0.1:{port}"]
        async with running(config_of(route)) as server:
            client = await Client.connect(server, records=False)
            await client.stream.send_all(binary(client, bytes(2**20 + 1))[:1000])  # its head says enough
            assert await client.closed() == 1009
            assert "1048576" in client.close_reason


async def test_a_records_clients_message_to_a_stream_obeys_its_window_alone() -> None:
    async with tcp_echo() as port, running(config_of(stream_route(port, window_bytes="1MiB"))) as server:
        client = await Client.connect(server)
        assert (await client.open())["message_bytes"] is None
        turn = trio.Lock()

        async def send() -> None:
            for begin in range(0, LARGE, PART):
                more = MORE_FLAG if begin + PART < LARGE else 0
                async with turn:
                    await client.send(RecordType.DATA, more, 1, bytes(PART))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            got = 0
            while got < LARGE:
                _, _, seq, body = await client.next(RecordType.DATA)
                got += len(body)
                async with turn:
                    await client.send(RecordType.ACK, Rung.CONSUMED, seq)
            assert got == LARGE


@pytest.mark.parametrize(
    ("framing", "limits", "told"),
    [
        ("lines", {}, DEFAULT_MESSAGE_BYTES),
        ("lines", {"message_bytes": None}, LARGEST_GATHERED_BYTES),
        ("length_prefixed", {"message_bytes": None}, LARGEST_GATHERED_BYTES),
        ("length_prefixed", {"message_bytes": "2MiB"}, 2 * 2**20),
        ("stream", {}, None),
        ("stream", {"message_bytes": None}, None),
        ("stream", {"message_bytes": "2MiB"}, 2 * 2**20),
        ("records", {}, DEFAULT_MESSAGE_BYTES),
        ("records", {"message_bytes": None}, None),
    ],
)
async def test_opened_tells_the_limit_that_holds(framing: str, limits: dict[str, Any], told: int | None) -> None:
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(backend() if framing == "records" else tcp_echo())
        make = records_route(port) if framing == "records" else stream_route(port, framing=framing)
        server = await stack.enter_async_context(running(config_of(make | {"limits": limits})))
        client = await Client.connect(server)
        assert (await client.open())["message_bytes"] == told


async def test_a_line_beyond_the_limit_that_was_told_is_rejected_and_says_it() -> None:
    async with tcp_echo() as port:
        route = stream_route(port, framing="lines") | {"limits": {"message_bytes": None}}
        async with running(config_of(route)) as server:
            client = await Client.connect(server)
            limit = (await client.open())["message_bytes"]
            sent, size = 0, 60_000
            while sent <= limit:
                sent += size
                await client.send(RecordType.DATA, MORE_FLAG, 1, b"x" * size)
            assert await client.closed() == 1009
            assert str(limit) in client.close_reason
