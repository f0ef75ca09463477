"""What is revoked ends at once, comes back in no way, and is told apart from what may come back."""

import json
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.access.state import Barred
from gateway.protocol.pieces import Opcode
from gateway.protocol.records import RecordType
from gateway.server import Server
from gateway.sessions.revocation import Revocation
from tests.sessions.harness import backend, config_of, running, tcp_echo, until
from tests.sessions.issued import asking, bearer, issued
from tests.sessions.routes import records_route, stream_route
from tests.support.peers.client import WHOLE, Client


def value_of(kind: Barred, server: Server) -> str:
    """Whom to name, of the only session there is."""
    (session,) = server.registry
    return {
        Barred.TOKEN: "t-1",
        Barred.SUBJECT: "alice",
        Barred.LOGIN_SESSION: "login-1",
        Barred.SESSION: session.id,
        Barred.ADDRESS: "127.0.0.1",
        Barred.ROUTE: "test",
    }[kind]


async def refused(server: Server, **how: object) -> str:
    """The answer to a handshake that is refused."""
    with pytest.raises(Exception, match=r"40[13]") as caught:
        await Client.connect(server, **how)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("kind", list(Barred))
async def test_a_records_session_ends_at_once_and_is_not_had_again(kind: Barred) -> None:
    token = issued(jti="t-1", sid="login-1")
    async with backend() as port, running(config_of(asking(records_route(port)))) as server:
        client = await Client.connect(server)
        opened = await client.open(token=token)
        await client.data(1, "hello")
        await client.consumed(1)
        barring = await Revocation(server).bar(kind, value_of(kind, server), seconds=None)
        assert barring.ended == 1
        assert json.loads((await client.next(RecordType.CLOSE))[3])["code"] == 3000
        assert await client.closed() == 3000
        await until(lambda: not server.registry)
        if kind in (Barred.ADDRESS, Barred.ROUTE):
            assert "403" in await refused(server)
            return
        again = await Client.connect(server)
        await again.send(RecordType.OPEN, 0, 0, json.dumps({"session": opened["session"], "token": token}).encode())
        assert await again.closed() == 3000
        assert "revoked" in again.close_reason


@pytest.mark.parametrize("kind", [kind for kind in Barred if kind is not Barred.SESSION])
async def test_a_plain_client_is_closed_and_its_next_handshake_refused(kind: Barred) -> None:
    token = issued(jti="t-1", sid="login-1")
    async with tcp_echo() as port, running(config_of(asking(stream_route(port)))) as server:
        client = await Client.connect(server, records=False, headers=bearer(token))
        await until(lambda: len(server.registry) == 1)
        assert (await Revocation(server).bar(kind, value_of(kind, server), seconds=None)).ended == 1
        assert await client.closed() == 3000
        await refused(server, records=False, headers=bearer(token))


async def test_a_parked_session_is_revoked_too() -> None:
    token = issued()
    async with backend() as port, running(config_of(asking(records_route(port)))) as server:
        client = await Client.connect(server)
        await client.open(token=token)
        await client.cut()
        await until(lambda: all(session.is_parked for session in server.registry))
        assert (await Revocation(server).bar(Barred.SUBJECT, "alice", seconds=None)).ended == 1
        await until(lambda: not server.registry)


async def test_nothing_of_the_revoked_is_relayed_any_more() -> None:
    heard: list[bytes] = []

    async def listen(stream: trio.SocketStream) -> None:
        async with stream:
            async for data in stream:
                heard.extend([bytes(data)])

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, listen, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with running(config_of(asking(stream_route(port)))) as server:
            client = await Client.connect(server, records=False, headers=bearer(issued()))
            await client.stream.send_all(client.ws.send([(int(Opcode.BINARY), b"before", WHOLE)]))
            await until(lambda: b"".join(heard) == b"before")
            await Revocation(server).bar(Barred.SUBJECT, "alice", seconds=None)
            await client.stream.send_all(client.ws.send([(int(Opcode.BINARY), b"after", WHOLE)]))
            assert await client.closed() == 3000
            await until(lambda: not server.registry)
        nursery.cancel_scope.cancel()
    assert b"".join(heard) == b"before"


async def test_one_whose_backend_is_being_dialled_meanwhile_does_not_slip_in() -> None:
    answer = trio.Event()

    async def hesitate(stream: trio.SocketStream) -> None:
        async with stream:
            size = int.from_bytes(await stream.receive_some(4))
            await stream.receive_some(size)
            await answer.wait()
            body = b'{"resumed": false}'
            await stream.send_all((10 + len(body)).to_bytes(4, "big") + bytes([2, 0]) + bytes(8) + body)
            async for _ in stream:
                pass

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, hesitate, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        async with running(config_of(asking(records_route(port)))) as server:
            client = await Client.connect(server)
            await client.send(RecordType.OPEN, 0, 0, json.dumps({"token": issued()}).encode())
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert (await Revocation(server).bar(Barred.SUBJECT, "alice", seconds=None)).ended == 0
            answer.set()
            assert await client.closed() == 3000
            await until(lambda: not server.registry)
        nursery.cancel_scope.cancel()


async def test_a_later_login_of_the_subject_is_let_in_and_a_bar_ends() -> None:
    async with backend() as port, running(config_of(asking(records_route(port)))) as server:
        revocation = Revocation(server)
        await revocation.bar(Barred.SUBJECT, "alice", seconds=None)
        client = await Client.connect(server)
        assert (await client.open(token=issued()))["session"]
        await revocation.bar(Barred.ADDRESS, "127.0.0.1", seconds=0.5)
        await refused(server)
        await until(lambda: revocation.bars()[-1].kind is not Barred.ADDRESS)
        await Client.connect(server)


async def test_a_token_is_barred_until_its_own_end() -> None:
    async with backend() as port, running(config_of(asking(records_route(port)))) as server:
        client = await Client.connect(server)
        await client.open(token=issued(jti="t-1", seconds=300))
        bar = (await Revocation(server).bar(Barred.TOKEN, "t-1", seconds=None)).bar
        assert bar.until is not None
        assert 290 < bar.until - bar.since <= 300


async def test_whoever_is_only_disconnected_may_come_back() -> None:
    token = issued()
    async with backend() as port, running(config_of(asking(records_route(port)))) as server:
        client = await Client.connect(server)
        await client.open(token=token)
        assert Revocation(server).disconnect(Barred.SUBJECT, "bob") == 0
        assert Revocation(server).disconnect(Barred.SUBJECT, "alice") == 1
        assert await client.closed() == 1008
        again = await Client.connect(server)
        assert (await again.open(token=token))["session"]


async def test_bars_outlast_a_restart(tmp_path: Path) -> None:
    token = issued()
    async with backend() as port:
        config = config_of(asking(records_route(port)), state=str(tmp_path / "state.db"))
        async with running(config) as server:
            assert (await Revocation(server).bar(Barred.SUBJECT, "alice", seconds=None)).is_kept
        async with running(config) as server:
            client = await Client.connect(server)
            await client.send(RecordType.OPEN, 0, 0, json.dumps({"token": token}).encode())
            assert await client.closed() == 3000
            assert await Revocation(server).lift(Barred.SUBJECT, "alice")
            client = await Client.connect(server)
            assert (await client.open(token=token))["session"]
