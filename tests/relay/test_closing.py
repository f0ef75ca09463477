"""The machine by which sessions end: where each step leads, what is impossible, and how long a state lasts."""

import pytest

from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.relay.closing import ECHO_LINGER_SECONDS, TRANSITIONS, Closing, State, Step, Tail
from gateway.relay.ending import Ending
from gateway.relay.timers import NEVER
from gateway.relay.vitals import STEPS_OF_A_WINDOW
from gateway.telemetry.metrics import ClosedBy

PATIENCE = 5.0
TOTAL = 60.0

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


def closing_(close_seconds: float = PATIENCE) -> Closing:
    return Closing(close_seconds=close_seconds, total_seconds=TOTAL)


def in_state(state: State, now: float = 0.0) -> Closing:
    closing = closing_()
    if state is State.ENDED:
        closing.begin(Step.CLIENT_LOST, ending(), now)
        closing.move(Step.ALL_GONE, now)
    elif state is not State.OPEN:
        closing.begin(CAUSE[state], ending(), now)
    assert closing.state is state
    return closing


def test_the_first_cause_wins() -> None:
    closing = in_state(State.ECHOING)
    closing.begin(Step.BACKEND_ENDED, ending(1014), 1.0)
    assert closing.ending == ending(1000)
    assert not closing.is_open


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
def test_a_step_leads_where_the_table_says_and_else_is_impossible(state: State, step: Step) -> None:
    closing = in_state(state)
    after = TRANSITIONS.get((state, step))
    if after is None:
        with pytest.raises(RuntimeError, match=f"{step.name} is impossible in state {state.name}"):
            closing.move(step, 1.0)
        assert closing.state is state
    else:
        assert closing.move(step, 1.0) is (after is not state)
        assert closing.state is after


def test_every_state_leads_to_the_end_by_time_and_the_loss_of_both_sides() -> None:
    for state in State:
        closing = in_state(state)
        while closing.state not in (State.OPEN, State.CLOSING, State.ENDED):
            assert closing.deadline < NEVER
            closing.move(Step.OVERDUE, closing.deadline)
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


def due(closing: Closing, now: float, acknowledged: int = 0, tail: Tail = Tail.MOVING) -> bool:
    return closing.due(now, progress=(acknowledged,), tail=tail)


def over_at(closing: Closing, tail: Tail, *, step: float = 0.05) -> float:
    """When the state is over, nothing being acknowledged meanwhile, of a session that began to end at 100."""
    looks = (100.0 + number * step for number in range(10_000))
    return next(now for now in looks if due(closing, now, tail=tail)) - 100.0


@pytest.mark.parametrize(("close_seconds", "lingers"), [(5.0, ECHO_LINGER_SECONDS), (0.5, 0.5)])
def test_an_echo_does_not_wait_for_long_where_the_backend_has_everything(close_seconds: float, lingers: float) -> None:
    closing = closing_(close_seconds)
    closing.begin(Step.CLIENT_CLOSED, ending(), 100.0)
    assert over_at(closing, Tail.NONE) == pytest.approx(lingers, abs=0.06)


@pytest.mark.parametrize("state", [State.ECHOING, State.FLUSHING, State.CLOSING])
def test_a_state_in_which_nothing_is_acknowledged_is_over_when_the_patience_is(state: State) -> None:
    assert over_at(in_state(state, 100.0), Tail.MOVING) == pytest.approx(PATIENCE, abs=0.06)


@pytest.mark.parametrize("state", [State.ECHOING, State.FLUSHING, State.CLOSING])
def test_a_host_whose_window_is_closed_has_the_time_to_open_it(state: State) -> None:
    assert over_at(in_state(state, 100.0), Tail.WAITING) == pytest.approx(PATIENCE * STEPS_OF_A_WINDOW, abs=0.06)


@pytest.mark.parametrize("state", [State.ECHOING, State.FLUSHING, State.CLOSING])
def test_a_state_goes_on_as_long_as_something_is_acknowledged_but_not_for_ever(state: State) -> None:
    closing = in_state(state, 100.0)
    for second in range(100, 160):
        assert not due(closing, float(second), acknowledged=second)
    assert due(closing, 160.0, acknowledged=160)


def test_what_was_acknowledged_last_counts_and_not_when_the_state_began() -> None:
    closing = in_state(State.CLOSING, 100.0)
    assert not due(closing, 101.0, acknowledged=1)
    assert not due(closing, 104.0, acknowledged=2)
    assert not due(closing, 108.9, acknowledged=2)
    assert due(closing, 109.0, acknowledged=2)


def test_the_last_message_and_its_fence_share_their_time() -> None:
    closing = closing_()
    closing.begin_drain(ending(), 100.0, amid_message=True, patience_seconds=2.5)
    closing.move(Step.MESSAGE_ENDED, 102.0)
    assert (closing.state, closing.deadline) == (State.FENCING, 102.5)
    assert not due(closing, 102.4)
    assert due(closing, 102.5, acknowledged=5)


def pieces(*flags: int) -> list[Piece]:
    return [(int(Opcode.BINARY), b"x", flag) for flag in flags]


def test_during_a_drain_the_rest_of_a_message_goes_on_and_no_new_one_is_begun() -> None:
    closing = in_state(State.FINISHING_MESSAGE)
    assert closing.rest_of_message(pieces(0)) == pieces(0)
    assert closing.state is State.FINISHING_MESSAGE
    assert closing.rest_of_message(pieces(0, LAST, FIRST | LAST, FIRST)) == pieces(0, LAST)
    assert (closing.state, closing.is_draining) == (State.FENCING, True)
    assert closing.rest_of_message(pieces(FIRST | LAST)) == []
