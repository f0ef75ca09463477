"""Records as bytes, however they were cut, their JSON bodies, and each way to break either."""

import json
import re
import struct
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ProtocolViolation
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import (
    DEFAULT_WINDOW_BYTES,
    DEFAULT_WINDOW_MESSAGES,
    MAX_BODY_BYTES,
    MAX_JSON_BYTES,
    MAX_SEQ,
    MORE_FLAG,
    TEXT_FLAG,
    ClientAddress,
    CloseBody,
    LossReport,
    OpenedByBackend,
    OpenedByGateway,
    OpenFromClient,
    OpenToBackend,
    Record,
    RecordAssembler,
    RecordDecoder,
    RecordType,
    RejectBody,
    Rung,
    SessionReport,
    encode_prefixed_record,
    encode_record,
    parse_record,
)

Body = OpenFromClient | OpenedByGateway | OpenToBackend | OpenedByBackend | CloseBody | RejectBody

seqs = st.integers(1, MAX_SEQ)
json_types = st.sampled_from([RecordType.OPEN, RecordType.OPENED, RecordType.REJECT])
websocket_records: st.SearchStrategy[Record] = st.one_of(
    st.tuples(st.just(RecordType.DATA), st.integers(0, 3), seqs, st.binary(max_size=80)),
    st.tuples(st.just(RecordType.ACK), st.integers(1, 4), seqs, st.just(b"")),
    st.tuples(json_types, st.just(0), seqs, st.binary(max_size=80)),
    st.tuples(st.just(RecordType.CLOSE), st.just(0), st.just(0), st.binary(max_size=80)),
)
tcp_records = st.one_of(
    websocket_records,
    st.tuples(
        st.sampled_from([RecordType.PING, RecordType.PONG]),
        st.just(0),
        st.integers(0, MAX_SEQ),
        st.binary(min_size=1, max_size=64),
    ),
)

BROKEN = [
    ((0, 0, 1, 0), "record type 0x00, expected 0x01 to 0x08"),
    ((10, 0, 1, 0), "record type 0x0a, expected 0x01 to 0x08"),
    ((RecordType.DATA, 4, 1, 0), "DATA with flags 0x04, expected bits 0 (text) and 1 (more) only"),
    ((RecordType.DATA, 0, 0, 0), "DATA with sequence number 0, expected 1 or more"),
    ((RecordType.DATA, 0, 2**63, 0), "sequence number 9223372036854775808, expected at most 9223372036854775807"),
    ((RecordType.ACK, 0, 1, 0), "ACK of rung 0, expected 1 to 4"),
    ((RecordType.ACK, 5, 1, 0), "ACK of rung 5, expected 1 to 4"),
    ((RecordType.ACK, 4, 2**64 - 1, 0), "sequence number 18446744073709551615, expected at most 9223372036854775807"),
    ((RecordType.ACK, 4, 1, 1), "ACK with a body of 1 bytes, expected none"),
    ((RecordType.OPEN, 1, 0, 2), "OPEN with flags 0x01, expected none"),
    ((RecordType.OPENED, 0x80, 0, 2), "OPENED with flags 0x80, expected none"),
    ((RecordType.REJECT, 1, 1, 2), "REJECT with flags 0x01, expected none"),
    ((RecordType.REJECT, 0, 0, 2), "REJECT with sequence number 0, expected 1 or more"),
    ((RecordType.CLOSE, 1, 0, 2), "CLOSE with flags 0x01, expected none"),
    ((RecordType.CLOSE, 0, 1, 2), "CLOSE with sequence number 1, expected 0"),
    ((RecordType.OPEN, 0, 0, MAX_JSON_BYTES + 1), "OPEN body of 65537 bytes, expected at most 65536"),
    ((RecordType.PING, 0, 0, 0), "PING body of 0 bytes, expected 1 to 64"),
    ((RecordType.PING, 0, 0, 65), "PING body of 65 bytes, expected 1 to 64"),
    ((RecordType.PONG, 0, 0, 65), "PONG body of 65 bytes, expected 1 to 64"),
    ((RecordType.PONG, 2, 0, 1), "PONG with flags 0x02, expected none"),
]


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


# --- bytes ---


