"""The plain service of the demonstration: it sends back what it gets, whatever becomes of others."""

import socket
import struct

import pytest
import trio
import trio.testing

from gateway.demo.backends import run_backends


async def test_the_plain_service_sends_back_what_it_gets(nursery: trio.Nursery) -> None:
    addresses = await nursery.start(run_backends)
    async with await trio.open_tcp_stream(*addresses["echo"]) as stream:
        await stream.send_all("どやさ\n".encode())
        await stream.send_eof()
        assert b"".join([data async for data in stream]) == "どやさ\n".encode()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("waits_to", ["receive", "send"])
async def test_the_plain_service_outlives_a_client_that_breaks_off(nursery: trio.Nursery, waits_to: str) -> None:
    addresses = await nursery.start(run_backends)
    rude = await trio.open_tcp_stream(*addresses["echo"])
    rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if waits_to == "receive":
        await rude.send_all(b"x")
        assert await rude.receive_some() == b"x"
    else:
        async with trio.open_nursery() as sending:
            # Nothing is read of what comes back, so more than all buffers hold is never sent: not to be waited for.
            sending.start_soon(rude.send_all, bytes(64 * 1024 * 1024))
            await rude.socket.recv(1, socket.MSG_PEEK)
            await trio.testing.wait_all_tasks_blocked(0.05)
            sending.cancel_scope.cancel()
    await rude.aclose()
    async with await trio.open_tcp_stream(*addresses["echo"]) as stream:
        await stream.send_all(b"still there")
        await stream.send_eof()
        assert b"".join([data async for data in stream]) == b"still there"
    nursery.cancel_scope.cancel()
