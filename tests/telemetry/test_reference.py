"""docs/metrics.md says what is exported."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from gateway.telemetry.declarations import DECLARATIONS, PREFIX
from gateway.telemetry.reference import LABEL_VALUES, reference

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == reference(), "run: python -m gateway.telemetry.reference > docs/metrics.md"


def test_the_module_prints_the_document(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # runpy warns when the module to be run has been imported before.
    monkeypatch.delitem(sys.modules, "gateway.telemetry.reference")
    runpy.run_module("gateway.telemetry.reference", run_name="__main__")
    assert capsys.readouterr().out == reference()


def test_every_metric_and_label_is_described() -> None:
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", reference(), flags=re.MULTILINE | re.DOTALL))
    assert list(sections) == [PREFIX + declaration.name for declaration in DECLARATIONS]
    for declaration in DECLARATIONS:
        section = sections[PREFIX + declaration.name]
        assert declaration.help in section
        assert re.findall(r"^- `(\w+)`", section, flags=re.MULTILINE) == list(declaration.labels)


def test_closed_sets_belong_to_declared_labels() -> None:
    labels = {(declaration.name, label) for declaration in DECLARATIONS for label in declaration.labels}
    assert LABEL_VALUES.keys() <= labels
