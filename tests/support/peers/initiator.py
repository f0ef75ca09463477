"""A small initiator of the record protocol, in the gateway's place: sends any record, waits for any."""

from __future__ import annotations

import json
from collections import deque
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import ByteStream

from gateway.protocol.records import (
    MORE_FLAG,
    TEXT_FLAG,
    Record,
    RecordDecoder,
    RecordType,
    Rung,
    encode_prefixed_record,
)


def open_body(session: str = "s1", epoch: int = 1, **more: Any) -> bytes:
    """The body of an OPEN; `more` adds keys or replaces them."""
    body: dict[str, Any] = {
        "session": session,
        "epoch": epoch,
        "route": "test",
        "path": "/test",
        "client": {"address": "192.0.2.7", "port": 4242},
    }
    return json.dumps(body | more).encode()


class Link:
    """One TCP connection to a backend."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.decoder = RecordDecoder()
        self.records: deque[Record] = deque()
        """What came and was not asked for yet, without the ACKs."""
        self.acks: list[int] = []

    @classmethod
    async def connect(cls, address: tuple[str, int]) -> Self:
        return cls(await anyio.connect_tcp(*address))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await anyio.aclose_forcefully(self.stream)

    async def send(self, record_type: int, flags: int = 0, seq: int = 0, body: bytes = b"") -> None:
        await self.stream.send(encode_prefixed_record(record_type, flags, seq, body))

    async def open(self, seq: int = 0, **body: Any) -> dict[str, Any]:
        """Sends OPEN; the body of OPENED, with its `seq`."""
        await self.send(RecordType.OPEN, 0, seq, open_body(**body))
        record_type, _, position, answer = await self.receive()
        assert record_type == RecordType.OPENED, answer
        return {"seq": position, **json.loads(answer)}

    async def data(self, seq: int, payload: str | bytes, *, more: bool = False) -> None:
        text = isinstance(payload, str)
        flags = (TEXT_FLAG if text else 0) | (MORE_FLAG if more else 0)
        await self.send(RecordType.DATA, flags, seq, payload.encode() if isinstance(payload, str) else payload)

    async def ack(self, seq: int, rung: Rung = Rung.CONSUMED) -> None:
        await self.send(RecordType.ACK, rung, seq)

    async def _pull(self) -> None:
        """Waits for more to come. Raises anyio.EndOfStream, and TimeoutError after a time that no test should take."""
        with anyio.fail_after(10):
            data = await self.stream.receive()
        for record in self.decoder.feed(data):
            if record[0] == RecordType.ACK:
                assert record[1] == Rung.CONSUMED
                self.acks.append(record[2])
            else:
                self.records.append(record)
        assert self.decoder.error is None

    async def receive(self) -> Record:
        """The next record that is no ACK."""
        while not self.records:
            await self._pull()
        return self.records.popleft()

    async def receive_only(self, wanted: RecordType) -> Record:
        """The next record of one type; those before it are dropped."""
        while True:
            record = await self.receive()
            if record[0] == wanted:
                return record

    async def receive_message(self) -> tuple[int, str | bytes]:
        """The next message, put together: (seq, payload)."""
        parts = []
        while True:
            _, flags, seq, body = await self.receive_only(RecordType.DATA)
            parts.append(body)
            if not flags & MORE_FLAG:
                whole = b"".join(parts)
                return seq, whole.decode() if flags & TEXT_FLAG else whole

    async def receive_ack(self, seq: int) -> None:
        """Waits for an ACK that covers `seq`."""
        while not self.acks or self.acks[-1] < seq:
            await self._pull()

    async def receive_close(self) -> tuple[int, str]:
        """Waits for CLOSE: (code, reason)."""
        body = json.loads((await self.receive_only(RecordType.CLOSE))[3])
        return body["code"], body["reason"]

    async def receive_end(self) -> None:
        """Waits for the end of the stream, whatever still comes before it."""
        try:
            while True:
                await self._pull()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass
