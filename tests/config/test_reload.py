"""Reloading: every way a file can change, faults that change nothing, SIGHUP."""

import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from gateway.config import Config, Loaded, load, load_with_files
from gateway.config.reload import ChangeDetector, ConfigWatcher, Fingerprint, fingerprint
from gateway.errors import ConfigError

FILE = Path("kakitome.yaml")


def look(inode: int) -> Fingerprint:
    return {FILE: (inode,)}


@pytest.mark.parametrize(
    ("looks", "loads"),
    [
        ([1, 1, 1], [False, False, False]),
        ([2, 2, 2], [False, True, True]),
        ([2, 3, 3], [False, False, True]),
        ([2, 1, 1], [False, False, False]),
        ([2, 3, 4, 5], [False, False, False, False]),
    ],
    ids=["unchanged", "changed", "still being written", "changed back", "never stands still"],
)
def test_files_are_loaded_once_they_have_changed_and_stand_still(looks: list[int], loads: list[bool]) -> None:
    detector = ChangeDetector(look(1))
    assert [detector.observe(look(inode)) for inode in looks] == loads


def test_what_was_loaded_is_not_loaded_again_though_it_had_faults() -> None:
    detector = ChangeDetector(look(1))
    detector.observe(look(2))
    assert detector.observe(look(2))
    detector.loaded(look(2))
    assert not detector.observe(look(2))


def rewrite(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def swap_link(path: Path, text: str) -> None:
    """As the kubelet updates a ConfigMap: the file is a link through `..data`, which is swapped as a whole."""
    data = path.parent / "..data"
    folder = path.parent / f"..{len(text)}"
    folder.mkdir()
    (folder / path.name).write_text(text)
    link = path.parent / "..data_tmp"
    link.symlink_to(folder.name)
    link.replace(data)


CHANGES = [rewrite, replace, swap_link]


def text_with(*names: str) -> str:
    routes = "".join(f"  - {{name: {name}, match: {{path: /{name}}}, files: .}}\n" for name in names)
    return f"listeners:\n  - bind: 127.0.0.1:0\nroutes:\n{routes}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "..first").mkdir()
    (tmp_path / "..data").symlink_to("..first")
    path = tmp_path / "kakitome.yaml"
    path.symlink_to("..data/kakitome.yaml")
    path.write_text(text_with("one"))
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_tells_every_kind_of_change(path: Path, change: Callable[[Path, str], None]) -> None:
    before = fingerprint([path])
    assert fingerprint([path]) == before
    change(path, text_with("one", "two"))
    assert fingerprint([path]) != before


def test_a_file_that_is_gone_has_a_fingerprint_of_its_own(path: Path) -> None:
    before = fingerprint([path])
    path.unlink()
    assert fingerprint([path]) == {path: None} != before


class Recorder:
    """A watcher at work, and what it loaded, delivered and reported, in order."""

    def __init__(self, path: Path, nursery: trio.Nursery) -> None:
        self._send, self._receive = trio.open_memory_channel[Config | ConfigError | Collection[Path] | None](100)
        self._nursery = nursery
        self.kept: dict[Path, bytes] = {}
        """As if these had come from a pipe."""
        self._watcher = ConfigWatcher(path, load(path), load=self._load)

    def _load(self, path: Path) -> Loaded:
        try:
            return load_with_files(path, kept=self.kept)
        finally:
            trio.from_thread.run_sync(self._send.send_nowait, None)

    async def start(self) -> None:
        """Returns after the load that every watcher begins with."""

        async def start(task_status: trio.TaskStatus[None]) -> None:
            await self._watcher.run(
                on_config=self._send.send,
                on_fault=self._send.send_nowait,
                on_kept=self._send.send_nowait,
                task_status=task_status,
            )

        await self._nursery.start(start)
        await self.a_load()

    async def a_load(self) -> None:
        """The next event is that the files were read; for what that led to, ask next."""
        assert await self._receive.receive() is None

    async def names(self) -> list[str]:
        """The next event is a delivery: the names of its routes."""
        event = await self._receive.receive()
        assert isinstance(event, Config), event
        return [route.name for route in event.routes]

    async def faulty_keys(self) -> list[str]:
        """The next event is a report: the paths of its problems."""
        event = await self._receive.receive()
        assert isinstance(event, ConfigError), event
        return [problem.path for problem in event.problems]

    async def next(self) -> Config | ConfigError | Collection[Path] | None:
        """The next event, None for a load."""
        return await self._receive.receive()

    async def kept_files(self) -> list[Path]:
        """The next event behind the loads tells which files were asked for in vain."""
        while (event := await self._receive.receive()) is None:
            pass
        assert isinstance(event, list), event
        return event


@pytest.fixture
async def recorder(path: Path, nursery: trio.Nursery) -> Recorder:
    return Recorder(path, nursery)


@pytest.mark.parametrize("change", CHANGES)
async def test_a_changed_file_is_delivered(
    recorder: Recorder, path: Path, change: Callable[[Path, str], None], autojump_clock: MockClock
) -> None:
    await recorder.start()
    change(path, text_with("one", "two"))
    await recorder.a_load()
    assert await recorder.names() == ["one", "two"]
    change(path, text_with("three"))
    await recorder.a_load()
    assert await recorder.names() == ["three"]


async def test_a_change_between_loading_and_watching_is_delivered(
    recorder: Recorder, path: Path, autojump_clock: MockClock
) -> None:
    rewrite(path, text_with("one", "two"))
    await recorder.start()
    assert await recorder.names() == ["one", "two"]


async def test_a_faulty_file_is_reported_once_and_changes_nothing(
    recorder: Recorder, path: Path, autojump_clock: MockClock
) -> None:
    await recorder.start()
    rewrite(path, "listeners: []\n")
    await recorder.a_load()
    assert await recorder.faulty_keys() == ["listeners", "routes"]
    rewrite(path, "listeners: []  # the same faults\n")
    await recorder.a_load()
    rewrite(path, text_with("mended"))
    await recorder.a_load()
    assert await recorder.names() == ["mended"]
    rewrite(path, "listeners: []\n")
    await recorder.a_load()
    assert await recorder.faulty_keys() == ["listeners", "routes"]


async def test_a_file_that_vanishes_is_reported_and_read_when_it_is_back(
    recorder: Recorder, path: Path, autojump_clock: MockClock
) -> None:
    await recorder.start()
    remove(path)
    await recorder.a_load()
    assert await recorder.faulty_keys() == [""]
    rewrite(path, text_with("back"))
    await recorder.a_load()
    assert await recorder.names() == ["back"]


async def test_a_change_that_means_the_same_is_not_delivered(
    recorder: Recorder, path: Path, autojump_clock: MockClock
) -> None:
    await recorder.start()
    rewrite(path, "# a comment\n" + text_with("one"))
    await recorder.a_load()
    rewrite(path, text_with("two"))
    await recorder.a_load()
    assert await recorder.names() == ["two"]


async def test_a_file_that_is_put_back_after_faults_is_delivered_though_it_means_the_same(
    recorder: Recorder, path: Path, autojump_clock: MockClock
) -> None:
    await recorder.start()
    before = path.read_text()  # noqa: ASYNC240 -- a test's own small file
    rewrite(path, "listeners: []\n")
    await recorder.a_load()
    assert await recorder.faulty_keys() == ["listeners", "routes"]
    rewrite(path, before)
    await recorder.a_load()
    assert await recorder.names() == ["one"]


async def test_a_changed_secret_is_delivered(path: Path, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    token = path.with_name("token")
    rewrite(token, "old")
    rewrite(path, text_with("one") + "admin: {token: 'file:token'}\n")
    recorder = Recorder(path, nursery)
    await recorder.start()
    await recorder.a_load()  # once more, now that the secret's file is known and watched
    rewrite(token, "newer")
    await recorder.a_load()
    assert await recorder.names() == ["one"]


async def test_sighup_loads_at_once_and_answers_also_when_nothing_changed(
    recorder: Recorder, path: Path, mock_clock: MockClock
) -> None:
    # The clock stands still, so that only the signal can have been the cause.
    await recorder.start()
    os.kill(os.getpid(), signal.SIGHUP)
    await recorder.a_load()
    assert await recorder.names() == ["one"]
    rewrite(path, text_with() + "log: 5\n")
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGHUP)
        await recorder.a_load()
        assert await recorder.faulty_keys() == ["routes", "log"]


async def test_sighup_tells_what_cannot_be_read_again(
    recorder: Recorder, path: Path, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    token = path.with_name("token")
    admin = "admin: {token: 'file:token'}\n"
    rewrite(token, "old")
    rewrite(path, text_with("two") + admin)
    recorder = Recorder(path, nursery)
    recorder.kept = {path: (text_with("two") + admin).encode()}
    await recorder.start()
    rewrite(path, "nobody reads this")
    os.kill(os.getpid(), signal.SIGHUP)
    assert await recorder.kept_files() == [path]
    # Nothing was applied in between; a file that can be read again still counts.
    rewrite(token, "new")
    os.kill(os.getpid(), signal.SIGHUP)
    assert await recorder.kept_files() == [path]
    assert await recorder.names() == ["two"]
    recorder.kept = {token: b"from a pipe"}
    rewrite(path, text_with("three") + admin)
    os.kill(os.getpid(), signal.SIGHUP)
    assert await recorder.kept_files() == [token]
    assert await recorder.names() == ["three"]
    rewrite(path, text_with("four"))
    os.kill(os.getpid(), signal.SIGHUP)
    while (event := await recorder.next()) is None:
        pass
    assert isinstance(event, Config)
    assert [route.name for route in event.routes] == ["four"], "a pipe that is not named any more is not asked for"
