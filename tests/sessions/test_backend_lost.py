"""A records backend whose connection breaks: it is dialled again, and what becomes of the session meanwhile."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import MORE_FLAG, TEXT_FLAG, RecordType
from gateway.relay.timers import NEVER
from gateway.server import Server
from tests.sessions.harness import config_of, running, until
from tests.sessions.routes import records_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, ScriptedBackend, scripted


@asynccontextmanager
async def opened(
    *, records: bool = True, **route: Any
) -> AsyncIterator[tuple[Client, BackendLink, ScriptedBackend, Server]]:
    """A client, plain or not, and a backend with an open session between them."""
    async with scripted() as service, running(config_of(records_route(service.port, **route))) as server:
        clients: list[Client] = []
        async with trio.open_nursery() as nursery:

            async def begin() -> None:
                client = await Client.connect(server, records=records)
                clients.append(client)
                if records:
                    await client.open()

            nursery.start_soon(begin)
            link = await service.accept()
            await link.opened()
        yield clients[0], link, service, server


def is_away(server: Server) -> bool:
    return all(type(session.relay.backend).__name__ == "AbsentBackend" for session in server.registry)


async def send_plain(client: Client, text: str) -> None:
    await client.stream.send_all(client.ws.send([(int(Opcode.TEXT), text.encode(), FIRST | LAST)]))


async def test_what_was_in_flight_is_sent_again_from_where_the_backend_is() -> None:
    async with opened() as (client, link, service, _):
        for seq in range(1, 6):
            await client.data(seq, f"message {seq}")
        for _ in range(5):
            await link.next(RecordType.DATA)
        await link.ack(2)
        await client.consumed(2)
        await link.cut()
        link = await service.accept()
        opening = await link.opened(3, resumed=True)
        assert opening["consumed"] == 0
        await client.consumed(3)
        for seq in (4, 5):
            assert (await link.next(RecordType.DATA))[2:] == (seq, f"message {seq}".encode())


async def test_the_log_says_what_was_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    async with opened() as (_, link, service, __):
        await link.stream.send_eof()
        await (await service.accept()).opened(resumed=True)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "backend_lost" in line]
    assert "the backend ended its connection without CLOSE" in line


async def test_what_the_client_sends_meanwhile_waits() -> None:
    async with opened() as (client, link, service, server):
        await link.cut()
        await until(lambda: is_away(server))
        await client.data(1, "waits")
        (session,) = server.registry
        await until(lambda: bool(session.relay.up.held))
        link = await service.accept()
        await link.opened(resumed=True)
        assert (await link.next(RecordType.DATA))[2:] == (1, b"waits")


async def test_a_message_that_was_cut_in_the_middle_is_sent_again_from_its_first_byte() -> None:
    async with opened() as (client, link, service, _):
        await client.send(RecordType.DATA, TEXT_FLAG | MORE_FLAG, 1, b"first half, ")
        assert (await link.next(RecordType.DATA))[3] == b"first half, "
        await link.cut()
        link = await service.accept()
        await link.opened(resumed=True)
        await client.send(RecordType.DATA, TEXT_FLAG, 1, b"second half")
        parts = [await link.next(RecordType.DATA), await link.next(RecordType.DATA)]
        assert [part[1:] for part in parts] == [(3, 1, b"first half, "), (1, 1, b"second half")]


async def test_a_message_of_the_backends_that_was_cut_goes_on_where_the_client_has_it() -> None:
    async with opened() as (client, link, service, _):
        await link.send(RecordType.DATA, TEXT_FLAG | MORE_FLAG, 1, b"first half, ")
        assert (await client.next(RecordType.DATA))[3] == b"first half, "
        await link.cut()
        link = await service.accept()
        await link.opened(resumed=True)
        await link.send(RecordType.DATA, TEXT_FLAG, 1, b"first half, second half")
        assert (await client.next(RecordType.DATA))[1:] == (1, 1, b"second half")


async def test_epochs_rise_and_the_session_keeps_its_name() -> None:
    async with opened() as (_, link, service, server):
        names, epochs = set(), [0]
        for _ in range(3):
            await link.cut()
            link = await service.accept()
            opening = await link.opened(resumed=True)
            names.add(opening["session"])
            assert opening["epoch"] > epochs[-1]
            epochs.append(opening["epoch"])
        (session,) = server.registry
        assert names == {session.id}


async def test_a_plain_client_notices_nothing_either() -> None:
    async with opened(records=False) as (client, link, service, server):
        await send_plain(client, "before")
        await link.next(RecordType.DATA)
        await link.cut()
        await until(lambda: is_away(server))
        await send_plain(client, "meanwhile")
        link = await service.accept()
        await link.opened(0, resumed=True)
        assert [(await link.next(RecordType.DATA))[2:] for _ in range(2)] == [(1, b"before"), (2, b"meanwhile")]


async def test_a_backend_that_has_forgotten_the_session_ends_it_and_gets_no_new_one() -> None:
    async with opened() as (client, link, service, _):
        await client.data(1, "consumed")
        await link.next(RecordType.DATA)
        await link.ack(1)
        await client.consumed(1)
        await link.cut()
        link = await service.accept()
        await link.opened(resumed=False)
        assert await client.closed() == 1014
        assert (await link.closed())["code"] == 4004


async def test_a_backend_that_forgot_what_it_acknowledged_breaks_the_protocol() -> None:
    async with opened() as (client, link, service, _):
        await client.data(1, "consumed")
        await link.next(RecordType.DATA)
        await link.ack(1)
        await client.consumed(1)
        await link.cut()
        link = await service.accept()
        await link.opened(0, resumed=True)
        assert await client.closed() == 1014


@pytest.mark.parametrize("position", [1, 2**62])
async def test_a_backend_that_has_more_than_was_sent_breaks_the_protocol(position: int) -> None:
    async with opened() as (client, link, service, _):
        await link.cut()
        link = await service.accept()
        await link.opened(position, resumed=True)
        assert await client.closed() == 1014


async def test_a_backend_that_refuses_to_go_on_ends_the_session_with_its_own_words() -> None:
    async with opened() as (client, link, service, _):
        await link.cut()
        link = await service.accept()
        await link.next(RecordType.OPEN)
        await link.send(RecordType.CLOSE, body=b'{"code": 4444, "reason": "moved"}')
        assert await client.closed() == 4444
        close = json.loads((await client.next(RecordType.CLOSE))[3])
        assert (close["code"], close["reason"]) == (4444, "moved")


async def test_a_backend_that_is_not_back_within_the_grace_is_1014() -> None:
    async with opened(grace="300ms") as (client, link, service, _):
        await client.data(1, "x")
        await link.next(RecordType.DATA)
        await service.stop()
        await link.cut()
        assert await client.closed() == 1014
        close = json.loads((await client.next(RecordType.CLOSE))[3])
        assert close["reason"] == "the backend was not back within 0.3 s"
        assert close["report"]["upstream"] == {"settled": 0, "unknown": [1, 1], "never_forwarded": None}


async def test_a_client_that_ends_the_session_meanwhile_has_its_messages_and_its_end_delivered() -> None:
    async with opened() as (client, link, service, server):
        await link.cut()
        await until(lambda: is_away(server))
        await client.data(1, "last words")
        await client.send(RecordType.CLOSE, body=b'{"code": 4001, "reason": "bye"}')
        link = await service.accept()
        await link.opened(resumed=True)
        assert (await link.next(RecordType.DATA))[2:] == (1, b"last words")
        close = await link.closed()
        assert (close["code"], close["reason"]) == (4001, "bye")


async def test_a_backend_that_comes_back_after_the_end_is_told_of_it() -> None:
    async with opened(timeouts={"close": "50ms"}) as (client, link, service, server):
        await link.cut()
        await until(lambda: is_away(server))
        await client.send(RecordType.CLOSE, body=b'{"code": 1000}')
        await client.closed()
        await client.cut()
        link = await service.accept()
        await link.next(RecordType.OPEN)
        await until(lambda: not len(server.registry))
        await link.send(RecordType.OPENED, 0, 0, b'{"resumed": true}')
        assert (await link.closed())["code"] == 1000


async def test_a_drained_gateway_does_not_end_a_session_that_its_client_takes_elsewhere() -> None:
    async with opened() as (client, link, service, server):
        await link.cut()
        await until(lambda: is_away(server))
        link = await service.accept()
        await link.next(RecordType.OPEN)
        (session,) = server.registry
        session.relay.drain(trio.current_time(), until=NEVER)
        assert await client.closed() == 1012
        await link.send(RecordType.OPENED, 0, 0, b'{"resumed": true}')
        assert await link.wait_ended() == []
