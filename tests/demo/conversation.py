"""A demonstration backend and connections to it, for its tests."""

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from gateway.backend import Handler, serve
from tests.support.peers.initiator import Link


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Callable[[], Awaitable[Link]]]:
    """A service of `handler`; what it gives dials it."""
    async with trio.open_nursery() as nursery:
        address: tuple[str, int] = await nursery.start(partial(serve, handler))
        yield partial(Link.connect, address)
        nursery.cancel_scope.cancel()


class Member:
    """One connection to the chat room."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.sent = 0

    async def join(self, session: str, query: str) -> dict[str, Any]:
        await self.link.open(session=session, query=query)
        return await self.event()

    async def say(self, text: str) -> None:
        self.sent += 1
        await self.link.data(self.sent, text)

    async def event(self) -> dict[str, Any]:
        _, text = await self.link.receive_message()
        event: dict[str, Any] = json.loads(text)
        if event["type"] in ("welcome", "said"):
            assert abs(event.pop("at") / 1000 - time.time()) < 60
        return event
