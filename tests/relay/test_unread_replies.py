"""Replies go out only while they are taken: whoever asks for more than it reads makes us hold a bounded amount."""

from collections.abc import Iterator

import pytest

from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import Opcode
from gateway.protocol.records import RecordType, RejectBody, Rung, encode_prefixed_record
from gateway.relay.endpoint import REPLIES_WITHHELD
from gateway.relay.plain_client import PlainClient
from tests.relay import test_records_backend, test_records_client
from tests.relay.junction import Stage, message

HELD_BYTES = 512 * 1024
"""The high mark, what one read may ask for, and what the side takes itself, with room to spare."""

ASKED_BYTES = 64 << 20
"""More than both kernels take of it."""

TIMES = 20_000


def flood(stage: Stage, data: bytes) -> int:
    """Sends that again and again, and reads nothing, until it is not read any more; how many bytes went out."""
    stage.peer.reads = False
    sent = stalled = 0
    rest = memoryview(data)
    while stalled < 20 and sent < ASKED_BYTES:
        try:
            taken = stage.peer.sock.send(rest)
        except BlockingIOError:
            stalled += 1
        else:
            stalled = 0
            sent += taken
            rest = rest[taken:] or memoryview(data)
        stage.settle()
        assert stage.tab.used < HELD_BYTES
    return sent


@pytest.fixture
def client() -> Iterator[test_records_client.Tried]:
    tried = test_records_client.Tried(frozenset({Rung.ACCEPTED, Rung.WRITTEN, Rung.REACHED}))
    tried.open()
    yield tried
    tried.side.close()
    tried.stage.close()


@pytest.fixture
def backend() -> Iterator[test_records_backend.Tried]:
    tried = test_records_backend.Tried()
    tried.side.start(tried.stage.now)
    yield tried
    tried.side.close()
    tried.stage.close()


def test_pongs_to_a_records_client(client: test_records_client.Tried) -> None:
    assert flood(client.stage, client.ws.send([message(bytes(125), opcode=Opcode.PING)] * 500)) < ASKED_BYTES
    assert not client.side.endpoint.is_reading


def test_pongs_to_a_plain_client() -> None:
    stage = Stage()
    side = PlainClient(stage.sock, stage.place, WebSocketConnection(client=False))
    side.start(b"", stage.now)
    pings = WebSocketConnection(client=True).send([message(bytes(125), opcode=Opcode.PING)] * 500)
    assert flood(stage, pings) < ASKED_BYTES
    assert not side.endpoint.is_reading
    side.close()
    stage.close()


def test_pongs_to_a_backend(backend: test_records_backend.Tried) -> None:
    assert flood(backend.stage, encode_prefixed_record(RecordType.PING, 0, 0, bytes(64)) * 500) < ASKED_BYTES
    assert not backend.side.endpoint.is_reading


def test_acks_and_receipts_to_a_client_are_as_good_as_one_once_it_reads(client: test_records_client.Tried) -> None:
    stage, side = client.stage, client.side
    stage.peer.reads = False
    while not side.endpoint.is_full:
        side.deliver([message(bytes(60_000))], stage.now, fence=False)
    stage.outgoing.settle(Rung.CONSUMED, stage.outgoing.messages, stage.now)
    before = stage.tab.used
    for seq in range(1, TIMES + 1):
        stage.incoming.enter([message(b"x")], 0, stage.now)
        stage.incoming.settle(Rung.CONSUMED, seq, stage.now)
        side.upstream_advanced(stage.now)
        if not seq % 100:
            stage.pump.turn()
    assert stage.tab.used <= before
    stage.peer.reads = True
    stage.until(lambda: any(record[0] == RecordType.ACK for record in client.until_heard(0)))
    acks = [record[2] for record in client.heard if record[0] == RecordType.ACK]
    assert acks == [TIMES]


def test_acks_to_a_backend_are_as_good_as_one_once_it_reads(backend: test_records_backend.Tried) -> None:
    stage, side = backend.stage, backend.side
    stage.peer.reads = False
    while not side.endpoint.is_full:
        side.send([message(bytes(60_000))], stage.now)
    stage.outgoing.settle(Rung.CONSUMED, stage.outgoing.messages, stage.now)
    before = stage.tab.used
    for seq in range(1, TIMES + 1):
        stage.incoming.enter([message(b"x")], 0, stage.now)
        stage.incoming.settle(Rung.CONSUMED, seq, stage.now)
        side.downstream_settled(stage.now)
        if not seq % 100:
            stage.pump.turn()
    assert stage.tab.used <= before
    stage.peer.reads = True
    stage.until(lambda: any(record[0] == RecordType.ACK for record in backend.until_heard(0)))
    assert [record[2] for record in backend.heard if record[0] == RecordType.ACK] == [TIMES]


def test_a_backend_that_does_not_read_its_rejections_is_not_read(backend: test_records_backend.Tried) -> None:
    stage, side = backend.stage, backend.side
    stage.peer.reads = False
    while not side.endpoint.is_full:
        side.send([message(bytes(60_000))], stage.now)
    for seq in range(1, REPLIES_WITHHELD + 2):
        assert side.endpoint.is_reading
        side.downstream_rejected(seq, RejectBody(code=4000, reason="no"), stage.now)
    assert not side.endpoint.is_reading
    stage.peer.reads = True
    stage.until(lambda: side.endpoint.is_reading)
    records = backend.until_heard(0)
    stage.until(lambda: sum(r[0] == RecordType.REJECT for r in backend.until_heard(len(records))) > REPLIES_WITHHELD)
