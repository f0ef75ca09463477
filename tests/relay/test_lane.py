"""What a lane holds back, and what it forgets of it when no new message is to begin."""

from itertools import groupby

import pytest

from gateway.memory.account import Tab
from gateway.memory.costs import GATHERED_BYTES
from gateway.protocol.frames import FIRST, LAST, Opcode, Piece
from gateway.protocol.ledger import Ledger
from gateway.protocol.records import LossReport, Rung
from gateway.relay.lane import LOOK_AHEAD_PIECES, Lane
from gateway.relay.retained import Retained
from gateway.telemetry.metrics import RouteMetrics
from tests.relay.harness import open_tab

WHOLE = FIRST | LAST
BINARY = int(Opcode.BINARY)


def pieces(*flags: int) -> list[Piece]:
    return [(BINARY, bytes([index]), flag) for index, flag in enumerate(flags)]


def joined(pieces: list[Piece]) -> list[Piece]:
    """The same with the pieces of each message made one: how they are cut is the lane's affair."""
    message = 0
    numbered: list[tuple[int, Piece]] = []
    for piece in pieces:
        message += piece[2] & FIRST
        numbered.append((message, piece))
    whole: list[Piece] = []
    for _, group in groupby(numbered, key=lambda item: item[0]):
        parts = [piece for _, piece in group]
        flags = 0
        for part in parts:
            flags |= part[2]
        whole.append((parts[0][0], b"".join(part[1] for part in parts), flags))
    return whole


def test_what_was_dropped_was_never_forwarded() -> None:
    ledger = Ledger(Rung.REACHED, window_messages=2, window_bytes=9, overhead_bytes=None)
    lane = Lane(RouteMetrics("test").downstream, ledger, open_tab())
    lane.enter(pieces(WHOLE, WHOLE), 2, 1.0)
    lane.hold(pieces(WHOLE, FIRST))
    assert lane.report() == LossReport(settled=0, unknown=None, never_forwarded=(1, 2))
    lane.drop_held()
    lane.drop(pieces(LAST, WHOLE, FIRST))
    assert lane.report() == LossReport(settled=0, unknown=None, never_forwarded=(1, 5))
    lane.settle(Rung.REACHED, 1, 1.0)
    lane.settle_to(Rung.WRITTEN, 2, 1.0)
    assert lane.report() == LossReport(settled=1, unknown=(2, 2), never_forwarded=(3, 5))


@pytest.mark.parametrize(("rest", "never"), [((LAST,), None), ((0, LAST, WHOLE), (3, 3))])
def test_of_what_was_dropped_in_its_midst_nobody_knows(rest: tuple[int, ...], never: tuple[int, int] | None) -> None:
    ledger = Ledger(Rung.REACHED, window_messages=2, window_bytes=9, overhead_bytes=None)
    lane = Lane(RouteMetrics("test").downstream, ledger, open_tab())
    lane.enter(pieces(WHOLE, FIRST), 2, 1.0)
    lane.settle(Rung.REACHED, 1, 1.0)
    lane.drop(pieces(*rest))
    assert lane.report() == LossReport(settled=1, unknown=(2, 2), never_forwarded=never)


@pytest.mark.parametrize(
    ("held", "kept", "has_end"),
    [
        ((), 0, False),
        ((WHOLE, WHOLE), 2, True),
        ((FIRST,), 0, False),
        ((FIRST, 0), 0, False),
        ((WHOLE, FIRST, 0), 1, True),
        ((FIRST, LAST, FIRST), 2, True),
        ((0, 0), 2, False),  # of a message that has gone on in part
        ((0, LAST), 2, True),
        ((0, LAST, FIRST, 0), 2, True),
    ],
)
def test_a_message_of_which_only_the_beginning_is_held_is_forgotten(
    held: tuple[int, ...], kept: int, has_end: bool
) -> None:
    lane = Lane(RouteMetrics("test").downstream, None, open_tab())
    lane.hold(pieces(*held))
    assert lane.drop_unfinished() is has_end
    assert joined(lane.held) == joined(pieces(*held)[:kept])
    assert lane.held_bytes == kept


def held_by(tab: Tab, *batches: list[Piece]) -> Lane:
    lane = Lane(RouteMetrics("test").upstream, None, tab)
    for batch in batches:
        lane.hold(batch)
    return lane