@given(record=websocket_records)
def test_record_is_parsed_as_it_was_encoded(record: Record) -> None:
    assert parse_record(encode_record(*record)) == record


def test_header_is_big_endian_type_flags_seq() -> None:
    assert encode_record(RecordType.DATA, TEXT_FLAG | MORE_FLAG, 258, b"x") == bytes.fromhex("0303 0000000000000102 78")
    assert encode_prefixed_record(RecordType.ACK, Rung.CONSUMED, 7) == bytes.fromhex("0000000a 0404 0000000000000007")


@pytest.mark.parametrize("size", [0, 1, 9])
def test_message_shorter_than_a_header_is_refused(size: int) -> None:
    with pytest.raises(ProtocolViolation, match=f"a record of {size} bytes, expected at least its 10-byte header"):
        parse_record(b"\x04" * size)


def test_auth_is_for_websocket_only() -> None:
    record = (RecordType.AUTH, 0, 3, b'{"token":"abc"}')
    assert parse_record(encode_record(*record)) == record
    decoder = RecordDecoder()
    assert decoder.feed(encode_prefixed_record(*record)) == []
    assert str(decoder.error) == "record type 0x09, expected 0x01 to 0x08"


@pytest.mark.parametrize(
    ("flags", "seq", "size", "problem"),
    [
        (1, 1, 2, "AUTH with flags 0x01, expected none"),
        (0, 2**63, 2, "sequence number 9223372036854775808, expected at most 9223372036854775807"),
        (0, 1, MAX_JSON_BYTES + 1, "AUTH body of 65537 bytes, expected at most 65536"),
    ],
)
def test_broken_auth_is_refused(flags: int, seq: int, size: int, problem: str) -> None:
    with pytest.raises(ProtocolViolation, match=re.escape(problem)):
        parse_record(encode_record(RecordType.AUTH, flags, seq, bytes(size)))


@pytest.mark.parametrize(("broken", "problem"), BROKEN)
def test_broken_record_is_refused_on_both_hops(broken: tuple[int, int, int, int], problem: str) -> None:
    record_type, flags, seq, body_bytes = broken
    body = b"x" * body_bytes
    with pytest.raises(ProtocolViolation) as refusal:
        parse_record(encode_record(record_type, flags, seq, body))
    assert str(refusal.value) == problem
    decoder = RecordDecoder()
    good = encode_prefixed_record(RecordType.DATA, 0, 1, b"good")
    record = encode_prefixed_record(record_type, flags, seq, body)
    assert decoder.feed(good + record + good) == [(RecordType.DATA, 0, 1, b"good")]
    assert str(decoder.error) == problem
    assert decoder.feed(good) == []


@pytest.mark.parametrize("record_type", [RecordType.PING, RecordType.PONG])
def test_pings_stay_on_tcp(record_type: RecordType) -> None:
    with pytest.raises(ProtocolViolation, match="on WebSocket, which has pings of its own"):
        parse_record(encode_record(record_type, 0, 0, b"x"))
    assert RecordDecoder().feed(encode_prefixed_record(record_type, 0, 0, b"x")) == [(record_type, 0, 0, b"x")]


def test_data_above_a_mebibyte_is_refused() -> None:
    assert parse_record(encode_record(RecordType.DATA, 0, 1, bytes(MAX_BODY_BYTES)))[3] == bytes(MAX_BODY_BYTES)
    with pytest.raises(ProtocolViolation, match="DATA body of 1048577 bytes, expected at most 1048576"):
        parse_record(encode_record(RecordType.DATA, 0, 1, bytes(MAX_BODY_BYTES + 1)))


# --- the TCP hop ---


@given(records=st.lists(tcp_records, max_size=8), cuts=st.lists(st.integers(0, 1000), max_size=12))
def test_records_come_out_of_a_stream_cut_anywhere(records: list[Record], cuts: list[int]) -> None:
    decoder = RecordDecoder()
    stream = b"".join(encode_prefixed_record(*record) for record in records)
    decoded = [record for chunk in cut(stream, cuts) for record in decoder.feed(memoryview(chunk))]
    assert decoded == records
    assert decoder.error is None
    assert not decoder.in_record


