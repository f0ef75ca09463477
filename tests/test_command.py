"""How commands end: the operator's faults as lines and statuses, bugs with their traceback."""

from collections.abc import Awaitable, Callable

import click
import pytest
import trio
from click.testing import CliRunner, Result

from gateway.command import run_until_done
from gateway.errors import StartupError


def outcome_of(work: Callable[[], Awaitable[None]]) -> Result:
    @click.command()
    def command() -> None:
        run_until_done(work)

    return CliRunner().invoke(command)


async def work_well() -> None:
    await trio.lowlevel.checkpoint()


async def fail_at_start() -> None:
    raise StartupError("cannot listen at 127.0.0.1:80: the port\nis in use")


async def fail_in_nurseries() -> None:
    async with trio.open_nursery() as outer:
        outer.start_soon(fail_at_start)
        async with trio.open_nursery() as inner:
            inner.start_soon(fail_at_start)


async def be_interrupted() -> None:
    raise KeyboardInterrupt


async def be_interrupted_and_fail() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_interrupted)
        nursery.start_soon(fail_at_start)


async def break_down() -> None:
    raise ZeroDivisionError


async def break_down_and_fail() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(break_down)
        nursery.start_soon(fail_at_start)


async def break_down_in_nursery() -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(break_down)


LINE = "kakitome: cannot listen at 127.0.0.1:80: the port is in use\n"


@pytest.mark.parametrize(
    ("work", "status", "lines"),
    [
        (work_well, 0, ""),
        (fail_at_start, 1, LINE),
        (fail_in_nurseries, 1, LINE * 2),
        (be_interrupted, 130, ""),
        (be_interrupted_and_fail, 1, LINE),
    ],
)
def test_the_operators_faults_are_lines_and_statuses(
    work: Callable[[], Awaitable[None]], status: int, lines: str
) -> None:
    result = outcome_of(work)
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", lines)


@pytest.mark.parametrize("work", [break_down, break_down_in_nursery, break_down_and_fail])
def test_a_bug_keeps_its_traceback(work: Callable[[], Awaitable[None]]) -> None:
    assert isinstance(outcome_of(work).exception, ZeroDivisionError | BaseExceptionGroup)
