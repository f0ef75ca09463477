"""A child process whose output can be waited for, and that never outlives the test that started it.

Synchronous on purpose: pytest fixtures, trio and asyncio tests, the conformance and the benchmark commands all use it.
Inside an event loop call the waiting methods through a thread, or use `async with`, which does so for start and stop.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import trio

START_SECONDS: Final = 30.0
"""Generous: browsers and interpreters start slowly when two cores run everything at once."""
STOP_SECONDS: Final = 10.0
KEPT_LINES: Final = 5000

Found = TypeVar("Found")


class ProcessFailed(AssertionError):
    """The process ended, or did not say in time what was waited for; the text carries the end of its output."""


class ServiceProcess:
    """Runs `argv` while the `with` block lasts; standard output and error are read together, line by line.

    `started` is a pattern of the line which says that the service is up; without it the process counts as up at once.
    `cores` pins it (benchmarks), `umask` is set where it is not -1. It is stopped with SIGTERM, then with SIGKILL after
    ten seconds.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        name: str | None = None,
        started: str | None = None,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] | None = None,
        folder: Path | None = None,
        pass_descriptors: Sequence[int] = (),
        umask: int = -1,
    ) -> None:
        self.argv = [str(argument) for argument in argv]
        self.name = name or Path(self.argv[0]).name
        self.started_match: re.Match[str] | None = None
        self._started = started
        self._environment = dict(environment or {})
        self._cores = cores
        self._folder = folder
        self._pass_descriptors = tuple(pass_descriptors)
        self._umask = umask
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._seen = 0
        self._ended = False
        self._changed = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the process and waits until it says it is up; raises ProcessFailed when it does not."""
        cores = self._cores
        self._process = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
            cwd=self._folder,
            pass_fds=self._pass_descriptors,
            umask=self._umask,
            # A group of its own: what it forks (websockify: a process a connection) is ended with it.
            process_group=0,
            preexec_fn=None if cores is None else lambda: os.sched_setaffinity(0, cores),
        )
        self._reader = threading.Thread(target=self._read, name=f"output of {self.name}", daemon=True)
        self._reader.start()
        if self._started is not None:
            try:
                self.started_match = self.wait_for_line(self._started, seconds=START_SECONDS)
            except BaseException:
                self.stop()
                raise

    def stop(self) -> int:
        """Ends the process and everything it started, and returns its exit status; safe to call again."""
        process = self.process
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        assert self._reader is not None
        self._reader.join(STOP_SECONDS)
        if process.stdout is not None and not self._reader.is_alive():
            process.stdout.close()
        return status

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            error.add_note(self.report())

    async def __aenter__(self) -> Self:
        await trio.to_thread.run_sync(self.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True):  # stop() is bounded: ten seconds, then SIGKILL
            await trio.to_thread.run_sync(self.__exit__, kind, error, traceback)

    # --- observation ---------------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def lines(self) -> list[str]:
        """What it has printed so far, the newest last."""
        with self._changed:
            return list(self._lines)

    def report(self, lines: int = 25) -> str:
        """The end of its output, for the message of a failed test."""
        shown = "\n".join(f"  {line}" for line in self.lines[-lines:]) or "  (nothing)"
        status = "running" if self.process.poll() is None else f"exit status {self.process.returncode}"
        return f"--- output of {self.name} ({status}) ---\n{shown}"

    def wait_for_line(self, pattern: str, *, seconds: float = START_SECONDS, after: int = 0) -> re.Match[str]:
        """Waits for a line that `pattern` is found in, counting from the `after`-th line of the output."""
        expression = re.compile(pattern)
        return self.wait_until(lambda line: expression.search(line), f"a line like {pattern!r}", seconds, after)

    def wait_until(self, find: Callable[[str], Found | None], wanted: str, seconds: float, after: int = 0) -> Found:
        """Waits until `find` returns something for a line, and returns that; raises ProcessFailed when it does not."""
        deadline = time.monotonic() + seconds
        position = after
        with self._changed:
            while True:
                dropped = self._seen - len(self._lines)
                for line in list(self._lines)[max(position - dropped, 0) :]:
                    found = find(line)
                    if found is not None:
                        return found
                position = self._seen
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    break
                self._changed.wait(left)
        raise ProcessFailed(f"{self.name} did not print {wanted} within {seconds:g} s\n{self.report()}")

    def position(self) -> int:
        """Number of lines printed so far: give it as `after` to wait for something that is still to come."""
        with self._changed:
            return self._seen

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Waits for its end and returns the exit status; raises ProcessFailed if it runs on."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProcessFailed(f"{self.name} still runs after {seconds:g} s\n{self.report()}") from None

    def send_signal(self, number: signal.Signals) -> None:
        """Signals the process itself, not what it started."""
        self.process.send_signal(number)

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        for line in stream:
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._seen += 1
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