@given(record=tcp_records)
def test_stream_that_ends_inside_a_record_is_told(record: Record) -> None:
    decoder = RecordDecoder()
    stream = encode_prefixed_record(*record)
    for at in range(1, len(stream)):
        assert decoder.feed(stream[at - 1 : at]) == []
        assert decoder.in_record


@given(stream=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_noise_gives_the_same_however_it_is_cut(stream: bytes, cuts: list[int]) -> None:
    whole, parted = RecordDecoder(), RecordDecoder()
    expected = whole.feed(stream)
    assert [record for chunk in cut(stream, cuts) for record in parted.feed(chunk)] == expected
    assert str(parted.error) == str(whole.error)


@pytest.mark.parametrize("length", [0, 9, MAX_BODY_BYTES + 11, 2**32 - 1])
def test_length_out_of_bounds_fails_before_anything_is_held_for_it(length: int) -> None:
    decoder = RecordDecoder()
    assert decoder.feed(struct.pack(">I", length)) == []
    assert str(decoder.error) == f"a record of {length} bytes, expected 10 to 1048586"


def test_header_is_checked_before_the_body_comes() -> None:
    decoder = RecordDecoder()
    assert decoder.feed(encode_prefixed_record(RecordType.DATA, 0, 1, bytes(MAX_BODY_BYTES))[:14]) == []
    assert decoder.error is None
    decoder = RecordDecoder()
    decoder.feed(encode_prefixed_record(RecordType.DATA, 0, 1, bytes(MAX_BODY_BYTES + 1))[:14])
    assert str(decoder.error) == "a record of 1048587 bytes, expected 10 to 1048586"
    decoder = RecordDecoder()
    decoder.feed(encode_prefixed_record(RecordType.OPEN, 0, 0, bytes(MAX_BODY_BYTES))[:14])
    assert str(decoder.error) == "OPEN body of 1048576 bytes, expected at most 65536"


def test_record_does_not_share_the_read_buffer() -> None:
    buffer = bytearray(encode_prefixed_record(RecordType.DATA, 0, 1, b"first"))
    ((_, _, _, body),) = RecordDecoder().feed(memoryview(buffer))
    buffer[-5:] = b"later"
    assert body == b"first"


# --- the WebSocket hop ---


@given(records=st.lists(websocket_records, max_size=6), cuts=st.lists(st.integers(0, 90), max_size=4))
def test_records_come_out_of_messages_in_any_pieces(records: list[Record], cuts: list[int]) -> None:
    pieces: list[Piece] = []
    for record in records:
        parts = cut(encode_record(*record), cuts)
        last = len(parts) - 1
        pieces += [(Opcode.BINARY, part, (at == 0) * FIRST | (at == last) * LAST) for at, part in enumerate(parts)]
    assembler = RecordAssembler()
    assert assembler.feed(pieces) == records
    assert assembler.error is None
    one_by_one = RecordAssembler()
    assert [record for piece in pieces for record in one_by_one.feed([piece])] == records


def test_text_message_is_no_record() -> None:
    assembler = RecordAssembler()
    good = (Opcode.BINARY, encode_record(RecordType.ACK, 4, 1), FIRST | LAST)
    assert assembler.feed([good, (Opcode.TEXT, b"hello", FIRST), good]) == [(RecordType.ACK, 4, 1, b"")]
    assert str(assembler.error) == "a text message, expected binary ones with a record each"
    assert assembler.feed([good]) == []


def test_message_is_held_only_up_to_the_size_of_a_record() -> None:
    assembler = RecordAssembler()
    largest = encode_record(RecordType.DATA, 0, 1, bytes(MAX_BODY_BYTES))
    assert assembler.feed([(Opcode.BINARY, largest, FIRST)]) == []
    assert assembler.error is None
    assembler.feed([(Opcode.BINARY, b"x", 0)])
    assert str(assembler.error) == "a record of more than 1048586 bytes"


# --- bodies ---

REPORT = SessionReport(
    upstream=LossReport(settled=3, unknown=(4, 6), never_forwarded=(7, 9)), downstream=LossReport(settled=0)
)
BODIES: list[Body] = [
    OpenFromClient(),
    OpenFromClient(session="t0ken", receipts=(Rung.WRITTEN, Rung.REACHED), window_messages=1, window_bytes=MAX_SEQ),
    OpenFromClient(heartbeat=True),
    OpenedByGateway(session="t", resumed=False, settles_at=Rung.REACHED, heartbeat_seconds=20.0),
    OpenedByGateway(session="t", resumed=True, settles_at=Rung.CONSUMED),
    OpenedByGateway(
        session="t", resumed=False, settles_at=Rung.WRITTEN, message_bytes=1, grace_seconds=0.5, report=REPORT
    ),
    OpenToBackend(session="id", epoch=1, route="chat", path="/", client=ClientAddress(address="")),
    OpenToBackend(
        session="id",
        epoch=MAX_SEQ,
        route="chat",
        path="/a b",
        query="q=1",
        host="example.com",
        origin="https://example.com",
        subprotocol="mqtt",
        client=ClientAddress(address="2001:db8::1", port=65535),
        headers={"cookie": "a=b"},
        claims={"sub": "どや", "groups": ["a", 1, None]},
    ),
    OpenedByBackend(),
    OpenedByBackend(resumed=True, window_messages=7, window_bytes=8),
    CloseBody(code=1000),
    CloseBody(code=4999, reason="é" * 61, report=REPORT),
    RejectBody(code=4000, reason="x" * 1024),
]


@pytest.mark.parametrize("body", BODIES)
def test_body_is_read_as_it_was_written(body: Body) -> None:
    assert type(body).from_json(body.to_json()) == body


def test_loss_report_is_written_as_the_protocol_says() -> None:
    assert json.loads(CloseBody(code=1000, report=REPORT).to_json())["report"] == {
        "upstream": {"settled": 3, "unknown": [4, 6], "never_forwarded": [7, 9]},
        "downstream": {"settled": 0, "unknown": None, "never_forwarded": None},
    }


def test_rungs_are_written_by_name() -> None:
    body = OpenFromClient(receipts=(Rung.ACCEPTED, Rung.REACHED)).to_json()
    assert json.loads(body)["receipts"] == ["accepted", "reached"]


def test_what_an_open_does_not_name_has_its_default() -> None:
    opened = OpenFromClient.from_json(b'{"session": null}')
    assert opened == OpenFromClient()
    assert (opened.window_messages, opened.window_bytes) == (DEFAULT_WINDOW_MESSAGES, DEFAULT_WINDOW_BYTES)


@pytest.mark.parametrize("body", BODIES)
def test_unknown_keys_are_ignored_so_that_newer_peers_can_say_more(body: Body) -> None:
    said = json.loads(body.to_json()) | {"tomorrow": {"any": ["thing"]}}
    assert type(body).from_json(json.dumps(said).encode()) == body


OPENED: dict[str, Any] = {"session": "t", "resumed": True, "settles_at": "reached"}
TO_BACKEND: dict[str, Any] = {"session": "i", "epoch": 1, "route": "r", "path": "/", "client": {"address": "::1"}}


@pytest.mark.parametrize(
    ("body_type", "said", "problem"),
    [
        (OpenFromClient, {"session": 7}, "OPEN body: session: Input should be a valid string"),
        (OpenFromClient, {"session": ""}, "OPEN body: session: String should match pattern"),
        (OpenFromClient, {"session": "a b"}, "OPEN body: session: String should match pattern"),
        (OpenFromClient, {"session": "a" * 257}, "OPEN body: session: String should match pattern"),
        (OpenFromClient, {"receipts": "reached"}, "OPEN body: receipts: Input should be a valid array"),
        (OpenFromClient, {"receipts": [3]}, "OPEN body: receipts.0: expected one of accepted, written, reached"),
        (
            OpenFromClient,
            {"receipts": ["REACHED"]},
            "OPEN body: receipts.0: expected one of accepted, written, reached",
        ),
        (OpenFromClient, {"window_bytes": -1}, "OPEN body: window_bytes: Input should be greater than or equal to 1"),
        (OpenFromClient, {"heartbeat": 20}, "OPEN body: heartbeat: Input should be a valid boolean"),
        (OpenFromClient, {"window_bytes": 0}, "OPEN body: window_bytes: Input should be greater than or equal to 1"),
        (OpenFromClient, {"window_messages": 2**63}, "OPEN body: window_messages: Input should be less than or equal"),
        (OpenFromClient, {"window_messages": 10**400}, "OPEN body: window_messages: "),
        (OpenFromClient, {"window_messages": "1"}, "OPEN body: window_messages: Input should be a valid integer"),
        (OpenFromClient, {"window_messages": 1.5}, "OPEN body: window_messages: Input should be a valid integer"),
        (OpenFromClient, {"window_messages": True}, "OPEN body: window_messages: Input should be a valid integer"),
        (OpenedByGateway, {}, "OPENED body: session: "),
        (OpenedByGateway, OPENED | {"resumed": 1}, "OPENED body: resumed: Input should be a valid boolean"),
        (OpenedByGateway, OPENED | {"settles_at": "delivered"}, "OPENED body: settles_at: expected one of accepted"),
        (OpenedByGateway, OPENED | {"grace_seconds": -1}, "OPENED body: grace_seconds: Input should be greater"),
        (OpenedByGateway, OPENED | {"grace_seconds": float("inf")}, "OPENED body: "),
        (OpenedByGateway, OPENED | {"report": {"upstream": {"settled": 1}}}, "OPENED body: report.downstream: "),
        (
            OpenedByGateway,
            OPENED | {"report": {"upstream": {"settled": 1, "unknown": [3, 2]}, "downstream": {"settled": 0}}},
            "OPENED body: report.upstream.unknown: expected [from, to] with from no greater than to",
        ),
        (
            OpenedByGateway,
            OPENED | {"report": {"upstream": {"settled": 1, "unknown": [3]}, "downstream": {"settled": 0}}},
            "OPENED body: report.upstream.unknown.1: ",
        ),
        (OpenToBackend, TO_BACKEND | {"epoch": 0}, "OPEN body: epoch: Input should be greater than or equal to 1"),
        (OpenToBackend, TO_BACKEND | {"client": {"address": "", "port": 65536}}, "OPEN body: client.port: "),
        (OpenToBackend, TO_BACKEND | {"client": {"address": 5}}, "OPEN body: client.address: "),
        (OpenToBackend, TO_BACKEND | {"headers": {"cookie": 1}}, "OPEN body: headers.cookie: "),
        (OpenToBackend, TO_BACKEND | {"claims": []}, "OPEN body: claims: "),
        (OpenedByBackend, {"resumed": "yes"}, "OPENED body: resumed: Input should be a valid boolean"),
        (CloseBody, {}, "CLOSE body: code: "),
        (CloseBody, {"code": 999}, "CLOSE body: code: Input should be greater than or equal to 1000"),
        (CloseBody, {"code": 5000}, "CLOSE body: code: Input should be less than or equal to 4999"),
        (CloseBody, {"code": 1000, "reason": None}, "CLOSE body: reason: Input should be a valid string"),
        (CloseBody, {"code": 1000, "reason": "é" * 62}, "CLOSE body: reason: expected at most 123 bytes of UTF-8"),
        (RejectBody, {"code": "4000"}, "REJECT body: code: Input should be a valid integer"),
        (RejectBody, {"code": 4000, "reason": "x" * 1025}, "REJECT body: reason: expected at most 1024 bytes of UTF-8"),
    ],
)
def test_wrong_body_is_refused_by_the_name_of_its_key(
    body_type: type[Body], said: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ProtocolViolation) as refusal:
        body_type.from_json(json.dumps(said).encode())
    assert str(refusal.value).startswith(problem)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'"x"', b"\xff", b'{"session": "\xff"}', b"{} {}", b"[" * 60_000, b"NaN"]
)
def test_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match=r"^OPEN body: "):
        OpenFromClient.from_json(body)


json_objects = st.dictionaries(
    st.sampled_from(["session", "receipts", "window_messages", "window_bytes", "else"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4),
).map(lambda value: json.dumps(value).encode())


@given(body=st.binary(max_size=60) | json_objects)
def test_noise_in_a_body_is_a_protocol_violation_or_a_body(body: bytes) -> None:
    try:
        opened = OpenFromClient.from_json(body)
    except ProtocolViolation:
        return
    assert OpenFromClient.from_json(opened.to_json()) == opened
