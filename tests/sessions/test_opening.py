"""A session is opened: what is answered to a client, and what is said where a backend refuses, lies or is away."""

import json
from typing import Any

import pytest
import trio

from gateway.errors import GatewayExhausted
from gateway.protocol.records import RecordType, encode_record
from gateway.transport.connector import Connector, Dialed
from tests.sessions.harness import config_of, running
from tests.sessions.routes import records_route, stream_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import scripted

FRESH = {"session": None}


def opening(body: Any = FRESH, *, flags: int = 0, seq: int = 0) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return encode_record(RecordType.OPEN, flags, seq, raw)


async def test_what_was_agreed_stands_in_opened() -> None:
    route = records_route(1, window_messages=7, window_bytes="9KiB", grace="90s", limits={"message_bytes": 5000})
    async with scripted() as service:
        route["backend"]["endpoints"] = [f"tcp://127.0.0.1:{service.port}"]
        async with running(config_of(route)) as server, trio.open_nursery() as nursery:
            client = await Client.connect(server)

            async def answer() -> None:
                link = await service.accept()
                opening = await link.opened(window_messages=5, window_bytes=10_000)
                assert (opening["window_messages"], opening["window_bytes"]) == (7, 9216)

            nursery.start_soon(answer)
            opened = await client.open(window_messages=1000)
            wanted = {
                "resumed": False,
                "settles_at": "consumed",
                "window_messages": 5,  # the smaller of the route's and the backend's
                "window_bytes": 9216,
                "message_bytes": 5000,
                "grace_seconds": 90.0,
                "report": None,
                "settled": 0,
            }
            assert {key: opened[key] for key in wanted} == wanted


async def test_a_backend_that_refuses_says_so_with_its_own_words() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.next(RecordType.OPEN)
        await link.send(RecordType.CLOSE, body=b'{"code": 4403, "reason": "members only"}')
        assert await client.closed() == 4403
        assert client.close_reason == "members only"


@pytest.mark.parametrize(
    "answer",
    [
        (RecordType.DATA, 0, 1, b"x"),
        (RecordType.OPENED, 0, 0, b"[]"),
        (RecordType.OPENED, 0, 0, b'{"window_messages": 0}'),
        (RecordType.OPENED, 1, 0, b"{}"),
        (RecordType.CLOSE, 0, 0, b'{"code": 7}'),
    ],
)
async def test_a_backend_that_does_not_keep_to_the_protocol_is_told_from_a_refusal(
    answer: tuple[int, int, int, bytes],
) -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.next(RecordType.OPEN)
        await link.send(*answer)
        assert await client.closed() == 1014
        assert "record" not in client.close_reason  # what the backend did wrong is for the log
        assert not len(server.registry)


async def test_a_gateway_that_lacks_the_means_to_reach_its_backend_is_1013(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lack(*_: object, **__: object) -> Dialed:
        raise GatewayExhausted("Too many open files")

    monkeypatch.setattr(Connector, "dial", lack)
    async with running(config_of(records_route(1))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        assert await client.closed() == 1013
        assert "files" not in client.close_reason, "what it lacks is for the log"
        assert server.metrics.routes[0].refusals["exhausted"] == 1


async def test_a_backend_that_cannot_be_reached_is_1014() -> None:
    async with running(config_of(stream_route(1))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        assert await client.closed() == 1014
        assert not len(server.registry)
