"""A records backend, alone: what is numbered, acknowledged and told, record by record."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import (
    MORE_FLAG,
    TEXT_FLAG,
    CloseBody,
    OpenedByBackend,
    Record,
    RecordDecoder,
    RecordType,
    RejectBody,
    Rung,
    encode_prefixed_record,
)
from gateway.protocol.sequencing import DataReceiver
from gateway.relay.evidence import Evidence
from gateway.relay.records_backend import OpenedBackend, RecordsBackend
from tests.relay.junction import Stage, message

NOBODY: frozenset[Rung] = frozenset()


class Tried:
    """The side, its stage, and what its backend has heard."""

    def __init__(self, early: list[Record] | None = None, *, window_messages: int = 8) -> None:
        self.stage = Stage(settles_at=Rung.CONSUMED)
        opened = OpenedBackend(
            body=OpenedByBackend(),
            consumed=0,
            decoder=RecordDecoder(),
            early=early or [],
            window_messages=window_messages,
            window_bytes=1 << 20,
            acknowledged=0,
            refused=(),
        )
        sock = self.stage.sock
        self.side = RecordsBackend(sock, self.stage.place, opened, DataReceiver(), Evidence(sock))
        self._decoder = RecordDecoder()
        self.heard: list[Record] = []

    def say(self, record_type: RecordType, flags: int = 0, seq: int = 0, body: bytes = b"") -> None:
        self.stage.peer.sock.sendall(encode_prefixed_record(record_type, flags, seq, body))

    def until_heard(self, count: int) -> list[tuple[Any, ...]]:
        """Waits for so many records; all that have come, as (type, flags, seq, body)."""

        def enough() -> bool:
            data, self.stage.peer.got = bytes(self.stage.peer.got), bytearray()
            self.heard += self._decoder.feed(data)
            return len(self.heard) >= count

        self.stage.until(enough)
        return [(RecordType(record[0]), *record[1:]) for record in self.heard]

    def until_told(self, *expected: tuple[Any, ...]) -> None:
        self.stage.until(lambda: self.stage.junction.told == list(expected))


@pytest.fixture
def make() -> Iterator[Callable[..., Tried]]:
    made: list[Tried] = []

    def begin(*arguments: Any, **options: Any) -> Tried:
        made.append(Tried(*arguments, **options))
        made[-1].side.start(made[-1].stage.now)
        return made[-1]

    yield begin
    for tried in made:
        tried.side.close()
        tried.stage.close()


Make = Callable[..., Tried]


def test_messages_are_numbered_and_entered(make: Make) -> None:
    tried = make()
    tried.side.send([message(b"one", opcode=Opcode.TEXT), message(b"two")], tried.stage.now)
    assert tried.until_heard(2) == [
        (RecordType.DATA, TEXT_FLAG, 1, b"one"),
        (RecordType.DATA, 0, 2, b"two"),
    ]
    assert tried.stage.outgoing.messages == 2


def test_what_the_backend_sends_is_handed_on_once_and_without_gaps(make: Make) -> None:
    tried = make()
    tried.say(RecordType.DATA, MORE_FLAG, 1, b"half")
    tried.say(RecordType.DATA, 0, 1, b"whole")
    tried.say(RecordType.DATA, 0, 1, b"again")
    tried.until_told(("data", Opcode.BINARY, b"half", FIRST), ("data", Opcode.BINARY, b"whole", LAST))
    tried.say(RecordType.DATA, 0, 3, b"a gap")
    tried.stage.until(lambda: ("ended", "FramingViolation") in tried.stage.junction.told)


def test_records_that_came_behind_opened_are_taken_first(make: Make) -> None:
    tried = make([(RecordType.DATA, 0, 1, b"early")])
    tried.until_told(("data", Opcode.BINARY, b"early", FIRST | LAST))


def test_acknowledgements_and_rejections_are_told_and_a_ping_is_answered(make: Make) -> None:
    tried = make()
    tried.say(RecordType.ACK, Rung.CONSUMED, 4)
    tried.say(RecordType.REJECT, 0, 5, RejectBody(code=4000, reason="no").to_json())
    tried.say(RecordType.PING, 0, 9, b"are you there")
    assert tried.until_heard(1) == [(RecordType.PONG, 0, 9, b"are you there")]
    tried.until_told(("settled", Rung.CONSUMED, 4), ("rejected", 5, 4000))


def test_what_has_settled_in_one_turn_is_one_ack(make: Make) -> None:
    tried = make()
    incoming = tried.stage.incoming
    incoming.enter([message(b"x") for _ in range(3)], 0, tried.stage.now)
    for seq in (1, 2, 3):
        incoming.settle(Rung.CONSUMED, seq, tried.stage.now)
        tried.side.downstream_settled(tried.stage.now)
    assert tried.until_heard(1) == [(RecordType.ACK, Rung.CONSUMED, 3, b"")]


def test_more_than_its_window_is_a_fault(make: Make) -> None:
    tried = make(window_messages=2)
    tried.stage.incoming.hold([message(b"held") for _ in range(3)])
    tried.say(RecordType.DATA, 0, 1, b"one more")
    tried.stage.until(lambda: ("ended", "FramingViolation") in tried.stage.junction.told)


def test_the_end_is_told_with_the_last_ack_and_the_report_before_it(make: Make) -> None:
    tried = make()
    tried.stage.incoming.enter([message(b"x")], 0, tried.stage.now)
    tried.stage.incoming.settle(Rung.CONSUMED, 1, tried.stage.now)
    tried.side.finish(1001, "bye", None, tried.stage.now)
    tried.side.finish(1001, "bye", None, tried.stage.now)
    assert tried.side.is_finished
    ack, close = tried.until_heard(2)
    assert ack[:3] == (RecordType.ACK, Rung.CONSUMED, 1)
    assert CloseBody.from_json(close[3]).code == 1001
    tried.stage.until(lambda: tried.stage.peer.ended)
    tried.stage.peer.hang_up()
    tried.until_told(("ended", 1000))


def test_a_connection_that_ends_without_close_is_lost_and_not_the_sessions_end(make: Make) -> None:
    tried = make()
    tried.stage.peer.hang_up()
    tried.until_told(("lost", "BackendVanished"))


@pytest.mark.parametrize(("code", "told"), [(4001, ("taken over",)), (3000, ("ended", 3000)), (1006, ("ended", 1014))])
def test_what_a_close_of_the_backends_means(make: Make, code: int, told: tuple[Any, ...]) -> None:
    tried = make()
    tried.say(RecordType.CLOSE, 0, 0, b'{"code": %d}' % code)
    tried.until_told(told)


def test_the_rungs_below_are_looked_at_only_for_who_wants_to_hear_of_them(make: Make) -> None:
    tried = make()
    tried.side.send([message(b"x")], tried.stage.now)
    tried.until_heard(1)
    assert tried.side.sample(NOBODY) is None
    found = tried.side.sample(frozenset({Rung.REACHED}))
    assert found is not None
    assert found.written == found.reached == tried.side.written


def test_after_a_break_what_is_retained_is_sent_again_with_its_numbers(make: Make) -> None:
    tried = make()
    outgoing = tried.stage.outgoing
    outgoing.enter([message(b"one"), message(b"two")], 100, tried.stage.now)
    assert outgoing.retained is not None
    assert outgoing.ledger is not None
    outgoing.settle(Rung.CONSUMED, 1, tried.stage.now)
    tried.side.replay(tried.stage.now)
    assert tried.until_heard(1) == [(RecordType.DATA, 0, 2, b"two")]
    assert outgoing.metrics.replayed == 1


def test_only_the_answer_to_the_newest_ping_is_told(make: Make) -> None:
    tried = make()
    for _ in range(2):
        tried.side.ask()
    first, second = (body for kind, _, _, body in tried.until_heard(2) if kind == RecordType.PING)
    for body in (first, b"what nobody asked"):
        tried.say(RecordType.PONG, body=body)
    tried.say(RecordType.ACK, Rung.REACHED, 0)
    settled = ("settled", Rung.REACHED, 0)
    tried.until_told(settled)
    tried.say(RecordType.PONG, body=second)
    tried.until_told(settled, ("answered",))


def test_a_full_buffer_holds_back_all_pings_but_one(make: Make) -> None:
    tried = make()
    size = 16 << 20
    tried.side.send([message(bytes(size))], tried.stage.now)
    assert tried.side.is_full
    for _ in range(100):
        tried.side.ask()
    kinds = [record[0] for record in tried.until_heard(size // 65536 + 1)]
    assert kinds.count(RecordType.PING) == 1