def test_fragments_of_a_byte_each_are_held_as_bytes_and_not_as_objects() -> None:
    fragment: Piece = (BINARY, b"x", 0)
    tab = open_tab()
    before = tab.used
    lane = held_by(tab, [(BINARY, b"x", FIRST)], *[[fragment] * 1000] * 100, [(BINARY, b"x", LAST)])
    assert joined(lane.held) == [(BINARY, b"x" * 100_002, WHOLE)]
    assert len(lane.held) <= 100_002 / GATHERED_BYTES + 1
    assert lane.held_messages == 1
    assert int(tab.used - before) <= 1.1 * 100_002
    lane.drop_held()
    assert tab.used == before


def test_empty_messages_are_charged_and_bounded_by_their_number() -> None:
    tab = open_tab()
    before = tab.used
    lane = held_by(tab, [(BINARY, b"", WHOLE)] * LOOK_AHEAD_PIECES)
    assert lane.held_bytes == 0
    assert lane.is_far_ahead
    assert tab.used - before >= 72 * LOOK_AHEAD_PIECES
    assert len(lane.admit_held()) == LOOK_AHEAD_PIECES
    assert tab.used == before


class Looked(bytes):
    """A payload that counts how often anybody asks for its length."""

    asked = 0

    def __len__(self) -> int:
        Looked.asked += 1
        return super().__len__()


def test_what_is_let_go_on_costs_no_look_at_what_stays() -> None:
    ledger = Ledger(Rung.REACHED, window_messages=10, window_bytes=1 << 20, overhead_bytes=0)
    tab = open_tab()
    before = tab.used
    lane = Lane(RouteMetrics("test").upstream, ledger, tab)
    lane.hold([(BINARY, Looked(b"x"), WHOLE)] * 1000)
    for number in range(1, 91):
        Looked.asked = 0
        admitted = lane.admit_held()
        assert len(admitted) == 10
        assert Looked.asked <= 4 * len(admitted)
        assert (lane.held_messages, lane.held_bytes) == (1000 - 10 * number,) * 2
        lane.enter(admitted, 10, 0.0)
        Looked.asked = 0
        assert lane.admit_held() == []
        assert Looked.asked == 0
        lane.settle(Rung.REACHED, 10 * number, 0.0)
    rest = open_tab()
    nothing = rest.used
    held_by(rest, lane.held)
    assert tab.used - before == rest.used - nothing
    assert joined(lane.held) == [(BINARY, b"x", WHOLE)] * 100


@pytest.mark.parametrize("room", [1, 2, 3])
def test_what_stays_is_what_it_would_be_had_it_come_alone(room: int) -> None:
    flags = [FIRST, LAST, WHOLE, FIRST, 0, LAST, FIRST]
    ledger = Ledger(Rung.REACHED, window_messages=room, window_bytes=1 << 20, overhead_bytes=0)
    tab = open_tab()
    before = tab.used
    lane = Lane(RouteMetrics("test").upstream, ledger, tab)
    lane.hold(pieces(*flags))
    admitted = lane.admit_held()
    lone = open_tab()
    nothing = lone.used
    alone = held_by(lone, lane.held)
    assert joined([*admitted, *lane.held]) == joined(pieces(*flags))
    assert sum(piece[2] >> 1 & 1 for piece in admitted) == room
    for name in ("held_messages", "held_bytes", "held_bytes_before_newest"):
        assert getattr(lane, name) == getattr(alone, name), name
    assert tab.used - before == lone.used - nothing


def test_the_runs_of_a_ledger_that_nobody_settles_are_charged() -> None:
    tab = open_tab()
    ledger = Ledger(Rung.REACHED, window_messages=10_000, window_bytes=1 << 20, overhead_bytes=0)
    lane = Lane(RouteMetrics("test").upstream, ledger, tab)
    before = tab.used
    for index in range(1000):
        lane.enter([(BINARY, b"x", WHOLE)], 1, float(index))
    lane.reckon()
    assert tab.used - before > 100 * 1000
    lane.settle(Rung.REACHED, 1000, 1000.0)
    assert tab.used == before


def test_what_is_kept_to_be_sent_again_is_charged_and_joined() -> None:
    tab = open_tab()
    before = tab.used
    retained = Retained(tab, limit_bytes=1 << 20)
    retained.add([(BINARY, b"x", FIRST)])
    for _ in range(10_000):
        retained.add([(BINARY, b"x", 0)])
    retained.add([(BINARY, b"x", LAST), (BINARY, b"", WHOLE)])
    assert joined(retained.pieces) == [(BINARY, b"x" * 10_002, WHOLE), (BINARY, b"", WHOLE)]
    assert 10_002 < tab.used - before < 12_000
    retained.settle(1)
    assert retained.pieces == [(BINARY, b"", WHOLE)]
    retained.settle(2)
    assert tab.used == before
