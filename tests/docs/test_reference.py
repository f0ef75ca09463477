"""The pages on the clients and the kit: their references say what there is, and their examples do what they say."""

import importlib
import io
import os
import pydoc
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from deploy import reference
from tests.docs.pages import DOCS, Block, blocks
from tests.support.gateway import GatewayProcess, route
from tests.support.network import free_port, wait_for_port
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY
from tests.web.runtimes import node, websocket_flags

PATIENCE_SECONDS: Final = 60
CLIENT, KIT, BROWSER = DOCS / "python-client.md", DOCS / "python-backend.md", DOCS / "browser-client.md"


@pytest.mark.parametrize("page", [CLIENT, KIT, BROWSER], ids=lambda page: page.stem)
def test_its_reference_is_current(page: Path) -> None:
    assert page.read_text() == reference.pages()[page], "run: python -m deploy.reference"


@pytest.mark.parametrize("package", ["client", "backend"])
def test_every_public_name_is_listed_once_and_no_other(package: str) -> None:
    listed = [name for names in reference.contents(package).values() for name in names]
    assert sorted(listed) == sorted(importlib.import_module(f"gateway.{package}").__all__)


@pytest.mark.parametrize("package", ["client", "backend"])
def test_help_begins_with_an_example_and_what_there_is(package: str) -> None:
    """On the first screen: a pager shows some fifty lines, behind which Python lists every inherited method."""
    output = io.StringIO()
    pydoc.doc(f"gateway.{package}", output=output)
    screen = output.getvalue().splitlines()[:40]
    text = "\n".join(screen)
    assert "async for message in session:" in text
    for heading, names in reference.contents(package).items():
        assert heading in text
        assert all(name in text.split() for name in names), heading


def test_everything_that_is_declared_is_in_the_browser_s_reference_and_exported() -> None:
    declared = reference.DECLARATIONS.read_text()
    exported = set(re.findall(r"^export (?:type|interface|class) (\w+)", declared, re.M))
    assert {name for name, _, _ in reference.declarations()} == exported
    served = (REPOSITORY / "gateway" / "web" / "kakitome.js").read_text()
    (listed,) = re.findall(r"^export \{([^}]*)\}", served, re.M)
    assert set(re.findall(r"^export class (\w+)", declared, re.M)) <= {name.strip() for name in listed.split(",")}


# --- examples -------------------------------------------------------------------------------------------------------


def example(page: Path, language: str, words: str) -> Block:
    """The one with these words in it."""
    (found,) = (block for block in blocks(page, language) if words in block.text)
    return found


def answer(page: Path, place: int = 0) -> str:
    """What the page says that its example prints."""
    return list(blocks(page, "text"))[place].text


@contextmanager
def served(program: Block, folder: Path, python: str = sys.executable) -> Iterator[GatewayProcess]:
    """The kit's program as it stands, but for its port, behind a gateway with the page's route."""
    port = free_port()
    assert "port=9000" in program.text
    (folder / "service.py").write_text(program.text.replace("port=9000", f"port={port}"))
    command = [python, str(folder / "service.py")]
    path = str(REPOSITORY) if python == sys.executable else ""
    with ServiceProcess(command, name="the kit's example", folder=folder, environment={"PYTHONPATH": path}) as service:
        wait_for_port(port, service)
        with GatewayProcess(
            {"routes": [route("shout", "/shout", f"tcp://127.0.0.1:{port}", framing="records")]}
        ) as gateway:
            yield gateway


def run_client(program: Block, gateway: GatewayProcess, folder: Path, python: str = sys.executable) -> str:
    """The client's program as it stands, but for its URL; what it prints."""
    assert "ws://127.0.0.1:8080/shout" in program.text
    file = folder / "client.py"
    file.write_text(program.text.replace("ws://127.0.0.1:8080/shout", gateway.url("/shout")))
    done = subprocess.run(
        [python, str(file)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY) if python == sys.executable else ""},
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_s_examples_print_what_the_page_says(tmp_path: Path) -> None:
    with served(example(KIT, "python", "shout"), tmp_path) as gateway:
        assert run_client(example(CLIENT, "python", "open_session"), gateway, tmp_path) == answer(CLIENT, 0)
        assert run_client(example(CLIENT, "python", "import connect\n"), gateway, tmp_path) == answer(CLIENT, 1)


def test_the_client_s_example_runs_under_asyncio_as_the_page_says(tmp_path: Path) -> None:
    block = example(CLIENT, "python", "open_session")
    text = block.text.replace("import trio", "import asyncio").replace("trio.run(main)", "asyncio.run(main())")
    asynchronous = Block(page=block.page, line=block.line, language="python", text=text)
    with served(example(KIT, "python", "shout"), tmp_path) as gateway:
        assert run_client(asynchronous, gateway, tmp_path) == answer(CLIENT, 0)


def test_the_kit_s_transactions_count_orders_over_a_restart(tmp_path: Path) -> None:
    orders = example(KIT, "python", "SqliteStore")
    client = example(CLIENT, "python", "open_session")
    for count in (1, 2):
        with served(orders, tmp_path) as gateway:
            assert f"order {count}: hello" in run_client(client, gateway, tmp_path)


def test_the_browser_client_s_example_runs_in_node(tmp_path: Path) -> None:
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "kakitome").symlink_to(REPOSITORY / "gateway" / "web")
    block = example(BROWSER, "js", 'const { rung } = await line.send("hello");\nconsole.log')
    with served(example(KIT, "python", "shout"), tmp_path) as gateway:
        file = tmp_path / "client.mjs"
        file.write_text(block.text.replace("ws://127.0.0.1:8080/shout", gateway.url("/shout")))
        done = subprocess.run(
            [node(), *websocket_flags(), "--preserve-symlinks", str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
    assert (done.stdout, done.returncode) == (answer(BROWSER), 0), done.stderr
