"""Processes that a trial starts, kills and starts again.

Invariant: none outlives the trial, whatever ends it.
"""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import trio

from gateway.errors import StartupError

START_SECONDS: Final = 60.0
"""Generous: interpreters start slowly on a machine that is busy with the trial."""

STOP_SECONDS: Final = 15.0

PROBE_SECONDS: Final = 0.02

KEPT_LINES: Final = 40
"""Of its output, to be shown when it fails."""


class Process:
    """One program; `argv` and `environment` (on top of ours) are the same at each start."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        name: str,
        port: int,
        ready: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """It is up when a line of its output has `ready` in it, or, without that, when `port` takes connections."""
        self.name = name
        self.port = port
        self.starts = 0
        self.events: list[dict[str, Any]] = []
        """Lines of its output that are JSON objects with `event` in `kept_events`."""
        self.kept_events: frozenset[str] = frozenset()
        self._argv = list(argv)
        self._ready = ready
        self._environment = dict(environment or {})
        self._lines: list[str] = []
        self._process: trio.Process | None = None
        self._is_up = trio.Event()
        self._drained = trio.Event()
        self._is_wanted = True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the process until cancelled, then ends it.

        Raises StartupError when it does not come up, or ends by itself: that is nothing that a trial has asked for.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self.start()
                task_status.started()
                await trio.sleep_forever()
            finally:
                if self._process is not None:
                    self._signal(signal.SIGKILL)
                    with trio.CancelScope(shield=True):
                        await self._process.wait()

    async def start(self) -> None:
        """Starts it and waits until it is up."""
        self._is_up = trio.Event()
        self._drained = trio.Event()
        self._is_wanted = True
        self._lines.clear()
        try:
            self._process = process = await trio.lowlevel.open_process(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
                start_new_session=True,  # a group of its own: what it forks is ended with it
            )
        except OSError as error:
            raise StartupError(f"{self.name} cannot be started: {error.strerror}: {self._argv[0]}") from None
        self.starts += 1
        self._nursery.start_soon(self._read, process)
        with trio.move_on_after(START_SECONDS):
            if self._ready is None:
                await self._wait_for_port(process)
            await self._is_up.wait()
        if not self._is_up.is_set() or process.returncode is not None:
            raise StartupError(f"{self.name} did not come up: {self._last_words()}")

    async def _wait_for_port(self, process: trio.Process) -> None:
        while process.returncode is None:
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", self.port)
            except OSError:
                await trio.sleep(PROBE_SECONDS)  # there is nothing to wait on: the port is the only sign
            else:
                await stream.aclose()
                self._is_up.set()
                break

    async def _read(self, process: trio.Process) -> None:
        assert process.stdout is not None
        held = b""
        async with process.stdout:
            async for data in process.stdout:
                *lines, held = (held + data).split(b"\n")
                for line in lines:
                    self._take(line.decode(errors="replace"))
        await process.wait()
        came_up = self._is_up.is_set()
        self._is_up.set()
        self._drained.set()
        if came_up and self._is_wanted:
            raise StartupError(f"{self.name} ended by itself, with status {process.returncode}: {self._last_words()}")

    def _take(self, line: str) -> None:
        self._lines = [*self._lines, line][-KEPT_LINES:]
        if self._ready is not None and self._ready in line:
            self._is_up.set()
        if line.startswith("{"):
            try:
                event = json.loads(line)
            except ValueError:
                return
            if event.get("event") in self.kept_events:
                self.events.append(event)

    def _last_words(self) -> str:
        return " | ".join(self._lines) or "it said nothing"

    async def kill(self) -> None:
        """SIGKILL, and waits until it is gone and its last words are read."""
        self._is_wanted = False
        self._signal(signal.SIGKILL)
        await self._drained.wait()

    async def stop(self) -> None:
        """SIGTERM; SIGKILL if it takes too long."""
        self._is_wanted = False
        self._signal(signal.SIGTERM)
        with trio.move_on_after(STOP_SECONDS):
            await self._drained.wait()
            return
        await self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
