"""Helm's own lint has nothing to say, whatever is switched on."""

import helm_python
import pytest
import yaml

from helm.__main__ import CHART
from helm.readme import EXAMPLE
from tests.helm.cases import EVERYTHING, FEATURES
from tests.helm.chart import Values

CASES: dict[str, Values] = {
    "defaults": {},
    "everything": EVERYTHING,
    "the README's example": yaml.safe_load(EXAMPLE),
    **{name: case.values for name, case in FEATURES.items()},
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_to_complain_about(name: str) -> None:
    report = helm_python.lint(CHART, dict(CASES[name]), strict=True, kube_version="v1.30.0")
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_lint_sees_what_is_wrong() -> None:
    report = helm_python.lint(CHART, {"replicaCount": "two"}, strict=True)
    assert any("replicaCount" in error for error in report["errors"])
