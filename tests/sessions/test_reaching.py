"""A route whose backends do not share what they know: a session is looked for until it is found, or surely lost."""

import json
from typing import Any

import trio

from gateway.backend import MemoryStore
from gateway.config import Config
from gateway.protocol.records import RecordType
from gateway.telemetry.metrics import DialOutcome
from tests.sessions.harness import backend, config_of, echo, running, until
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, ScriptedBackend, scripted

TOKEN = "a" * 43
LOST = b'{"code": 4004, "reason": "this backend does not know the session"}'


def config(ports: list[int], *, balance: str | None = None, **delivery: Any) -> Config:
    service: dict[str, Any] = {
        "endpoints": [f"tcp://127.0.0.1:{port}" for port in ports],
        "framing": "records",
        "health": None,
    }
    if balance is not None:
        service["balance"] = balance
    return config_of({"backend": service, "delivery": delivery})


async def accept_first(backends: list[ScriptedBackend]) -> tuple[BackendLink, ScriptedBackend]:
    """The connection that the gateway makes, to whichever of them, and the others."""
    found: list[tuple[BackendLink, ScriptedBackend]] = []
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def accept(one: ScriptedBackend) -> None:
                found.append((await one.accept(), one))
                nursery.cancel_scope.cancel()

            for one in backends:
                nursery.start_soon(accept, one)
    return found[0]


async def ask(client: Client, *, consumed: int = 0) -> None:
    await client.send(RecordType.OPEN, 0, consumed, json.dumps({"session": TOKEN}).encode())


async def test_sessions_find_their_backend_through_any_gateway_by_default() -> None:
    """Ten sessions, each with one message consumed and one answer, none of which an in-memory store shares."""
    async with backend(store=MemoryStore()) as one, backend(store=MemoryStore()) as two:
        ports = [one, two]
        async with running(config(ports)) as first, running(config(ports)) as second:
            for _ in range(10):
                client = await Client.connect(first)
                token = (await client.open())["session"]
                await client.data(1, "one")
                await client.next(RecordType.DATA)
                await client.cut()
                again = await Client.connect(second)
                answer = await again.open(token, consumed=1)
                assert (answer["resumed"], answer["settled"]) == (True, 1)
            connector = second.table.services[0].connector
            assert connector is not None
            assert sum(sum(state.dials.values()) for state in connector.endpoints) == 10, "each asked one endpoint only"


async def test_the_others_are_asked_where_balance_does_not_lead_to_the_one() -> None:
    async with backend(store=MemoryStore()) as one, backend(store=MemoryStore()) as two:
        async with running(config([one, two], balance="round_robin")) as first:
            tokens = []
            for _ in range(4):
                client = await Client.connect(first)
                tokens.append((await client.open())["session"])
                await client.data(1, "one")
                await client.next(RecordType.DATA)
                await client.cut()
        async with running(config([two, one], balance="round_robin")) as second:
            for token in tokens:
                answer = await (await Client.connect(second)).open(token, consumed=1)
                assert (answer["resumed"], answer["settled"]) == (True, 1)


async def test_a_session_that_none_of_them_knows_is_lost_and_begun_nowhere_by_asking() -> None:
    begun: list[str] = []

    async def note(session: Any) -> None:
        begun.append(session.id)
        await echo(session)

    async with backend(note) as one, backend(note) as two, running(config([one, two])) as server:
        answer = await (await Client.connect(server)).open(TOKEN)
        assert not answer["resumed"]
        assert answer["session"] != TOKEN
        await until(lambda: len(begun) == 1)


async def test_while_one_of_them_cannot_be_asked_the_session_may_be_there() -> None:
    async with (
        scripted() as here,
        scripted() as away,
        running(config([here.port, away.port], grace="300ms")) as server,
    ):
        await away.stop()
        client = await Client.connect(server)
        await ask(client)
        link = await here.accept()
        await link.next(RecordType.OPEN)
        await link.send(RecordType.CLOSE, body=LOST)
        assert await client.closed() == 1014
        assert not any(record[0] == RecordType.CLOSE for record in client.records), "it is to come again"
        await trio.sleep(0.3)  # longer than that no session waits
        client = await Client.connect(server)
        await ask(client)
        link = await here.accept()
        await link.next(RecordType.OPEN)
        await link.send(RecordType.CLOSE, body=LOST)
        await (await here.accept()).opened()
        assert not json.loads((await client.next(RecordType.OPENED))[3])["resumed"]


