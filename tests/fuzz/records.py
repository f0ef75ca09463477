"""Records: a stream that is cut anywhere, the same records one by one, their bodies, and the numbering of DATA."""

from typing import Final, TypeAlias

from gateway.errors import ProtocolViolation
from gateway.protocol.pieces import FIRST, LAST, Piece
from gateway.protocol.records import (
    MAX_BODY_BYTES,
    MAX_SEQ,
    CloseBody,
    LossReport,
    OpenedByBackend,
    OpenedByGateway,
    OpenFromClient,
    OpenToBackend,
    Record,
    RecordDecoder,
    RecordType,
    RejectBody,
    Rung,
    SessionReport,
    encode_prefixed_record,
    encode_record,
    parse_record,
)
from gateway.protocol.sequencing import DataReceiver, DataSender
from tests.fuzz.target import MAX_INPUT_BYTES, Target, split

_Body: TypeAlias = OpenFromClient | OpenToBackend | OpenedByGateway | OpenedByBackend | CloseBody | RejectBody

_BODIES: Final[dict[RecordType, tuple[type[_Body], ...]]] = {
    RecordType.OPEN: (OpenFromClient, OpenToBackend),
    RecordType.OPENED: (OpenedByGateway, OpenedByBackend),
    RecordType.REJECT: (RejectBody,),
    RecordType.CLOSE: (CloseBody,),
}


def check(data: bytes) -> None:
    """Input: a byte that says how to cut, one that says where the connection breaks, then what is read from it."""
    cut, broken_at, wire = data[:1] or b"\0", data[1:2] or b"\0", data[2:]
    decoder, whole = RecordDecoder(), RecordDecoder()
    records = [record for read in split(wire, cut[0]) for record in decoder.feed(read)]
    assert whole.feed(wire) == records
    assert str(decoder.error) == str(whole.error)
    again = b"".join(encode_prefixed_record(*record) for record in records)
    assert wire.startswith(again)
    if decoder.error is None:
        assert decoder.in_record == (len(wire) > len(again))
    for record in records:
        _check_record(record)
    _check_sequence(records, broken_at[0])


def _check_record(record: Record) -> None:
    record_type, _, seq, body = record
    assert seq <= MAX_SEQ
    assert len(body) <= MAX_BODY_BYTES
    message = encode_record(*record)
    if record_type in (RecordType.PING, RecordType.PONG):
        try:
            parse_record(message)
        except ProtocolViolation:
            return
        raise AssertionError("a ping of TCP came through on WebSocket")
    assert parse_record(message) == record
    for body_type in _BODIES.get(RecordType(record_type), ()):
        try:
            said = body_type.from_json(body)
        except ProtocolViolation:
            continue
        assert body_type.from_json(said.to_json()) == said


def _check_sequence(records: list[Record], broken_at: int) -> None:
    """A receiver whose connection broke and that is sent everything again hands on what one without a break does."""
    steady, broken = DataReceiver(message_bytes=300), DataReceiver(message_bytes=300)
    expected, others = steady.receive(records)
    assert others == [record for record in records if record[0] != RecordType.DATA][: len(others)]
    pieces, _ = broken.receive(records[:broken_at])
    broken.interrupt()
    pieces += broken.receive(records)[0]
    assert _joined(pieces) == _joined(expected)
    assert (broken.error and type(broken.error)) == (steady.error and type(steady.error))
    if steady.error is None and not steady.in_message:
        again, others = DataReceiver().receive(RecordDecoder().feed(DataSender().encode_prefixed(expected)))
        assert (_joined(again), others) == (_joined(expected), [])


def _joined(pieces: list[Piece]) -> list[tuple[int, bytes, bool]]:
    """(opcode, payload, whether it ended) of each message."""
    messages: list[tuple[int, bytes, bool]] = []
    for opcode, payload, flags in pieces:
        if flags & FIRST:
            messages.append((opcode, payload, bool(flags & LAST)))
        else:
            kind, begun, ended = messages[-1]
            assert (kind, ended) == (opcode, False)
            messages[-1] = (kind, begun + payload, bool(flags & LAST))
    return messages


_REPORT: Final = SessionReport(upstream=LossReport(settled=1, unknown=(2, 3)), downstream=LossReport(settled=0))
_RECORDS: Final[tuple[Record, ...]] = (
    (RecordType.OPEN, 0, 7, b'{"session":"t","receipts":["reached"],"window_bytes":9,"window_messages":1}'),
    (RecordType.OPEN, 0, 0, b'{"session":"i","epoch":1,"route":"r","path":"/","client":{"address":"::1","port":1}}'),
    (RecordType.OPENED, 0, 0, OpenedByGateway(session="t", resumed=True, settles_at=Rung.REACHED).to_json()),
    (RecordType.DATA, 0, 1, b"binary"),
    (RecordType.DATA, 3, 2, "ど".encode()[:2]),
    (RecordType.DATA, 1, 2, "ど".encode()[2:]),
    (RecordType.ACK, 4, 2, b""),
    (RecordType.REJECT, 0, 3, b'{"code":4000,"reason":"no"}'),
    (RecordType.PING, 0, 5, b"ping"),
    (RecordType.PONG, 0, 5, b"ping"),
    (RecordType.CLOSE, 0, 0, CloseBody(code=1001, reason="bye", report=_REPORT).to_json()),
)

TARGET: Final = Target(
    name="records",
    check=check,
    seeds=tuple(
        bytes((cut, broken_at)) + b"".join(encode_prefixed_record(*record) for record in records)
        for cut in (0, 130, 160, 250)
        for broken_at in (0, 2)
        for records in (_RECORDS, _RECORDS[3:6], _RECORDS[:3], _RECORDS[6:], _RECORDS[3:4] * 3)
    ),
    tokens=(
        encode_prefixed_record(RecordType.DATA, 0, 2, b"next"),
        encode_prefixed_record(RecordType.DATA, 2, 3, b"part"),
        b"\x00\x00\x00\x0a",
        b"\x00\x10\x00\x0a",
        b"\x7f" + b"\xff" * 7,
        b'"window_bytes":',
        b"null",
        b"-1",
        b"[" * 60,
    ),
    # Every 14 bytes may be a record, a tuple with a bytes and an int, in several lists at once; errors of pydantic's.
    peak_bytes=1 << 20 | MAX_INPUT_BYTES * 64,
)
