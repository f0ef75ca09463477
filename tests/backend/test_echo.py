"""The echo backend over real sockets."""

import sys
from functools import partial

import anyio
import trio

from gateway.backend import Limits, serve
from gateway.backend.echo import echo
from gateway.protocol.records import FRAGMENT_BYTES, RecordType
from tests.support.peers.initiator import Link


async def start_echo(nursery: trio.Nursery, limits: Limits | None = None) -> tuple[str, int]:
    address: tuple[str, int] = await nursery.start(partial(serve, echo, limits=limits or Limits()))
    return address


async def test_text_comes_back_as_text_and_binary_as_binary(nursery: trio.Nursery) -> None:
    async with await Link.connect(await start_echo(nursery)) as link:
        await link.open()
        payloads: list[str | bytes] = ["どやさ", b"\x00\xff", "", b""]
        for seq, payload in enumerate(payloads, 1):
            await link.data(seq, payload)
            assert await link.receive_message() == (seq, payload)
            await link.receive_ack(seq)
    nursery.cancel_scope.cancel()


async def test_a_message_larger_than_all_buffers_passes(nursery: trio.Nursery) -> None:
    limits = Limits(window_bytes=1 << 20, message_bytes=1 << 20)
    fragment, fragments = bytes(range(256)) * (FRAGMENT_BYTES // 256), 256
    async with await Link.connect(await start_echo(nursery, limits)) as link:
        await link.open(window_bytes=1 << 20)

        async def send_all() -> None:
            for index in range(fragments):
                await link.data(1, fragment, more=index < fragments - 1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send_all)
            seq, payload = await link.receive_message()
        assert (seq, payload) == (1, fragment * fragments)
        await link.receive_ack(1)
    nursery.cancel_scope.cancel()


async def test_text_that_is_cut_inside_a_character_comes_back_whole(nursery: trio.Nursery) -> None:
    encoded = "書留".encode()
    async with await Link.connect(await start_echo(nursery)) as link:
        await link.open()
        await link.send(RecordType.DATA, 3, 1, encoded[:2])
        await link.send(RecordType.DATA, 1, 1, encoded[2:])
        assert await link.receive_message() == (1, "書留")
    nursery.cancel_scope.cancel()


async def test_the_command_says_where_it_listens_and_ends_at_sigterm() -> None:
    command = [sys.executable, "-m", "gateway.backend.echo", "--port", "0"]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            line += await process.stdout.receive()
        host, port = line.decode().removeprefix("listening on ").strip().rsplit(":", 1)
        async with await Link.connect((host, int(port))) as link:
            await link.open()
            await link.data(1, "hello")
            assert await link.receive_message() == (1, "hello")
            process.terminate()
            assert await link.receive_close() == (1012, "service restart")
        assert await process.wait() == 0
