"""The project's pages, and what can be told of Markdown by looking: links, headings, blocks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.tools import REPOSITORY

DOCS: Final = REPOSITORY / "docs"
PAGES: Final = sorted(DOCS.rglob("*.md"))
"""What the site is made of."""
DOCUMENTS: Final = [*PAGES, *sorted(REPOSITORY.glob("*.md")), *sorted(REPOSITORY.glob("tests/*/README.md"))]

_BLOCK: Final = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\(([^()\s]+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block: where it stands, in which language, and its text without the page's indentation."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def blocks(page: Path, language: str) -> Iterator[Block]:
    """The fenced blocks of that language."""
    text = page.read_text()
    for match in _BLOCK.finditer(text):
        indent, found, body = match.groups()
        if found == language:
            lines = [line.removeprefix(indent) for line in body.splitlines()]
            line = text.count("\n", 0, match.start()) + 1
            yield Block(page=page, line=line, language=language, text="\n".join(lines) + "\n")


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Targets of its links, those in blocks and in code excepted."""
    return _LINK.findall(re.sub(r"`[^`\n]*`", "`code`", prose(page)))


def anchors(page: Path) -> set[str]:
    """What its headings can be linked by, as forges and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}
