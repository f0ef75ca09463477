"""HTTP requests by hand to a server in this process: what a client that is no WebSocket's sends, and what it gets."""

from pathlib import Path

import trio

from gateway.config import TcpAddress
from gateway.server import Server


async def ask(server: Server, request: str, *, keep: bool = False) -> tuple[str, str, trio.SocketStream]:
    """Head and body of an answer, and the connection; without `keep` all that comes until it ends."""
    (address,) = server.addresses
    assert isinstance(address, TcpAddress)
    stream = await trio.open_tcp_stream(address.host, address.port)
    await stream.send_all(request.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    answer = b""
    while not (keep and b"\r\n\r\n" in answer) and (data := await stream.receive_some()):
        answer += data
    head, _, body = answer.decode().partition("\r\n\r\n")
    return head, body, stream


def page_config(folder: Path) -> dict[str, object]:
    (folder / "index.html").write_text("hello")
    return {"match": {"path": "/novnc/*"}, "files": str(folder)}


async def upgrade(server: Server) -> tuple[str, trio.SocketStream]:
    """The head of the answer to a plain client's handshake, and its connection."""
    head, _, stream = await ask(
        server,
        "GET / HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\n"
        "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        keep=True,
    )
    return head, stream
