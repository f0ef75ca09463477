"""A gateway in this very process, and backends for it; its clients are in tests.support.peers."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import trio

from gateway.backend import MemoryStore, Session, Store, serve
from gateway.config import Config
from gateway.server import Server
from tests.support.peers.client import PATIENCE_SECONDS, close_clients

Handler = Callable[[Session], Awaitable[None]]


async def echo(session: Session) -> None:
    """Sends every message back."""
    async for message in session:
        await session.send(message)


def config_of(route: dict[str, Any], **rest: Any) -> Config:
    """A configuration with one listener on a free port and one route named `test`."""
    document = {
        "listeners": [{"bind": "127.0.0.1:0"}],
        "admin": None,
        "routes": [{"name": "test", "origins": ["*"], **route}],
    }
    return Config.model_validate(document | rest)


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Server]:
    """A server that serves until the block ends."""
    async with trio.open_nursery() as nursery:
        server: Server = await nursery.start(Server(config).serve)
        try:
            yield server
        finally:
            await close_clients()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def backend(handler: Handler = echo, *, store: Store | None = None, port: int = 0) -> AsyncIterator[int]:
    """A backend on the kit; its port."""
    async with trio.open_nursery() as nursery:
        address = await nursery.start(
            lambda task_status: serve(handler, port=port, store=store or MemoryStore(), task_status=task_status)
        )
        yield address[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def tcp_echo() -> AsyncIterator[int]:
    """A TCP service that sends back what it receives; its port."""

    async def converse(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                async for data in stream:
                    await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, converse, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what the gateway does within itself and tells nobody."""
    with trio.fail_after(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 -- there is nothing to wait on
            await trio.sleep(0.01)
