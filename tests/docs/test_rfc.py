"""docs/rfc.md: every sentence of RFC 6455 that demands something is there, and so is every test that it names."""

import re
from collections import Counter
from typing import Final

import pytest

from tests.docs.requirements import demands
from tests.support.tools import REPOSITORY

PAGE: Final = REPOSITORY / "docs" / "rfc.md"

DEMANDS: Final = {
    "2": 2, "2.1": 2, "4.1": 35, "4.2": 1, "4.2.2": 10, "4.3": 1, "4.4": 1, "5.1": 4, "5.2": 9, "5.3": 3, "5.4": 11,
    "5.5.1": 6, "5.5.2": 1, "5.6": 1, "5.8": 1, "6.1": 8, "6.2": 5, "7.1.1": 1, "7.1.7": 3, "7.2.1": 2, "7.2.2": 1,
    "7.4.1": 3, "8.1": 1, "9": 2, "9.1": 5, "10.3": 1, "10.4": 1, "10.6": 1, "10.7": 1, "11.1.1": 2, "11.1.2": 2,
    "11.3.1": 2, "11.3.3": 1, "11.3.4": 1, "11.3.5": 1,
}  # fmt: skip
"""Sentences of RFC 6455 with a MUST, by section, as `tests.docs.requirements` counts them in its text."""


def rows(heading: str) -> list[list[str]]:
    """The cells of each row of the table below a heading that begins so."""
    part = PAGE.read_text().split(f"\n## {heading}")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_each_demand_of_rfc_6455_has_its_place_once() -> None:
    found = Counter(
        (section, int(ordinal))
        for cells in rows("RFC 6455")
        for section, ordinal in re.findall(r"([\d.]+) \((\d+)\)", cells[0])
    )
    wanted = Counter((section, number + 1) for section, count in DEMANDS.items() for number in range(count))
    assert found == wanted


@pytest.mark.parametrize("heading", ["RFC 6455", "RFC 7692"])
def test_each_row_has_a_proof_or_a_reason(heading: str) -> None:
    table = rows(heading)
    assert table
    for cells in table:
        assert len(cells) == 3, cells
        assert re.match(r"`[\w/]+\.py::test_|Not (met|ours|a requirement by itself)", cells[2]), cells


def test_each_test_that_is_named_exists() -> None:
    names = set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE.read_text()))
    assert names
    for file, name in sorted(names):
        source = (REPOSITORY / "tests" / file).read_text()
        assert re.search(rf"^(async )?def {name}\(", source, flags=re.MULTILINE), f"{file} has no {name}"


def test_demands_are_found_over_page_breaks_and_numbered_by_section() -> None:
    text = """
1.  Introduction

   Nothing here.

5.1.  Overview

   A client MUST mask.  (It may
   do more.)  A server MUST NOT



Fette & Melnikov             Standards Track                   [Page 27]
\f
RFC 6455                 The WebSocket Protocol            December 2011


   mask.  It should not.

5.2.  Framing

   This SHALL be so.
"""
    assert [(section, ordinal) for section, ordinal, _ in demands(text)] == [("5.1", 1), ("5.1", 2), ("5.2", 1)]
