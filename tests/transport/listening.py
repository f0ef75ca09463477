"""A listener that serves, and what dials it."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
import trio.testing

from gateway.config import Address, TcpAddress, UnixAddress
from gateway.transport.channel import Channel
from gateway.transport.listener import Accepted, Listener

LOOPBACK = TcpAddress(host="127.0.0.1", port=0)


@asynccontextmanager
async def serving(listener: Listener, handler: Callable[[Accepted], Awaitable[None]]) -> AsyncIterator[trio.Nursery]:
    """The listener accepts while the block runs; its handlers are cancelled at the end."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, handler, nursery)
        try:
            yield nursery
        finally:
            listener.close()
            nursery.cancel_scope.cancel()


async def echo(accepted: Accepted) -> None:
    while data := await accepted.channel.receive_some():
        await accepted.channel.send_all(data)


def dial(address: Address) -> Channel:
    match address:
        case TcpAddress(host=host, port=port):
            return Channel(socket.create_connection((host, port)))
        case UnixAddress(path=path):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            return Channel(sock)


async def assert_echoes(address: Address) -> None:
    channel = dial(address)
    try:
        await channel.send_all(b"hello")
        assert await channel.receive_some() == b"hello"
    finally:
        channel.close()


async def accept_one(listener: Listener, connect: Callable[[], Channel]) -> tuple[Channel, Accepted]:
    """The client's channel and the accepted one, which is no longer the listener's to close."""
    arrived: list[Accepted] = []
    got = trio.Event()

    async def take(accepted: Accepted) -> None:
        own = Accepted(listener=listener, channel=Channel(accepted.channel.release()), peer=accepted.peer)
        arrived.append(own)
        got.set()

    async with serving(listener, take):
        client = connect()
        await got.wait()
    return client, arrived[0]