async def test_a_broken_session_is_looked_for_where_it_was_and_then_at_the_others() -> None:
    async with scripted() as one, scripted() as two:
        backends = [one, two]
        async with running(config([one.port, two.port], balance="round_robin")) as server:
            client = await Client.connect(server)
            await client.send(RecordType.OPEN, 0, 0, b"{}")
            link, had = await accept_first(backends)
            (other,) = [backend for backend in backends if backend is not had]
            await link.opened()
            await client.next(RecordType.OPENED)
            await client.data(1, "unsettled")
            await link.next(RecordType.DATA)
            await link.cut()
            link = await had.accept()
            await link.next(RecordType.OPEN)
            await link.send(RecordType.CLOSE, body=LOST)
            link = await other.accept()
            opening = await link.opened(1, resumed=True)
            assert opening["resume"], "what was sent may have been consumed where it was, so nothing may be begun here"
            await client.consumed(1)


async def test_a_broken_session_waits_for_the_one_that_may_have_it() -> None:
    async with scripted() as one, scripted() as two:
        backends = [one, two]
        async with running(config([one.port, two.port])) as server:
            client = await Client.connect(server)
            await client.send(RecordType.OPEN, 0, 0, b"{}")
            link, had = await accept_first(backends)
            (other,) = [backend for backend in backends if backend is not had]
            await link.opened()
            await client.next(RecordType.OPENED)
            await client.data(1, "consumed")
            await link.next(RecordType.DATA)
            await link.ack(1)
            await client.consumed(1)
            port = had.port
            await had.stop()
            await link.cut()
            link = await other.accept()
            await link.next(RecordType.OPEN)
            await link.send(RecordType.CLOSE, body=LOST)
            (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
            back = ScriptedBackend(listener)
            link = await back.accept()
            await link.opened(1, resumed=True)
            await client.data(2, "goes on")
            assert (await link.next(RecordType.DATA))[2:] == (2, b"goes on")
            await back.close()


async def test_all_have_forgotten_it_is_told_as_lost() -> None:
    async with scripted() as one, scripted() as two:
        backends = [one, two]
        async with running(config([one.port, two.port])) as server:
            client = await Client.connect(server)
            await client.send(RecordType.OPEN, 0, 0, b"{}")
            link, had = await accept_first(backends)
            (other,) = [backend for backend in backends if backend is not had]
            await link.opened()
            await client.next(RecordType.OPENED)
            await client.data(1, "consumed")
            await client.data(2, "unknown")
            await link.next(RecordType.DATA)
            await link.ack(1)
            await client.consumed(1)
            await link.cut()
            for backend in (had, other):
                link = await backend.accept()
                await link.next(RecordType.OPEN)
                await link.send(RecordType.CLOSE, body=LOST)
            close = json.loads((await client.next(RecordType.CLOSE))[3])
            assert (close["code"], close["reason"]) == (1014, "the backend does not know the session any more")
            assert close["report"]["upstream"] == {"settled": 1, "unknown": [2, 2], "never_forwarded": None}
            assert await client.closed() == 1014


async def test_a_backend_that_has_no_room_for_the_moment_is_asked_again() -> None:
    async with scripted() as service, running(config([service.port])) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, 0, 0, b"{}")
        link = await service.accept()
        await link.opened()
        await client.next(RecordType.OPENED)
        await link.cut()
        link = await service.accept()
        await link.next(RecordType.OPEN)
        await link.send(RecordType.CLOSE, body=b'{"code": 1013, "reason": "full"}')
        link = await service.accept()
        await link.opened(resumed=True)
        await client.data(1, "goes on")
        await link.next(RecordType.DATA)


async def test_a_backend_that_does_not_want_a_session_is_counted_and_not_suspended() -> None:
    async with scripted() as service, running(config([service.port])) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.next(RecordType.OPEN)
        await link.send(RecordType.CLOSE, body=b'{"code": 4008, "reason": "not you"}')
        assert await client.closed() == 4008
        (endpoint,) = server.table.services[0].connector.endpoints  # type: ignore[union-attr]
        assert endpoint.dials[DialOutcome.REJECTED] == endpoint.dials[DialOutcome.CONNECTED] == 1
        assert endpoint.up
        assert not endpoint.is_suspended
