"""A provider tells of a logout: whoever it was is out, stays out, and nobody else notices."""

import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import trio
from joserfc import jwt
from joserfc.jwk import OctKey

from gateway.access.state import Barred
from gateway.config import Config, Route
from gateway.policy.logout import EVENT
from gateway.protocol.records import RecordType
from gateway.server import Server
from gateway.sessions.logout import BODY_BYTES
from gateway.telemetry.metrics import LogoutOutcome
from tests.sessions.harness import backend, running, until
from tests.sessions.issued import ISSUER, SECRET, asking, bearer, issued
from tests.sessions.routes import records_route
from tests.support.peers.client import Client

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


def logout_token(*, key: str = SECRET, **changes: object) -> str:
    """A token that is good now, of the subject `alice`; None takes a claim away."""
    now = time.time()
    good: dict[str, Any] = {
        "iss": ISSUER,
        "aud": "chat-client",
        "iat": now,
        "exp": now + 120,
        "jti": f"logout-{time.monotonic_ns()}",
        "events": {EVENT: {}},
        "sub": "alice",
    }
    body = {name: value for name, value in {**good, **changes}.items() if value is not None}
    return jwt.encode({"alg": "HS256"}, body, OctKey.import_key(key.encode()), algorithms=["HS256"])


def config_with_logout(route: dict[str, Any], *, limits: dict[str, Any] | None = None, **rest: Any) -> Config:
    """One route for clients, and one for their provider; `hold` and `ends` are the latter's."""
    own: dict[str, Any] = {name: rest.pop(name) for name in ("hold", "ends") if name in rest}
    logout: dict[str, Any] = {
        "issuers": [{"issuer": ISSUER, "secrets": [SECRET]}],
        "audiences": ["chat-client"],
        "algorithms": ["HS256"],
        **own,
    }
    document: dict[str, Any] = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": None,
        "routes": [
            {"name": "test", "origins": ["*"], **asking(route)},
            {"name": "logout", "match": {"path": "/logout"}, "logout": logout, "limits": limits or {}},
        ],
    }
    return Config.model_validate(document | rest)


@asynccontextmanager
async def connection(server: Server) -> AsyncIterator[trio.SocketStream]:
    host, port = str(server.addresses[0]).rsplit(":", 1)
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        yield stream


async def answer(stream: trio.SocketStream) -> tuple[int, str, bytes]:
    """Status, head and body of the answer that ends the connection."""
    data = b"".join([chunk async for chunk in stream])
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower(), body


async def say(server: Server, body: bytes, *, headers: str = FORM, path: str = "/logout") -> tuple[int, str, bytes]:
    async with connection(server) as stream:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)
        return await answer(stream)


async def log_out(server: Server, token: str | None = None, **changes: Any) -> tuple[int, str, bytes]:
    form = {"logout_token": logout_token(**changes) if token is None else token}
    return await say(server, urlencode(form).encode())


def counted(server: Server) -> dict[str, int]:
    counts = server.metrics.route("logout").logouts
    return {outcome.value: count for outcome, count in counts.items() if count}


@asynccontextmanager
async def gateway(**rest: Any) -> AsyncIterator[Server]:
    async with backend() as port, running(config_with_logout(records_route(port), **rest)) as server:
        yield server


async def enter(server: Server, token: str) -> Client:
    client = await Client.connect(server)
    await client.open(token=token)
    return client


async def test_whoever_logged_out_is_out_and_stays_out() -> None:
    async with gateway() as server:
        token = issued(sid="login-1")
        alice, bob = await enter(server, token), await enter(server, issued("bob"))
        status, head, body = await log_out(server)
        assert (status, body) == (200, b"")
        assert "cache-control: no-store" in head
        assert await alice.closed() == 3000
        assert not bob.ended
        again = await Client.connect(server)
        await again.send(RecordType.OPEN, 0, 0, json.dumps({"token": token}).encode())
        assert await again.closed() == 3000
        assert "revoked" in again.close_reason
        await until(lambda: len(server.registry) == 1)
        assert counted(server) == {"accepted": 1}


async def test_a_parked_session_is_ended_too() -> None:
    async with gateway() as server:
        client = await enter(server, issued())
        await client.cut()
        await until(lambda: all(session.is_parked for session in server.registry))
        assert (await log_out(server))[0] == 200
        await until(lambda: not server.registry)


