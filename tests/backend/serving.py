"""A service for the time of a test, and connections to it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from gateway.backend import Handler, Session, serve
from tests.support.peers.initiator import Link


@asynccontextmanager
async def serving(handler: Handler, **options: Any) -> AsyncIterator[Callable[[], Awaitable[Link]]]:
    """A service of `handler` with the options of `serve`; what it gives dials it."""
    async with trio.open_nursery() as nursery:
        address: tuple[str, int] = await nursery.start(partial(serve, handler, **options))
        yield partial(Link.connect, address)
        nursery.cancel_scope.cancel()


async def pong(session: Session) -> None:
    """A handler that answers texts."""
    async for text in session.texts():
        await session.send("Pong: " + text)
