"""Tokens: whom they are good for, and what somebody gets who has one that is not theirs, or not any more."""

import ssl
from pathlib import Path
from typing import Any

import trustme

from gateway.protocol.records import RecordType
from gateway.telemetry.metrics import ResumeOutcome
from tests.sessions.harness import backend, config_of, running, tcp_echo, until
from tests.sessions.routes import records_route, stream_route
from tests.support.certificates import Certificates
from tests.support.peers.client import Client

MINE, THIEVES = "https://mine.example", "https://thieves.example"


def assert_fresh(opened: dict[str, Any], *, instead_of: str) -> None:
    assert opened["resumed"] is False
    assert opened["session"] != instead_of
    assert (opened["settled"], opened["report"]) == (0, None)


async def test_a_token_is_worth_nothing_from_another_origin_also_when_its_session_is_parked() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        mine = await Client.connect(server, origin=MINE)
        token = (await mine.open())["session"]
        await mine.data(1, "secret")
        await mine.next(RecordType.DATA)
        await mine.cut()
        await until(lambda: [session.state for session in server.registry] == ["parked"])
        for origin in (THIEVES, None):
            thief = await Client.connect(server, origin=origin)
            assert_fresh(await thief.open(token), instead_of=token)
            await thief.data(1, "mine now?")
            assert (await thief.next(RecordType.DATA))[3] == b"mine now?"
        mine = await Client.connect(server, origin=MINE)
        opened = await mine.open(token)
        assert (opened["resumed"], opened["settled"]) == (True, 1)
        assert (await mine.next(RecordType.DATA))[3] == b"secret"
        assert server.metrics.route("test").resumes[ResumeOutcome.REFUSED] == 2


async def test_a_token_is_worth_nothing_with_another_client_certificate(tmp_path: Path) -> None:
    """Bob, whose certificate is as good as Alice's, has her token: he must not be sent her messages."""
    servers, clients = Certificates.issue(tmp_path), trustme.CA()
    clients_file = tmp_path / "clients.pem"
    clients.cert_pem.write_to_path(str(clients_file))
    tls = {"certificate": str(servers.certificate), "key": str(servers.key), "client_ca": str(clients_file)}
    listeners = [{"bind": "127.0.0.1:0", "tls": tls}]

    def shown(name: str) -> ssl.SSLContext:
        context = servers.client_context()
        clients.issue_cert(name).configure_cert(context)
        return context

    async with backend() as port:
        route = records_route(port)
        async with running(config_of(route, listeners=listeners)) as first:
            alice = await Client.connect(first, tls=shown("alice@example.com"))
            token = (await alice.open())["session"]
            await alice.data(1, "secret")
            await alice.next(RecordType.DATA)
            bob = await Client.connect(first, tls=shown("bob@example.com"))
            assert_fresh(await bob.open(token), instead_of=token)
            renewed = await Client.connect(first, tls=shown("alice@example.com"))
            opened = await renewed.open(token)
            assert (opened["resumed"], opened["settled"]) == (True, 1)
            assert (await renewed.next(RecordType.DATA))[3] == b"secret"
        async with running(config_of(route, listeners=listeners)) as second:
            bob = await Client.connect(second, tls=shown("bob@example.com"))
            assert_fresh(await bob.open(token), instead_of=token)
            alice = await Client.connect(second, tls=shown("alice@example.com"))
            assert (await alice.open(token))["resumed"] is True


async def test_a_token_is_worth_nothing_on_another_route() -> None:
    async with backend() as port:
        routes = [
            {"name": name, "origins": ["*"], "match": {"path": f"/{name}"}, **records_route(port)}
            for name in ("one", "two")
        ]
        config = config_of({}, routes=routes)
        async with running(config) as server:
            client = await Client.connect(server, "/one")
            token = (await client.open())["session"]
            other = await Client.connect(server, "/two")
            assert_fresh(await other.open(token), instead_of=token)
            await client.data(1, "unharmed")
            assert (await client.next(RecordType.DATA))[3] == b"unharmed"


async def test_a_stolen_token_gets_no_report_of_a_session_that_has_ended() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        mine = await Client.connect(server, origin=MINE)
        token = (await mine.open())["session"]
        await mine.send(RecordType.CLOSE, body=b'{"code": 1000}')
        await mine.closed()
        await mine.stream.send_all(mine.ws.close(1000))
        await until(lambda: not len(server.registry))
        thief = await Client.connect(server, origin=THIEVES)
        assert_fresh(await thief.open(token), instead_of=token)
        mine = await Client.connect(server, origin=MINE)
        opened = await mine.open(token)
        assert opened["resumed"] is False
        assert opened["report"] == {"upstream": NOTHING, "downstream": NOTHING}


NOTHING = {"settled": 0, "unknown": None, "never_forwarded": None}


async def test_a_session_that_is_still_ending_is_over_for_its_client() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        token = (await client.open())["session"]
        await client.data(1, "one")
        await client.next(RecordType.DATA)
        await client.send(RecordType.CLOSE, body=b'{"code": 1000}')
        await client.closed()  # and does not answer
        assert len(server.registry) == 1
        client = await Client.connect(server)
        opened = await client.open(token)
        assert opened["resumed"] is False
        assert opened["report"]["upstream"] == {"settled": 1, "unknown": None, "never_forwarded": None}
        assert opened["report"]["downstream"] == {"settled": 0, "unknown": [1, 1], "never_forwarded": None}


async def test_a_session_with_a_stream_backend_is_gone_with_its_gateway() -> None:
    async with tcp_echo() as port:
        async with running(config_of(stream_route(port))) as first:
            client = await Client.connect(first)
            token = (await client.open())["session"]
        async with running(config_of(stream_route(port))) as second:
            client = await Client.connect(second)
            assert_fresh(await client.open(token, consumed=7), instead_of=token)
            assert second.metrics.route("test").resumes[ResumeOutcome.UNKNOWN] == 1


async def test_tokens_are_unlike_each_other_and_unlike_what_others_are_shown() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        tokens = set()
        for _ in range(5):
            client = await Client.connect(server)
            tokens.add((await client.open())["session"])
        assert len(tokens) == 5
        shown = str(server.registry.live(route=None, state=None, after=None, limit=100))
        assert not any(token in shown for token in tokens)


async def test_two_connections_that_take_up_one_session_at_once_end_as_one() -> None:
    async with backend() as port:
        async with running(config_of(records_route(port))) as first:
            client = await Client.connect(first)
            token = (await client.open())["session"]
            await client.data(1, "one")
            await client.next(RecordType.DATA)
        async with running(config_of(records_route(port))) as second:
            rivals = [await Client.connect(second) for _ in range(3)]
            for rival in rivals:
                await rival.send(RecordType.OPEN, 0, 1, b'{"session": "%s"}' % token.encode())
            opened = [await rival.next(RecordType.OPENED) for rival in rivals]
            assert {record[2] for record in opened} == {1}
            assert len(second.registry) == 1
            (session,) = second.registry
            assert session.resumes == 3
            endpoint = session.relay.client.endpoint  # type: ignore[attr-defined]
            (last,) = [one for one in rivals if one.stream.socket.getsockname() == endpoint.sock.getpeername()]
            await last.data(2, "two")
            assert (await last.next(RecordType.DATA))[2:] == (2, b"two")
            for rival in rivals:
                assert rival is last or await rival.closed() == 4001
