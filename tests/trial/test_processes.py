"""Processes of a trial: up when they say so, killed, started again, and gone with the trial."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from gateway.errors import StartupError
from gateway.trial import processes
from gateway.trial.processes import Process
from tests.support.network import free_port

TALKS = "import time; print('{\"event\": \"one\"}', flush=True); print('I am', 'up', flush=True); time.sleep(60)"
FORKS = "import os, time; os.fork(); print('up', flush=True); time.sleep(60)"


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[Process]:
    async with trio.open_nursery() as nursery:
        await nursery.start(process.run)
        yield process
        nursery.cancel_scope.cancel()


def python(code: str, **options: object) -> Process:
    return Process([sys.executable, "-c", code], name="it", port=0, **options)  # type: ignore[arg-type]


def members(process: Process) -> list[int]:
    """The living processes of its group."""
    assert process._process is not None
    group = process._process.pid
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


async def test_it_is_up_when_it_says_so_and_its_events_are_kept() -> None:
    process = python(TALKS, ready="I am up")
    process.kept_events = frozenset({"one"})
    async with running(process):
        assert process.starts == 1
        await process.kill()
        assert process.events == [{"event": "one"}]


async def test_it_is_up_when_its_port_takes_connections() -> None:
    port = free_port()
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    async with running(Process(argv, name="it", port=port)):
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()


async def test_it_is_killed_and_started_again() -> None:
    async with running(python(TALKS, ready="I am up")) as process:
        (first,) = members(process)
        await process.kill()
        await process.start()
        (second,) = members(process)
        assert first != second
        assert process.starts == 2


async def test_a_kill_ends_what_it_has_forked_too() -> None:
    async with running(python(FORKS, ready="up")) as process:
        assert len(members(process)) == 2
        await process.kill()
        with trio.fail_after(10):  # whom it has forked is not waited for: the kernel ends it at its own time
            while members(process):  # noqa: ASYNC110 -- there is nothing to wait on
                await trio.sleep(0.01)


async def test_nothing_is_left_when_the_trial_ends_however_it_ends() -> None:
    process = python(FORKS, ready="up")
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True):
        async with running(process):
            raise RuntimeError("the trial failed")
    with trio.fail_after(10):
        while members(process):  # noqa: ASYNC110 -- killed, but nobody tells when the last of them is gone
            await trio.sleep(0.01)


async def test_one_that_does_not_heed_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.1)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + TALKS
    async with running(python(deaf, ready="I am up")) as process:
        await process.stop()
        assert members(process) == []


async def test_one_that_ends_by_itself_ends_the_trial_with_its_last_words() -> None:
    problem = "it ended by itself, with status -15: .*I am up"
    with pytest.RaisesGroup(pytest.RaisesExc(StartupError, match=problem), flatten_subgroups=True):
        async with running(python(TALKS, ready="I am up")) as process:
            (it,) = members(process)
            os.kill(it, signal.SIGTERM)  # which is nobody of the trial's
            await trio.sleep_forever()


@pytest.mark.parametrize(
    ("process", "problem"),
    [
        (Process(["/nonexistent/program"], name="it", port=0), "it cannot be started: No such file or directory"),
        (python("print('no way'); raise SystemExit(3)", ready="up"), "it did not come up: no way"),
        (python("raise SystemExit(3)", ready="up"), "it did not come up: it said nothing"),
        (python("print('no port')"), "it did not come up: no port"),
    ],
)
async def test_one_that_does_not_come_up_says_what_it_said(process: Process, problem: str) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(StartupError, match=problem), flatten_subgroups=True):
        async with running(process):
            pass
