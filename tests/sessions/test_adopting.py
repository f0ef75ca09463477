"""A session that was begun at another gateway, or before this one was restarted, and is taken up here."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.protocol.records import DEFAULT_WINDOW_MESSAGES, RecordType, RejectBody, Rung, encode_prefixed_record
from gateway.server import Server
from tests.sessions.harness import config_of, running
from tests.sessions.routes import records_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, ScriptedBackend, scripted

TOKEN = "a" * 43


@asynccontextmanager
async def adopted(
    *, client_consumed: int, backend_consumed: int, client_window: int = 100
) -> AsyncIterator[tuple[Client, BackendLink, Server, ScriptedBackend]]:
    """A client that comes with a token this gateway never gave, and the backend that knows its session."""
    async with scripted() as backend, running(config_of(records_route(backend.port))) as server:
        client = await Client.connect(server)
        body = {"session": TOKEN, "receipts": ["accepted"], "window_messages": client_window}
        await client.send(RecordType.OPEN, 0, client_consumed, json.dumps(body).encode())
        link = await backend.accept()
        assert (await link.opened(backend_consumed, resumed=True))["consumed"] == client_consumed
        record = await client.next(RecordType.OPENED)
        answer = json.loads(record[3])
        assert (record[2], answer["resumed"], answer["session"]) == (backend_consumed, True, TOKEN)
        yield client, link, server, backend


async def test_messages_go_on_from_where_both_sides_are() -> None:
    async with adopted(client_consumed=3, backend_consumed=10) as (client, link, _, _):
        await client.data(11, "up")
        assert (await link.next(RecordType.DATA))[2:] == (11, b"up")
        await link.data(4, "down")
        assert (await client.next(RecordType.DATA))[2:] == (4, b"down")


async def test_a_backend_that_still_had_messages_may_acknowledge_them_before_they_come_again() -> None:
    async with adopted(client_consumed=0, backend_consumed=10) as (client, link, _, _):
        await link.ack(12)
        await link.ack(12)
        for seq in (11, 12, 13):
            await client.data(seq, f"message {seq}")
        await client.consumed(12)
        await link.ack(13)
        await client.consumed(13)


async def test_a_client_that_still_had_messages_may_acknowledge_them_before_they_come_again() -> None:
    async with adopted(client_consumed=3, backend_consumed=0) as (client, link, _, _):
        await client.send(RecordType.ACK, Rung.CONSUMED, 5)
        await client.data(1, "so that the ACK is there before the messages")
        await link.next(RecordType.DATA)
        for seq in (4, 5, 6):
            await link.data(seq, f"message {seq}")
        await link.consumed(5)
        while (await client.next(RecordType.DATA))[2] != 6:
            pass
        await client.send(RecordType.ACK, Rung.CONSUMED, 6)
        await link.consumed(6)


async def test_a_client_that_consumed_more_before_it_came_again_need_not_wait_for_the_messages() -> None:
    """It was cut off right after its OPEN, and what it had in hand from another gateway was consumed meanwhile."""
    async with adopted(client_consumed=3, backend_consumed=0) as (_, link, server, _):
        again = await Client.connect(server)
        await again.send(RecordType.OPEN, 0, 5, json.dumps({"session": TOKEN}).encode())
        answer = json.loads((await again.next(RecordType.OPENED))[3])
        assert (answer["resumed"], answer["session"]) == (True, TOKEN)
        for seq in (4, 5, 6):
            await link.data(seq, f"message {seq}")
        await link.consumed(5)
        while (await again.next(RecordType.DATA))[2] != 6:
            pass
        await again.send(RecordType.ACK, Rung.CONSUMED, 6)
        await link.consumed(6)


async def test_messages_may_also_be_rejected_before_they_come_again() -> None:
    no = RejectBody(code=4000, reason="no").to_json()
    async with adopted(client_consumed=3, backend_consumed=10) as (client, link, _, _):
        await link.send(RecordType.REJECT, 0, 12, no)
        assert (await client.next(RecordType.REJECT))[2:] == (12, no)
        await client.send(RecordType.REJECT, 0, 4, no)
        assert (await link.next(RecordType.REJECT))[2:] == (4, no)
        await client.data(11, "fine")
        await client.data(12, "rejected")
        await link.ack(11)
        await client.consumed(12)
        await link.data(4, "rejected")
        await link.consumed(4)


async def test_what_was_foretold_makes_room_for_what_is_held() -> None:
    async with adopted(client_consumed=0, backend_consumed=0, client_window=2) as (client, link, _, _):
        await client.send(RecordType.ACK, Rung.CONSUMED, 4)
        await client.data(1, "so that the ACK is there before the messages")
        await link.next(RecordType.DATA)
        await link.stream.send_all(
            b"".join(encode_prefixed_record(RecordType.DATA, 0, seq, b"x") for seq in (1, 2, 3, 4))
        )
        for seq in (1, 2, 3, 4):
            assert (await client.next(RecordType.DATA))[2] == seq


@pytest.mark.parametrize("record_type", [RecordType.ACK, RecordType.REJECT])
async def test_what_nobody_can_have_sent_breaks_the_protocol(record_type: RecordType) -> None:
    flags, body = (4, b"") if record_type is RecordType.ACK else (0, RejectBody(code=4000).to_json())
    async with adopted(client_consumed=3, backend_consumed=0) as (client, link, _, _):
        await client.send(record_type, flags, 4 + DEFAULT_WINDOW_MESSAGES, body)
        assert await client.closed() == 1002
        assert "the last one sent is 3" in client.close_reason
        assert (await link.closed())["code"] == 1002
