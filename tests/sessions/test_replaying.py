"""What is sent again goes out as fast as it is taken: a resume costs what it brings, and nothing is lost on the way."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from gateway.protocol.records import RecordType, Rung
from gateway.server import Server
from gateway.sessions.session import Session
from tests.sessions.harness import config_of, running, until
from tests.sessions.routes import records_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, ScriptedBackend, scripted

MESSAGES = 60
SIZE = 60_000
"""Together nearly the window of 4 MiB."""

ROOM = 512 * 1024
"""What a session may hold beyond what is retained: buffers, and what the kernel has given back of them."""


def body_of(seq: int) -> str:
    return f"{seq:04d}" * (SIZE // 4)


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[Server, ScriptedBackend, Session, Client, BackendLink, str]]:
    """A session, its two ends, and its token."""
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        async with trio.open_nursery() as nursery:
            answers: list[str] = []

            async def begin() -> None:
                answers.append((await client.open())["session"])

            nursery.start_soon(begin)
            link = await service.accept()
            await link.opened()
        (session,) = server.registry
        yield server, service, session, client, link, answers[0]


async def fill_downstream(link: BackendLink, client: Client) -> None:
    """The client has everything and has acknowledged nothing."""
    for seq in range(1, MESSAGES + 1):
        await link.data(seq, body_of(seq))
        assert (await client.next(RecordType.DATA))[2] == seq


async def ask_for(server: Server, token: str, *, consumed: int = 0) -> Client:
    """A connection that has sent its OPEN, and reads nothing."""
    client = await Client.connect(server)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    await client.send(RecordType.OPEN, 0, consumed, json.dumps({"session": token}).encode())
    return client


async def test_resumes_that_are_not_read_make_the_session_hold_nothing_more() -> None:
    async with opened() as (server, _, session, client, link, token):
        await fill_downstream(link, client)
        retained = session.tab.used
        assert retained > MESSAGES * SIZE
        for resumes in range(1, 16):
            await ask_for(server, token)
            await until(lambda resumes=resumes: session.resumes == resumes)  # type: ignore[misc]
            assert session.tab.used < retained + ROOM
        again = await Client.connect(server)
        assert (await again.open(token))["resumed"] is True
        for seq in range(1, MESSAGES + 1):
            assert (await again.next(RecordType.DATA))[2:] == (seq, body_of(seq).encode())
        await again.send(RecordType.ACK, Rung.CONSUMED, MESSAGES)
        await link.consumed(MESSAGES)
        await until(lambda: session.tab.used < ROOM)
        await link.data(MESSAGES + 1, "and on")
        assert (await again.next(RecordType.DATA))[2:] == (MESSAGES + 1, b"and on")


async def test_what_is_consumed_while_it_waits_to_be_sent_again_is_not_sent_again() -> None:
    async with opened() as (server, _, session, client, link, token):
        await fill_downstream(link, client)
        again = await ask_for(server, token)
        await until(lambda: session.resumes == 1)
        await again.send(RecordType.ACK, Rung.CONSUMED, MESSAGES)
        await until(lambda: session.relay.down.ledger is not None and session.relay.down.ledger.settled == MESSAGES)
        await link.data(MESSAGES + 1, "behind it")
        numbers: list[int] = []
        while not numbers or numbers[-1] != MESSAGES + 1:
            record = await again.next(RecordType.DATA)
            numbers.append(record[2])
        assert numbers[:-1] == list(range(1, len(numbers)))
        assert len(numbers) < MESSAGES, "it was in a hurry"
        assert record[3] == b"behind it"


async def test_an_end_waits_for_what_is_being_sent_again() -> None:
    async with opened() as (server, _, session, client, link, token):
        await fill_downstream(link, client)
        again = await ask_for(server, token)
        await until(lambda: session.resumes == 1)
        await link.send(RecordType.CLOSE, 0, 0, b'{"code": 3001, "reason": "over"}')
        await until(lambda: not session.relay.is_open)
        for seq in range(1, MESSAGES + 1):
            assert (await again.next(RecordType.DATA))[2] == seq
        assert await again.closed() == 3001


async def test_a_session_that_is_revoked_amid_it_ends_at_once() -> None:
    async with opened() as (server, _, session, client, link, token):
        await fill_downstream(link, client)
        again = await ask_for(server, token)
        await until(lambda: session.resumes == 1)
        session.revoke(3000, "revoked", server.pump.clock())
        assert await again.closed() == 3000
        numbers = [record[2] for record in again.records if record[0] == RecordType.DATA]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) < MESSAGES


async def test_a_backend_that_is_back_and_does_not_read_makes_the_session_hold_nothing_more() -> None:
    async with opened() as (_, service, session, client, link, _):
        for seq in range(1, MESSAGES + 1):
            await client.data(seq, body_of(seq))
            assert (await link.next(RecordType.DATA))[2] == seq
        retained = session.tab.used
        await link.cut()
        link = await service.accept()
        link.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await link.opened(resumed=True)
        up = session.relay.up
        await until(lambda: up.replay is not None)
        assert session.tab.used < retained + ROOM
        await client.send(RecordType.CLOSE, 0, 0, b'{"code": 3001, "reason": "over"}')
        for seq in range(1, MESSAGES + 1):
            assert (await link.next(RecordType.DATA))[2:] == (seq, body_of(seq).encode())
        assert (await link.closed())["code"] == 3001
