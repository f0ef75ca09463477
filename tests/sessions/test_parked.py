"""Parked sessions: how long they wait, what they may hold, which goes first, and that its end is told."""

import gc
import json
import os
import resource
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from gateway.errors import GatewayExhausted
from gateway.protocol.records import RecordType
from gateway.relay.retained import Retained
from gateway.server import Server
from gateway.sessions import reception
from gateway.sessions.reaching import Reached, reach
from gateway.telemetry.metrics import SessionState, UnknownReason
from gateway.transport.descriptors import Budget
from tests.sessions.harness import backend, config_of, running, tcp_echo, until
from tests.sessions.routes import records_route, stream_route
from tests.support.peers.client import Client, forget_closed
from tests.support.peers.scripted_backend import BackendLink, ScriptedBackend, scripted

MAX_PARKED_BYTES = 16_000


def parked(server: Server) -> int:
    return server.metrics.route("test").sessions[SessionState.PARKED]


async def park(server: Server, *, origin: str | None = None, source: str = "127.0.0.1") -> str:
    """A session that is parked; its token."""
    client = await Client.connect(server, origin=origin, source=source)
    token: str = (await client.open())["session"]
    before = parked(server)
    await client.cut()
    await until(lambda: parked(server) == before + 1)
    return token


async def begin(service: ScriptedBackend, server: Server) -> tuple[Client, str, BackendLink]:
    """A session with a scripted backend: its client, its token, its backend's link."""
    client = await Client.connect(server)
    tokens: list[str] = []
    async with trio.open_nursery() as nursery:

        async def open_() -> None:
            tokens.append((await client.open())["session"])

        nursery.start_soon(open_)
        link = await service.accept()
        await link.opened()
    return client, tokens[0], link


async def test_a_parked_session_keeps_its_backend_and_its_place_until_a_new_one_needs_it() -> None:
    route = records_route(0, limits={"connections": 2})
    async with backend() as port:
        route["backend"]["endpoints"] = [f"tcp://127.0.0.1:{port}"]
        async with running(config_of(route)) as server:
            first, second = await park(server), await park(server)
            metrics = server.metrics.route("test")
            assert (metrics.connections, metrics.sessions[SessionState.ATTACHED]) == (0, 0)
            client = await Client.connect(server)
            assert (await client.open(second))["resumed"] is True
            assert (metrics.connections, metrics.sessions[SessionState.ATTACHED], parked(server)) == (1, 1, 1)
            newcomer = await Client.connect(server)
            await newcomer.open()
            assert (metrics.connections, metrics.sessions[SessionState.ATTACHED], parked(server)) == (2, 2, 0)
            await client.cut()
            await until(lambda: parked(server) == 1)
            late = await Client.connect(server)
            assert (await late.open(first))["resumed"] is False, "it was ended for the newcomer"


async def test_nobodys_parked_sessions_push_out_anybody_elses() -> None:
    async with backend() as port:
        config = config_of(records_route(port), sessions={"parked": 4})
        async with running(config) as server:
            honest = await park(server, source="127.0.0.2")
            for number in range(8):
                client = await Client.connect(server)
                await client.open()
                await client.cut()
                await until(lambda number=number: parked(server) == min(number + 2, 4))  # type: ignore[misc]
            client = await Client.connect(server, source="127.0.0.2")
            assert (await client.open(honest))["resumed"] is True


async def test_a_holder_has_a_quota_of_its_own() -> None:
    async with backend() as port:
        config = config_of(records_route(port), sessions={"parked_per_holder": 2})
        async with running(config) as server:
            others = [await park(server, source=f"127.0.0.{number}") for number in (2, 3)]
            mine = [await park(server), await park(server), await park_beyond(server)]
            resumed = []
            for token, source in zip([*others, *mine], ("2", "3", "1", "1", "1"), strict=True):
                client = await Client.connect(server, source=f"127.0.0.{source}")
                resumed.append((await client.open(token))["resumed"])
            assert resumed == [True, True, False, True, True]


async def test_the_grace_begins_anew_each_time_the_client_goes() -> None:
    async with backend() as port, running(config_of(records_route(port, grace="1s"))) as server:
        token = await park(server)
        for _ in range(4):
            await trio.sleep(0.3)  # the grace is what is tested: it is to pass in part
            client = await Client.connect(server)
            assert (await client.open(token))["resumed"] is True
            await client.cut()
            await until(lambda: parked(server) == 1)


