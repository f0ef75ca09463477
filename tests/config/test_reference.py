"""docs/configuration.md: current, complete, and its example loads."""

import re
from pathlib import Path

import pytest

from gateway.config import load_with_files
from gateway.config.model import Config
from gateway.config.reference import EXAMPLE, reference
from gateway.config.section import Section, section_in

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def keys(model: type[Section] = Config) -> list[str]:
    names = []
    for name, field in model.model_fields.items():
        names.append(name)
        inner = section_in(field.annotation)
        if inner is not None:
            names += keys(inner)
    return names


def test_the_page_in_docs_is_current() -> None:
    assert PAGE.read_text() == reference(), "run: kakitome schema --markdown > docs/configuration.md"


def test_every_key_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", reference(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(keys())


def test_every_row_has_four_cells() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) == 5, row


def test_every_link_within_the_page_has_a_heading() -> None:
    page = reference()
    headings = {
        re.sub(r"[^\w-]", "", heading.lower().replace(" ", "-"))
        for heading in re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", page))
    assert links
    assert links <= headings


def test_the_example_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    path = tmp_path / "kakitome.yaml"
    path.write_text(EXAMPLE)
    config = load_with_files(path, read_files=False).config
    assert [route.name for route in config.routes] == ["chat", "vnc", "pages"]
    assert config.log.level == "info"
