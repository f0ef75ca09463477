"""What a lane holds back, and what it forgets of it when no new message is to begin."""

import pytest

from gateway.protocol.frames import FIRST, LAST, Opcode, Piece
from gateway.relay.lane import Lane
from gateway.telemetry.metrics import RouteMetrics

WHOLE = FIRST | LAST
BINARY = int(Opcode.BINARY)


def pieces(*flags: int) -> list[Piece]:
    return [(BINARY, bytes([index]), flag) for index, flag in enumerate(flags)]


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
    lane = Lane(RouteMetrics("test").downstream, None)
    lane.hold(pieces(*held))
    assert lane.drop_unfinished() is has_end
    assert lane.held == pieces(*held)[:kept]
    assert lane.held_bytes == kept
