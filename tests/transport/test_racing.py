"""Racing: head starts, failures, losers, and that nothing is left behind."""

import socket
from collections.abc import Mapping

import pytest
import trio
import trio.testing

from gateway.config.addresses import parse_endpoint
from gateway.telemetry.metrics import DialOutcome
from gateway.transport.balancing import EndpointState
from gateway.transport.channel import Channel
from gateway.transport.racing import HEAD_START_SECONDS, NOT_IN_TIME, AttemptFailed, Race

A, B, C = (EndpointState(parse_endpoint(f"tcp://{name}:9000")) for name in "abc")
LONG = 1000.0


class Course:
    """Each address takes so long to connect, or fails after so long: a negative time."""

    def __init__(self, seconds: Mapping[EndpointState, float]) -> None:
        self.seconds = seconds
        self.began: dict[EndpointState, float] = {}
        self.channels: list[Channel] = []

    async def connect(self, state: EndpointState) -> Channel:
        self.began[state] = trio.current_time()
        seconds = self.seconds[state]
        await trio.sleep(abs(seconds))
        if seconds < 0:
            raise AttemptFailed(DialOutcome.REFUSED, "Connection refused")
        self.channels.append(Channel(socket.socket()))
        return self.channels[-1]

    async def run(self, *order: EndpointState, deadline: float = LONG) -> Race:
        race = Race()
        await race.run(order, self.connect, deadline=deadline)
        for state in order:
            assert state.active == int(state is race.winner)
            state.active = 0
        assert [channel for channel in self.channels if not channel.closed] == [race.channel] * (
            race.winner is not None
        )
        if race.channel is not None:
            race.channel.close()
        return race


async def test_who_connects_within_its_head_start_runs_alone(autojump_clock: trio.testing.MockClock) -> None:
    course = Course({A: 0.2, B: 0.0})
    race = await course.run(A, B)
    assert (race.winner, race.failed, race.outpaced) == (A, {}, [])
    assert course.began == {A: 0}


async def test_who_is_slow_is_run_against_and_may_still_win(autojump_clock: trio.testing.MockClock) -> None:
    course = Course({A: 0.4, B: 3.0, C: 3.0})
    race = await course.run(A, B, C)
    assert (race.winner, race.outpaced) == (A, [])
    assert course.began == {A: 0, B: HEAD_START_SECONDS}


async def test_who_had_a_head_start_and_lost_is_outpaced_and_who_had_none_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    race = await Course({A: LONG, B: 0.3, C: LONG}).run(A, B, C)
    assert (race.winner, race.outpaced, race.failed) == (B, [A], {})


async def test_a_failure_gives_the_next_its_turn_at_once(autojump_clock: trio.testing.MockClock) -> None:
    course = Course({A: -0.1, B: -0.1, C: 0.1})
    race = await course.run(A, B, C)
    assert (race.winner, set(race.failed)) == (C, {A, B})
    assert course.began == pytest.approx({A: 0, B: 0.1, C: 0.2})


async def test_without_a_winner_all_have_failed_each_by_its_own_fault(autojump_clock: trio.testing.MockClock) -> None:
    race = await Course({A: LONG, B: -0.1}).run(A, B, deadline=5)
    assert trio.current_time() == 5
    assert race.winner is None
    assert {state: (failure.outcome, str(failure)) for state, failure in race.failed.items()} == {
        A: (DialOutcome.TIMED_OUT, NOT_IN_TIME),
        B: (DialOutcome.REFUSED, "Connection refused"),
    }


async def test_two_that_connect_in_one_turn_are_one_winner(autojump_clock: trio.testing.MockClock) -> None:
    course = Course({A: 1.0, B: 1.0 - HEAD_START_SECONDS})
    race = await course.run(A, B)
    assert race.winner in (A, B)


async def test_who_wins_in_the_turn_in_which_the_dial_is_given_up_is_in_the_hands_of_who_gave_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    course = Course({A: 0.1})
    with trio.CancelScope() as scope:
        race = Race()

        async def connect(state: EndpointState) -> Channel:
            channel = await course.connect(state)
            scope.cancel()  # as when the client goes away in the very turn in which its backend answers
            return channel

        await race.run([A], connect, deadline=LONG)
        assert (race.winner, race.channel, A.active) == (A, course.channels[0], 1)
        assert race.channel is not None
        race.channel.close()
        A.active = 0


async def test_a_fault_in_one_attempt_closes_what_another_has_won(autojump_clock: trio.testing.MockClock) -> None:
    course = Course({A: 1.0, B: 0.5})

    async def connect(state: EndpointState) -> Channel:
        channel = await course.connect(state)
        if state is B:
            await trio.lowlevel.checkpoint()
            return channel
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        raise ZeroDivisionError

    course.seconds = {A: 0.5, B: 0.5}
    with pytest.raises(ExceptionGroup):
        await Race().run([A, B], connect, deadline=LONG)
    assert all(channel.closed for channel in course.channels[1:])
    assert (A.active, B.active) == (0, 0)
    course.channels[0].close()


async def test_an_address_alone_runs_in_the_task_that_dials(autojump_clock: trio.testing.MockClock) -> None:
    dialling = trio.lowlevel.current_task()
    course = Course({A: 0.4})

    async def connect(state: EndpointState) -> Channel:
        assert trio.lowlevel.current_task() is dialling
        return await course.connect(state)

    race = Race()
    await race.run([A], connect, deadline=LONG)
    assert (race.winner, race.failed, race.outpaced, A.active) == (A, {}, [], 1)
    A.active = 0
    course.channels[0].close()


async def test_an_address_alone_that_fails_or_is_late_has_failed(autojump_clock: trio.testing.MockClock) -> None:
    failed = await Course({A: -0.1}).run(A)
    assert (failed.winner, str(failed.failed[A])) == (None, "Connection refused")
    late = await Course({A: LONG}).run(A, deadline=trio.current_time() + 5)
    assert (late.winner, str(late.failed[A])) == (None, NOT_IN_TIME)
