"""Watches the configuration's files and delivers every new configuration that holds.

Invariant: a configuration is delivered whole or not at all; a file with faults changes nothing, and the same faults are
reported once.

Files are polled: a stat each second costs nothing, and works where inotify does not, on network and overlay file
systems. A stat follows symbolic links, so it also sees Kubernetes swap the link above a mounted ConfigMap.
"""

import signal
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

import trio

from gateway.config.loading import Loaded, load_with_files
from gateway.config.model import Config
from gateway.errors import ConfigError, Problem

POLL_INTERVAL_SECONDS: Final = 1.0

Fingerprint = Mapping[Path, tuple[int, ...] | None]


def fingerprint(files: Iterable[Path]) -> Fingerprint:
    """What changes whenever one of `files` is written, replaced or linked elsewhere; None for one that is not there."""
    return {file: _identity(file) for file in files}


def _identity(file: Path) -> tuple[int, ...] | None:
    try:
        facts = file.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


class ChangeDetector:
    """Tells from one look at the files after another when to load them; does no I/O."""

    def __init__(self, loaded: Fingerprint) -> None:
        self._loaded = loaded
        self._previous = loaded

    def observe(self, seen: Fingerprint) -> bool:
        """Whether the files differ from those loaded last and have stood still since the look before.

        An editor that writes a file in place leaves it cut short for a moment; a look later it is whole.
        """
        stands_still = seen == self._previous
        self._previous = seen
        return stands_still and seen != self._loaded

    def loaded(self, seen: Fingerprint) -> None:
        """The files were loaded, well or not, as they were when they looked like `seen`."""
        self._loaded = seen
        self._previous = seen


class ConfigWatcher:
    """Loads the file at `path` again when it, or a file with one of its secrets, changes, and at SIGHUP.

    What came from a pipe does not change, and `load` has kept it.
    """

    def __init__(self, path: Path, config: Config, *, load: Callable[[Path], Loaded] = load_with_files) -> None:
        """`config` is what `path` held when it was loaded; only another one is delivered, or the same after faults.

        `load` runs in a thread.
        """
        self._path = path
        self._config = config
        self._load = load
        self._reported: tuple[Problem, ...] = ()
        self._files: tuple[Path, ...] = (path,)
        self._detector = ChangeDetector(fingerprint(self._files))
        self._asked = trio.Event()

    async def run(
        self,
        *,
        on_config: Callable[[Config], Awaitable[None]],
        on_fault: Callable[[ConfigError], None],
        on_kept: Callable[[Collection[Path]], None],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Runs until cancelled; started once SIGHUP is listened to. Needs the main thread, as signals do.

        After a SIGHUP, configuration and faults are told even if they are the same as before: whoever sent it gets an
        answer. `on_kept` is called then with the files that cannot be read again; if the configuration itself is one of
        them it is delivered only if another file has changed it.

        A cancellation may leave `on_config` interrupted.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._listen_to_sighup)
            task_status.started()
            # The file may have changed since it was loaded, and only a load tells which files hold its secrets.
            await self._reload(on_config, on_fault, on_kept, asked=False)
            while True:
                with trio.move_on_after(POLL_INTERVAL_SECONDS):
                    await self._asked.wait()
                asked = self._asked.is_set()
                if asked:
                    self._asked = trio.Event()
                if asked or self._detector.observe(fingerprint(self._files)):
                    await self._reload(on_config, on_fault, on_kept, asked=asked)

    async def _listen_to_sighup(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGHUP) as received:
            task_status.started()
            async for _ in received:
                self._asked.set()

    async def _reload(
        self,
        on_config: Callable[[Config], Awaitable[None]],
        on_fault: Callable[[ConfigError], None],
        on_kept: Callable[[Collection[Path]], None],
        *,
        asked: bool,
    ) -> None:
        try:
            loaded = await self._load_fingerprinted()
        except ConfigError as fault:
            if asked or fault.problems != self._reported:
                self._reported = fault.problems
                on_fault(fault)
            return
        recovered, self._reported = bool(self._reported), ()
        # A file that was put back is told too: whoever heard of the faults must hear that they are gone.
        is_news = recovered or loaded.config != self._config
        if asked and loaded.kept:
            on_kept(sorted(loaded.kept))
        if is_news or (asked and self._path not in loaded.kept):
            self._config = loaded.config
            await on_config(loaded.config)

    async def _load_fingerprinted(self) -> Loaded:
        """Loads again when that read other files than were looked at before."""
        while True:
            # Looked at before the load: a file that changes meanwhile differs from this at the next look.
            self._detector.loaded(fingerprint(self._files))
            # In a thread: parsing and checking certificates takes milliseconds, which live connections would wait.
            loaded = await trio.to_thread.run_sync(self._load, self._path)
            known, self._files = self._files, loaded.files_read
            if set(self._files) == set(known):
                return loaded