async def test_who_logs_in_again_comes_in() -> None:
    async with gateway() as server:
        await log_out(server, iat=time.time() - 5)
        await enter(server, issued())
        with pytest.raises(Exception, match="401"):
            await Client.connect(server, headers=bearer(issued(iat=time.time() - 10)))


async def test_a_login_of_several_is_ended_alone() -> None:
    async with gateway() as server:
        desk = await enter(server, issued(sid="desk"))
        phone = await enter(server, issued(sid="phone"))
        assert (await log_out(server, sid="desk"))[0] == 200
        assert await desk.closed() == 3000
        assert not phone.ended
        assert (await log_out(server, sub=None, sid="phone"))[0] == 200
        assert await phone.closed() == 3000


async def test_by_subject_where_access_tokens_name_no_login() -> None:
    async with gateway() as server:  # as it comes: it ends nobody, and the log says so
        client = await enter(server, issued())
        assert (await log_out(server, sid="desk"))[0] == 200
        assert len(server.registry) == 1
        assert not client.ended
    async with gateway(ends="subject") as server:
        client = await enter(server, issued())
        assert (await log_out(server, sid="desk"))[0] == 200
        assert await client.closed() == 3000


async def test_another_issuers_subject_of_the_same_name_stays() -> None:
    """`sub` and `sid` are names that an issuer gave: what it says of them holds for its own only."""
    other = "https://other.example.com"
    async with backend() as port:
        route = asking(records_route(port))
        route["authentication"]["methods"][0]["jwt"]["issuers"].append({"issuer": other, "secrets": [SECRET]})
        config = config_with_logout(records_route(port))
        clients = Route.model_validate({"name": "test", "origins": ["*"], **route})
        async with running(config.model_copy(update={"routes": (clients, config.routes[1])})) as server:
            theirs = await enter(server, issued(iss=other, sid="login-1"))
            assert (await log_out(server))[0] == 200
            assert (await log_out(server, sub=None, sid="login-1"))[0] == 200
            assert not theirs.ended
            await enter(server, issued(iss=other, sid="login-1", iat=time.time() - 60))


async def test_a_route_that_goes_by_another_claim_than_sub() -> None:
    async with backend() as port:
        route = asking(records_route(port))
        route["authentication"]["methods"][0]["jwt"]["subject"] = "email"
        config = config_with_logout(records_route(port))
        other = Route.model_validate({"name": "test", "origins": ["*"], **route})
        async with running(config.model_copy(update={"routes": (other, config.routes[1])})) as server:
            client = await enter(server, issued("248289761001", email="alice@example.com"))
            assert (await log_out(server, sub="248289761001"))[0] == 200
            assert await client.closed() == 3000


async def test_a_token_counts_once_over_a_restart_too(tmp_path: Path) -> None:
    token = logout_token()
    async with backend() as port:
        config = config_with_logout(records_route(port), state=str(tmp_path / "state.db"))
        async with running(config) as server:
            assert (await log_out(server, token))[0] == 200
            assert (await log_out(server, token))[0] == 400
            assert counted(server) == {"accepted": 1, "replayed": 1}
        async with running(config) as server:
            status, head, body = await log_out(server, token)
            assert (status, json.loads(body)["error"]) == (400, "invalid_request")
            assert "cache-control: no-store" in head
            client = await Client.connect(server)
            await client.send(RecordType.OPEN, 0, 0, json.dumps({"token": issued(iat=time.time() - 60)}).encode())
            assert await client.closed() == 3000


async def test_a_state_file_that_cannot_be_written_keeps_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with gateway(state=str(path)) as server:
        client = await enter(server, issued())
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("BEGIN EXCLUSIVE")
            assert (await log_out(server))[0] == 200
            assert await client.closed() == 3000
            other.rollback()
        assert counted(server) == {"not_kept": 1}


