"""A records client's first words: what may stand in an OPEN, what may come in its place, and who says nothing."""

import json
from typing import Any

import pytest

from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import MAX_BODY_BYTES, MAX_JSON_BYTES, RecordType, encode_record
from gateway.telemetry.metrics import HandshakeOutcome
from tests.sessions.harness import backend, config_of, running, until
from tests.sessions.routes import records_route
from tests.support.peers.client import Client

BINARY = int(Opcode.BINARY)
FRESH = {"session": None}


def opening(body: Any = FRESH, *, flags: int = 0, seq: int = 0) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return encode_record(RecordType.OPEN, flags, seq, raw)


def field(**values: Any) -> bytes:
    return opening(values)


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        (field(session=5), "OPEN body: session: Input should be a valid string"),
        (field(session=""), "OPEN body: session: String should match pattern"),
        (field(session="x" * 257), "OPEN body: session: String should match pattern"),
        (field(session="with space"), "OPEN body: session: String should match pattern"),
        (field(session="line\nbreak"), "OPEN body: session: String should match pattern"),
        (field(session="書留"), "OPEN body: session: String should match pattern"),
        (field(session=["x"]), "OPEN body: session: Input should be a valid string"),
        (field(receipts="reached"), "OPEN body: receipts: Input should be a valid array"),
        (field(receipts=["delivered"]), "OPEN body: receipts.0: expected one of accepted, written, reached, consumed"),
        (field(receipts=["reached", 4]), "OPEN body: receipts.1: expected one of accepted, written, reached, consumed"),
        (field(window_messages=0), "OPEN body: window_messages: Input should be greater than or equal to 1"),
        (field(window_messages=-1), "OPEN body: window_messages: Input should be greater than or equal to 1"),
        (field(window_messages=1.5), "OPEN body: window_messages: Input should be a valid integer"),
        (field(window_messages="64"), "OPEN body: window_messages: Input should be a valid integer"),
        (field(window_messages=True), "OPEN body: window_messages: Input should be a valid integer"),
        (field(window_messages=None), "OPEN body: window_messages: Input should be a valid integer"),
        (field(window_messages=2**63), "OPEN body: window_messages: Input should be less than or equal to"),
        (field(window_messages=10**4000), "OPEN body"),
        (field(window_bytes=0), "OPEN body: window_bytes: Input should be greater than or equal to 1"),
        (field(window_bytes=2**64), "OPEN body: window_bytes: Input should be less than or equal to"),
        (field(window_bytes=[]), "OPEN body: window_bytes: Input should be a valid integer"),
        (opening([]), "OPEN body: Input should be an object"),
        (opening(None), "OPEN body: Input should be an object"),
        (opening(b""), "OPEN body: Invalid JSON"),
        (opening(b"{"), "OPEN body: Invalid JSON"),
        (opening(b"\xff\xfe"), "OPEN body: Invalid JSON"),
        (opening(b"[" * 60_000), "OPEN body: Invalid JSON"),
        (opening(b" " * (MAX_JSON_BYTES + 1)), "OPEN body of 65537 bytes, expected at most 65536"),
        (opening(flags=1), "OPEN with flags 0x01, expected none"),
        (opening(seq=2**63), "sequence number 9223372036854775808, expected at most 9223372036854775807"),
        (opening(seq=1), "OPEN has consumed message 1, but the last one sent is 0"),
        (opening(seq=2**63 - 1), "OPEN has consumed message 9223372036854775807, but the last one sent is 0"),
        (b"", "a record of 0 bytes, expected at least its 10-byte header"),
        (b"\x01" * 9, "a record of 9 bytes, expected at least its 10-byte header"),
        (encode_record(0x00, 0, 0), "record type 0x00, expected 0x01 to 0x08"),
        (encode_record(0x0A, 0, 0), "record type 0x0a, expected 0x01 to 0x08"),
        (encode_record(0xFF, 0, 0), "record type 0xff, expected 0x01 to 0x08"),
        (encode_record(RecordType.OPENED, 0, 0, b"{}"), "OPENED as the first record, expected OPEN"),
        (encode_record(RecordType.DATA, 0, 1, b"x"), "DATA as the first record, expected OPEN"),
        (encode_record(RecordType.ACK, 4, 0), "ACK as the first record, expected OPEN"),
        (encode_record(RecordType.REJECT, 0, 1, b'{"code": 4000}'), "REJECT as the first record, expected OPEN"),
        (encode_record(RecordType.CLOSE, 0, 0, b'{"code": 1000}'), "CLOSE as the first record, expected OPEN"),
        (encode_record(RecordType.PING, 0, 0, b"x"), "a PING record on WebSocket"),
        (encode_record(RecordType.PONG, 0, 0, b"x"), "a PONG record on WebSocket"),
        (encode_record(RecordType.DATA, 0, 1, bytes(MAX_BODY_BYTES + 1)), "a record of more than 1048586 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_no_open_breaks_the_protocol_and_says_how(message: bytes, problem: str) -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        await client.stream.send_all(client.ws.send([(BINARY, message, FIRST | LAST)]))
        assert await client.closed() == 1002
        assert client.close_reason.startswith(problem[:123])
        assert not client.records


async def test_a_text_message_is_no_record() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        await client.stream.send_all(client.ws.send([(int(Opcode.TEXT), b"hello", FIRST | LAST)]))
        assert await client.closed() == 1002
        assert "text message" in client.close_reason


async def test_nothing_may_follow_open_before_it_is_answered() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        messages = [(BINARY, opening(), FIRST | LAST), (BINARY, encode_record(RecordType.DATA, 0, 1), FIRST | LAST)]
        await client.stream.send_all(client.ws.send(messages))
        assert await client.closed() == 1002
        assert client.close_reason == "DATA before OPENED, expected to wait for it"


async def test_keys_that_are_not_known_are_for_newer_peers() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        assert (await client.open(colour="red", claims={"sub": "hana"}))["resumed"] is False


async def test_an_open_may_come_in_any_pieces_with_pings_between_them() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        message = opening()
        for byte in client.ws.send([(BINARY, message[:7], FIRST)]):
            await client.stream.send_all(bytes([byte]))
        await client.stream.send_all(client.ws.send([(int(Opcode.PING), b"there?", FIRST | LAST)]))
        await client.stream.send_all(client.ws.send([(BINARY, message[7:], LAST)]))
        assert (await client.next())[0] == RecordType.OPENED
        assert client.pongs == [b"there?"]


async def test_who_says_nothing_is_closed_at_the_deadline() -> None:
    config = config_of(records_route(1), timeouts={"handshake": "200ms"})
    async with running(config) as server:
        client = await Client.connect(server)
        assert await client.closed() == 1008
        assert client.close_reason == "no OPEN within 0.2 s"


@pytest.mark.parametrize("code", [1000, 1001, 4321])
async def test_who_closes_instead_is_closed_in_turn(code: int) -> None:
    async with running(config_of(records_route(1))) as server:
        client = await Client.connect(server)
        await client.stream.send_all(client.ws.close(code))
        assert await client.closed() == code
        assert not len(server.registry)


async def test_who_goes_instead_gives_its_place_back() -> None:
    async with running(config_of(records_route(1, limits={"connections": 1}))) as server:
        first = await Client.connect(server)
        await first.cut()
        await until(lambda: server.metrics.route("test").handshakes[HandshakeOutcome.ABANDONED] == 1)
        second = await Client.connect(server)
        assert not second.ended
