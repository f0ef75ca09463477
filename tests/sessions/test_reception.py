"""What a records client that comes is given: its session again, a fresh one, or the report of one that is over."""

import json

import pytest
import trio

from gateway.backend import MemoryStore, Session
from gateway.policy.admission import MessageRate
from gateway.protocol.records import RecordType, Rung
from gateway.sessions import session as session_module
from tests.sessions.harness import backend, config_of, running, until
from tests.support.peers.client import Client


def records_route(port: int, **delivery: object) -> dict[str, object]:
    return {"backend": {"endpoints": [f"tcp://127.0.0.1:{port}"], "framing": "records"}, "delivery": delivery}


def stream_route(port: int, **rest: object) -> dict[str, object]:
    return {"backend": {"endpoints": [f"tcp://127.0.0.1:{port}"]}, **rest}


async def test_a_records_client_hears_when_its_message_is_consumed() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        opened = await client.open()
        assert opened["resumed"] is False
        assert opened["settles_at"] == "consumed"
        assert opened["settled"] == 0
        assert len(opened["session"]) >= 22
        await client.data(1, "どやさ")
        assert await client.next(RecordType.ACK) == (RecordType.ACK, Rung.CONSUMED, 1, b"")
        assert (await client.next(RecordType.DATA))[1:] == (1, 1, "どやさ".encode())


async def test_a_cut_connection_is_resumed_and_what_was_missed_comes_again() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        token = (await client.open())["session"]
        await client.data(1, "one")
        await client.next(RecordType.DATA)
        await client.cut()
        for attempt in range(3):
            client = await Client.connect(server)
            opened = await client.open(token)
            assert opened["resumed"] is True
            assert opened["settled"] == 1
            assert (await client.next(RecordType.DATA))[2:] == (1, b"one"), attempt
            await client.cut()
        client = await Client.connect(server)
        await client.open(token, consumed=1)
        await client.data(2, "two")
        assert (await client.next(RecordType.DATA))[2:] == (2, b"two")


async def test_a_newer_connection_takes_over_while_the_old_one_seems_alive() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        old = await Client.connect(server)
        token = (await old.open())["session"]
        new = await Client.connect(server)
        assert (await new.open(token))["resumed"] is True
        assert await old.closed() == 4001
        await new.data(1, "still here")
        assert (await new.next(RecordType.DATA))[3] == b"still here"


async def test_a_token_from_another_origin_gives_a_fresh_session_and_leaves_the_old_one_alone() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        mine = await Client.connect(server, origin="https://mine.example")
        token = (await mine.open())["session"]
        thief = await Client.connect(server, origin="https://thief.example")
        opened = await thief.open(token)
        assert opened["resumed"] is False
        assert opened["session"] != token
        assert opened["report"] is None
        await mine.data(1, "unharmed")
        assert (await mine.next(RecordType.DATA))[3] == b"unharmed"


async def test_a_session_survives_its_gateway_when_the_backend_speaks_records() -> None:
    async with backend() as port:
        async with running(config_of(records_route(port))) as first:
            client = await Client.connect(first)
            token = (await client.open())["session"]
            await client.data(1, "one")
            await client.next(RecordType.DATA)
            await client.cut()
        async with running(config_of(records_route(port))) as second:
            client = await Client.connect(second)
            opened = await client.open(token)
            assert (opened["resumed"], opened["session"], opened["settled"]) == (True, token, 1)
            assert (await client.next(RecordType.DATA))[2:] == (1, b"one")
            await client.data(2, "two")
            assert (await client.next(RecordType.DATA))[2:] == (2, b"two")


async def test_a_backend_that_breaks_is_dialled_again_and_its_client_notices_nothing() -> None:
    store = MemoryStore()
    async with backend(store=store) as port:
        config = config_of(records_route(port))
        async with running(config) as server:
            client = await Client.connect(server)
            await client.open()
            await client.data(1, "before")
            await client.next(RecordType.DATA)
            for session in server.registry:
                session.relay.backend.endpoint.sock.shutdown(2)  # type: ignore[attr-defined]
            await client.data(2, "after")
            assert (await client.next(RecordType.DATA))[2:] == (2, b"after")


