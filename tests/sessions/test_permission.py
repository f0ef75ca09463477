"""The life of a permission: it is told, asked for again, renewed in place, and its end loses nothing."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from gateway.client import CredentialJudged, Event, Opened, open_session
from gateway.protocol.records import RecordType
from gateway.server import Server
from gateway.telemetry.metrics import SessionState
from tests.sessions.harness import backend, config_of, running, tcp_echo, until
from tests.sessions.issued import asking, bearer, issued
from tests.sessions.routes import records_route, stream_route
from tests.support.peers.client import Client


@asynccontextmanager
async def gateway(**settings: Any) -> AsyncIterator[Server]:
    """One whose route leads to an echo on the kit."""
    async with backend() as port, running(config_of(asking(records_route(port, **settings)))) as server:
        yield server


async def renew(client: Client, seq: int, token: str) -> dict[str, Any]:
    """Shows another credential; what the gateway says to it."""
    await client.send(RecordType.AUTH, 0, seq, json.dumps({"token": token}).encode())
    while True:
        _, flags, answered, body = await client.next(RecordType.AUTH)
        if answered:
            assert (flags, answered) == (0, seq)
            answer: dict[str, Any] = json.loads(body)
            return answer


async def test_a_plain_client_is_closed_when_its_credential_expires() -> None:
    async with tcp_echo() as port, running(config_of(asking(stream_route(port)))) as server:
        client = await Client.connect(server, records=False, headers=bearer(issued(seconds=1.5)))
        assert await client.closed() == 3000
        assert client.close_reason == "the credential has expired"


async def test_one_that_expires_waits_for_its_subjects_next_token_and_loses_nothing() -> None:
    async with gateway() as server:
        client = await Client.connect(server)
        opened = await client.open(token=issued(seconds=1.5))
        assert 0 < opened["expires_in_seconds"] <= 1.5
        assert "renew" not in opened
        await client.data(1, "before")
        assert await client.closed() == 3000
        assert server.metrics.route("test").sessions[SessionState.PARKED] == 1
        for token, resumed in ((issued("bob"), False), (issued(), True)):
            again = await Client.connect(server)
            answer = await again.open(opened["session"], token=token)
            assert answer["resumed"] is resumed
        # The echo of what was sent before the end was not consumed then.
        assert (await again.next(RecordType.DATA))[3] == b"before"
        await again.data(2, "after")
        await again.consumed(2)


async def test_a_credential_is_asked_for_in_time_and_renewed_in_place() -> None:
    async with gateway() as server:
        client = await Client.connect(server)
        opened = await client.open(token=issued(seconds=2), renew=True)
        assert opened["renew"] is True
        _, _, seq, body = await client.next(RecordType.AUTH)
        assert seq == 0
        assert 0 < json.loads(body)["expires_in_seconds"] <= 0.5
        answer = await renew(client, 1, issued(seconds=300))
        assert "code" not in answer
        assert 290 < answer["expires_in_seconds"] <= 300
        await client.data(1, "hello")
        await client.consumed(1)
        assert not client.ended


async def test_a_credential_that_is_no_good_changes_nothing_and_its_client_is_told() -> None:
    async with gateway() as server:
        client = await Client.connect(server)
        await client.open(token=issued(seconds=300), renew=True)
        for seq, (token, code, words) in enumerate(
            (
                (issued("bob"), 3003, "not of whom"),
                (issued(seconds=-1), 3000, "has expired"),
                ("nonsense", 3000, "credential"),
            ),
            start=1,
        ):
            answer = await renew(client, seq, token)
            assert answer["code"] == code
            assert words in answer["reason"]
            assert 290 < answer["expires_in_seconds"] <= 300
        await client.data(1, "hello")
        await client.consumed(1)


async def test_auth_that_was_not_agreed_on_is_a_protocol_error() -> None:
    async with gateway() as server:
        for settings, seq, words in (
            ({}, 1, "AUTH in an open session"),
            ({"renew": True}, 0, "AUTH with number 0"),
            ({"renew": True}, 1, None),
        ):
            client = await Client.connect(server)
            await client.open(token=issued(), **settings)
            await client.send(RecordType.AUTH, 0, seq, json.dumps({"token": issued()}).encode())
            await client.send(RecordType.AUTH, 0, seq, json.dumps({"token": issued()}).encode())
            assert await client.closed() == 1002
            assert (words or "before the one before it was answered") in client.close_reason


async def test_a_route_that_takes_none_in_open_offers_no_renewal() -> None:
    async with backend() as port:
        async with running(config_of(asking(records_route(port), credential={"open": False}))) as server:
            client = await Client.connect(server, headers=bearer(issued()))
            opened = await client.open(renew=True)
            assert "renew" not in opened
            assert opened["expires_in_seconds"] > 290
        async with running(config_of(records_route(port))) as server:
            client = await Client.connect(server)
            opened = await client.open(renew=True)
            assert not opened.keys() & {"renew", "expires_in_seconds"}


async def test_the_python_client_renews_by_itself() -> None:
    given: list[str] = []
    events: list[Event] = []

    async def token() -> str:
        given.append(issued(seconds=2.5))
        return given[-1]

    async with gateway() as server:
        url = f"ws://{server.addresses[0]}/"
        async with open_session(url, token=token, on_event=events.append) as session:
            sent = 0
            while len([event for event in events if isinstance(event, CredentialJudged)]) < 3:
                sent += 1
                await session.send(f"message {sent}")
                await trio.sleep(0.02)
            await until(lambda: session.is_settled)
            for number in range(1, sent + 1):
                message = await anext(session)
                assert str(message) == f"message {number}"
        judged = [event for event in events if isinstance(event, CredentialJudged)]
        assert all(event.code is None for event in judged)
        opened = [event for event in events if isinstance(event, Opened)]
        assert len(given) == len(judged) + len(opened)


async def test_the_python_client_comes_back_with_a_fresh_token_where_it_cannot_renew() -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise OSError("the application is away")
        return issued(seconds=1.5 if asked == 1 else 300)

    async with gateway() as server:
        url = f"ws://{server.addresses[0]}/"
        async with open_session(url, token=token) as session:
            receipt = await session.post("before")
            await receipt.settled()
            # Asked in time, the function fails, and what is shown a second later comes too late.
            await until(lambda: session.resumes == 1)
            await session.send("after")
            assert [str(await anext(session)) for _ in range(2)] == ["before", "after"]


async def test_what_is_held_is_its_subjects_wherever_that_comes_from() -> None:
    async with gateway() as server:
        before = server.account.holders
        tokens = {"alice": ("127.0.0.1", "127.0.0.2"), "bob": ("127.0.0.1",)}
        for subject, sources in tokens.items():
            for source in sources:
                client = await Client.connect(server, source=source)
                await client.open(token=issued(subject))
        assert server.account.holders - before == 2, "one address, or one subject, is not one holder"
        held = {holder.key.rpartition("|")[2]: holder.used for holder in server.account.largest(3)}
        assert held["alice"] == 2 * held["bob"]


async def test_a_plain_clients_memory_is_its_subjects() -> None:
    async with tcp_echo() as port, running(config_of(asking(stream_route(port)))) as server:
        for source in ("127.0.0.1", "127.0.0.2"):
            await Client.connect(server, source=source, records=False, headers=bearer(issued()))
        (holder,) = server.account.largest(3)
        assert holder.key.endswith("|alice")


async def test_the_quota_of_parked_sessions_is_its_subjects() -> None:
    async with backend() as port:
        route = asking(records_route(port))
        async with running(config_of(route, sessions={"parked_per_holder": 1})) as server:
            parked: dict[str, str] = {}
            for name, subject, source in [
                ("bob's", "bob", "127.0.0.1"),
                ("alice's first", "alice", "127.0.0.2"),
                ("alice's second", "alice", "127.0.0.1"),
            ]:
                client = await Client.connect(server, source=source)
                parked[name] = (await client.open(token=issued(subject)))["session"]
                count = min(len(parked), 2)
                await client.cut()
                await until(lambda count=count: server.metrics.route("test").sessions[SessionState.PARKED] == count)  # type: ignore[misc]
            await until(lambda: len(server.registry) == 2)
            resumed = {}
            for name, subject in [("bob's", "bob"), ("alice's second", "alice"), ("alice's first", "alice")]:
                client = await Client.connect(server)
                resumed[name] = (await client.open(parked[name], token=issued(subject)))["resumed"]
            assert resumed == {"bob's": True, "alice's second": True, "alice's first": False}
