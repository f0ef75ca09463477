"""Deadlines of sessions that wait to be resumed, on a clock that jumps."""

import pytest
import trio
import trio.testing

from gateway.backend.deadlines import Deadlines

GRACE = 60.0


async def test_sessions_expire_in_the_order_in_which_they_were_left(autojump_clock: trio.testing.MockClock) -> None:
    deadlines = Deadlines(GRACE)
    begin = trio.current_time()
    deadlines.add("first")
    await trio.sleep(10)
    deadlines.add("second")
    assert await deadlines.expire() == "first"
    assert trio.current_time() - begin == pytest.approx(GRACE)
    assert await deadlines.expire() == "second"
    assert trio.current_time() - begin == pytest.approx(GRACE + 10)


async def test_a_session_that_is_back_and_gone_again_has_its_whole_grace(
    autojump_clock: trio.testing.MockClock,
) -> None:
    deadlines = Deadlines(GRACE)
    begin = trio.current_time()
    deadlines.add("s")
    await trio.sleep(GRACE / 2)
    deadlines.discard("s")
    deadlines.add("s")
    assert await deadlines.expire() == "s"
    assert trio.current_time() - begin == pytest.approx(1.5 * GRACE)


async def test_a_session_that_is_back_before_the_waiter_had_its_turn_harms_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    deadlines = Deadlines(GRACE)
    expired: list[str] = []

    async def wait() -> None:
        expired.append(await deadlines.expire())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        deadlines.add("back at once")
        deadlines.discard("back at once")
        await trio.testing.wait_all_tasks_blocked()
        deadlines.add("left")
    assert expired == ["left"]


async def test_a_session_that_was_resumed_while_its_deadline_ran_does_not_expire(
    autojump_clock: trio.testing.MockClock,
) -> None:
    deadlines = Deadlines(GRACE)
    deadlines.add("resumed")
    with trio.move_on_after(GRACE / 2):
        await deadlines.expire()
    deadlines.discard("resumed")
    deadlines.discard("resumed")  # which is no fault
    with trio.move_on_after(10 * GRACE) as waiting:
        await deadlines.expire()
    assert waiting.cancelled_caught
