"""A client that acts only when it is told to: record by record, or message by message."""

import json
import socket
import ssl
from collections.abc import Sequence
from typing import Any, cast

import trio

from gateway.protocol.handshake import ClientHandshake
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import SUBPROTOCOL, Record, RecordType, Rung, encode_record, parse_record
from gateway.server import Server

WHOLE = FIRST | LAST
PATIENCE_SECONDS = 10.0
"""How long a test waits for what must come."""

_clients: "list[Client]" = []
"""Those that the test has connected, to be closed with the server."""


async def close_clients() -> None:
    """Closes them all."""
    while _clients:
        await _clients.pop().stream.aclose()


def forget_closed() -> None:
    """Lets go of clients whose connection the test has ended, so that they do not count when memory is measured."""
    _clients[:] = [client for client in _clients if client.stream.socket.fileno() >= 0]


class Client:
    """A WebSocket client that acts only when told to."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.ws = WebSocketConnection(client=True)
        self.records: list[Record] = []
        self.messages: list[bytes] = []
        self.pongs: list[bytes] = []
        self._parts: list[bytes] = []
        self.close_code: int | None = None
        self.close_reason = ""
        self.ended = False
        self.answers_pings = True
        self.pings = 0

    @classmethod
    async def connect(
        cls,
        server: Server,
        path: str = "/",
        *,
        records: bool = True,
        origin: str | None = None,
        tls: ssl.SSLContext | None = None,
        source: str = "127.0.0.1",
        headers: Sequence[tuple[str, str]] = (),
    ) -> "Client":
        address = server.addresses[0]
        stream = await trio.open_tcp_stream("127.0.0.1", address.port, local_address=source)  # type: ignore[union-attr]
        if tls is not None:
            # As far as a `Client` needs one, this is one, too.
            stream = cast("trio.SocketStream", trio.SSLStream(stream, tls, server_hostname="localhost"))
        own = [] if origin is None else [("Origin", origin)]
        handshake = ClientHandshake(
            f"ws://{address}{path}", subprotocols=[SUBPROTOCOL] if records else [], headers=[*own, *headers]
        )
        try:
            await stream.send_all(handshake.request())
            accepted = None
            while accepted is None:
                data = await stream.receive_some()
                if not data:
                    handshake.receive_eof()
                accepted = handshake.feed(data)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        client = cls(stream)
        _clients.append(client)
        await client._take(handshake.leftover)
        return client

    async def open(self, token: str | None = None, /, *, consumed: int = 0, **body: Any) -> dict[str, Any]:
        """Sends OPEN and waits for OPENED: its body, with its seq as `settled`."""
        await self.send(RecordType.OPEN, 0, consumed, json.dumps({"session": token, **body}).encode())
        record = await self.next(RecordType.OPENED)
        answer: dict[str, Any] = json.loads(record[3])
        return answer | {"settled": record[2]}

    async def send(self, record_type: int, flags: int = 0, seq: int = 0, body: bytes = b"") -> None:
        await self.stream.send_all(
            self.ws.send([(int(Opcode.BINARY), encode_record(record_type, flags, seq, body), WHOLE)])
        )

    async def data(self, seq: int, text: str) -> None:
        await self.send(RecordType.DATA, 1, seq, text.encode())

    async def next(self, record_type: RecordType | None = None) -> Record:
        """The next record, of that type; others stay for later calls."""
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                for record in self.records:
                    if record_type is None or record[0] == record_type:
                        self.records.remove(record)
                        return record
                assert not self.ended, f"ended with {self.close_code} {self.close_reason}"
                await self._receive()

    async def consumed(self, seq: int) -> None:
        """Waits for the ACK that says that all messages up to `seq` are consumed; ACKs that say less may come first."""
        while True:
            _, rung, acked, _ = await self.next(RecordType.ACK)
            if rung == Rung.CONSUMED and acked >= seq:
                assert acked == seq
                return

    async def closed(self) -> int | None:
        """Waits for the end: the code of the Close frame, None without one."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not self.ended and self.close_code is None:
                await self._receive()
        return self.close_code

    async def pinged(self, times: int) -> None:
        """Waits until so many pings have come."""
        with trio.fail_after(PATIENCE_SECONDS):
            while self.pings < times:
                assert not self.ended
                await self._receive()

    async def _receive(self) -> None:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if not data:
            self.ended = True
        await self._take(data)

    async def _take(self, data: bytes) -> None:
        for opcode, payload, flags in self.ws.receive_data(data):
            if opcode == Opcode.PONG:
                self.pongs.append(payload)
            elif opcode == Opcode.PING:
                self.pings += 1
                if self.answers_pings:
                    await self.stream.send_all(self.ws.send([(int(Opcode.PONG), payload, WHOLE)]))
            elif opcode == Opcode.BINARY:
                self._parts.append(payload)
                if flags & LAST:
                    message = b"".join(self._parts)
                    self._parts.clear()
                    self.messages.append(message)
                    self.records.append(parse_record(message))
        if self.ws.close_received is not None:
            self.close_code, self.close_reason = self.ws.close_received.code, self.ws.close_received.reason

    async def cut(self) -> None:
        """Resets the connection."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await self.stream.aclose()
