"""The `websockets` library's server, for our client to be tested against an implementation that is not ours."""

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

Handler = Callable[[ServerConnection], Awaitable[None]]


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@contextmanager
def running(handler: Handler = echo, *, tls: ssl.SSLContext | None = None, **settings: Any) -> Iterator[str]:
    """Serves in a thread of its own while the block lasts; its URL."""
    ready = threading.Event()
    address: list[tuple[str, int]] = []
    stop: list[Callable[[], object]] = []

    async def main() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        async with serve(handler, "127.0.0.1", 0, ssl=tls, close_timeout=1, **settings) as server:
            address.append(next(iter(server.sockets)).getsockname())
            ready.set()
            await stopped.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(20)
    try:
        yield f"{'ws' if tls is None else 'wss'}://127.0.0.1:{address[0][1]}/"
    finally:
        stop[0]()
        thread.join()
