"""The machine by which sessions end: where each step leads, what is impossible, and how long a state lasts."""

import pytest

from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.relay.closing import ECHO_LINGER_SECONDS, TRANSITIONS, Closing, State, Step
from gateway.relay.ending import Ending
from gateway.relay.timers import NEVER
from gateway.telemetry.metrics import ClosedBy

PATIENCE = 5.0

CAUSE = {
    State.ECHOING: Step.CLIENT_CLOSED,
    State.FINISHING_MESSAGE: Step.DRAINED_IN_MESSAGE,
    State.FENCING: Step.DRAINED,
    State.FLUSHING: Step.CLOSE_DECIDED,
    State.CLOSING: Step.CLIENT_LOST,
}
"""How each state is come to from OPEN."""


def ending(code: int = 1000) -> Ending:
    return Ending(by=ClosedBy.CLIENT, code=code)


def in_state(state: State, now: float = 0.0) -> Closing:
    closing = Closing()
    if state is State.ENDED:
        closing.begin(Step.CLIENT_LOST, ending(), now, patience_seconds=PATIENCE)
        closing.move(Step.ALL_GONE, now, patience_seconds=PATIENCE)
    elif state is not State.OPEN:
        closing.begin(CAUSE[state], ending(), now, patience_seconds=PATIENCE)
    assert closing.state is state
    return closing


def test_the_first_cause_wins() -> None:
    closing = in_state(State.ECHOING)
    closing.begin(Step.BACKEND_ENDED, ending(1014), 1.0, patience_seconds=PATIENCE)
    assert closing.ending == ending(1000)
    assert not closing.is_open


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
def test_a_step_leads_where_the_table_says_and_else_is_impossible(state: State, step: Step) -> None:
    closing = in_state(state)
    after = TRANSITIONS.get((state, step))
    if after is None:
        with pytest.raises(RuntimeError, match=f"{step.name} is impossible in state {state.name}"):
            closing.move(step, 1.0, patience_seconds=PATIENCE)
        assert closing.state is state
    else:
        assert closing.move(step, 1.0, patience_seconds=PATIENCE) is (after is not state)
        assert closing.state is after


def test_every_state_leads_to_the_end_by_time_and_the_loss_of_both_sides() -> None:
    for state in State:
        closing = in_state(state)
        while closing.state not in (State.OPEN, State.CLOSING, State.ENDED):
            assert closing.deadline < NEVER
            closing.move(Step.OVERDUE, closing.deadline, patience_seconds=PATIENCE)
        assert (closing.state, Step.CLIENT_LOST) in TRANSITIONS or closing.state is State.ENDED


def test_nothing_leads_back() -> None:
    order = [
        State.OPEN,
        State.FINISHING_MESSAGE,
        State.FENCING,
        State.ECHOING,
        State.FLUSHING,
        State.CLOSING,
        State.ENDED,
    ]
    back = {(before, after) for (before, _), after in TRANSITIONS.items() if order.index(after) < order.index(before)}
    # A Close of the client's may come while ours is still behind what is held for it.
    assert back == {(State.FLUSHING, State.ECHOING)}


def test_an_echo_does_not_wait_for_long_and_less_where_less_is_configured() -> None:
    assert in_state(State.ECHOING, 100.0).deadline == 100.0 + ECHO_LINGER_SECONDS
    closing = Closing()
    closing.begin(Step.CLIENT_CLOSED, ending(), 100.0, patience_seconds=0.05)
    assert closing.deadline == 100.05


def test_the_last_message_and_its_fence_share_their_time() -> None:
    closing = in_state(State.FINISHING_MESSAGE, 100.0)
    closing.move(Step.MESSAGE_ENDED, 104.0, patience_seconds=PATIENCE)
    assert (closing.state, closing.deadline) == (State.FENCING, 105.0)


@pytest.mark.parametrize("state", [State.FLUSHING, State.CLOSING])
def test_what_moves_is_not_due(state: State) -> None:
    closing = in_state(state, 100.0)

    def due(now: float, taken: int, *, is_moving: bool = True) -> bool:
        return closing.due(now, progress=(taken, 0), is_moving=is_moving, patience_seconds=PATIENCE)

    assert not due(104.9, 0)
    assert not due(105.0, 10)
    assert not due(109.9, 10)
    assert due(110.0, 10)
    assert due(110.0, 20, is_moving=False)


def test_what_is_a_matter_of_time_is_due_whatever_moves() -> None:
    closing = in_state(State.FENCING, 100.0)
    assert closing.due(105.0, progress=(10, 10), is_moving=True, patience_seconds=PATIENCE)


def pieces(*flags: int) -> list[Piece]:
    return [(int(Opcode.BINARY), b"x", flag) for flag in flags]


def test_during_a_drain_the_rest_of_a_message_goes_on_and_no_new_one_is_begun() -> None:
    closing = in_state(State.FINISHING_MESSAGE)
    assert closing.rest_of_message(pieces(0)) == pieces(0)
    assert closing.state is State.FINISHING_MESSAGE
    assert closing.rest_of_message(pieces(0, LAST, FIRST | LAST, FIRST)) == pieces(0, LAST)
    assert (closing.state, closing.is_draining) == (State.FENCING, True)
    assert closing.rest_of_message(pieces(FIRST | LAST)) == []
