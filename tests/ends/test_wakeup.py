"""Waiting for news: whoever waits is woken, whoever comes later waits for what comes later."""

import anyio
from anyio.lowlevel import checkpoint

from gateway.ends.wakeup import Signal
from tests.client.runtimes import on_both_runtimes


@on_both_runtimes
async def test_all_who_wait_are_woken_once() -> None:
    signal, woken = Signal(), []

    async def wait(name: str) -> None:
        await signal.wait()
        woken.append(name)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, "a")
        tasks.start_soon(wait, "b")
        await anyio.wait_all_tasks_blocked()
        signal.wake()
        await anyio.wait_all_tasks_blocked()
        assert sorted(woken) == ["a", "b"]
        tasks.start_soon(wait, "later")
        await anyio.wait_all_tasks_blocked()
        assert "later" not in woken, "it waits for the next news"
        signal.wake()
    assert woken[-1] == "later"


@on_both_runtimes
async def test_news_without_anybody_waiting_is_not_kept() -> None:
    """Whoever waits has looked before, and looks again when woken."""
    signal = Signal()
    signal.wake()
    with anyio.move_on_after(0.01) as patience:
        await signal.wait()
    assert patience.cancelled_caught


@on_both_runtimes
async def test_one_who_goes_takes_nobodys_news_with_it() -> None:
    signal, woken = Signal(), []

    async def wait() -> None:
        await signal.wait()
        woken.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await signal.wait()
        await checkpoint()
        await anyio.wait_all_tasks_blocked()
        signal.wake()
    assert woken == [True]
