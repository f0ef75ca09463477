"""REJECT in all pairings: one message is refused, its sender learns why, everything else goes on."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import MORE_FLAG, TEXT_FLAG, RecordType, encode_prefixed_record, encode_record
from gateway.sessions.session import Session
from tests.sessions.harness import config_of, running, tcp_echo, until
from tests.sessions.routes import records_route, stream_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, scripted

NO = b'{"code":4000,"reason":"no"}'


async def test_a_client_rejects_a_message_of_a_records_backend() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        for seq in (1, 2, 3):
            await link.data(seq, "x")
            await client.next(RecordType.DATA)
        await client.send(RecordType.REJECT, 0, 2, NO)
        assert (await link.next(RecordType.REJECT))[2:] == (2, NO)
        await client.send(RecordType.ACK, 4, 1)
        await link.consumed(2)
        await client.send(RecordType.ACK, 4, 3)
        await link.consumed(3)
        (session,) = server.registry
        assert session.relay.down.metrics.rejected == 1


async def test_a_message_is_rejected_once_however_often_it_is_said() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await client.data(1, "x")
        await client.data(2, "x")
        for _ in range(3):
            await link.send(RecordType.REJECT, 0, 1, NO)
        await link.ack(2)
        assert (await client.next(RecordType.REJECT))[2] == 1
        await client.consumed(2)
        assert not [record for record in client.records if record[0] == RecordType.REJECT]


async def test_a_message_is_rejected_before_it_has_come_whole() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await client.send(RecordType.DATA, TEXT_FLAG | MORE_FLAG, 1, b"half of ")
        await link.next(RecordType.DATA)
        await link.send(RecordType.REJECT, 0, 1, NO)
        assert (await client.next(RecordType.REJECT))[2:] == (1, NO)
        await client.send(RecordType.DATA, TEXT_FLAG, 1, b"it")
        await client.consumed(1)
        await client.data(2, "next")
        assert (await link.next(RecordType.DATA))[2] == 1
        assert (await link.next(RecordType.DATA))[2:] == (2, b"next")


async def test_a_parked_client_hears_of_a_rejection_when_it_is_back() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        token = ""
        async with trio.open_nursery() as nursery:

            async def begin() -> None:
                nonlocal token
                token = (await client.open())["session"]

            nursery.start_soon(begin)
            link = await service.accept()
            await link.opened()
        await client.data(1, "x")
        await client.data(2, "x")
        await link.next(RecordType.DATA)
        await link.next(RecordType.DATA)
        await client.cut()
        await until(lambda: [session.state for session in server.registry] == ["parked"])
        await link.send(RecordType.REJECT, 0, 1, NO)
        await link.ack(2)
        await link.data(1, "so that the ACK has been heard")
        (session,) = server.registry
        await until(lambda: session.relay.down.messages == 1)
        client = await Client.connect(server)
        await client.open(token)
        assert (await client.next(RecordType.REJECT))[2:] == (1, NO)


@pytest.mark.parametrize("framing", ["lines", "length_prefixed"])
async def test_what_a_framing_cannot_carry_is_rejected_to_a_records_client_and_the_session_goes_on(
    framing: str,
) -> None:
    async with tcp_echo() as port:
        route = stream_route(port, framing=framing) | {"limits": {"message_bytes": 1000}}
        async with running(config_of(route)) as server:
            client = await Client.connect(server)
            await client.open()
            await client.data(1, "good")
            if framing == "lines":
                await client.data(2, "two\nlines")
                code, reason, _ = await rejection(client, 2)
                assert code == 1008
                assert "line feed" in reason
            await client.data(3 if framing == "lines" else 2, "good again")
            answers = [(await client.next(RecordType.DATA))[3] for _ in range(2)]
            assert answers == [b"good", b"good again"]
            last = 3 if framing == "lines" else 2
            while (await client.next(RecordType.ACK))[2] != last:
                pass
            (session,) = server.registry
            ledger = session.relay.up.ledger
            assert ledger is not None
            assert (ledger.settled, ledger.in_flight_messages, ledger.in_flight_bytes) == (last, 0, 0)


async def test_a_thousand_bad_lines_in_one_write_are_rejected_each_and_the_session_goes_on() -> None:
    count = 1000
    async with tcp_echo() as port, running(config_of(stream_route(port, framing="lines"))) as server:
        client = await Client.connect(server)
        await client.open()
        bad = [encode_record(RecordType.DATA, TEXT_FLAG, seq, b"t\nwo") for seq in range(1, count + 1)]
        await client.stream.send_all(client.ws.send([(int(Opcode.BINARY), record, FIRST | LAST) for record in bad]))
        assert [(await client.next(RecordType.REJECT))[2] for _ in range(count)] == list(range(1, count + 1))
        await client.data(count + 1, "good")
        assert (await client.next(RecordType.DATA))[3] == b"good"


@asynccontextmanager
async def between(**route: Any) -> AsyncIterator[tuple[Client, BackendLink, Session]]:
    """A records client, a records backend, and the session between them."""
    async with scripted() as service, running(config_of(records_route(service.port, **route))) as server:
        client = await Client.connect(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.open)
            link = await service.accept()
            await link.opened()
        (session,) = server.registry
        yield client, link, session


THOUSAND = 1000


async def test_a_backend_rejects_a_thousand_messages_in_one_write() -> None:
    async with between() as (client, link, _):
        numbers = list(range(1, THOUSAND + 1))
        data = [encode_record(RecordType.DATA, TEXT_FLAG, seq, b"x") for seq in numbers]
        await client.stream.send_all(client.ws.send([(int(Opcode.BINARY), record, FIRST | LAST) for record in data]))
        assert [(await link.next(RecordType.DATA))[2] for _ in numbers] == numbers
        await link.stream.send_all(b"".join(encode_prefixed_record(RecordType.REJECT, 0, seq, NO) for seq in numbers))
        assert [(await client.next(RecordType.REJECT))[2] for _ in numbers] == numbers
        await client.data(THOUSAND + 1, "good")
        assert (await link.next(RecordType.DATA))[3] == b"good"


async def test_a_client_rejects_a_thousand_messages_in_one_write_and_what_waited_for_room_goes_on() -> None:
    async with between() as (client, link, session):
        numbers = list(range(1, THOUSAND + 101))
        await link.stream.send_all(
            b"".join(encode_prefixed_record(RecordType.DATA, TEXT_FLAG, seq, b"x") for seq in numbers)
        )
        window = 1024
        assert [(await client.next(RecordType.DATA))[2] for _ in numbers[:window]] == numbers[:window]
        assert session.relay.down.held_messages == len(numbers) - window
        no = [encode_record(RecordType.REJECT, 0, seq, NO) for seq in numbers[:window]]
        await client.stream.send_all(client.ws.send([(int(Opcode.BINARY), record, FIRST | LAST) for record in no]))
        assert [(await link.next(RecordType.REJECT))[2] for _ in no] == numbers[:window]
        assert [(await client.next(RecordType.DATA))[2] for _ in numbers[window:]] == numbers[window:]


async def test_several_bad_lines_among_good_ones_in_one_read_are_rejected_each() -> None:
    async with tcp_echo() as port, running(config_of(stream_route(port, framing="lines"))) as server:
        client = await Client.connect(server)
        await client.open()
        texts = ["one", "t\nwo", "three", "f\nour", "f\nive", "six"]
        records = [
            (int(Opcode.BINARY), b"\x03\x01" + seq.to_bytes(8, "big") + text.encode(), FIRST | LAST)
            for seq, text in enumerate(texts, 1)
        ]
        await client.stream.send_all(client.ws.send(records))
        rejected = [(await client.next(RecordType.REJECT))[2] for _ in range(3)]
        assert rejected == [2, 4, 5]
        answers = [(await client.next(RecordType.DATA))[3] for _ in range(3)]
        assert answers == [b"one", b"three", b"six"]
        while (await client.next(RecordType.ACK))[2] != 6:
            pass


async def test_what_a_framing_cannot_carry_closes_a_plain_client() -> None:
    async with tcp_echo() as port, running(config_of(stream_route(port, framing="lines"))) as server:
        client = await Client.connect(server, records=False)
        await client.stream.send_all(client.ws.send([(int(Opcode.TEXT), b"two\nlines", FIRST | LAST)]))
        assert await client.closed() == 1008


async def test_a_plain_client_goes_on_when_a_records_backend_rejects_its_message() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        async with trio.open_nursery() as nursery:
            clients: list[Client] = []

            async def connect() -> None:
                clients.append(await Client.connect(server, records=False))

            nursery.start_soon(connect)
            link = await service.accept()
            await link.opened()
        (client,) = clients
        for text in (b"bad", b"good"):
            await client.stream.send_all(client.ws.send([(int(Opcode.TEXT), text, FIRST | LAST)]))
            await link.next(RecordType.DATA)
        await link.send(RecordType.REJECT, 0, 1, NO)
        await link.ack(2)
        (session,) = server.registry
        ledger = session.relay.up.ledger
        assert ledger is not None
        await until(lambda: ledger.settled == 2)
        assert session.relay.up.metrics.rejected == 1
        assert not client.ended


async def rejection(client: Client, seq: int) -> tuple[int, str, int]:
    record = await client.next(RecordType.REJECT)
    assert record[2] == seq
    body = json.loads(record[3])
    return body["code"], body["reason"], seq
