"""The `echo` backend: a TCP service that knows nothing of Kakitome, as RFC 862 has it since 1983."""

import trio


async def echo(stream: trio.SocketStream) -> None:
    """Sends back what comes, until the client has ended or gone."""
    try:
        async for data in stream:
            await stream.send_all(data)
    except trio.BrokenResourceError:
        pass  # the client has gone, and nobody waits for the rest


async def serve_echo(
    *, host: str, port: int, task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serves until cancelled; reports the address as started. Raises OSError for a port that is in use."""
    listeners = await trio.open_tcp_listeners(port, host=host)
    address = listeners[0].socket.getsockname()
    task_status.started((address[0], address[1]))
    await trio.serve_listeners(echo, listeners)
