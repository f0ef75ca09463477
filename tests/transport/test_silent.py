"""Connections that have sent nothing of what is waited for: how long the end leaves them."""

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.transport.silent import FIRST_BYTE_SECONDS, SilentConnections


async def waited(silent: SilentConnections, *, first: bool, comes_after: float = 1000.0) -> tuple[bool, float]:
    """Whether something came, and how long it was waited for."""
    began, came = trio.current_time(), False
    with silent.waiting(first=first):
        await trio.sleep(comes_after)
        came = True
    return came, trio.current_time() - began


async def test_nobody_is_cut_short_before_the_end(autojump_clock: MockClock) -> None:
    assert await waited(SilentConnections(), first=True) == (True, 1000.0)
    assert await waited(SilentConnections(), first=False) == (True, 1000.0)


async def test_between_two_requests_a_connection_is_ended_at_once(autojump_clock: MockClock) -> None:
    silent = SilentConnections()
    silent.end()
    assert await waited(silent, first=False) == (False, 0.0)


async def test_what_may_be_on_its_way_is_given_a_moment(autojump_clock: MockClock) -> None:
    silent = SilentConnections()
    silent.end()
    assert await waited(silent, first=True) == (False, FIRST_BYTE_SECONDS)
    assert await waited(silent, first=True, comes_after=FIRST_BYTE_SECONDS / 2) == (True, FIRST_BYTE_SECONDS / 2)


async def test_all_who_wait_are_told_and_a_shorter_patience_stays(autojump_clock: MockClock) -> None:
    silent, ended = SilentConnections(), []

    async def wait(first: bool) -> None:
        ended.append((first, (await waited(silent, first=first))[0]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, True)
        nursery.start_soon(wait, False)
        await wait_all_tasks_blocked()
        silent.end()
        silent.end()
        with trio.move_on_after(FIRST_BYTE_SECONDS / 4) as own:
            assert not (await waited(silent, first=True))[0]
        assert own.cancelled_caught, "its own deadline was nearer"
    assert ended == [(False, False), (True, False)]
    assert trio.current_time() == FIRST_BYTE_SECONDS


async def test_who_has_been_heard_is_not_ended_any_more(autojump_clock: MockClock) -> None:
    silent = SilentConnections()
    with silent.waiting(first=False):
        pass
    silent.end()
    await trio.sleep(10)
