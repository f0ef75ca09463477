"""The backends as a service of their own."""

import re
import socket
import struct
import sys

import anyio
import pytest
import trio
import trio.testing

from gateway.demo.backends import run_backends
from gateway.errors import StartupError
from tests.backend.initiator import Link


async def test_each_backend_has_a_port_of_its_own(nursery: trio.Nursery) -> None:
    addresses = await nursery.start(run_backends)
    assert set(addresses) == {"hello", "doyasa", "chat", "echo"}
    assert len(set(addresses.values())) == 4
    for session in ("hello", "doyasa", "chat"):
        async with await Link.connect(addresses[session]) as link:
            await link.open(session=session)
    nursery.cancel_scope.cancel()


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


async def test_a_port_in_use_is_named() -> None:
    with pytest.RaisesGroup(
        pytest.RaisesExc(StartupError, match="backend doyasa cannot listen on"), flatten_subgroups=True
    ):
        async with trio.open_nursery() as nursery:
            addresses = await nursery.start(run_backends)
            ports = {"hello": 0, "doyasa": addresses["chat"][1], "chat": 0, "echo": 0}
            await run_backends(ports=ports)


async def test_the_command_serves_until_sigterm() -> None:
    options = [f"--{name}-port=0" for name in ("hello", "doyasa", "chat", "echo")]
    async with await anyio.open_process([sys.executable, "-m", "gateway.demo", *options], stderr=None) as process:
        assert process.stdout is not None
        output = b""
        while output.count(b"\n") < 4:
            output += await process.stdout.receive()
        port = re.search(rb"hello listening on 127\.0\.0\.1:(\d+)", output)
        assert port is not None
        async with await Link.connect(("127.0.0.1", int(port[1]))) as link:
            await link.open(path="/hello")
            assert await link.receive_message() == (1, "Hello Client, you connected to /hello")
            process.terminate()
            assert await link.receive_close() == (1012, "service restart")
        assert await process.wait() == 0
