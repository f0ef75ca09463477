"""A backend of a framing, alone: what it enters in its lane, what it tells, and what its socket proves."""

from collections.abc import Callable, Iterator

import pytest

from gateway.protocol.framings import Framing, LinesFraming, MessageNotCarried, StreamFraming
from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.protocol.records import Rung
from gateway.relay.evidence import Evidence
from gateway.relay.framed_backend import FramedBackend
from gateway.relay.ports import UNKNOWN
from tests.relay.junction import Stage, message
from tests.relay.sockets import unix_pair

NOBODY: frozenset[Rung] = frozenset()

Make = Callable[..., tuple[FramedBackend, Stage]]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[tuple[FramedBackend, Stage]] = []

    def begin(framing: Framing, **options: object) -> tuple[FramedBackend, Stage]:
        stage = Stage(overhead_bytes=framing.overhead_bytes, **options)  # type: ignore[arg-type]
        side = FramedBackend(stage.sock, stage.place, framing, Evidence(stage.sock))
        side.start(stage.now)
        made.append((side, stage))
        return made[-1]

    yield begin
    for side, stage in made:
        side.close()
        stage.close()


def test_what_is_sent_is_entered_and_goes_out_framed(make: Make) -> None:
    side, stage = make(LinesFraming(100))
    side.send([message(b"one", opcode=Opcode.TEXT), message(b"two", opcode=Opcode.TEXT)], stage.now)
    stage.until(lambda: stage.peer.got == b"one\ntwo\n")
    assert stage.outgoing.messages == 2
    assert stage.outgoing.ledger is not None
    assert stage.outgoing.ledger.accepted == 2


def test_a_look_finds_what_the_far_host_has_and_settles_nothing(make: Make) -> None:
    side, stage = make(StreamFraming())
    side.send([message(b"12345")], stage.now)
    stage.until(lambda: stage.peer.got == b"12345")
    found = side.sample(NOBODY)
    assert found is not None
    assert (found.written, found.reached, side.written) == (5, 5, 5)
    assert stage.outgoing.ledger is not None
    assert stage.outgoing.ledger.settled == 0
    assert stage.junction.told == []


def test_a_unix_socket_proves_no_more_than_what_was_written(make: Make) -> None:
    side, stage = make(StreamFraming(), pair=unix_pair, settles_at=Rung.WRITTEN)
    side.send([message(b"12345")], stage.now)
    found = side.sample(NOBODY)
    assert found is not None
    assert (found.written, found.reached) == (5, UNKNOWN)


def test_what_comes_before_a_message_that_cannot_be_carried_is_entered_and_sent(make: Make) -> None:
    side, stage = make(LinesFraming(100))
    texts = [message(text, opcode=Opcode.TEXT) for text in (b"good", b"a\nb", b"never")]
    with pytest.raises(MessageNotCarried):
        side.send(texts, stage.now)
    stage.until(lambda: stage.peer.got == b"good\n")
    assert stage.outgoing.messages == 1


def test_what_the_backend_says_is_handed_on_and_its_end_behind_it(make: Make) -> None:
    _, stage = make(LinesFraming(100))
    stage.peer.sock.sendall(b"first\nlast")
    stage.until(lambda: bool(stage.junction.told))
    stage.peer.hang_up()
    stage.until(lambda: stage.junction.told[-1][0] == "ended")
    assert stage.junction.told == [
        ("data", Opcode.TEXT, b"first", FIRST | LAST),
        ("data", Opcode.TEXT, b"last", FIRST | LAST),
        ("ended", 1000),
    ]


def test_a_reset_is_a_fault_and_so_is_a_broken_framing(make: Make) -> None:
    _, stage = make(StreamFraming())
    stage.peer.reset()
    stage.until(lambda: stage.junction.told == [("ended", "BackendReset")])
    _, stage = make(LinesFraming(4))
    stage.peer.sock.sendall(b"too long a line")
    stage.until(lambda: stage.junction.told == [("ended", "FramingViolation")])


def test_finishing_is_a_half_close_and_can_be_told_from_it(make: Make) -> None:
    side, stage = make(StreamFraming())
    before = side.is_finished
    side.finish(1000, "", None, stage.now)
    side.finish(1000, "", None, stage.now)
    assert (before, side.is_finished) == (False, True)
    stage.until(lambda: stage.peer.ended)
    stage.peer.sock.sendall(b"still heard")
    stage.until(lambda: stage.junction.data == b"still heard")


def test_it_cannot_go_on_elsewhere(make: Make) -> None:
    side, _ = make(StreamFraming())
    assert not side.leave()
