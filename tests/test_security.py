"""docs/security.md: each defence names tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    line
    for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| who |")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[2].strip()[:50])
def test_each_defence_is_proved_by_tests_that_are_there(row: str) -> None:
    proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row.split("|")[4])
    assert proofs, "expected `tests/FILE.py::TEST` in the last column"
    for file, name in proofs:
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_there_are_rows() -> None:
    assert len(ROWS) > 10
