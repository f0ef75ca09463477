"""The browser client in Node: its unit tests, its declarations, and a conversation through a real gateway."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess, route
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY, need, need_npm
from tests.web.cable import Cable

HERE: Final = Path(__file__).parent
MODULE: Final = REPOSITORY / "gateway" / "web" / "kakitome.js"

SUITE_SECONDS: Final = 300.0
"""Generous: two cores run everything at once."""

CUTS: Final = 30
KILLS: Final = 5


def node() -> str:
    return need("node", "apt-get install nodejs")


PARTS: Final = MODULE.parent / "src" / "index.js"

NEEDED: Final = {"indexeddb.test.mjs": "fake-indexeddb/build/esm/index.js"}
"""What suites import of what `make npm` installs."""


@pytest.mark.parametrize("subject", [MODULE, PARTS], ids=["joined", "parts"])
@pytest.mark.parametrize("suite", sorted(file.name for file in HERE.glob("*.test.mjs")))
def test_the_suite_passes(suite: str, subject: Path) -> None:
    environment = os.environ | {"KAKITOME_JS": subject.as_uri()}
    if suite in NEEDED:
        environment["KAKITOME_NPM"] = need_npm(NEEDED[suite]).as_uri()
    run = subprocess.run(
        [node(), "--test", HERE / suite],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SUITE_SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:]
    passed = re.search(r"^# pass (\d+)$", run.stdout, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > 0


def test_the_declarations_name_what_the_module_exports() -> None:
    declared = re.findall(r"^export (?:class|const|function) (\w+)", MODULE.with_suffix(".d.ts").read_text(), re.M)
    for module in (MODULE, PARTS):
        script = f"import * as module from {json.dumps(module.as_uri())}; console.log(Object.keys(module).join())"
        argv = [node(), "--input-type=module", "--eval", script]
        exported = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip().split(",")
        # The parts of the protocol are for the project's own tests.
        assert set(exported) == {*declared, "default", "Session", "RecordType", "encodeRecord", "parseRecord"}


@pytest.mark.parametrize(
    ("libraries", "types", "files"),
    [
        (["ES2022"], [], ["application.ts"]),
        (["ES2022"], ["node"], ["application.ts", "platform.ts"]),
        (["ES2022", "DOM"], [], ["application.ts", "platform.ts"]),
    ],
    ids=["neither DOM nor Node", "Node without the DOM", "DOM"],
)
def test_the_declarations_compile_strictly(
    libraries: list[str], types: list[str], files: list[str], tmp_path: Path
) -> None:
    compiler = need_npm("typescript/bin/tsc")
    options = {
        "noEmit": True,
        "strict": True,
        "exactOptionalPropertyTypes": True,
        "noUncheckedIndexedAccess": True,
        "skipLibCheck": False,
        "module": "nodenext",
        "moduleResolution": "nodenext",
        "target": "ES2022",
        "lib": libraries,
        "types": types,
        "typeRoots": [str(need_npm("@types"))],
    }
    project = {"compilerOptions": options, "files": [str(HERE / "types" / file) for file in files]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(project))
    run = subprocess.run([node(), compiler, "-p", tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def websocket_flags() -> list[str]:
    """What makes this Node have a WebSocket of its own; skips where nothing does."""
    version = subprocess.run([node(), "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = (int(part) for part in version.removeprefix("v").split(".")[:2])
    if (major, minor) < (20, 10):
        pytest.skip(f"Node {version.strip()} has no WebSocket: install version 20.10 or newer")
    return [] if major >= 22 else ["--experimental-websocket", "--no-warnings"]


@contextmanager
def gateway_to(endpoint: str, framing: str) -> Iterator[GatewayProcess]:
    """A gateway with the route /echo to the echo there."""
    with GatewayProcess({"routes": [route("echo", "/echo", endpoint, framing=framing)]}) as gateway:
        yield gateway


@contextmanager
def records_echo() -> Iterator[GatewayProcess]:
    """A gateway whose echo speaks records."""
    argv = [sys.executable, "-m", "gateway.backend.echo"]
    with ServiceProcess(argv, started=r"listening on (\S+)", environment={"PYTHONPATH": str(REPOSITORY)}) as echo:
        assert echo.started_match is not None
        with gateway_to(f"tcp://{echo.started_match[1]}", "records") as gateway:
            yield gateway


def is_resumed(line: str, times: int) -> bool | None:
    """Whether the line says that the session was resumed so often, or oftener."""
    found = re.fullmatch(r"resumed (\d+) times", line)
    return True if found and int(found[1]) >= times else None


def converse(port: int, strike: Callable[[], None], strikes: int) -> dict[str, Any]:
    """Lets Node talk with the echo behind the port, strikes while messages are under way, and gives what it says then.

    It has checked by itself that every message was settled, and echoed once and in order.
    """
    argv = [node(), *websocket_flags(), str(HERE / "conversation.mjs"), f"ws://127.0.0.1:{port}/echo", str(strikes)]
    with ServiceProcess(argv, name="the conversation") as process:
        for resumes in range(strikes):
            process.wait_until(partial(is_resumed, times=resumes), f"{resumes} resumes", SUITE_SECONDS)
            strike()
        told: dict[str, Any] = json.loads(process.wait_for_line(r"^\{.*\}$", seconds=SUITE_SECONDS)[0])
        assert process.wait() == 0
    return told


def test_a_conversation_survives_cuts_with_every_message_exactly_once() -> None:
    with records_echo() as gateway, Cable(gateway.port()) as cable:
        told = converse(cable.port, cable.cut, CUTS)
    assert (told["code"], told["wasClean"], told["rung"]) == (1000, True, "consumed")
    assert told["resumes"] >= CUTS


def test_a_conversation_survives_the_death_of_the_gateway_with_every_message_exactly_once() -> None:
    with records_echo() as gateway:

        def kill() -> None:
            gateway.kill()
            gateway.restart()

        told = converse(gateway.port(), kill, KILLS)
    assert (told["wasClean"], told["rung"]) == (True, "consumed")
    assert told["resumes"] >= KILLS


def test_an_unmodified_service_keeps_its_connection_through_cuts() -> None:
    with (
        tcp_echo() as port,
        gateway_to(f"tcp://127.0.0.1:{port}", "lines") as gateway,
        Cable(gateway.port()) as cable,
    ):
        told = converse(cable.port, cable.cut, CUTS)
    assert told["rung"] == "reached"
    assert told["resumes"] >= CUTS
