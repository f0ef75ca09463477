"""A gateway that knows nothing: copies bytes between each connection and one of its own to the backend."""

import sys

import trio


async def copy(source: trio.SocketStream, target: trio.SocketStream) -> None:
    try:
        async for data in source:
            await target.send_all(data)
        await target.send_eof()
    except trio.BrokenResourceError:
        await trio.aclose_forcefully(source)
        await trio.aclose_forcefully(target)
    except trio.ClosedResourceError:
        pass


async def main(listen: int, backend: int) -> None:
    async def serve(client: trio.SocketStream) -> None:
        async with client, await trio.open_tcp_stream("127.0.0.1", backend) as server, trio.open_nursery() as nursery:
            nursery.start_soon(copy, client, server)
            nursery.start_soon(copy, server, client)

    async def guarded(client: trio.SocketStream) -> None:
        try:
            await serve(client)
        except* OSError:
            pass

    await trio.serve_tcp(guarded, listen, host="127.0.0.1")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