async def test_what_an_operator_barred_for_longer_stays_barred() -> None:
    async with gateway(hold=1) as server:
        await server.revocation.bar(Barred.SUBJECT, "alice", seconds=None, issuer=ISSUER)
        await log_out(server, iat=time.time() - 20)
        (bar,) = server.revocation.bars()
        assert bar.until is None
        assert bar.since > time.time() - 10


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "one logout_token"),
        (b"logout_token=", "three parts"),
        (b"logout_token=a&logout_token=a", "not 2"),
        (b"token=a", "not 0"),
        (b"logout_token=a.b", "three parts"),
        (b"logout_token=a.b.c.d.e", "three parts"),
        (b"logout_token=%ff.b.c", "one logout_token"),
        (b"logout_token=\xff", "one logout_token"),
        (b"&".join([b"a=1"] * 100), "one logout_token"),
        (b"logout_token=" + b"a" * 20_000, "longer than"),
        (b'{"logout_token": "a.b.c"}', "one logout_token"),
    ],
)
async def test_bodies_that_hold_no_token(body: bytes, problem: str) -> None:
    async with gateway() as server:
        status, head, answered = await say(server, body)
        assert status == 400
        assert "cache-control: no-store" in head
        assert problem in json.loads(answered)["error_description"]
        assert counted(server) == {"refused": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example.com"},
        {"iss": None},
        {"iss": ["https://login.example.com"]},
        {"aud": "another"},
        {"exp": 1},
        {"events": None},
        {"nonce": "n"},
        {"sub": None},
        {"key": "another secret of at least thirty-two bytes"},
    ],
)
async def test_tokens_that_are_not_good_end_nobody(changes: dict[str, Any]) -> None:
    async with gateway() as server:
        client = await enter(server, issued())
        status, _, body = await log_out(server, **changes)
        assert (status, json.loads(body)["error"]) == (400, "invalid_request")
        assert not client.ended
        assert not server.revocation.bars()
        assert counted(server) == {"refused": 1}


async def test_an_access_token_logs_nobody_out() -> None:
    async with gateway() as server:
        await enter(server, issued())
        assert (await log_out(server, issued(aud="chat-client", jti="t-1")))[0] == 400
        assert len(server.registry) == 1


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}\r\n", 411),
        (f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: {BODY_BYTES + 1}\r\n\r\n", 413),
        (f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: {10**18}\r\n\r\n", 413),
        (f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: -1\r\n\r\n", 400),
        (f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        ("POST /logout HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{", 415),
        ("POST /logout HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{", 415),
        ("GET /logout?logout_token=a.b.c HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("PUT /logout HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 405),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        ("POST /kakitome.js HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 405),
        ("GET /logout HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 413),
    ],
)
async def test_requests_that_are_no_post_of_a_form(head: str, status: int) -> None:
    async with gateway() as server, connection(server) as stream:
        await stream.send_all(head.encode())
        assert (await answer(stream))[0] == status


async def test_no_second_request_is_read_behind_a_body() -> None:
    async with gateway() as server, connection(server) as stream:
        body = urlencode({"logout_token": logout_token(sub="nobody")}).encode()
        head = f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        data = b"".join([chunk async for chunk in stream])
        assert data.count(b"HTTP/1.1") == 1


async def test_a_body_that_comes_byte_by_byte_after_continue() -> None:
    async with gateway() as server, connection(server) as stream:
        body = urlencode({"logout_token": logout_token()}).encode()
        head = f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode())
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        for index in range(len(body)):
            await stream.send_all(body[index : index + 1])
        assert (await answer(stream))[0] == 200


async def test_a_body_that_does_not_come_has_a_deadline() -> None:
    async with gateway(timeouts={"handshake": 0.2}) as server, connection(server) as stream:
        await stream.send_all(f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Content-Length: 100\r\n\r\nlogout".encode())
        assert (await answer(stream))[0] == 408


async def test_those_who_wait_with_their_bodies_are_bounded() -> None:
    async with gateway(limits={"connections": 2}) as server:
        begun = f"POST /logout HTTP/1.1\r\nHost: x\r\n{FORM}Expect: 100-continue\r\nContent-Length: 9\r\n\r\n".encode()
        async with connection(server) as one, connection(server) as two, connection(server) as three:
            for stream in (one, two):
                await stream.send_all(begun)
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
            await three.send_all(begun)
            assert (await answer(three))[0] == 503


async def test_without_such_a_route_nothing_takes_a_body() -> None:
    async with backend() as port:
        config = config_with_logout(records_route(port))
        async with running(config.model_copy(update={"routes": config.routes[:1]})) as server:
            status, head, _ = await say(server, b"logout_token=a.b.c")
            assert status == 405
            assert "allow: get, head" in head


async def test_the_outcomes_are_all_there_from_the_start() -> None:
    async with gateway() as server:
        assert set(server.metrics.route("logout").logouts) == set(LogoutOutcome)
