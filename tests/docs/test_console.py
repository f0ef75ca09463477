"""Console blocks of README and getting-started: each command is run as it stands, or is known to be tried elsewhere."""

import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

import pytest

from tests.docs.pages import DOCS, Block, blocks
from tests.support.network import free_port
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY, need

PAGES: Final = (REPOSITORY / "README.md", DOCS / "getting-started.md")

ELSEWHERE: Final = {
    "make demo": "tests/demo/test_run.py runs what it runs",
    "make test": "the suite itself",
    "python3 -m venv venv && venv/bin/pip install .": "tests/test_build.py, tests/wheels/run",
    "python3 -m venv venv && venv/bin/pip wheel": "tests/wheels/run",
    "venv/bin/kakitome --version": "tests/wheels/run",
}
"""By their beginnings: what takes minutes, an index, or the suite itself, and who tries it."""


def commands() -> Iterator[tuple[Block, str, str]]:
    """Each command with what the page says that it answers."""
    for page in PAGES:
        for block in blocks(page, "console"):
            for command, told in re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", block.text, re.MULTILINE):
                yield block, re.sub(r"\s+# .*", "", command), told


def is_elsewhere(command: str) -> bool:
    return any(command.startswith(beginning) for beginning in ELSEWHERE)


def test_what_is_tried_elsewhere_stands_on_a_page() -> None:
    told = [command for _, command, _ in commands()]
    for beginning in ELSEWHERE:
        assert any(command.startswith(beginning) for command in told), beginning


@pytest.fixture(scope="module")
def demo() -> Iterator[int]:
    """`make demo`, at another port."""
    port = free_port()
    command = [sys.executable, "-m", "gateway", "demo", "--bind", f"127.0.0.1:{port}"]
    with ServiceProcess(command, name="kakitome demo", started=f"127.0.0.1:{port}", folder=REPOSITORY):
        yield port


@pytest.mark.parametrize(
    ("block", "command", "told"),
    [found for found in commands() if not is_elsewhere(found[1])],
    ids=lambda value: str(value)[:40] if isinstance(value, Block) else "",
)
def test_it_answers_what_the_page_says(block: Block, command: str, told: str, demo: int) -> None:
    need("curl", "apt-get install curl")
    here = command.replace("127.0.0.1:8080", f"127.0.0.1:{demo}").replace(
        ".venv/bin/kakitome", f"{sys.executable} -m gateway"
    )
    done = subprocess.run(["bash", "-c", here], capture_output=True, check=False, cwd=REPOSITORY, timeout=60)
    shown = done.stdout.decode(errors="replace").replace("\r\n", "\n")
    for line in filter(None, told.splitlines()):
        assert line in shown, f"{block}\n{shown}{done.stderr.decode()}"
    assert told, "a command whose answer is not told shows nothing"