async def test_a_session_whose_grace_is_over_ends_as_its_client_went() -> None:
    async with scripted() as service, running(config_of(records_route(service.port, grace="100ms"))) as server:
        client, _, link = await begin(service, server)
        await link.data(1, "never acknowledged")
        await client.next(RecordType.DATA)
        await client.stream.send_all(client.ws.close(1001, "going away"))
        close = await link.closed()
        assert (close["code"], close["reason"]) == (1001, "going away")
        assert close["report"]["downstream"] == {"settled": 0, "unknown": [1, 1], "never_forwarded": None}
        await link.stream.send_eof()
        await until(lambda: not len(server.registry))
        assert server.metrics.route("test").downstream.unknown[UnknownReason.GRACE_EXPIRED] == 1


async def test_what_never_left_for_a_parked_client_is_told_as_never_forwarded() -> None:
    async with scripted() as service, running(config_of(records_route(service.port, grace="300ms"))) as server:
        client, token, link = await begin(service, server)
        await link.data(1, "sent")
        await client.next(RecordType.DATA)
        await client.cut()
        await until(lambda: parked(server) == 1)
        await link.data(2, "kept")
        await link.data(3, "kept")
        close = await link.closed()
        assert close["report"]["downstream"] == {"settled": 0, "unknown": [1, 1], "never_forwarded": [2, 3]}
        await link.stream.send_eof()
        await until(lambda: not len(server.registry))
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=json.dumps({"session": token}).encode())
        await (await service.accept()).opened()
        answer = json.loads((await client.next(RecordType.OPENED))[3])
        assert answer["report"] == close["report"]


async def test_without_a_grace_nobody_is_waited_for() -> None:
    async with scripted() as service, running(config_of(records_route(service.port, grace=None))) as server:
        client, _, link = await begin(service, server)
        await client.cut()
        assert (await link.closed())["code"] == 1006
        assert parked(server) == 0


async def test_beyond_the_limit_the_session_that_waits_longest_is_ended_and_told() -> None:
    async with backend() as port:
        config = config_of(records_route(port), sessions={"parked": 3})
        async with running(config) as server:
            tokens = []
            for number in range(5):
                client = await Client.connect(server)
                tokens.append((await client.open())["session"])
                await client.data(1, f"session {number}")
                await client.next(RecordType.ACK)
                await client.cut()
                await until(lambda number=number: parked(server) == min(number + 1, 3))  # type: ignore[misc]
            await until(lambda: len(server.registry) == 3)
            for token in tokens[:2]:
                client = await Client.connect(server)
                opened = await client.open(token)
                assert opened["resumed"] is False
                assert opened["report"]["upstream"]["settled"] == 1
            for token in tokens[2:]:
                client = await Client.connect(server)
                assert (await client.open(token))["resumed"] is True
            reasons = server.metrics.route("test").downstream.unknown
            assert reasons[UnknownReason.EVICTED] == 2  # the echoes, of which nothing is known


async def test_a_session_that_was_away_and_came_back_is_not_the_one_that_waits_longest() -> None:
    async with backend() as port, running(config_of(records_route(port), sessions={"parked": 2})) as server:
        first, second = await park(server), await park(server)
        client = await Client.connect(server)
        await client.open(first)
        await client.cut()
        await until(lambda: parked(server) == 2)
        third = await park_beyond(server)
        for token, resumed in ((second, False), (first, True), (third, True)):
            client = await Client.connect(server)
            assert (await client.open(token))["resumed"] is resumed


async def park_beyond(server: Server) -> str:
    """One more session that is parked, for which another one has to go."""
    client = await Client.connect(server)
    token: str = (await client.open())["session"]
    live = len(server.registry)
    await client.cut()
    await until(lambda: len(server.registry) == live - 1)
    return token


async def test_what_parked_sessions_hold_together_is_bounded() -> None:
    async with scripted() as service:
        config = config_of(records_route(service.port), sessions={"parked_bytes": "300KiB"})
        async with running(config) as server:
            links = []
            for _ in range(4):
                client, _, link = await begin(service, server)
                before = parked(server)
                await client.cut()
                await until(lambda before=before: parked(server) == before + 1)  # type: ignore[misc]
                links.append(link)
            for link in links:
                await link.data(1, "x" * 100_000)
            assert (await links[0].closed())["code"] == 1006
            assert (await links[1].closed())["code"] == 1006
            await links[0].stream.send_eof()
            await links[1].stream.send_eof()
            await until(lambda: len(server.registry) == 2)
            assert sum(session.held_bytes for session in server.registry) <= 300 * 1024


async def test_a_stream_backend_fills_a_parked_clients_window_and_then_waits() -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        sent = 0

        async def flood() -> None:
            nonlocal sent
            with suppress(trio.BrokenResourceError):
                async with await listener.accept() as stream:
                    while True:
                        await stream.send_all(bytes(65536))
                        sent += 65536

        nursery.start_soon(flood)
        port = listener.socket.getsockname()[1]
        async with listener, running(config_of(stream_route(port, window_bytes="256KiB"))) as server:
            client = await Client.connect(server)
            token = (await client.open())["session"]
            await client.cut()
            await until(lambda: parked(server) == 1)
            (session,) = server.registry
            retained = session.relay.down.retained
            assert isinstance(retained, Retained)
            await until(lambda: retained.bytes >= 256 * 1024)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert session.held_bytes < 1_000_000
            assert sent < 20_000_000
            client = await Client.connect(server)
            assert (await client.open(token))["resumed"] is True
            assert (await client.next(RecordType.DATA))[2] == 1
        nursery.cancel_scope.cancel()


