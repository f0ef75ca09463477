"""A stand-in for the gateway: real sockets, real handshakes, and records as the test says, under any runtime."""

from __future__ import annotations

import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketListener, SocketStream

from gateway.protocol.handshake import (
    ExtensionOffer,
    Request,
    RequestReader,
    accept_response,
    check_upgrade,
    http_response,
)
from gateway.protocol.messages import CloseFrame, WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import (
    MORE_FLAG,
    SUBPROTOCOL,
    TEXT_FLAG,
    OpenFromClient,
    Record,
    RecordAssembler,
    RecordType,
    Rung,
    encode_record,
)

PATIENCE_SECONDS = 20.0
WHOLE = FIRST | LAST

Payload = str | bytes


def decoded(flags: int, body: bytes) -> Payload:
    """What a message of one record says."""
    return body.decode() if flags & TEXT_FLAG else body


class Peer:
    """The gateway's end of one open connection."""

    def __init__(self, stream: ByteStream, request: Request, early: bytes) -> None:
        self.stream = stream
        self.request = request
        self.ws = WebSocketConnection(client=False)
        self.records: deque[Record] = deque()
        """What came and was not asked for yet, without the ACKs."""
        self.acks: list[int] = []
        self.parts: dict[int, list[bytes]] = {}
        self._assembler = RecordAssembler()
        self._take(early)

    # --- sending ----------------------------------------------------------------------------------------------------

    async def send_pieces(self, pieces: Sequence[Piece]) -> None:
        await self.stream.send(self.ws.send(pieces))

    async def send(self, record_type: int, flags: int = 0, seq: int = 0, body: bytes = b"") -> None:
        await self.send_pieces([(Opcode.BINARY, encode_record(record_type, flags, seq, body), WHOLE)])

    async def data(self, seq: int, payload: Payload, *, more: bool = False) -> None:
        flags = (TEXT_FLAG if isinstance(payload, str) else 0) | (MORE_FLAG if more else 0)
        await self.send(RecordType.DATA, flags, seq, payload.encode() if isinstance(payload, str) else payload)

    async def ack(self, seq: int, rung: Rung = Rung.CONSUMED) -> None:
        await self.send(RecordType.ACK, rung, seq)

    async def reject(self, seq: int, code: int, reason: str) -> None:
        await self.send(RecordType.REJECT, 0, seq, json.dumps({"code": code, "reason": reason}).encode())

    async def end_session(self, code: int, reason: str = "", **body: Any) -> None:
        """CLOSE, and the Close that follows it."""
        await self.send(RecordType.CLOSE, 0, 0, json.dumps({"code": code, "reason": reason, **body}).encode())
        await self.close(code, reason)

    async def close(self, code: int, reason: str = "") -> None:
        await self.stream.send(self.ws.close(code, reason))

    async def cut(self, *, reset: bool = False) -> None:
        """Ends the connection without a word."""
        if reset:
            raw: socket.socket = self.stream.extra(SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await anyio.aclose_forcefully(self.stream)

    # --- receiving --------------------------------------------------------------------------------------------------

    async def pull(self) -> bool:
        """Waits for more to come; false at the end of the stream."""
        try:
            with anyio.fail_after(PATIENCE_SECONDS):
                data = await self.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        pieces = [piece for piece in self.ws.receive_data(data) if piece[0] < Opcode.CLOSE]
        assert self.ws.error is None
        for record in self._assembler.feed(pieces):
            if record[0] == RecordType.ACK:
                assert record[1] == Rung.CONSUMED
                self.acks.append(record[2])
            else:
                self.records.append(record)
        assert self._assembler.error is None

    async def receive(self) -> Record:
        """The next record that is no ACK."""
        while not self.records:
            assert await self.pull(), "the connection ended"
        return self.records.popleft()

    async def receive_open(self) -> tuple[int, OpenFromClient]:
        """(position, body) of the OPEN."""
        record_type, _, position, body = await self.receive()
        assert record_type == RecordType.OPEN
        return position, OpenFromClient.from_json(body)

    async def open(
        self, position: int = 0, *, token: str = "token", resumed: bool = False, **body: Any
    ) -> tuple[int, OpenFromClient]:
        """Receives OPEN and answers it."""
        opening = await self.receive_open()
        answer = {"session": token, "resumed": resumed, "settles_at": "consumed", **body}
        await self.send(RecordType.OPENED, 0, position, json.dumps(answer).encode())
        return opening

    async def receive_message(self) -> tuple[int, Payload]:
        """The next message, put together: (seq, payload)."""
        parts = []
        while True:
            record_type, flags, seq, body = await self.receive()
            assert record_type == RecordType.DATA
            parts.append(body)
            if not flags & MORE_FLAG:
                return seq, decoded(flags, b"".join(parts))

    async def receive_ack(self, seq: int) -> None:
        """Waits for an ACK that covers `seq`."""
        while not self.acks or self.acks[-1] < seq:
            assert await self.pull(), "the connection ended"

    async def receive_end(self) -> CloseFrame | None:
        """Waits for the end of the stream; the Close that came before it, which is answered."""
        while True:
            if self.ws.close_received is not None:
                answer = self.ws.close(None if self.ws.close_received.code == 1005 else self.ws.close_received.code)
                if answer:
                    await self.stream.send(answer)
                await self.cut()
                return self.ws.close_received
            if not await self.pull():
                return None


class GatewayDouble:
    """A listener on loopback; the test accepts each connection when it wants to."""

    def __init__(self, listener: SocketListener) -> None:
        self._listener = listener
        self.port = int(listener.extra(SocketAttribute.local_address)[1])
        self._open: list[ByteStream] = []
        self.peers: list[Peer] = []
        """All connections that were accepted."""
        self.patience_seconds = PATIENCE_SECONDS

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/path"

    async def _request(self) -> tuple[SocketStream, Request, bytes]:
        with anyio.fail_after(self.patience_seconds):
            stream = await self._listener.accept()
            self._open.append(stream)
            reader = RequestReader()
            while (request := reader.feed(await stream.receive())) is None:
                pass
        return stream, request, reader.leftover

    async def accept(self, subprotocol: str | None = SUBPROTOCOL, extensions: Sequence[ExtensionOffer] = ()) -> Peer:
        """The next connection, its handshake done."""
        stream, request, early = await self._request()
        await stream.send(accept_response(check_upgrade(request), subprotocol=subprotocol, extensions=extensions))
        self.peers.append(Peer(stream, request, early))
        return self.peers[-1]

    async def refuse(self, status: int, body: str = "", headers: Sequence[tuple[str, str]] = ()) -> None:
        """Answers the next connection with an HTTP error."""
        stream, _, _ = await self._request()
        await stream.send(http_response(status, body.encode(), [("Content-Type", "text/plain"), *headers]))
        await stream.aclose()

    async def hang_up(self) -> None:
        """Accepts the next connection and ends it without an answer."""
        stream, _, _ = await self._request()
        await stream.aclose()

    async def close(self) -> None:
        for stream in self._open:
            await anyio.aclose_forcefully(stream)
        await self._listener.aclose()


@asynccontextmanager
async def listening() -> AsyncIterator[GatewayDouble]:
    """A double that lasts as long as the block."""
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1")
    listener = multi.listeners[0]
    assert isinstance(listener, SocketListener)
    double = GatewayDouble(listener)
    try:
        yield double
    finally:
        await double.close()
