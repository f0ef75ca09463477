"""A TCP balancer in the test's own loop: leads connections to its targets in turn, and cuts them when told to."""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

READ_BYTES = 64 * 1024


class Balancer:
    """Where clients connect to, instead of to one of several gateways."""

    def __init__(self, targets: Sequence[int], port: int) -> None:
        self._targets = targets
        self._turn = 0
        self._clients: set[trio.SocketStream] = set()
        self.port = port
        self.connections = 0
        """All that ever came."""
        self._more = trio.Event()
        self.is_silent = False
        """What the targets say is kept back."""
        self._speaks = trio.Event()

    def speak(self) -> None:
        """Passes on what was kept back while it was silent."""
        self.is_silent = False
        self._speaks.set()
        self._speaks = trio.Event()

    def url(self, path: str) -> str:
        """The WebSocket URL of a path."""
        return f"ws://127.0.0.1:{self.port}{path}"

    async def wait_for(self, connections: int) -> None:
        """Waits until so many have ever come."""
        while self.connections < connections:
            self._more = trio.Event()
            await self._more.wait()

    async def cut(self) -> None:
        """Resets all connections of clients at once."""
        for client in tuple(self._clients):
            with suppress(OSError, trio.ClosedResourceError):  # it ended meanwhile
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await trio.aclose_forcefully(client)

    async def lead(self, client: trio.SocketStream) -> None:
        """Carries one connection to its end."""
        target = self._targets[self._turn % len(self._targets)]
        self._turn += 1
        self.connections += 1
        self._more.set()
        self._clients.add(client)
        try:
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                server = await trio.open_tcp_stream("127.0.0.1", target)
                async with client, server, trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry, client, server)
                    await self._carry(server, client, may_keep_back=True)
                    nursery.cancel_scope.cancel()
        finally:
            self._clients.discard(client)

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream, *, may_keep_back: bool = False) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(READ_BYTES):
                if may_keep_back and self.is_silent:
                    await self._speaks.wait()
                await sink.send_all(data)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await sink.send_eof()


@asynccontextmanager
async def balancing(targets: Sequence[int]) -> AsyncIterator[Balancer]:
    """A balancer before those ports of this host, until the block ends."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    balancer = Balancer(targets, listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, balancer.lead, listeners))
        yield balancer
        nursery.cancel_scope.cancel()
