"""Records in the wrong place, of the wrong length, with impossible numbers, in an open session: from either side.

Whatever one session's client or backend does, others must not notice: each test has a bystander that goes on.
"""

import pytest

from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import MAX_SEQ, MORE_FLAG, TEXT_FLAG, RecordType, encode_prefixed_record, encode_record
from tests.sessions.harness import backend, config_of, running, until
from tests.sessions.routes import records_route
from tests.support.peers.client import Client
from tests.support.peers.scripted_backend import scripted

FROM_EITHER = [
    (encode_record(RecordType.OPEN, 0, 0, b"{}"), "OPEN in an open session"),
    (encode_record(RecordType.OPENED, 0, 0, b"{}"), "OPENED in an open session"),
    (encode_record(0x00, 0, 0), "record type 0x00, expected 0x01 to 0x08"),
    (encode_record(0x0A, 0, 0), "record type 0x0a, expected 0x01 to 0x08"),
    (encode_record(RecordType.DATA, 0, 0), "DATA with sequence number 0, expected 1 or more"),
    (encode_record(RecordType.DATA, 0, 2), "DATA 2 after message 0, expected 1"),
    (encode_record(RecordType.DATA, 0, MAX_SEQ), f"DATA {MAX_SEQ} after message 0, expected 1"),
    (encode_record(RecordType.DATA, 0, MAX_SEQ + 1), f"sequence number {MAX_SEQ + 1}, expected at most {MAX_SEQ}"),
    (encode_record(RecordType.DATA, 4, 1), "DATA with flags 0x04, expected bits 0 (text) and 1 (more) only"),
    (encode_record(RecordType.ACK, 4, 1), "acknowledges message 1, but the last one sent is 0"),
    (encode_record(RecordType.ACK, 1, 1), "acknowledges message 1, but the last one sent is 0"),
    (encode_record(RecordType.ACK, 4, MAX_SEQ), f"acknowledges message {MAX_SEQ}, but the last one sent is 0"),
    (encode_record(RecordType.ACK, 4, 2**64 - 1), "sequence number 18446744073709551615, expected at most"),
    (encode_record(RecordType.ACK, 0, 0), "ACK of rung 0, expected 1 to 4"),
    (encode_record(RecordType.ACK, 5, 0), "ACK of rung 5, expected 1 to 4"),
    (encode_record(RecordType.ACK, 4, 0, b"x"), "ACK with a body of 1 bytes, expected none"),
    (encode_record(RecordType.REJECT, 0, 0, b'{"code": 4000}'), "REJECT with sequence number 0, expected 1 or more"),
    (encode_record(RecordType.REJECT, 0, 1, b'{"code": 4000}'), "rejects message 1, but the last one sent is 0"),
    (encode_record(RecordType.REJECT, 1, 1, b'{"code": 4000}'), "REJECT with flags 0x01, expected none"),
    (encode_record(RecordType.REJECT, 0, 1, b"{}"), "REJECT body: code: Field required"),
    (encode_record(RecordType.REJECT, 0, 1, b'{"code": 999}'), "REJECT body: code: Input should be greater than"),
    (encode_record(RecordType.CLOSE, 0, 1, b'{"code": 1000}'), "CLOSE with sequence number 1, expected 0"),
    (encode_record(RecordType.CLOSE, 2, 0, b'{"code": 1000}'), "CLOSE with flags 0x02, expected none"),
    (encode_record(RecordType.CLOSE, 0, 0, b"{}"), "CLOSE body: code: Field required"),
    (encode_record(RecordType.CLOSE, 0, 0, b'{"code": 5000}'), "CLOSE body: code: Input should be less than"),
    (encode_record(RecordType.CLOSE, 0, 0, b'{"code": 1000, "reason": 7}'), "CLOSE body: reason: Input should be a"),
    (
        encode_record(RecordType.CLOSE, 0, 0, b'{"code": 1000, "reason": "' + b"x" * 124 + b'"}'),
        "CLOSE body: reason: expected at most 123 bytes of UTF-8",
    ),
]

FROM_CLIENT = [
    (b"", "a record of 0 bytes, expected at least its 10-byte header"),
    (b"\x03" * 9, "a record of 9 bytes, expected at least its 10-byte header"),
    (encode_record(RecordType.PING, 0, 0, b"x"), "a PING record on WebSocket"),
    (encode_record(RecordType.PONG, 0, 0, b"x"), "a PONG record on WebSocket"),
]

