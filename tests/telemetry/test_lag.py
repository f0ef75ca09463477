"""The sampler measures what holds up the loop, and nothing else."""

from functools import partial

import trio
from trio.testing import MockClock

from gateway.telemetry.lag import sample_lag
from gateway.telemetry.metrics import EVENT_LOOP_LAG_BOUNDS, Histogram


async def test_an_idle_loop_has_no_lag(autojump_clock: MockClock) -> None:
    lag = Histogram(EVENT_LOOP_LAG_BOUNDS)
    with trio.move_on_after(10.1):
        await sample_lag(lag, interval_seconds=0.25)
    assert (lag.count, lag.counts[0], lag.total) == (40, 40, 0.0)


async def test_a_turn_that_holds_up_the_loop_is_seen_as_long_as_it_was(mock_clock: MockClock) -> None:
    lag = Histogram(EVENT_LOOP_LAG_BOUNDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(sample_lag, lag, interval_seconds=0.25))
        await trio.testing.wait_all_tasks_blocked()
        # The clock moves on by 0.75 s without any task having run: that is a turn of this length.
        mock_clock.jump(0.75)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert lag.count == 1
    assert lag.total == 0.5
    assert lag.counts[EVENT_LOOP_LAG_BOUNDS.index(0.5)] == 1
