"""What a session is made of: windows that both sides keep to, room that a parked one makes, a line in the log."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from gateway.protocol.records import RecordType
from gateway.server import Server
from tests.sessions.harness import config_of, running
from tests.sessions.routes import records_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import BackendLink, scripted


@asynccontextmanager
async def opened(
    client_body: dict[str, Any] | None = None, backend_body: dict[str, Any] | None = None, **route: Any
) -> AsyncIterator[tuple[Client, BackendLink, Server]]:
    """A client and a backend with an open session between them."""
    async with scripted() as service, running(config_of(records_route(service.port, **route))) as server:
        client = await Client.connect(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: client.open(**(client_body or {})))
            link = await service.accept()
            await link.opened(**(backend_body or {}))
        yield client, link, server


async def test_the_backends_smaller_window_is_the_clients() -> None:
    async with opened(backend_body={"window_messages": 1}, window_messages=5) as (client, link, _):
        await client.data(1, "x")
        await link.next(RecordType.DATA)
        await client.data(2, "x")
        assert await client.closed() == 1008