async def test_a_parked_session_with_an_empty_outbox_takes_little_memory() -> None:
    sessions, attempts = 30, 3
    async with tcp_echo() as port, running(config_of(stream_route(port))) as server:
        tokens = [await park(server)]  # what is made once is made now
        taken = []
        for _ in range(attempts):  # other threads of a test process allocate too, which can only add
            gc.collect()
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                tokens += [await park(server) for _ in range(sessions)]
                forget_closed()
                gc.collect()
                after, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            taken.append((after - before) / sessions)
        assert parked(server) == attempts * sessions + 1
        assert min(taken) < MAX_PARKED_BYTES
        client = await Client.connect(server)
        assert (await client.open(tokens[sessions // 2]))["resumed"] is True


async def test_short_of_memory_the_fattest_parked_session_goes_first() -> None:
    async with scripted() as service:
        config = config_of(records_route(service.port), memory="1MiB", memory_per_holder="1MiB")
        async with running(config) as server:
            links = []
            for _ in range(3):
                client, _, link = await begin(service, server)
                before = parked(server)
                await client.cut()
                await until(lambda before=before: parked(server) == before + 1)  # type: ignore[misc]
                links.append(link)
            fattest = sorted(server.registry, key=lambda session: session.relay.opened_at)[1]
            fattest.tab.charge(900 * 1024)
            await until(lambda: len(server.registry) == 2)
            assert fattest not in server.registry
            assert (await links[1].closed())["code"] == 1006
            assert not server.account.excess_bytes


async def test_a_newcomer_is_told_to_come_back_and_a_resume_is_let_in() -> None:
    async with backend() as port, running(config_of(records_route(port), memory="1MiB")) as server:
        client = await Client.connect(server)
        token = (await client.open())["session"]
        server.account.open("somebody else", server.account.limit * 31 // 32 - server.account.used)
        newcomer = await Client.connect(server)
        await newcomer.send(RecordType.OPEN, 0, 0, b"{}")
        assert await newcomer.closed() == 1013
        assert newcomer.close_reason == "this gateway is short of memory; try again later"
        assert server.metrics.route("test").refusals == {"overload": 1}
        resumed = await Client.connect(server)
        assert (await resumed.open(token))["resumed"]


async def test_short_of_descriptors_those_of_whom_most_wait_make_way_and_are_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        honest = await park(server, source="127.0.0.2")
        others = [await park(server) for _ in range(3)]
        assert parked(server) == 4
        monkeypatch.setattr(reception, "current_budget", lambda: Budget(limit=16))
        client = await Client.connect(server)
        await client.open()
        assert parked(server) == 2
        resumed = []
        for token, source in [(honest, "127.0.0.2"), *[(token, "127.0.0.1") for token in reversed(others)]]:
            client = await Client.connect(server, source=source)
            resumed.append((await client.open(token))["resumed"])
            monkeypatch.undo()
        assert resumed == [True, True, False, False]


async def test_without_a_descriptor_for_the_backend_a_parked_session_gives_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dials = 0

    async def reach_once_more(*arguments: Any, **options: Any) -> Reached:
        nonlocal dials
        dials += 1
        if dials == 1:
            raise GatewayExhausted("too many open files")
        return await reach(*arguments, **options)

    async with backend() as port, running(config_of(records_route(port))) as server:
        await park(server)
        monkeypatch.setattr(reception, "reach", reach_once_more)
        client = await Client.connect(server)
        await client.open()
        assert (dials, parked(server)) == (2, 0)


async def test_parked_sessions_do_not_use_up_the_descriptors_of_newcomers() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Two of each parked session are within this process: the gateway's end, and the backend's.
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 150, hard))
        try:
            tokens = [await park_one_more(server) for _ in range(150)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert 20 < parked(server) < 75
        for token, resumed in ((tokens[-1], True), (tokens[0], False)):
            client = await Client.connect(server)
            assert (await client.open(token))["resumed"] is resumed
        assert not server.metrics.route("test").refusals


async def park_one_more(server: Server) -> str:
    """Parks a session, whatever becomes of others; its token."""
    client = await Client.connect(server)
    token: str = (await client.open())["session"]
    await client.cut()
    forget_closed()
    session = server.registry.by_token(token)
    assert session is not None
    await until(lambda: session.is_parked)
    return token
