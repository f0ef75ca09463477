"""The page's files: complete, without inline code or style, without another host."""

import re
from html.parser import HTMLParser

import pytest

from gateway.demo.run import PAGE


class Elements(HTMLParser):
    """All elements with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def elements() -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed((PAGE / "index.html").read_text())
    return parser.found


def test_it_needs_no_inline_code_or_style(elements: list[tuple[str, dict[str, str | None]]]) -> None:
    assert not [tag for tag, _ in elements if tag == "style"]
    assert all("src" in attributes for tag, attributes in elements if tag == "script")
    assert not [name for _, attributes in elements for name in attributes if name == "style" or name.startswith("on")]


def test_it_refers_only_to_files_that_come_with_it(elements: list[tuple[str, dict[str, str | None]]]) -> None:
    references = [attributes[key] for _, attributes in elements for key in ("src", "href") if key in attributes]
    assert references
    for reference in references:
        assert reference is not None
        assert (PAGE / reference).is_file(), reference
    for path in PAGE.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|url\(", text), path


def test_every_input_has_a_label(elements: list[tuple[str, dict[str, str | None]]]) -> None:
    labelled = {attributes["for"] for tag, attributes in elements if tag == "label"}
    assert {attributes["id"] for tag, attributes in elements if tag == "input"} == labelled
