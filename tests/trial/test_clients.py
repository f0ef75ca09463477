"""The pace of the trial's clients: nobody gets ahead of a kill that is to strike."""

import math

import trio
import trio.testing

from gateway.trial.clients import Pace

TOTAL = 100


async def test_without_a_limit_nothing_is_waited_for() -> None:
    pace = Pace()
    with trio.fail_after(1):
        await pace.wait(TOTAL, TOTAL)
        await pace.wait_free()


async def test_a_stream_at_the_limit_waits_until_it_is_raised_beyond() -> None:
    pace = Pace()
    pace.set(0.5)
    passed: list[int] = []

    async def go_on(done: int) -> None:
        await pace.wait(done, TOTAL)
        passed.append(done)

    async with trio.open_nursery() as nursery:
        for done in (49, 50, 60):
            nursery.start_soon(go_on, done)
        await trio.testing.wait_all_tasks_blocked()
        assert passed == [49]
        pace.set(0.55)
        await trio.testing.wait_all_tasks_blocked()
        assert passed == [49, 50]
        pace.set(math.inf)
    assert passed == [49, 50, 60]


async def test_nobody_leaves_before_there_is_no_limit() -> None:
    pace = Pace()
    pace.set(1.0)
    left = trio.Event()

    async def leave() -> None:
        await pace.wait_free()
        left.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave)
        await trio.testing.wait_all_tasks_blocked()
        assert not left.is_set()
        pace.set(math.inf)
