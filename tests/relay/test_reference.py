"""The page on endings is made from the table by which sessions are ended."""

import runpy
import sys
from pathlib import Path

import pytest

from gateway.relay.closing import TRANSITIONS, State
from gateway.relay.reference import reference

DOCUMENT = Path(__file__).parents[2] / "docs" / "ending.md"


def test_the_page_is_the_one_that_the_table_makes() -> None:
    assert DOCUMENT.read_text() == reference(), "run: python -m gateway.relay.reference > docs/ending.md"


def test_the_command_prints_the_page(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "gateway.relay.reference")
    runpy.run_module("gateway.relay.reference", run_name="__main__")
    assert capsys.readouterr().out == reference()


def test_every_state_is_explained_and_every_transition_drawn() -> None:
    page = reference()
    for state in State:
        assert f"| {state.name} | {state.value} |" in page
    for (before, step), after in TRANSITIONS.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"    {before.name} --> {after.name}: ")]
        assert step.value in line
