"""The backends as a service of their own."""

import re
import sys

import anyio
import pytest
import trio
import trio.testing

from gateway.demo.backends import run_backends
from gateway.errors import StartupError
from tests.support.peers.initiator import Link


async def test_each_backend_has_a_port_of_its_own(nursery: trio.Nursery) -> None:
    addresses = await nursery.start(run_backends)
    assert set(addresses) == {"hello", "doyasa", "chat", "echo"}
    assert len(set(addresses.values())) == 4
    for session in ("hello", "doyasa", "chat"):
        async with await Link.connect(addresses[session]) as link:
            await link.open(session=session)
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
