"""Every page: its links hold, its YAML is what the gateway takes, what it cites is there, and it can be found."""

import ast
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from deploy import architecture
from gateway.config import load_with_files
from gateway.config.model import Config, Route
from tests.docs.pages import DOCS, DOCUMENTS, PAGES, Block, anchors, blocks, links
from tests.support.tools import REPOSITORY, tracked_files

YAML_BLOCKS: Final = [block for page in DOCUMENTS for block in blocks(page, "yaml")]

OTHERS: Final = ("scrape_configs", "services", "replicaCount", "apiVersion", "rules")
"""First keys of YAML that others read: Prometheus, compose, Helm, Kubernetes."""


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", DOCUMENTS, ids=named)
def test_its_relative_links_hold(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: there is no {target}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: no such heading"


def test_every_page_is_two_clicks_from_the_index() -> None:
    reached = {DOCS / "index.md"}
    for _ in range(2):
        targets = {(page.parent / link.partition("#")[0]).resolve() for page in reached for link in links(page)}
        reached |= {target for target in targets if target in set(PAGES)}
    assert [named(page) for page in PAGES if page not in reached] == []


# --- configurations ---------------------------------------------------------------------------------------------


def whole(block: Block) -> dict[str, Any] | None:
    """The block as a whole configuration; None for what is not the gateway's. A part is put where it belongs."""
    part = yaml.safe_load(block.text)
    if isinstance(part, list):
        part = {"routes": part}
    if not isinstance(part, dict) or next(iter(part)) in OTHERS:
        return None
    if not part.keys() <= Config.model_fields.keys():
        assert part.keys() <= Route.model_fields.keys(), (
            f"{block}: neither the gateway's nor known to be somebody else's"
        )
        part = {"routes": [{"name": "part", "match": {"path": "/part"}, **part}]}
    plain_backend = {"endpoints": ["tcp://127.0.0.1:9000"]}
    return {
        "listeners": [{"bind": "127.0.0.1:8080"}],
        "routes": [{"name": "any", "match": {"path": "/any"}, "backend": plain_backend}],
        **part,
    }


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
def test_its_yaml_is_a_configuration(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `kakitome check` has it, without looking for the files that are named."""
    config = whole(block)
    if config is None:
        return
    for name in re.findall(r"\$\{(\w+)\}", block.text):
        monkeypatch.setenv(name, "set")
    file = tmp_path / "kakitome.yaml"
    file.write_text(yaml.safe_dump(config))
    assert load_with_files(file, read_files=False).config.routes


@pytest.mark.parametrize("block", [block for page in DOCUMENTS for block in blocks(page, "python")], ids=str)
def test_its_python_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("block", [block for page in DOCUMENTS for block in blocks(page, "console")], ids=str)
def test_its_commands_are_shell(block: Block) -> None:
    """A command begins with a prompt and goes on while its lines end in a backslash; the rest is what it answers."""
    commands = re.findall(r"^[$#] ((?:.*\\\n)*.*)$", block.text, re.MULTILINE)
    assert commands
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


# --- what is cited ------------------------------------------------------------------------------------------------


def test_no_file_cites_a_page_that_is_not_here() -> None:
    for name in tracked_files():
        if name.endswith((".lock", ".svg")):
            continue
        text = (REPOSITORY / name).read_text(errors="ignore")
        if name.startswith("tests/docs/"):
            continue
        for cited in set(re.findall(r"(?<![\w/.-])docs/[\w/.-]+\.\w+", text)):
            assert (REPOSITORY / cited).exists(), f"{name} cites {cited}"
        # "Section 5 of the design" can be looked up by nobody who has only the repository.
        assert not re.search(r"\bdesign(\.md)?,? section\b|\bsection \d+ of the design\b", text, re.I), name


ARCHITECTURE: Final = DOCS / "architecture.md"


def test_the_architecture_s_picture_is_current() -> None:
    current = (DOCS / "architecture.svg").read_text() == architecture.picture()
    assert current, "run: python -m deploy.architecture > docs/architecture.svg"


def test_every_module_that_the_architecture_names_is_there_and_has_what_is_named() -> None:
    for path, name in re.findall(r"`([\w/]+\.py)(?:::([\w.]+))?`", ARCHITECTURE.read_text()):
        module = next((root / path for root in (REPOSITORY / "gateway", REPOSITORY) if (root / path).exists()), None)
        assert module is not None, path
        if name:
            *owner, attribute = name.split(".")
            source = module.read_text()
            assert not owner or re.search(rf"^class {owner[0]}\b", source, re.M), f"{path} has no {owner[0]}"
            assert re.search(rf"\bdef {attribute}\(|^{attribute}\b", source, re.M), f"{path} has no {name}"


def test_the_architecture_s_layers_are_those_of_the_import_contract() -> None:
    contract = re.search(r"^layers = \[\n(.*?)^\]", (REPOSITORY / "pyproject.toml").read_text(), re.M | re.S)
    assert contract is not None
    wanted = re.findall(r"\w+", contract[1])
    table = ARCHITECTURE.read_text().split("## The house")[1].split("## Words")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    found = [re.sub(r"\.py$|/$", "", name) for row in rows for name in re.findall(r"`([\w./]+)`", row)]
    assert set(found) == set(wanted)
    order = {name: place for place, name in enumerate(wanted)}
    highest = [min(order[re.sub(r"\.py$|/$", "", n)] for n in re.findall(r"`([\w./]+)`", row)) for row in rows]
    assert highest[1:] == sorted(highest[1:])