FROM_BACKEND = [
    (b"", "a record of 0 bytes, expected 10 to"),
    (b"\x03" * 9, "a record of 9 bytes, expected 10 to"),
    (encode_record(RecordType.PING, 0, 0, b""), "PING body of 0 bytes, expected 1 to 64"),
    (encode_record(RecordType.PING, 0, 0, b"x" * 65), "PING body of 65 bytes, expected 1 to 64"),
    (encode_record(RecordType.PONG, 1, 0, b"x"), "PONG with flags 0x01, expected none"),
]


def name(value: object) -> str:
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("record", "problem"), FROM_EITHER + FROM_CLIENT, ids=name)
async def test_a_client_is_told_what_was_wrong_and_its_backend_that_it_is_over(record: bytes, problem: str) -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        bystander = await Client.connect(server)
        await bystander.send(RecordType.OPEN, body=b"{}")
        bystanders_link = await service.accept()
        await bystanders_link.opened()
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await client.next(RecordType.OPENED)
        await client.stream.send_all(client.ws.send([(int(Opcode.BINARY), record, FIRST | LAST)]))
        assert await client.closed() == 1002
        assert client.close_reason.startswith(problem[:123])
        close = await link.closed()
        assert (close["code"], close["reason"]) == (1002, client.close_reason)
        await bystander.data(1, "unharmed")
        assert (await bystanders_link.next(RecordType.DATA))[3] == b"unharmed"


@pytest.mark.parametrize(("record", "problem"), FROM_EITHER + FROM_BACKEND, ids=name)
async def test_a_backend_that_breaks_the_protocol_ends_its_session_and_the_log_says_how(
    record: bytes, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        bystander = await Client.connect(server)
        await bystander.send(RecordType.OPEN, body=b"{}")
        bystanders_link = await service.accept()
        await bystanders_link.opened()
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await client.next(RecordType.OPENED)
        await link.stream.send_all(len(record).to_bytes(4, "big") + record)
        assert await client.closed() == 1014
        await client.stream.send_all(client.ws.close(1014))
        await until(lambda: len(server.registry) == 1)
        (ended,) = server.registry.ended(limit=9)
        assert (ended["by"], ended["code"]) == ("backend", 1014)
        assert problem[:60] in str(ended["reason"])
        await bystanders_link.data(1, "unharmed")
        assert (await bystander.next(RecordType.DATA))[3] == b"unharmed"


async def test_a_text_message_in_an_open_session_breaks_the_protocol() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        await client.open()
        await client.stream.send_all(client.ws.send([(int(Opcode.TEXT), b"hello", FIRST | LAST)]))
        assert await client.closed() == 1002


async def test_a_client_that_says_text_and_sends_other_bytes_is_1007() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        await client.open()
        await client.send(RecordType.DATA, TEXT_FLAG, 1, b"\xc0\xaf")
        assert await client.closed() == 1007
        assert client.close_reason == "text message 1 is not UTF-8"


async def test_a_client_whose_message_is_too_big_is_1009_whether_whole_or_in_fragments() -> None:
    async with backend() as port, running(config_of(records_route(port, limits={"message_bytes": 100}))) as server:
        for fragments in (1, 11):
            client = await Client.connect(server)
            await client.open()
            for number in range(fragments):
                more = MORE_FLAG if number < fragments - 1 else 0
                await client.send(RecordType.DATA, more, 1, bytes(110 // fragments))
            assert await client.closed() == 1009
            assert "exceeds the limit of 100 bytes" in client.close_reason


async def test_a_fragment_of_the_other_kind_breaks_the_protocol() -> None:
    async with backend() as port, running(config_of(records_route(port))) as server:
        client = await Client.connect(server)
        await client.open()
        await client.send(RecordType.DATA, TEXT_FLAG | MORE_FLAG, 1, b"text")
        await client.send(RecordType.DATA, 0, 1, b"binary")
        assert await client.closed() == 1002
        assert client.close_reason == "DATA 1 goes on as binary, but message 1 began as text"


async def test_a_backends_ping_is_answered_with_what_it_carried() -> None:
    async with scripted() as service, running(config_of(records_route(service.port))) as server:
        client = await Client.connect(server)
        await client.send(RecordType.OPEN, body=b"{}")
        link = await service.accept()
        await link.opened()
        await link.send(RecordType.PING, 0, 77, b"x" * 64)
        assert await link.next() == (RecordType.PONG, 0, 77, b"x" * 64)
        await link.stream.send_all(encode_prefixed_record(RecordType.PONG, 0, 0, b"unasked"))
        await link.data(1, "goes on")
        assert (await client.next(RecordType.DATA))[3] == b"goes on"
