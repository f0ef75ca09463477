"""The dashboards and rules of deploy/, which the chart carries copies of: Helm reads only files of the chart.

Invariant: a copy is byte for byte its original, and has its name.
"""

from collections.abc import Mapping
from pathlib import Path

import yaml


def embedded_files(repository: Path) -> Mapping[Path, bytes]:
    """What stands in the chart's `files` folder, by the path in it."""
    deploy = repository / "deploy"
    dashboards = {Path("dashboards") / path.name: path.read_bytes() for path in (deploy / "grafana").rglob("*.json")}
    rules = {
        Path("rules") / path.name: path.read_bytes()
        for path in (deploy / "prometheus").rglob("*.yaml")
        if _holds_rules(path)
    }
    return dashboards | rules


def _holds_rules(path: Path) -> bool:
    """Whether it is a file of rules, not a configuration or a test of rules."""
    document = yaml.safe_load(path.read_bytes())
    return isinstance(document, dict) and document.keys() == {"groups"}
