"""A records client, alone: OPENED, numbers, receipts, and a connection that is not the session."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.memory.account import Charge
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import (
    AuthByGateway,
    CloseBody,
    OpenedByGateway,
    Record,
    RecordAssembler,
    RecordType,
    RejectBody,
    Rung,
    encode_record,
    parse_record,
)
from gateway.protocol.sequencing import DataReceiver, DataSender
from gateway.relay.endpoint import REPLIES_WITHHELD
from gateway.relay.records_client import Numbering, RecordsClient
from tests.relay.junction import Stage, message

WHOLE = FIRST | LAST


class Tried:
    """The side behind its OPEN, its stage, and what its client has heard."""

    def __init__(self, receipts: frozenset[Rung] = frozenset()) -> None:
        self.stage = Stage(settles_at=Rung.CONSUMED)
        self.numbering = Numbering(
            receiver=DataReceiver(), sender=DataSender(), told_later=Charge(self.stage.tab), receipts=receipts
        )
        self.ws = WebSocketConnection(client=True)
        self.side = RecordsClient(
            self.stage.sock, self.stage.place, WebSocketConnection(client=False), self.numbering, RecordAssembler()
        )
        self.heard: list[Record] = []

    def open(self) -> None:
        retained = self.stage.outgoing.retained
        assert retained is not None
        body = OpenedByGateway(session="x" * 43, resumed=False, settles_at=Rung.CONSUMED)
        self.side.open(body, self.stage.now)
        self.side.start(b"", self.stage.now)

    def say(self, record_type: RecordType, flags: int = 0, seq: int = 0, body: bytes = b"") -> None:
        self.stage.peer.sock.sendall(self.ws.send([message(encode_record(record_type, flags, seq, body))]))

    def until_heard(self, count: int) -> list[tuple[Any, ...]]:
        """Waits for so many records behind OPENED; all that have come."""

        def enough() -> bool:
            data, self.stage.peer.got = bytes(self.stage.peer.got), bytearray()
            self.heard += [parse_record(piece[1]) for piece in self.ws.receive_data(data) if piece[0] < Opcode.CLOSE]
            return len(self.heard) > count

        self.stage.until(enough)
        assert self.heard[0][0] == RecordType.OPENED
        return [(RecordType(record[0]), *record[1:]) for record in self.heard[1:]]

    def until_told(self, *expected: tuple[Any, ...]) -> None:
        self.stage.until(lambda: self.stage.junction.told == list(expected))


Make = Callable[..., Tried]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Tried] = []

    def begin(receipts: frozenset[Rung] = frozenset(), *, opened: bool = True) -> Tried:
        made.append(Tried(receipts))
        if opened:
            made[-1].open()
        return made[-1]

    yield begin
    for tried in made:
        tried.side.close()
        tried.stage.close()


def test_messages_go_out_numbered_and_come_in_once(make: Make) -> None:
    tried = make()
    tried.side.deliver([message(b"one"), message(b"two")], tried.stage.now, fence=True)
    assert tried.until_heard(2) == [(RecordType.DATA, 0, 1, b"one"), (RecordType.DATA, 0, 2, b"two")]
    for _ in range(2):
        tried.say(RecordType.DATA, 0, 1, b"up")
    tried.until_told(("data", Opcode.BINARY, b"up", WHOLE))
    tried.stage.until(lambda: tried.stage.incoming.metrics.duplicates == 1)


def test_what_is_retained_is_sent_again_behind_opened(make: Make) -> None:
    tried = make(opened=False)
    tried.stage.outgoing.enter([message(b"missed")], 0, tried.stage.now)
    tried.open()
    assert tried.until_heard(1) == [(RecordType.DATA, 0, 1, b"missed")]
    assert tried.stage.outgoing.metrics.replayed == 1


def test_what_the_backend_settled_in_one_turn_is_one_ack_and_rungs_below_are_told_to_who_asked(make: Make) -> None:
    tried = make(frozenset({Rung.ACCEPTED}))
    for seq in (1, 2, 3):
        tried.say(RecordType.DATA, 0, seq, b"x")
    tried.stage.until(lambda: len(tried.stage.junction.told) == 3)
    tried.stage.incoming.enter([message(b"x") for _ in range(3)], 0, tried.stage.now)
    for seq in (1, 2):
        tried.stage.incoming.settle(Rung.CONSUMED, seq, tried.stage.now)
        tried.side.upstream_advanced(tried.stage.now)
    tried.stage.until(lambda: len(tried.until_heard(2)) >= 2)
    acks = [(record[1], record[2]) for record in tried.until_heard(2)]
    assert acks[-2:] in ([(Rung.CONSUMED, 2), (Rung.ACCEPTED, 3)], [(Rung.ACCEPTED, 3), (Rung.CONSUMED, 2)])


def test_a_rejection_is_told_and_kept_until_an_ack_covers_it(make: Make) -> None:
    tried = make()
    tried.stage.incoming.enter([message(b"x")], 0, tried.stage.now)
    tried.side.upstream_rejected(1, RejectBody(code=4000, reason="no"), tried.stage.now)
    assert tried.until_heard(1)[0][:3] == (RecordType.REJECT, 0, 1)
    assert list(tried.numbering.rejects) == [1]
    tried.stage.incoming.reject(1, RejectBody(code=4000, reason="no"))
    tried.side.upstream_advanced(tried.stage.now)
    tried.until_heard(2)
    assert tried.numbering.rejects == {}


def test_acknowledgements_and_rejections_of_ours_are_told(make: Make) -> None:
    tried = make()
    tried.say(RecordType.ACK, Rung.CONSUMED, 4)
    tried.say(RecordType.REJECT, 0, 5, RejectBody(code=4000, reason="no").to_json())
    tried.until_told(("settled", Rung.CONSUMED, 4), ("rejected", 5, 4000))


def test_more_unsettled_than_the_window_is_a_fault(make: Make) -> None:
    tried = make()
    for seq in range(1, 10):
        tried.say(RecordType.DATA, 0, seq, b"x")
    tried.stage.until(lambda: any(entry[:2] == ("failed", "PolicyViolation") for entry in tried.stage.junction.told))


def test_a_close_frame_without_close_ends_the_connection_and_not_the_session(make: Make) -> None:
    tried = make()
    tried.stage.peer.sock.sendall(tried.ws.close(1001, "going away"))
    tried.until_told(("detached", 1001))
    tried.stage.until(lambda: tried.side.is_gone)


def test_a_close_record_ends_the_session(make: Make) -> None:
    tried = make()
    tried.say(RecordType.CLOSE, 0, 0, b'{"code": 3000, "reason": "done"}')
    tried.until_told(("closed", 3000, "done"))


def test_a_connection_that_is_lost_is_detached(make: Make) -> None:
    tried = make()
    tried.stage.peer.reset()
    tried.until_told(("detached", 1006))
    assert tried.side.is_gone


def test_the_end_of_the_session_is_told_in_a_record_and_in_the_frame(make: Make) -> None:
    tried = make()
    tried.side.send_close(3001, "over", None, tried.stage.now)
    close = tried.until_heard(1)[0]
    assert CloseBody.from_json(close[3]).code == 3001
    assert tried.ws.close_received is not None
    assert tried.ws.close_received.code == 3001


def test_no_fence_is_raised_for_its_acks_come_by_themselves(make: Make) -> None:
    assert not make().side.fence(1000.0)


def test_what_its_credential_comes_to_is_told_once_it_takes_its_replies(make: Make) -> None:
    tried = make()
    tried.stage.peer.reads = False
    while not tried.side.endpoint.is_full:
        tried.side.deliver([message(bytes(60_000))], tried.stage.now, fence=False)
    buffered = tried.side.endpoint.buffered
    for seq in range(1, 2 * REPLIES_WITHHELD):
        tried.side.tell_permission(seq, AuthByGateway(expires_in_seconds=1.0))
    assert tried.side.endpoint.buffered == buffered
    assert not is_read(tried), "who does not take its replies is not read"
    tried.stage.peer.reads = True
    tried.stage.until(lambda: not tried.side.endpoint.is_full)
    tried.side.resume()
    assert is_read(tried)
    records = tried.until_heard(2 * REPLIES_WITHHELD)
    told = [record[2] for record in records if record[0] == RecordType.AUTH]
    assert told == list(range(1, len(told) + 1))
    assert told


def is_read(tried: Tried) -> bool:
    return tried.side.endpoint.is_reading
