"""The machine by which sessions end: where each step leads, what is impossible, and how long a state lasts."""

import pytest

from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.relay.closing import TRANSITIONS, Closing, State, Step, Tail
from gateway.relay.ending import Ending
from gateway.relay.timers import NEVER
from gateway.relay.vitals import STEPS_OF_A_WINDOW, Vitals
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
    elif state is State.AWAITED:
        closing.begin(Step.BACKEND_ENDED, ending(), now)
        closing.await_client(now, until=now + PATIENCE)
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
            # Who is waited for in vain is gone.
            over = Step.CLIENT_LOST if closing.state is State.AWAITED else Step.OVERDUE
            closing.move(over, closing.deadline)
        assert (closing.state, Step.CLIENT_LOST) in TRANSITIONS or closing.state is State.ENDED


def test_nothing_leads_back() -> None:
    order = [
        State.OPEN,
        State.FINISHING_MESSAGE,
        State.FENCING,
        State.ECHOING,
        State.FLUSHING,
        State.AWAITED,
        State.CLOSING,
        State.ENDED,
    ]
    back = {(before, after) for (before, _), after in TRANSITIONS.items() if order.index(after) < order.index(before)}
    assert back == {
        # A Close of the client's may come while ours is still behind what is held for it.
        (State.FLUSHING, State.ECHOING),
        # It may go before it has all of that, and come back for the rest.
        (State.CLOSING, State.AWAITED),
        (State.AWAITED, State.FLUSHING),
    }


def test_an_application_has_its_time_with_what_its_host_has_and_one_that_is_away_its_own() -> None:
    closing = in_state(State.FLUSHING, 100.0)
    looks = [Vitals(acknowledged=1000)]

    def is_over(now: float) -> bool:
        return closing.due(now, looks, settled=(0, 0), is_held=False, is_consuming=True)

    assert not any(is_over(100.0 + seconds) for seconds in range(int(TOTAL)))
    assert is_over(100.0 + TOTAL)
    closing.await_client(200.0, until=900.0)
    assert not is_over(899.0)
    assert is_over(900.0)


class Peer:
    """What looks find of a session that began to end at 100, taken when they are due."""

    def __init__(self, closing: Closing) -> None:
        self.closing = closing
        self.outstanding = 1000
        self.acknowledged = 0
        self.is_unanswered = False
        self.heard_at = 100.0

    def is_over(self, now: float) -> bool:
        vitals = Vitals(
            acknowledged=self.acknowledged,
            outstanding=self.outstanding,
            is_unanswered=self.is_unanswered,
            since_ack_seconds=now - self.heard_at,
        )
        return self.closing.due(now, [vitals], settled=(0, 0), is_held=False)

    def over_at(self) -> float:
        """How long the state lasts if nothing changes any more."""
        now = 100.0
        while not self.is_over(now):
            now = max(now, self.closing.deadline)
        return now - 100.0


@pytest.mark.parametrize(("close_seconds", "lingers"), [(5.0, 4.0), (0.5, 0.4)])
def test_an_echo_comes_before_a_client_gives_up_where_the_backend_has_everything(
    close_seconds: float, lingers: float
) -> None:
    closing = closing_(close_seconds)
    closing.begin(Step.CLIENT_CLOSED, ending(), 100.0)
    peer = Peer(closing)
    peer.outstanding = 0
    assert peer.over_at() == pytest.approx(lingers)
    assert closing.tail is Tail.NONE


def test_an_echo_waits_for_a_backend_that_goes_on_talking_but_not_for_ever() -> None:
    closing = in_state(State.ECHOING, 100.0)
    for second in range(100, 160):
        assert not closing.due(float(second), [Vitals()], settled=(0, 0, second), is_held=False)
    assert closing.due(160.0, [Vitals()], settled=(0, 0, 160), is_held=False)


ENDS = pytest.mark.parametrize("state", [State.ECHOING, State.FLUSHING, State.CLOSING])


@pytest.mark.parametrize("state", [State.FLUSHING, State.CLOSING])
def test_sides_that_have_everything_have_the_patience_to_end(state: State) -> None:
    peer = Peer(in_state(state, 100.0))
    peer.outstanding = 0
    assert peer.over_at() == pytest.approx(PATIENCE)


@ENDS
def test_a_host_that_acknowledges_nothing_more_has_the_time_to_open_its_window(state: State) -> None:
    peer = Peer(in_state(state, 100.0))
    assert peer.over_at() == pytest.approx(PATIENCE * STEPS_OF_A_WINDOW)
    assert peer.closing.tail is Tail.UNDER_WAY


@ENDS
def test_a_host_that_answers_nothing_at_all_has_the_patience(state: State) -> None:
    peer = Peer(in_state(state, 100.0))
    peer.is_unanswered = True
    assert PATIENCE <= peer.over_at() <= PATIENCE * 1.5
    assert peer.closing.tail is Tail.UNANSWERED


@ENDS
def test_a_probe_that_is_under_way_at_a_look_is_not_an_unanswered_one(state: State) -> None:
    peer = Peer(in_state(state, 100.0))
    now = 100.0
    while not peer.is_over(now):
        now = max(now, peer.closing.deadline)
        peer.is_unanswered = True
        peer.heard_at = now - 0.01
    assert now - 100.0 == pytest.approx(PATIENCE * STEPS_OF_A_WINDOW)


@ENDS
def test_a_state_goes_on_as_long_as_something_is_acknowledged_but_not_for_ever(state: State) -> None:
    peer = Peer(in_state(state, 100.0))
    for second in range(100, 160):
        peer.acknowledged = second
        assert not peer.is_over(float(second))
    peer.acknowledged += 1
    assert peer.is_over(160.0)


def test_what_was_acknowledged_last_counts_and_not_when_the_state_began() -> None:
    peer = Peer(in_state(State.CLOSING, 100.0))
    assert not peer.is_over(101.0)
    peer.acknowledged = 1
    assert not peer.is_over(114.0)
    assert not peer.is_over(128.9)
    assert peer.is_over(129.0)


def test_what_is_held_is_still_under_way() -> None:
    closing = in_state(State.ECHOING, 100.0)
    assert not closing.due(104.0, [Vitals()], settled=(0, 0), is_held=True)
    assert closing.tail is Tail.UNDER_WAY


def test_the_last_message_and_its_fence_share_their_time() -> None:
    closing = closing_()
    closing.begin_drain(ending(), 100.0, amid_message=True, patience_seconds=2.5)
    closing.move(Step.MESSAGE_ENDED, 102.0)
    assert (closing.state, closing.deadline) == (State.FENCING, 102.5)
    assert not Peer(closing).is_over(102.4)
    assert Peer(closing).is_over(102.5)


def pieces(*flags: int) -> list[Piece]:
    return [(int(Opcode.BINARY), b"x", flag) for flag in flags]


def test_during_a_drain_the_rest_of_a_message_goes_on_and_no_new_one_is_begun() -> None:
    closing = in_state(State.FINISHING_MESSAGE)
    assert closing.rest_of_message(pieces(0)) == pieces(0)
    assert closing.state is State.FINISHING_MESSAGE
    assert closing.rest_of_message(pieces(0, LAST, FIRST | LAST, FIRST)) == pieces(0, LAST)
    assert (closing.state, closing.is_draining) == (State.FENCING, True)
    assert closing.rest_of_message(pieces(FIRST | LAST)) == []
