"""What a backend says before it ends the session is for a client that can come back, wherever that is meanwhile."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from gateway.backend import Session
from gateway.protocol.records import RecordType
from gateway.server import Server
from gateway.telemetry.metrics import SessionState
from tests.sessions.harness import backend, config_of, running, until
from tests.sessions.routes import records_route, stream_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, ScriptedBackend, scripted

WORDS = ["one", "two", "three"]
GOODBYE = b'{"code": 4000, "reason": "goodbye"}'


async def say_all_and_end(session: Session) -> None:
    async for _ in session:
        for word in WORDS:
            await session.send(word)
        session.close(4000, "goodbye")


@asynccontextmanager
async def speaker(framing: str, *, may_speak: trio.Event) -> AsyncIterator[dict[str, Any]]:
    """The route to a service that says three words to whoever asks, and ends."""

    async def speak(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await may_speak.wait()
        await stream.send_all("".join(f"{word}\n" for word in WORDS).encode())

    async def speak_records(session: Session) -> None:
        await may_speak.wait()
        await say_all_and_end(session)

    if framing == "records":
        async with backend(speak_records) as port:
            yield records_route(port)
        return
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, speak, 0)
        yield stream_route(listeners[0].socket.getsockname()[1], framing=framing)
        nursery.cancel_scope.cancel()


def parked(server: Server) -> bool:
    return any(session.is_parked for session in server.registry)


async def said(client: Client, *, until_last: bytes) -> bytes:
    """All that comes up to what ends so, and is not acknowledged."""
    got = b""
    while not got.endswith(until_last):
        got += (await client.next(RecordType.DATA))[3]
    return got


@pytest.mark.parametrize("framing", ["stream", "lines", "records"])
async def test_a_client_that_is_away_hears_them_and_the_end_when_it_is_back(framing: str) -> None:
    may_speak = trio.Event()
    async with speaker(framing, may_speak=may_speak) as route, running(config_of(route)) as server:
        client = await Client.connect(server)
        token = (await client.open())["session"]
        await client.data(1, "speak")
        (session,) = server.registry
        await until(lambda: session.relay.up.messages == 1)
        await client.cut()
        await until(lambda: parked(server))
        may_speak.set()
        await until(lambda: session.relay.backend.is_gone)
        client = await Client.connect(server)
        assert (await client.open(token))["resumed"] is True
        last = b"three\n" if framing == "stream" else b"three"
        assert (await said(client, until_last=last)).replace(b"\n", b"") == b"onetwothree"
        close = json.loads((await client.next(RecordType.CLOSE))[3])
        assert close["code"] == (4000 if framing == "records" else 1000)
        assert await client.closed() == close["code"]
        await client.stream.send_all(client.ws.close(close["code"]))
        await until(lambda: not len(server.registry))


@asynccontextmanager
async def opened(
    server: Server, service: ScriptedBackend, **body: Any
) -> AsyncIterator[tuple[Client, BackendLink, str]]:
    """A session with a scripted backend: its client, its backend, its token."""
    client = await Client.connect(server)
    await client.send(RecordType.OPEN, body=json.dumps(body).encode())
    link = await service.accept()
    await link.opened()
    token = json.loads((await client.next(RecordType.OPENED))[3])["session"]
    yield client, link, token


async def test_a_client_that_is_cut_off_behind_them_hears_again_what_it_had_not_consumed() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        async with opened(server, service) as (client, link, token):
            for seq, word in enumerate(WORDS, 1):
                await link.data(seq, word)
            await link.send(RecordType.CLOSE, body=GOODBYE)
            await service.stop()
            await client.next(RecordType.CLOSE)
        await client.cut()
        await until(lambda: parked(server))
        for consumed in (1, 2):  # and once more
            client = await Client.connect(server)
            assert (await client.open(token, consumed=consumed))["resumed"] is True
            got = [(await client.next(RecordType.DATA))[3].decode() for _ in WORDS[consumed:]]
            assert got == WORDS[consumed:]
            assert json.loads((await client.next(RecordType.CLOSE))[3])["code"] == 4000
            await client.cut()
        await until(lambda: parked(server))
        (session,) = server.registry
        assert session.service.metrics.sessions[SessionState.PARKED] == 1


async def test_a_connection_that_was_lost_and_seems_alive_is_no_hindrance() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        async with opened(server, service) as (_, link, token):
            await link.data(1, "one")
            await link.send(RecordType.CLOSE, body=GOODBYE)
            await service.stop()
        (session,) = server.registry
        await until(lambda: session.relay.backend.is_gone)
        client = await Client.connect(server)
        assert (await client.open(token))["resumed"] is True
        assert (await client.next(RecordType.DATA))[3] == b"one"
        assert await client.closed() == 4000


async def test_a_client_with_a_full_window_takes_its_time_with_each() -> None:
    route = records_route(0, timeouts={"close": "100ms", "close_total": "1m"})
    async with scripted() as service:
        route["backend"]["endpoints"] = [f"tcp://127.0.0.1:{service.port}"]
        async with (
            running(config_of(route)) as server,
            opened(server, service, window_messages=1) as (client, link, _),
        ):
            for seq, word in enumerate(WORDS, 1):
                await link.data(seq, word)
            await link.send(RecordType.CLOSE, body=GOODBYE)
            for seq, word in enumerate(WORDS, 1):
                assert (await client.next(RecordType.DATA))[3].decode() == word
                await trio.sleep(0.5)  # what an application does with it, for longer than `close` and its steps
                await client.send(RecordType.ACK, 4, seq)
            assert json.loads((await client.next(RecordType.CLOSE))[3])["code"] == 4000


async def test_a_client_that_does_not_take_them_in_time_loses_its_connection_and_not_them() -> None:
    route = records_route(0, timeouts={"close": "100ms", "close_total": "200ms"})
    async with scripted() as service:
        route["backend"]["endpoints"] = [f"tcp://127.0.0.1:{service.port}"]
        async with running(config_of(route)) as server:
            async with opened(server, service, window_messages=1) as (client, link, token):
                for seq, word in enumerate(WORDS, 1):
                    await link.data(seq, word)
                await link.send(RecordType.CLOSE, body=GOODBYE)
                await service.stop()
            assert await client.closed() is None
            client = await Client.connect(server)
            assert (await client.open(token))["resumed"] is True
            assert await said(client, until_last=b"three") == b"onetwothree"
            assert await client.closed() == 4000


async def test_a_backend_that_still_has_the_session_is_asked_for_the_rest() -> None:
    """Its client may have been told more of it by another gateway."""
    async with (
        backend(say_all_and_end) as port,
        running(config_of(records_route(port))) as first,
        running(config_of(records_route(port))) as second,
    ):
        client = await Client.connect(first)
        token = (await client.open(window_messages=1))["session"]
        await client.data(1, "speak")
        await client.next(RecordType.DATA)
        await client.cut()
        await until(lambda: parked(first))
        client = await Client.connect(second)
        assert (await client.open(token))["resumed"] is True
        assert await said(client, until_last=b"three") == b"onetwothree"
        await client.cut()
        await until(lambda: parked(second))
        client = await Client.connect(first)
        opened = await client.open(token, consumed=2)  # of which the first gateway has sent one
        assert (opened["resumed"], opened["settled"]) == (True, 1)
        assert (await client.next(RecordType.DATA))[3] == b"three"
        assert await client.closed() == 4000


async def test_one_that_does_not_come_back_is_waited_for_as_long_as_ever_and_its_loss_is_told() -> None:
    async with scripted() as service, running(config_of(records_route(service.port, grace="200ms"))) as server:
        async with opened(server, service) as (client, link, _):
            await link.data(1, "one")
            await link.send(RecordType.CLOSE, body=GOODBYE)
            await service.stop()
            await client.next(RecordType.DATA)
        await client.cut()
        await until(lambda: not len(server.registry))
        (told,) = server.registry.ended(limit=10)
        assert (told["by"], told["code"]) == ("backend", 4000)
        assert told["downstream"]["unknown"] == (1, 1)  # type: ignore[index]


async def test_a_drain_does_not_wait_for_it() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        async with opened(server, service) as (client, link, _):
            await link.data(1, "one")
            await link.send(RecordType.CLOSE, body=GOODBYE)
            await client.next(RecordType.CLOSE)
        await client.cut()
        await until(lambda: parked(server))
        (session,) = server.registry
        session.relay.drain(trio.current_time(), until=trio.current_time() + 60)
        assert not len(server.registry)


async def test_a_drain_does_not_wait_for_one_that_goes_after_it_has_begun() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        async with opened(server, service) as (client, link, _):
            await link.data(1, "one")
            await link.send(RecordType.CLOSE, body=GOODBYE)
            await client.next(RecordType.CLOSE)
        (session,) = server.registry
        session.relay.drain(trio.current_time(), until=trio.current_time() + 60)
        assert len(server.registry), "it is still here"
        await client.cut()
        await until(lambda: not len(server.registry))


async def test_one_that_is_too_slow_for_a_drain_is_told_of_the_end_as_it_cannot_come_back() -> None:
    route = records_route(0, timeouts={"close": "100ms", "close_total": "200ms"})
    async with scripted() as service:
        route["backend"]["endpoints"] = [f"tcp://127.0.0.1:{service.port}"]
        async with (
            running(config_of(route)) as server,
            opened(server, service, window_messages=1) as (client, link, _),
        ):
            (session,) = server.registry
            for seq, word in enumerate(WORDS, 1):
                await link.data(seq, word)
            await link.send(RecordType.CLOSE, body=GOODBYE)
            await until(lambda: session.relay.backend.is_gone)
            session.relay.drain(trio.current_time(), until=trio.current_time() + 60)
            assert await client.closed() == 4000
            assert json.loads((await client.next(RecordType.CLOSE))[3])["code"] == 4000
            await until(lambda: not len(server.registry))


async def test_a_client_that_knows_of_the_end_is_not_waited_for() -> None:
    async with (
        scripted() as service,
        running(config_of(records_route(service.port))) as server,
        opened(server, service) as (client, link, _),
    ):
        await link.data(1, "one")
        await link.send(RecordType.CLOSE, body=GOODBYE)
        assert await client.closed() == 4000
        await client.stream.send_all(client.ws.close(4000))
        await until(lambda: not len(server.registry))


async def test_one_that_has_acknowledged_everything_and_not_read_the_close_is_told_of_the_end_again() -> None:
    """A fresh session in its place would tell it that nothing has ended."""
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        async with opened(server, service) as (client, link, token):
            await link.data(1, "one")
            await client.next(RecordType.DATA)
            await client.send(RecordType.ACK, 4, 1)
            (session,) = server.registry
            await until(lambda: not session.relay.down.is_unsettled)
            await link.send(RecordType.CLOSE, body=GOODBYE)
            await service.stop()
            await client.next(RecordType.CLOSE)  # its host has it, and a reset takes it away unread
        await client.cut()
        await until(lambda: parked(server))
        client = await Client.connect(server)
        answer = await client.open(token, consumed=1)
        assert (answer["resumed"], answer["settled"]) == (True, 0)
        close = json.loads((await client.next(RecordType.CLOSE))[3])
        assert (close["code"], close["reason"]) == (4000, "goodbye")
        assert await client.closed() == 4000
        await client.stream.send_all(client.ws.close(4000))
        await until(lambda: not len(server.registry))


def unknown_of(server: Server, direction: str) -> dict[str, int]:
    """How many messages of the route were counted, by reason."""
    (service,) = server.table.services
    metrics = service.metrics
    counted = metrics.upstream if direction == "upstream" else metrics.downstream
    return {reason.value: count for reason, count in counted.unknown.items() if count}


@pytest.mark.parametrize("cause", ["grace_expired", "evicted", "drain"])
async def test_what_one_that_did_not_come_back_has_not_got_is_told_by_that(cause: str) -> None:
    route = records_route(0, grace="200ms" if cause == "grace_expired" else "1m")
    async with scripted() as service:
        route["backend"]["endpoints"] = [f"tcp://127.0.0.1:{service.port}"]
        async with running(config_of(route)) as server:
            async with opened(server, service) as (client, link, _):
                await client.data(1, "never acknowledged")
                await link.next(RecordType.DATA)
                await link.data(1, "one")
                await link.send(RecordType.CLOSE, body=GOODBYE)
                await service.stop()
                await client.next(RecordType.CLOSE)
            await client.cut()
            await until(lambda: parked(server) or not len(server.registry))
            for session in server.registry:
                now = trio.current_time()
                if cause == "evicted":
                    session.relay.evict(now)
                elif cause == "drain":
                    session.relay.drain(now, until=now + 60)
            await until(lambda: not len(server.registry))
            (told,) = server.registry.ended(limit=10)
            assert (told["by"], told["code"]) == ("backend", 4000)
            assert told["downstream"]["unknown_reason"] == cause  # type: ignore[index]
            assert unknown_of(server, "downstream") == {cause: 1}
            # The backend ended in good order, and had not acknowledged it.
            assert told["upstream"]["unknown_reason"] == "closed"  # type: ignore[index]
            assert unknown_of(server, "upstream") == {"closed": 1}


@pytest.mark.parametrize("how", ["reset", "closed"])
async def test_what_a_backend_has_not_acknowledged_is_told_by_how_it_went_and_not_by_who_ended(how: str) -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        async with opened(server, service) as (client, link, _):
            await client.data(1, "one")
            await client.send(RecordType.CLOSE, body=b'{"code": 1000}')
            await link.next(RecordType.CLOSE)
            if how == "reset":
                await link.cut()
            else:
                await link.stream.aclose()
        assert await client.closed() is not None
        await client.stream.send_all(client.ws.close(1000))
        await until(lambda: not len(server.registry))
        (told,) = server.registry.ended(limit=10)
        assert (told["by"], told["code"]) == ("client", 1000)
        assert told["upstream"]["unknown_reason"] == how  # type: ignore[index]
        assert unknown_of(server, "upstream") == {how: 1}
