"""Work beside the application's."""

import anyio
import anyio.lowlevel

from gateway.client.background import Background
from tests.client.runtimes import on_both_runtimes


@on_both_runtimes
async def test_what_the_work_raises_is_told_alone_and_cancels_nobody() -> None:
    async def fail() -> None:
        raise KeyError("a bug")

    async def fail_in_groups() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)

    for work in (fail, fail_in_groups):
        background = Background(work, "failing")
        await background.wait()
        assert isinstance(background.failure, KeyError)


@on_both_runtimes
async def test_several_failures_stay_a_group() -> None:
    async def fail_twice() -> None:
        raise ExceptionGroup("two", [KeyError("one"), ValueError("the other")])

    background = Background(fail_twice, "failing")
    await background.wait()
    assert isinstance(background.failure, ExceptionGroup)


@on_both_runtimes
async def test_cancelling_it_ends_it_even_before_it_has_begun() -> None:
    steps = []

    async def work() -> None:
        steps.append("begun")
        try:
            await anyio.sleep_forever()
        finally:
            steps.append("ended")

    background = Background(work, "waiting")
    background.cancel()
    await background.wait()
    assert steps in ([], ["begun", "ended"])
    assert background.failure is None


@on_both_runtimes
async def test_the_block_it_was_begun_in_does_not_end_it() -> None:
    go_on = anyio.Event()
    with anyio.CancelScope() as scope:
        background = Background(go_on.wait, "waiting")
        scope.cancel()
        await anyio.lowlevel.checkpoint()
    go_on.set()
    await background.wait()
    assert background.failure is None