async def test_an_unknown_token_gives_a_fresh_session() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        opened = await client.open("x" * 43)
        assert opened["resumed"] is False
        assert opened["session"] != "x" * 43
        await client.data(1, "fresh")
        assert (await client.next(RecordType.DATA))[3] == b"fresh"


async def test_an_expired_session_is_told_with_its_report() -> None:
    async with backend() as port, running(config_of(records_route(port, grace="0.1s"))) as server:
        client = await Client.connect(server)
        token = (await client.open())["session"]
        await client.data(1, "one")
        await client.next(RecordType.ACK)
        await client.cut()
        with trio.fail_after(10):
            while len(server.registry):  # noqa: ASYNC110 -- there is nothing of the session's to wait on
                await trio.sleep(0.01)
        client = await Client.connect(server)
        opened = await client.open(token)
        assert opened["resumed"] is False
        assert opened["report"]["upstream"] == {"settled": 1, "unknown": None, "never_forwarded": None}


async def test_a_client_that_consumed_messages_of_a_session_that_is_gone_gets_a_fresh_one() -> None:
    async with backend() as port, running(config_of(records_route(port, grace="0.1s"))) as server:
        client = await Client.connect(server)
        token = (await client.open())["session"]
        await client.data(1, "one")
        await client.next(RecordType.DATA)
        await client.send(RecordType.CLOSE, body=b'{"code": 1000}')
        await client.closed()
        for gone in (token, "x" * 43):
            client = await Client.connect(server)
            opened = await client.open(gone, consumed=1)
            assert (opened["resumed"], opened["settled"]) == (False, 0)
            await client.data(1, "anew")
            assert (await client.next(RecordType.DATA))[2:] == (1, b"anew")


async def test_a_rejected_message_is_told_and_the_session_goes_on() -> None:
    async def picky(session: Session) -> None:
        async for message in session:
            if message == "bad":
                message.reject(4000, "no")
            else:
                await session.send(message)

    async with backend(picky) as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        await client.open()
        await client.data(1, "bad")
        reject = await client.next(RecordType.REJECT)
        assert reject[2] == 1
        assert json.loads(reject[3]) == {"code": 4000, "reason": "no"}
        await client.data(2, "good")
        assert (await client.next(RecordType.DATA))[3] == b"good"


async def test_a_connection_that_was_taken_over_counts_until_its_socket_is_closed() -> None:
    """Else one session's OPENs were as many connections as somebody likes, each with what is still to be sent on it."""
    async with backend() as port, running(config_of(records_route(port))) as server:
        clients = [await Client.connect(server)]
        token = (await clients[0].open())["session"]
        for _ in range(3):
            clients.append(await Client.connect(server))
            await clients[-1].open(token)
        assert server.entrance.admission.connections("test") == 4, "none of them has answered its Close"
        for client in clients[:3]:
            await client.cut()
        await until(lambda: server.entrance.admission.connections("test") == 1)
        await clients[3].cut()
        await until(lambda: server.entrance.admission.connections("test") == 0)


async def test_a_session_that_is_resumed_without_end_is_told_to_wait_and_lives_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "RESUMES_PER_SECOND", 1e-6)  # none while this test runs
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        token = (await client.open())["session"]
        code = None
        for _ in range(40):
            await client.cut()
            client = await Client.connect(server)
            await client.send(RecordType.OPEN, 0, 0, json.dumps({"session": token}).encode())
            await client._receive()
            if (code := client.close_code) is not None:
                break
        assert code == 1013
        assert not any(record[0] == RecordType.CLOSE for record in client.records)
        assert len(server.registry) == 1
        (session,) = server.registry
        assert session.resumes == 20
        session._resume_rate = MessageRate(1e-6, now=trio.current_time())
        again = await Client.connect(server)
        assert (await again.open(token))["resumed"] is True
