"""The test vectors of docs/protocol.md hold for our own records: what another implementation may rely on."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ProtocolViolation
from gateway.protocol.records import (
    AuthByGateway,
    AuthFromClient,
    CloseBody,
    OpenedByBackend,
    OpenedByGateway,
    OpenFromClient,
    OpenToBackend,
    RecordDecoder,
    RecordType,
    RejectBody,
    encode_prefixed_record,
    encode_record,
    parse_record,
)

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs" / "vectors" / "records.json").read_text(encoding="utf-8")
)

Body = (
    OpenFromClient
    | OpenToBackend
    | OpenedByGateway
    | OpenedByBackend
    | CloseBody
    | RejectBody
    | AuthFromClient
    | AuthByGateway
)

BODIES: dict[tuple[str, RecordType], type[Body]] = {
    ("websocket", RecordType.OPEN): OpenFromClient,
    ("tcp", RecordType.OPEN): OpenToBackend,
    ("websocket", RecordType.OPENED): OpenedByGateway,
    ("tcp", RecordType.OPENED): OpenedByBackend,
    ("websocket", RecordType.CLOSE): CloseBody,
    ("tcp", RecordType.CLOSE): CloseBody,
    ("websocket", RecordType.REJECT): RejectBody,
    ("tcp", RecordType.REJECT): RejectBody,
}


def named(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", VECTORS[kind], ids=lambda vector: vector["name"])


@named("valid")
def test_valid_records_are_encoded_and_decoded_to_the_byte(vector: dict[str, Any]) -> None:
    body = bytes.fromhex(vector["body_hex"])
    record = (vector["type"], vector["flags"], vector["seq"], body)
    hops = 0
    if "websocket_hex" in vector:
        hops += 1
        assert encode_record(*record).hex() == vector["websocket_hex"]
        assert parse_record(bytes.fromhex(vector["websocket_hex"])) == record
    if "tcp_hex" in vector:
        hops += 1
        assert encode_prefixed_record(*record).hex() == vector["tcp_hex"]
        decoder = RecordDecoder()
        assert decoder.feed(bytes.fromhex(vector["tcp_hex"])) == [record]
        assert decoder.error is None
    assert hops
    for hop in ("websocket", "tcp"):
        body_type = BODIES.get((hop, RecordType(vector["type"])))
        if vector["type"] == RecordType.AUTH:
            body_type = AuthFromClient if b'"token"' in body else AuthByGateway
        if body_type is not None and f"{hop}_hex" in vector:
            assert body_type.from_json(body_type.from_json(body).to_json()) == body_type.from_json(body)


@named("invalid")
def test_invalid_records_are_refused_with_the_reason(vector: dict[str, Any]) -> None:
    if "websocket_hex" in vector:
        with pytest.raises(ProtocolViolation, match=vector["because"]):
            parse_record(bytes.fromhex(vector["websocket_hex"]))
    else:
        decoder = RecordDecoder()
        assert decoder.feed(bytes.fromhex(vector["tcp_hex"])) == []
        assert decoder.error is not None
        assert vector["because"] in str(decoder.error)


@named("invalid_bodies")
def test_invalid_bodies_are_refused_naming_the_key(vector: dict[str, Any]) -> None:
    body_type = BODIES["websocket", RecordType[vector["type"]]]
    with pytest.raises(ProtocolViolation, match=vector["because"]):
        body_type.from_json(vector["body"].encode())
