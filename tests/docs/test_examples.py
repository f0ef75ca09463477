"""Every Python and shell block of the docs is run by a test, or it is said here what runs it, or why nothing does."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import DOCS, DOCUMENTS, Block, blocks
from tests.docs.test_reference import PATIENCE_SECONDS, example, served
from tests.support.gateway import GatewayProcess, route
from tests.support.tools import REPOSITORY
from tests.web.runtimes import node, websocket_flags

STARTED, AUTHENTICATION = DOCS / "getting-started.md", DOCS / "authentication.md"

RUN_BY: Final = {
    ("README.md", "$"): "tests/docs/test_console.py",
    ("docs/getting-started.md", "shout"): "tests/docs/test_examples.py::test_the_first_service_shouts_at_a_page",
    ("docs/authentication.md", "def ticket("): (
        "tests/docs/test_examples.py::test_the_ticket_of_the_page_lets_in_for_good"
    ),
    ("docs/authentication.md", "token=token"): (
        "tests/docs/test_examples.py::test_the_ticket_of_the_page_lets_in_for_good"
    ),
    ("docs/python-backend.md", "shout"): (
        "tests/docs/test_reference.py::test_the_client_s_examples_print_what_the_page_says"
    ),
    ("docs/python-backend.md", "SqliteStore"): (
        "tests/docs/test_reference.py::test_the_kit_s_transactions_count_orders_over_a_restart"
    ),
    ("docs/python-client.md", 'open_session("ws'): (
        "tests/docs/test_reference.py::test_the_client_s_examples_print_what_the_page_says"
    ),
    ("docs/python-client.md", "import connect\n"): (
        "tests/docs/test_reference.py::test_the_client_s_examples_print_what_the_page_says"
    ),
    ("docs/python-client.md", "$ make client"): (
        "tests/deploy/test_client_distribution.py::test_client_and_kit_talk_where_nothing_else_is_installed"
    ),
    ("docs/python-client.md", "import client, backend"): (
        "tests/test_kakitome.py::test_it_leads_to_the_client_and_the_kit"
    ),
    ("docs/recipes.md", "PING"): "tests/docs/test_recipes.py::test_redis_answers_the_command_of_the_page",
    ("docs/recipes.md", "psql"): "tests/docs/test_recipes.py::test_psql_asks_through_a_port_of_its_own_machine",
    ("docs/trial.md", "kakitome trial"): "tests/trial/test_command.py",
    # An engine: tests/containers/run, `make containers`.
    ("docs/deployment-compose.md", "compose up"): "tests/containers/composition.py",
    ("docs/deployment-compose.md", "openssl rand"): (
        "tests/deploy/test_compose_secrets.py::test_the_gateway_takes_them_as_the_page_makes_them"
    ),
    ("docs/deployment-compose.md", "ca.crt"): "tests/containers/composition.py",
    ("docs/deployment-compose.md", "docker run"): "tests/containers/image.py",
    ("docs/deployment-compose.md", "{{.Size}}"): "tests/containers/image.py",
    ("docs/deployment-systemd.md", "kakitome.yaml /etc"): "tests/containers/unit.py",
    ("docs/deployment-systemd.md", "chgrp"): "tests/containers/unit.py",
    ("docs/deployment-systemd.md", "kakitome@1"): "tests/deploy/test_systemd.py",
    # A cluster: what helm would send there is rendered and judged.
    ("docs/deployment-helm.md", "helm install"): "tests/helm/test_rendering.py",
}
"""Page and words of a block, and the test or program that runs it."""

NOT_RUN: Final = {
    ("CONTRIBUTING.md", "TRANSITIONS"): "three lines of style, each beside what it is not",
    ("CONTRIBUTING.md", "make check"): "the suite itself",
    ("tests/containers/README.md", "--part image"): "says what runs the others",
    ("tests/containers/README.md", "dockerd"): "makes the engine that runs the others",
}

BLOCKS: Final = [
    block
    for page in DOCUMENTS
    if page.name != "README.ja.md"  # has the commands of README.md, says test_readme.py
    for language in ("python", "console", "sh", "bash", "shell")
    for block in blocks(page, language)
]


def keys_of(block: Block) -> list[tuple[str, str]]:
    page = str(block.page.relative_to(REPOSITORY))
    return [key for key in (*RUN_BY, *NOT_RUN) if key[0] == page and key[1] in block.text]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_run_or_has_a_reason(block: Block) -> None:
    assert len(keys_of(block)) == 1, f"{block}: {keys_of(block)}"


def test_nothing_is_listed_that_no_page_has() -> None:
    assert {key for block in BLOCKS for key in keys_of(block)} == {*RUN_BY, *NOT_RUN}


def test_what_runs_them_exists() -> None:
    for place in RUN_BY.values():
        file, _, name = place.partition("::")
        source = (REPOSITORY / file).read_text()
        assert not name or re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), place


@pytest.mark.parametrize("block", [block for page in DOCUMENTS for block in blocks(page, "js")], ids=str)
def test_its_javascript_is_javascript(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "block.mjs"
    file.write_text(block.text)
    done = subprocess.run([node(), "--check", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- those that no other test runs --------------------------------------------------------------------------------


def test_the_first_service_shouts_at_a_page(tmp_path: Path) -> None:
    """The kit's program and the page's script as they stand, but for their addresses and that this page is closed."""
    script = example(STARTED, "js", "new Kakitome").text
    told = (
        ("https://gateway.example.com/kakitome.js", (REPOSITORY / "gateway" / "web" / "kakitome.js").as_uri()),
        ("console.log(event.data);", "{ console.log(event.data); socket.close(); };"),
    )
    with served(example(STARTED, "python", "shout"), tmp_path) as gateway:
        for words, instead in (*told, ("wss://gateway.example.com/shout", gateway.url("/shout"))):
            assert words in script
            script = script.replace(words, instead)
        file = tmp_path / "page.mjs"
        file.write_text(script)
        done = subprocess.run(
            [node(), *websocket_flags(), str(file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
    assert (done.stdout, done.returncode) == ("HELLO\n", 0), done.stderr


def test_the_ticket_of_the_page_lets_in_for_good(tmp_path: Path) -> None:
    """The session outlasts its ticket, which was good for two seconds, and is asked for no other."""
    secret = "0123456789abcdef" * 2
    lines = example(AUTHENTICATION, "python", "def ticket(").text
    session = example(AUTHENTICATION, "python", "token=token").text
    stub, body = "...  # asks your application", "...  # renews by itself"
    assert "now + 60" in lines
    assert stub in session
    assert body in session
    asks = "\n    asked.append(None)\n    return ticket(SECRET, 'alice')"
    talks = """
    await session.send("hello")
    print(await anext(aiter(session)))
    await trio.sleep(2.5)  # behind the end of the ticket
    await session.send("again")
    print(await anext(aiter(session)), len(asked))
    """
    session = session.replace(stub, asks).replace(body, f"{textwrap.indent(textwrap.dedent(talks), '    ')}    #")
    with served(example(STARTED, "python", "shout"), tmp_path) as open_to_all:
        (endpoint,) = open_to_all.config["routes"][0]["backend"]["endpoints"]
        authentication = {
            "credential": {"open": True},
            "methods": [{"ticket": {"secrets": [secret]}}],
        }
        shout = route("shout", "/shout", endpoint, framing="records", authentication=authentication)
        with GatewayProcess({"routes": [shout]}) as gateway:
            program = tmp_path / "client.py"
            program.write_text(
                f"{lines.replace('now + 60', 'now + 2')}\n"
                "import trio\nfrom gateway.client import open_session\n"
                f"SECRET, url, asked = {secret.encode()!r}, {gateway.url('/shout')!r}, []\n"
                f"async def main():\n{textwrap.indent(session, '    ')}\n"
                "trio.run(main)\n"
            )
            done = subprocess.run(
                [sys.executable, str(program)],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
                timeout=PATIENCE_SECONDS,
            )
    assert (done.stdout, done.returncode) == ("HELLO\nAGAIN 1\n", 0), done.stderr
