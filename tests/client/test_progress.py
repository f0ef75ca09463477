"""What is known of a connection's way out."""

import os
import socket
from contextlib import suppress

import anyio
from anyio.abc import SocketAttribute

from gateway.client.progress import Progress
from tests.client.runtimes import on_both_runtimes


def fill(raw: socket.socket) -> None:
    """Sends more than is read."""
    with suppress(BlockingIOError):
        while True:
            raw.send(bytes(65536))


@on_both_runtimes
async def test_what_is_acknowledged_of_what_was_outstanding_is_progress_and_nothing_else_is() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    stream = await anyio.connect_tcp("127.0.0.1", listener.getsockname()[1])
    server, _ = listener.accept()
    progress = Progress(stream)
    try:
        assert not progress.look(pending=False)
        await stream.send(b"x")
        # It was acknowledged, but at the last look nothing was outstanding.
        assert not progress.look(pending=False)
        with socket.socket(fileno=os.dup(stream.extra(SocketAttribute.raw_socket).fileno())) as raw:
            raw.setblocking(False)
            fill(raw)
        progress.look(pending=True)
        assert not progress.look(pending=True)
        received = 0
        while received < 131072:
            received += len(server.recv(65536))
        assert progress.look(pending=True)
        assert not progress.look(pending=True)
    finally:
        server.close()
        listener.close()
        await anyio.aclose_forcefully(stream)
    assert not progress.look(pending=False)
