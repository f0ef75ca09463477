"""A WebSocket-to-TCP relay on picows and uvloop, as fast as they allow: a peer of the benchmarks.

Usage: python -m tests.benchmarks.picows_relay BACKEND_PORT. Prints `port N` once it listens. Payloads go from picows'
buffer to uvloop's transport and back without a detour; a side that cannot write pauses the other's reading, so that
its memory is bounded as a gateway's must be.
"""

import asyncio
import sys
from typing import cast

import picows
import uvloop


class Client(picows.WSListener):
    """The WebSocket side of one connection."""

    def __init__(self, backend_port: int) -> None:
        self.backend_port = backend_port
        self.transport: picows.WSTransport | None = None
        self.backend: asyncio.Transport | None = None
        self.early: list[bytes] = []
        self.dialling: asyncio.Task[None] | None = None

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        self.transport = transport
        self.dialling = asyncio.get_running_loop().create_task(self.dial())

    async def dial(self) -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: Backend(self), "127.0.0.1", self.backend_port
        )
        transport.writelines(self.early)
        self.early.clear()
        self.backend = transport

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        kind = frame.msg_type
        if kind in (picows.WSMsgType.BINARY, picows.WSMsgType.TEXT, picows.WSMsgType.CONTINUATION):
            if self.backend is not None:
                # uvloop copies what it cannot write at once, so picows' buffer may be reused after this returns.
                self.backend.write(frame.get_payload_as_memoryview())
            else:
                self.early.append(frame.get_payload_as_bytes())
        elif kind == picows.WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        if self.dialling is not None:
            self.dialling.cancel()
        if self.backend is not None:
            self.backend.close()

    def pause_writing(self) -> None:
        if self.backend is not None:
            self.backend.pause_reading()

    def resume_writing(self) -> None:
        if self.backend is not None:
            self.backend.resume_reading()


class Backend(asyncio.BufferedProtocol):
    """The TCP side: all connections read into one buffer, because a read is sent on before the next one begins."""

    buffer = bytearray(262144)
    view = memoryview(buffer)

    def __init__(self, client: Client) -> None:
        self.client = client
        self.websocket = cast(picows.WSTransport, client.transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.websocket.send(picows.WSMsgType.BINARY, self.view[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        self.websocket.send_close(picows.WSCloseCode.OK)
        self.websocket.disconnect()

    def pause_writing(self) -> None:
        self.websocket.underlying_transport.pause_reading()

    def resume_writing(self) -> None:
        self.websocket.underlying_transport.resume_reading()


async def serve(backend_port: int) -> None:
    """Listens on a free loopback port until it is killed."""
    server = await picows.ws_create_server(
        lambda request: Client(backend_port), "127.0.0.1", 0, backlog=4096, max_frame_size=16 * 1024 * 1024
    )
    sys.stdout.write(f"port {server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
