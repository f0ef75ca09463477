"""How sessions end: who is told what, and what the admin API shows of it."""

import json
from typing import Any

import pytest
import trio

from gateway.protocol.records import RecordType, Rung, encode_record
from tests.sessions.harness import backend, config_of, running, tcp_echo, until
from tests.sessions.routes import records_route, stream_route
from tests.support.network import free_port
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import scripted


async def ask(port: int, path: str) -> dict[str, Any]:
    """GET of the admin listener."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        async for data in stream:
            answer += data
    body: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return body


# --- CLOSE ----------------------------------------------------------------------------------------------------------


async def test_a_clients_close_reaches_the_backend_behind_its_messages_and_is_answered_with_a_report() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await client.next(RecordType.OPENED)
        await client.data(1, "one")
        await client.data(2, "two")
        await client.send(RecordType.CLOSE, body=b'{"code": 4321, "reason": "done"}')
        assert [(await link.next())[0] for _ in range(2)] == [RecordType.DATA, RecordType.DATA]
        close = await link.closed()
        assert (close["code"], close["reason"]) == (4321, "done")
        assert close["report"]["upstream"] == {"settled": 0, "unknown": [1, 2], "never_forwarded": None}
        await link.ack(2)  # its last words are heard
        await link.data(1, "goodbye")
        await client.consumed(2)
        assert (await client.next(RecordType.DATA))[3] == b"goodbye"
        await link.stream.send_eof()
        answer = json.loads((await client.next(RecordType.CLOSE))[3])
        assert answer["code"] == 4321
        assert answer["report"]["upstream"] == {"settled": 2, "unknown": None, "never_forwarded": None}
        assert answer["report"]["downstream"] == {"settled": 0, "unknown": [1, 1], "never_forwarded": None}
        assert await client.closed() == 4321
        await client.stream.send_all(client.ws.close(4321))
        await until(lambda: not len(server.registry))


@pytest.mark.parametrize("in_one", [True, False])
async def test_a_close_right_behind_the_record_close_takes_nothing_of_the_answer(in_one: bool) -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await client.next(RecordType.OPENED)
        await client.data(1, "one")
        record = client.ws.send([(2, encode_record(RecordType.CLOSE, 0, 0, b'{"code": 4321}'), 3)])
        if in_one:
            await client.stream.send_all(record + client.ws.close(4321))
        else:
            await client.stream.send_all(record)
            await link.closed()
            await client.stream.send_all(client.ws.close(4321))
        await link.ack(1)
        await link.data(1, "goodbye")
        assert (await client.next(RecordType.DATA))[3] == b"goodbye"
        await link.stream.send_eof()
        answer = json.loads((await client.next(RecordType.CLOSE))[3])
        assert answer["report"]["upstream"] == {"settled": 1, "unknown": None, "never_forwarded": None}
        assert await client.closed() == 4321
        await until(lambda: not len(server.registry))


async def test_a_backends_close_reaches_the_client_behind_its_messages() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await link.data(1, "one")
        await link.send(RecordType.CLOSE, body=b'{"code": 4900, "reason": "that is all"}')
        assert (await client.next(RecordType.DATA))[3] == b"one"
        close = json.loads((await client.next(RecordType.CLOSE))[3])
        assert (close["code"], close["reason"]) == (4900, "that is all")
        assert close["report"]["downstream"] == {"settled": 0, "unknown": [1, 1], "never_forwarded": None}
        assert await client.closed() == 4900


@pytest.mark.parametrize("code", [1005, 1006, 1015, 2999])
async def test_a_code_that_no_close_frame_may_carry_is_replaced_by_one_that_may(code: int) -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await link.send(RecordType.CLOSE, body=b'{"code": %d}' % code)
        assert await client.closed() == 1014


async def test_a_parked_client_learns_of_the_backends_close_when_it_asks_for_its_session() -> None:
    async with backend_that_says_goodbye() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        token = (await client.open())["session"]
        await client.data(1, "go")
        await client.cut()
        (session,) = server.registry
        await until(lambda: session.relay.backend.is_gone)
        client = await Client.connect(server)
        opened = await client.open(token)
        assert (opened["resumed"], opened["settled"]) == (True, 1)
        close = json.loads((await client.next(RecordType.CLOSE))[3])
        assert (close["code"], close["reason"]) == (4000, "goodbye")
        assert close["report"]["upstream"] == {"settled": 1, "unknown": None, "never_forwarded": None}


def backend_that_says_goodbye() -> Any:
    async def handler(session: Any) -> None:
        async for _ in session:
            session.close(4000, "goodbye")

    return backend(handler)


async def test_the_end_of_a_stream_backend_is_told_with_a_report_behind_all_it_said() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def serve_once() -> None:
            async with await listener.accept() as stream:
                assert await stream.receive_some() == b"ask"
                await stream.send_all(b"answer")

        nursery.start_soon(serve_once)
        port = listener.socket.getsockname()[1]
        async with listener, running(config_of(stream_route(port))) as server:
            client = await Client.connect(server)
            await client.open()
            await client.data(1, "ask")
            assert (await client.next(RecordType.DATA))[3] == b"answer"
            close = json.loads((await client.next(RecordType.CLOSE))[3])
            assert close["code"] == 1000
            assert close["report"]["upstream"] == {"settled": 1, "unknown": None, "never_forwarded": None}
            assert await client.closed() == 1000


# --- taken over -----------------------------------------------------------------------------------------------------


async def test_a_connection_that_was_taken_over_hears_no_more_and_what_it_still_says_is_not_taken() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        old = await Client.connect(server)
        tokens = []
        async with trio.open_nursery() as nursery:

            async def open_() -> None:
                tokens.append((await old.open())["session"])

            nursery.start_soon(open_)
            link = await service.accept()
            await link.opened()
        new = await Client.connect(server)
        await new.open(tokens[0])
        assert await old.closed() == 4001
        await old.data(1, "from the grave")
        await old.send(RecordType.CLOSE, body=b'{"code": 1000}')
        await link.data(1, "news")
        assert (await new.next(RecordType.DATA))[3] == b"news"
        await new.data(1, "from the living")
        await link.next(RecordType.PING)  # asked whether it has the session still, at the return
        assert (await link.next())[2:] == (1, b"from the living")
        assert not [record for record in old.records if record[0] == RecordType.DATA]


# --- draining -------------------------------------------------------------------------------------------------------


async def test_a_drain_sends_records_clients_elsewhere_and_their_sessions_go_on_there() -> None:
    async with backend() as port:
        async with running(config_of(records_route(port), timeouts={"drain": "2s"})) as first:
            client = await Client.connect(first)
            token = (await client.open())["session"]
            await client.data(1, "one")
            await client.consumed(1)
            assert (await client.next(RecordType.DATA))[3] == b"one"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.drain)
                assert await client.closed() == 1012
                assert not [record for record in client.records if record[0] == RecordType.CLOSE]
                await client.stream.send_all(client.ws.close(1012))
        async with running(config_of(records_route(port))) as second:
            client = await Client.connect(second)
            opened = await client.open(token)
            assert (opened["resumed"], opened["settled"]) == (True, 1)
            assert (await client.next(RecordType.DATA))[2:] == (1, b"one")
            await client.data(2, "two")
            assert (await client.next(RecordType.DATA))[2:] == (2, b"two")


async def test_a_drain_tells_clients_of_a_stream_backend_what_was_settled() -> None:
    async with tcp_echo() as port, running(config_of(stream_route(port), timeouts={"drain": "2s"})) as server:
        client = await Client.connect(server)
        await client.open()
        await client.data(1, "one")
        await client.next(RecordType.DATA)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            assert await client.closed() == 1012
            assert (await client.next(RecordType.ACK))[1:3] == (Rung.REACHED, 1)
            await client.stream.send_all(client.ws.close(1012))
        (ended,) = server.registry.ended(limit=9)
        assert ended["code"] == 1012


async def test_a_drain_ends_parked_sessions_without_waiting_for_their_grace_or_their_turn() -> None:
    async with backend() as port, running(config_of(records_route(port), timeouts={"drain": "60s"})) as server:
        for _ in range(20):
            client = await Client.connect(server)
            await client.open()
            await client.cut()
        await until(lambda: [session.state for session in server.registry] == ["parked"] * 20)
        with trio.fail_after(3):
            await server.drain()
        assert not len(server.registry)


# --- the admin API --------------------------------------------------------------------------------------------------


async def test_the_admin_api_shows_a_session_while_it_lives_and_how_it_ended() -> None:
    admin = free_port()
    async with scripted() as service:
        route = {"name": "test", "origins": ["*"], **records_route(service.port)}
        config = config_of({}, admin={"bind": f"127.0.0.1:{admin}"}, routes=[route])
        async with running(config) as server:
            client = await Client.connect(server, origin="https://app.example")
            await client.send(RecordType.OPEN, body=b"{}")
            link = await service.accept()
            name = (await link.opened())["session"]
            token = json.loads((await client.next(RecordType.OPENED))[3])["session"]
            await client.data(1, "settled")
            await link.next(RecordType.DATA)
            await link.ack(1)
            await client.consumed(1)
            await client.data(2, "in flight")
            await link.next(RecordType.DATA)
            (listed,) = (await ask(admin, "/sessions"))["sessions"]
            shown = await ask(admin, f"/sessions/{name}")
            assert {key: shown[key] for key in ("session", "state", "route", "origin", "resumes")} == {
                "session": name,
                "state": "attached",
                "route": "test",
                "origin": "https://app.example",
                "resumes": 0,
            }
            positions = shown["upstream"]["positions"]
            assert (positions["accepted"], positions["consumed"]) == (2, 1)
            assert list(positions.values()) == sorted(positions.values(), reverse=True)
            assert shown["upstream"]["in_flight_messages"] == 1
            assert shown["upstream"]["in_flight_bytes"] == len("in flight")
            assert shown["upstream"]["oldest_in_flight_seconds"] >= 0
            assert listed["session"] == name
            await client.cut()
            await until(lambda: [session.state for session in server.registry] == ["parked"])
            assert (await ask(admin, "/sessions?state=attached"))["sessions"] == []
            assert len((await ask(admin, "/sessions?state=parked"))["sessions"]) == 1
            await link.send(RecordType.CLOSE, body=b'{"code": 4000, "reason": "enough"}')
            await service.stop()
            client = await Client.connect(server, origin="https://app.example")
            await client.open(token)
            assert await client.closed() == 4000
            await client.stream.send_all(client.ws.close(4000))
            await until(lambda: not len(server.registry))
            (ended,) = (await ask(admin, "/sessions/ended"))["sessions"]
            assert (ended["session"], ended["by"], ended["code"], ended["reason"]) == (
                name,
                "backend",
                4000,
                "enough",
            )
            assert (ended["upstream"]["settled"], ended["upstream"]["unknown"]) == (1, [2, 2])
