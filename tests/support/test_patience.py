"""The limit of each test: a hang becomes a failure that says where it hung, and the run goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import START_SECONDS
from tests.support.tools import REPOSITORY

HANGING = {
    "a FIFO that nobody reads": "def test_it(tmp_path): os.mkfifo(tmp_path / 'f'); open(tmp_path / 'f', 'w')",
    "a subprocess that does not end": "def test_it(): subprocess.run([sys.executable, '-c', 'input()'], stdin=pipe())",
    "a fixture": "def test_it(waiting): pass",
    "a trio task": "def test_it(): trio.run(waiting_for_ever)",
    "a fixture's teardown": "def test_it(hanging): pass",
    "its own limit": "@pytest.mark.patience(0.5)\ndef test_it(): threading.Event().wait()",
}

AROUND = """
import itertools, os, subprocess, sys, threading, time
import pytest, trio

def pipe():
    return os.fdopen(os.pipe()[0])

async def waiting_for_ever():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever, name="the one that waits")

@pytest.fixture
def waiting():
    threading.Lock().acquire() and threading.Event().wait()

@pytest.fixture
def hanging():
    yield
    time.sleep(60)

{test}

def test_the_next_one(): pass
"""


@pytest.mark.parametrize("what", HANGING)
def test_a_test_that_hangs_fails_and_the_next_one_runs(what: str, tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(AROUND.format(test=HANGING[what]))
    options = ["-p", "tests.support.patience", "-c", "/dev/null", "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "KAKITOME_TEST_SECONDS": "1"},
        capture_output=True,
        text=True,
        timeout=START_SECONDS * 2,
        check=False,
    )
    said = f"still running after {'0.5' if 'mark' in HANGING[what] else '1'} s"
    assert said in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout or "1 error" in done.stdout
    assert "passed" in done.stdout
    if what == "a trio task":
        assert "--- trio task the one that waits" in done.stdout


EATING = {
    "whatever is raised": "def test_it():\n  while True:\n    try: time.sleep(60)\n    except BaseException: pass",
    "a loop in C": "def test_it(): sum(itertools.repeat(0))",
}


@pytest.mark.parametrize("what", EATING)
def test_what_no_exception_reaches_ends_the_process_with_its_stacks(what: str, tmp_path: Path) -> None:
    (tmp_path / "test_hanging.py").write_text(AROUND.format(test=EATING[what]))
    (tmp_path / "conftest.py").write_text(
        "from tests.support import patience\npatience.AGAIN_SECONDS = 0.2\npatience.LAST_RESORT_SECONDS = 1\n"
        "pytest_runtest_protocol, pytest_configure = patience.pytest_runtest_protocol, patience.pytest_configure\n"
    )
    options = ["-c", "/dev/null", "--rootdir", str(tmp_path), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=REPOSITORY,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "KAKITOME_TEST_SECONDS": "1"},
        capture_output=True,
        text=True,
        timeout=START_SECONDS * 2,
        check=False,
    )
    assert done.returncode != 0
    assert "in test_it" in done.stderr, done.stdout + done.stderr
