"""Rules of the house that no linter knows: what a file may be, and where the tests of a module stand."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.tools import REPOSITORY

SOURCES: Final = {".py", ".pyx", ".js", ".mjs", ".ts"}

MANY_LINES: Final = 500

REASON: Final = re.compile(r"\blong\b|\bin one file\b")
"""Stands in the first line of a file that has more, with why it is not two."""

NOT_A_SENTENCE: Final = ("/**", "# cython:", "#!")


def tracked(*folders: str) -> Iterator[Path]:
    """What git knows in these folders, relative to the repository; without git, as in an archive, what is there."""
    listing = ["git", "ls-files", "-z", *folders]
    done = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        yield from (Path(name) for name in done.stdout.split("\0") if name and (REPOSITORY / name).exists())
    else:
        for folder in folders:
            yield from (path.relative_to(REPOSITORY) for path in (REPOSITORY / folder).rglob("*") if path.is_file())


def gives_a_reason(text: str) -> bool:
    """Whether a file's first sentence says why it is long."""
    (first, *_) = [line for line in text.splitlines() if not line.startswith(NOT_A_SENTENCE)]
    return REASON.search(first) is not None


def test_a_long_file_says_why_in_its_first_line() -> None:
    sources = [path for path in tracked("gateway", "tests", "deploy", "helm") if path.suffix in SOURCES]
    assert len(sources) > 500
    texts = {path: (REPOSITORY / path).read_text() for path in sources}
    unexplained = [
        f"{path}: {len(text.splitlines())} lines"
        for path, text in texts.items()
        if len(text.splitlines()) > MANY_LINES and not gives_a_reason(text)
    ]
    assert not unexplained


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ('"""All of it, and so long."""\n', True),
        ('# cython: language_level=3\n"""In C; in one file because its parts are inlines."""\n', True),
        ('"""What belongs to all of it."""\n', False),
        ('"""All of it."""\n\nIt is long because it is.\n', False),
    ],
)
def test_a_reason_counts_where_it_is_read_first(text: str, does: bool) -> None:
    assert gives_a_reason(text) is does
