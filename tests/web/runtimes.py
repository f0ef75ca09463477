"""The JavaScript runtimes besides browsers that kakitome.js is tried on, as command lines that run a module."""

import subprocess
from collections.abc import Callable, Mapping
from typing import Final

import pytest

from tests.support.tools import need, need_npm


def node() -> str:
    """The system's Node."""
    return need("node", "apt-get install nodejs")


def websocket_flags() -> list[str]:
    """What makes the system's Node have a WebSocket of its own; skips where nothing does."""
    version = subprocess.run([node(), "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = (int(part) for part in version.removeprefix("v").split(".")[:2])
    if (major, minor) < (20, 10):
        pytest.skip(f"Node {version.strip()} has no WebSocket: install version 20.10 or newer")
    return [] if major >= 22 else ["--experimental-websocket", "--no-warnings"]


RUNTIMES: Final[Mapping[str, Callable[[], list[str]]]] = {
    "node": lambda: [node(), *websocket_flags()],
    "node22": lambda: [str(need_npm("node22/bin/node"))],
    "node24": lambda: [str(need_npm("node24/bin/node"))],
    "bun": lambda: [str(need_npm("bun/bin/bun.exe"))],
}
"""By name: what to put before the module's path. Skips the test where the runtime is missing."""
