"""A records client's first words: one OPEN, within the handshake deadline, before the pump has the connection."""

from dataclasses import dataclass
from typing import Final

import trio

from gateway.codes import NO_CODE
from gateway.errors import ConnectionFault, PolicyViolation, ProtocolViolation
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import OpenFromClient, Record, RecordAssembler, RecordType
from gateway.transport.channel import Channel

RECEIVE_BYTES: Final = 65536

CLOSE_SECONDS: Final = 5.0
"""For a Close to a client that does not even take that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What the client's OPEN says."""

    body: OpenFromClient
    consumed: int
    """The highest message of ours that it has consumed; 0 for none."""
    reader: RecordAssembler
    """Has read up to the OPEN."""


async def read_open(
    channel: Channel, ws: WebSocketConnection, early: bytes, *, timeout_seconds: float
) -> Greeting | None:
    """The client's OPEN; None when it ended instead, or broke the protocol and has been told so with a Close.

    `early` is what it sent behind its handshake. Raises OSError.
    """
    reader = RecordAssembler()
    try:
        with trio.fail_after(timeout_seconds):
            data = early or await channel.receive_some(RECEIVE_BYTES)
            while data:
                record = await _next_record(channel, ws, reader, data)
                if record is not None:
                    return _check(record, reader)
                if ws.close_received is not None:
                    await close_politely(channel, ws, ws.close_received.code)
                    return None
                data = await channel.receive_some(RECEIVE_BYTES)
    except trio.TooSlowError:
        fault: ConnectionFault = PolicyViolation(f"no OPEN within {timeout_seconds:g} s")
        await close_politely(channel, ws, fault.close_code, fault.close_reason)
    except ConnectionFault as found:
        await close_politely(channel, ws, found.close_code, found.close_reason)
    return None


async def _next_record(
    channel: Channel, ws: WebSocketConnection, reader: RecordAssembler, data: bytes
) -> Record | None:
    pieces = ws.receive_data(data)
    for opcode, payload, _ in pieces:
        if opcode == Opcode.PING:
            await channel.send_all(ws.send([(int(Opcode.PONG), payload, FIRST | LAST)]))
    records = reader.feed([piece for piece in pieces if piece[0] < Opcode.CLOSE])
    error = reader.error or ws.error
    if error is not None:
        raise error
    if len(records) > 1:
        raise ProtocolViolation(f"{RecordType(records[1][0]).name} before OPENED, expected to wait for it")
    return records[0] if records else None


def _check(record: Record, reader: RecordAssembler) -> Greeting:
    record_type, _, seq, body = record
    if record_type != RecordType.OPEN:
        raise ProtocolViolation(f"{RecordType(record_type).name} as the first record, expected OPEN")
    return Greeting(body=OpenFromClient.from_json(body), consumed=seq, reader=reader)


async def close_politely(channel: Channel, ws: WebSocketConnection, code: int, reason: str = "") -> None:
    """Sends a Close and ends the connection. Raises OSError."""
    with trio.move_on_after(CLOSE_SECONDS):
        await channel.send_all(ws.close(None if code == NO_CODE else code, reason))
        await channel.finish()
