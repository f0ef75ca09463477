"""A session that another gateway has taken over: this one lets it go, and whoever is still on it is sent away."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from gateway.protocol.records import RecordType
from gateway.server import Server
from tests.sessions.harness import backend, config_of, echo, running, until
from tests.sessions.routes import records_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, ScriptedBackend, scripted

SUPERSEDED = b'{"code": 4001, "reason": "a newer connection has the session"}'


@asynccontextmanager
async def opened(
    *, records: bool = True
) -> AsyncIterator[tuple[Client, BackendLink, ScriptedBackend, Server, str, int]]:
    """A client with a session, its backend, the session's token and its epoch."""
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        answer: dict[str, str] = {}

        async def begin() -> None:
            client = await Client.connect(server, records=records)
            clients.append(client)
            if records:
                answer.update(await client.open())

        clients: list[Client] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(begin)
            link = await service.accept()
            opening = await link.opened()
        yield clients[0], link, service, server, answer.get("session", ""), opening["epoch"]


async def is_let_go(server: Server, link: BackendLink) -> None:
    await until(lambda: not len(server.registry))
    assert await link.wait_ended() == [], "the backend is told nothing"


async def test_a_parked_session_is_let_go() -> None:
    async with opened() as (client, link, service, server, _, _):
        await client.data(1, "unsettled")
        await link.next(RecordType.DATA)
        await client.cut()
        await until(lambda: all(session.is_parked for session in server.registry))
        await link.send(RecordType.CLOSE, body=SUPERSEDED)
        await is_let_go(server, link)
        with trio.move_on_after(0.3):
            await service._listener.accept()
            raise AssertionError("the session was dialled again")
        metrics = server.metrics.route("test")
        assert not any(metrics.upstream.unknown.values()), "what is unsettled is the other gateway's to tell of"
        assert metrics.upstream.never_forwarded == 0
        assert sum(metrics.sessions.values()) == metrics.connections == 0


async def test_a_client_that_is_still_on_it_is_closed_without_its_session_being_ended() -> None:
    async with opened() as (client, link, _, server, _, _):
        await link.send(RecordType.CLOSE, body=SUPERSEDED)
        assert await client.closed() == 4001
        assert not any(record[0] == RecordType.CLOSE for record in client.records)
        await is_let_go(server, link)


async def test_one_that_was_cut_off_meanwhile_hears_it_in_answer_to_its_open() -> None:
    async with opened() as (client, link, service, server, _, epoch):
        await link.cut()
        link = await service.accept()
        record = await link.next(RecordType.OPEN)
        assert json.loads(record[3])["epoch"] == epoch + 1, "a new time would take the session back"
        await link.send(RecordType.CLOSE, body=SUPERSEDED)
        assert await client.closed() == 4001
        assert not any(record[0] == RecordType.CLOSE for record in client.records)
        await is_let_go(server, link)


async def test_its_client_may_come_back_and_is_taken_to_the_backend_anew() -> None:
    async with opened() as (client, link, service, server, token, epoch):
        await client.cut()
        await link.send(RecordType.CLOSE, body=SUPERSEDED)
        await is_let_go(server, link)
        again = await Client.connect(server)
        await again.send(RecordType.OPEN, 0, 0, json.dumps({"session": token}).encode())
        link = await service.accept()
        assert (await link.opened(3, resumed=True))["epoch"] > epoch + 1
        record = await again.next(RecordType.OPENED)
        answer = json.loads(record[3])
        assert (record[2], answer["resumed"], answer["session"]) == (3, True, token)


async def test_a_client_may_know_before_its_gateway_that_another_one_had_the_session() -> None:
    async with opened() as (client, _, service, server, token, epoch):
        await client.cut()
        again = await Client.connect(server)
        await again.send(RecordType.OPEN, 0, 5, json.dumps({"session": token}).encode())
        assert await again.closed() == 1013
        link = await service.accept()
        assert json.loads((await link.next(RecordType.OPEN))[3])["epoch"] == epoch + 1
        await link.send(RecordType.CLOSE, body=SUPERSEDED)
        await is_let_go(server, link)
        again = await Client.connect(server)
        await again.send(RecordType.OPEN, 0, 5, json.dumps({"session": token}).encode())
        link = await service.accept()
        told = await link.opened(3, resumed=True)
        assert (told["consumed"], told["resume"]) == (5, True)
        assert json.loads((await again.next(RecordType.OPENED))[3])["resumed"] is True


async def test_a_plain_client_is_closed_with_the_backends_words() -> None:
    async with opened(records=False) as (client, link, _, server, _, _):
        await link.send(RecordType.CLOSE, body=SUPERSEDED)
        assert await client.closed() == 4001
        await until(lambda: not len(server.registry))


@pytest.mark.parametrize("still_there", [True, False])
async def test_between_two_gateways_the_newer_one_keeps_the_session(still_there: bool) -> None:
    async with backend(echo) as port:
        config = config_of(records_route(port))
        async with running(config) as first, running(config) as second:
            client = await Client.connect(first)
            token = (await client.open())["session"]
            await client.data(1, "one")
            await client.next(RecordType.DATA)
            if not still_there:
                await client.cut()
            again = await Client.connect(second)
            answer = await again.open(token, consumed=1)
            assert (answer["resumed"], answer["settled"]) == (True, 1)
            await until(lambda: not len(first.registry))
            if still_there:
                assert await client.closed() == 4001
            await again.data(2, "two")
            assert (await again.next(RecordType.DATA))[2:] == (2, b"two")
            (endpoint,) = second.table.services[0].connector.endpoints  # type: ignore[union-attr]
            assert sum(endpoint.dials.values()) == 1


async def test_a_client_that_is_back_before_its_gateway_has_heard_is_sent_on() -> None:
    async with opened() as (client, link, service, server, token, epoch):
        await client.cut()
        again = await Client.connect(server)
        assert (await again.open(token))["resumed"] is True
        await link.next(RecordType.PING)
        await link.send(RecordType.CLOSE, body=SUPERSEDED)
        assert await again.closed() == 1013
        assert not any(record[0] == RecordType.CLOSE for record in again.records)
        await is_let_go(server, link)
        metrics = server.metrics.route("test")
        assert not any(metrics.upstream.unknown.values())
        once_more = await Client.connect(server)
        await once_more.send(RecordType.OPEN, 0, 0, json.dumps({"session": token}).encode())
        assert (await (await service.accept()).opened(resumed=True))["epoch"] > epoch
        assert json.loads((await once_more.next(RecordType.OPENED))[3])["resumed"] is True


@pytest.mark.parametrize("answers", [b"\0" * 8, None])
async def test_what_it_hears_behind_the_answer_to_its_ping_is_of_somebody_else(answers: bytes | None) -> None:
    """The answer to another PING says nothing."""
    async with opened() as (client, link, _, server, token, _):
        await client.cut()
        again = await Client.connect(server)
        await again.open(token)
        ping = (await link.next(RecordType.PING))[3]
        await link.send(RecordType.PONG, body=ping if answers is None else answers)
        await link.send(RecordType.CLOSE, body=SUPERSEDED)
        assert await again.closed() == (4001 if answers is None else 1013)


async def test_a_client_that_is_back_while_its_backend_is_redialled_is_sent_on() -> None:
    """Whether the refusal, or the connection's OPENED, is older than its return: only what comes after says more."""
    async with opened() as (client, link, service, server, token, _):
        await client.cut()
        await link.cut()
        link = await service.accept()
        await link.next(RecordType.OPEN)
        again = await Client.connect(server)
        await again.open(token)
        await link.send(RecordType.OPENED, 0, 0, b'{"resumed": true}')
        await link.next(RecordType.PING)
        await link.send(RecordType.CLOSE, body=SUPERSEDED)
        assert await again.closed() == 1013
        await is_let_go(server, link)
