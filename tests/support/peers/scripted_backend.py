"""A records backend that a test plays itself, record by record, on as many connections as the gateway opens."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from gateway.protocol.records import Record, RecordDecoder, RecordType, Rung, encode_prefixed_record
from tests.support.peers.client import PATIENCE_SECONDS


class BackendLink:
    """One connection of the gateway's."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.ended = False
        self._decoder = RecordDecoder()
        self._records: list[Record] = []

    async def send(self, record_type: int, flags: int = 0, seq: int = 0, body: bytes = b"") -> None:
        await self.stream.send_all(encode_prefixed_record(record_type, flags, seq, body))

    async def data(self, seq: int, text: str) -> None:
        await self.send(RecordType.DATA, 1, seq, text.encode())

    async def ack(self, seq: int) -> None:
        await self.send(RecordType.ACK, Rung.CONSUMED, seq)

    async def next(self, record_type: RecordType | None = None) -> Record:
        """The next record, of that type; others stay for later calls. A PING has to be asked for."""
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                for record in self._records:
                    if record[0] == record_type or (record_type is None and record[0] != RecordType.PING):
                        self._records.remove(record)
                        return record
                assert not self.ended, "the gateway ended the connection"
                await self._receive()

    async def consumed(self, seq: int) -> None:
        """Waits for the ACK that says that all messages up to `seq` are settled; ACKs that say less may come first."""
        while (acked := (await self.next(RecordType.ACK))[2]) != seq:
            assert acked < seq

    async def opened(self, consumed: int = 0, **body: Any) -> dict[str, Any]:
        """Waits for OPEN and answers it: its body, with its seq as `consumed`."""
        record = await self.next(RecordType.OPEN)
        await self.send(RecordType.OPENED, 0, consumed, json.dumps(body).encode())
        opening: dict[str, Any] = json.loads(record[3])
        return opening | {"consumed": record[2]}

    async def closed(self) -> dict[str, Any]:
        """Waits for CLOSE: its body."""
        body: dict[str, Any] = json.loads((await self.next(RecordType.CLOSE))[3])
        return body

    async def wait_ended(self) -> list[Record]:
        """Waits for the end of the connection: what came and was not asked for."""
        with trio.fail_after(PATIENCE_SECONDS):
            while not self.ended:
                await self._receive()
        return self._records

    async def _receive(self) -> None:
        try:
            data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        self.ended = not data
        self._records += self._decoder.feed(data)
        assert self._decoder.error is None

    async def cut(self) -> None:
        """Resets the connection."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await self.stream.aclose()


class ScriptedBackend:
    """Where the gateway connects to."""

    def __init__(self, listener: trio.SocketListener) -> None:
        self._listener = listener
        self._links: list[BackendLink] = []

    @property
    def port(self) -> int:
        port: int = self._listener.socket.getsockname()[1]
        return port

    async def accept(self) -> BackendLink:
        """The next connection."""
        with trio.fail_after(PATIENCE_SECONDS):
            link = BackendLink(await self._listener.accept())
        self._links.append(link)
        return link

    async def stop(self) -> None:
        """Listens no more; connections stay."""
        await self._listener.aclose()

    async def close(self) -> None:
        await self.stop()
        for link in self._links:
            await trio.aclose_forcefully(link.stream)


@asynccontextmanager
async def scripted() -> AsyncIterator[ScriptedBackend]:
    """A backend that listens until the block ends."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    backend = ScriptedBackend(listener)
    try:
        yield backend
    finally:
        with trio.CancelScope(shield=True):
            await backend.close()
