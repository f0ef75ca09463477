"""A pytest plugin: no test hangs. One that is not over in time fails, and says what everybody was waiting for.

Invariant: a limit ends one test and not the run. Where an exception cannot reach a test, because it waits in C or eats
whatever is raised, the process prints its stacks and ends; pytest-xdist then names the test and goes on with another.
"""

import faulthandler
import os
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Iterator
from functools import partial
from types import FrameType
from typing import Final

import pytest
import trio

DEEP_SECONDS: Final = 3600.0
"""For a property that is looked into deeply: it has fifty times the examples."""

IS_DEEP: Final = os.environ.get("HYPOTHESIS_PROFILE") == "deep"

LIMIT_SECONDS: Final = float(os.environ.get("KAKITOME_TEST_SECONDS", DEEP_SECONDS if IS_DEEP else 300.0))
"""For a test with its fixtures; `@pytest.mark.patience(seconds)` says otherwise. The slowest one takes a fifth of it on
a busy machine."""

AGAIN_SECONDS: Final = 30.0
"""A teardown that hangs as well is ended so long after the test was."""

LAST_RESORT_SECONDS: Final = 120.0
"""So long after the limit the process ends."""

_stderr: int | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Keeps the standard error that the run was started with: what tests print there is captured."""
    global _stderr
    config.addinivalue_line("markers", "patience(seconds): this test may take so long, instead of the usual limit")
    if _stderr is None:
        _stderr = os.dup(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Ends the test, fixtures included, when its time is over; a debugger takes whatever time it wants."""
    if sys.gettrace() is not None or threading.current_thread() is not threading.main_thread():
        return (yield)
    marker = item.get_closest_marker("patience")
    seconds = LIMIT_SECONDS if marker is None else float(marker.args[0])
    before = signal.signal(signal.SIGALRM, partial(_give_up, seconds))
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_SECONDS)
    faulthandler.dump_traceback_later(seconds + LAST_RESORT_SECONDS, exit=True, file=_stderr or sys.stderr)
    try:
        return (yield)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def _give_up(seconds: float, _number: int, _frame: FrameType | None) -> None:
    waiting = "\n".join((*_trio_tasks(), *_other_threads()))
    pytest.fail(f"still running after {seconds:g} s\n{waiting}")


def _trio_tasks() -> Iterator[str]:
    try:
        root = trio.lowlevel.current_root_task()
    except RuntimeError:
        return  # no trio here
    tasks = [] if root is None else [root]
    while tasks:
        task = tasks.pop()
        tasks += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
        yield f"--- trio task {task.name}"
        yield from traceback.StackSummary.extract(task.iter_await_frames()).format()


def _other_threads() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            yield f"--- thread {names.get(ident, ident)}"
            yield from traceback.format_stack(frame)
