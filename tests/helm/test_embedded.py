"""The dashboards and rules in the chart: the very files of deploy/, and all of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.__main__ import CHART, REPOSITORY
from helm.embedded import embedded_files
from tests.helm.chart import find, render

FILES = embedded_files(REPOSITORY)
RULE_GROUPS = [
    group
    for path, content in sorted(FILES.items())
    if path.parts[0] == "rules"
    for group in yaml.safe_load(content)["groups"]
]
ALERTS = [rule["alert"] for group in RULE_GROUPS for rule in group["rules"] if "alert" in rule]


def rendered_groups(**values: Any) -> list[dict[str, Any]]:
    rule = render({"prometheusRule": {"enabled": True, **values}}).objects["PrometheusRule"]
    return list(find(rule, "spec.groups"))


def test_rules_are_told_from_other_files(tmp_path: Path) -> None:
    for name, text in {
        "grafana/dashboards/overview.json": "{}",
        "grafana/provisioning/datasource.yaml": "apiVersion: 1\n",
        "prometheus/alerts.yaml": "groups: []\n",
        "prometheus/prometheus.yaml": "scrape_configs: []\n",
        "prometheus/tests/alerts.yaml": "rule_files: [alerts.yaml]\ntests: []\n",
        "other/rules.yaml": "groups: []\n",
    }.items():
        path = tmp_path / "deploy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert embedded_files(tmp_path) == {
        Path("dashboards/overview.json"): b"{}",
        Path("rules/alerts.yaml"): b"groups: []\n",
    }


@pytest.mark.parametrize("folder", ["dashboards", "rules"])
def test_there_are_some(folder: str) -> None:
    assert [path for path in FILES if path.parts[0] == folder]


def test_the_chart_has_the_very_files_of_deploy() -> None:
    present = {
        path.relative_to(CHART / "files"): path.read_bytes()
        for folder in ("dashboards", "rules")
        for path in (CHART / "files" / folder).iterdir()
    }
    assert present == FILES


def test_every_dashboard_is_rendered_as_it_is() -> None:
    dashboards = render({"grafanaDashboards": {"enabled": True}}).objects["ConfigMap/-dashboards"]["data"]
    assert {name: json.loads(text) for name, text in dashboards.items()} == {
        path.name: json.loads(content) for path, content in FILES.items() if path.parts[0] == "dashboards"
    }


def test_every_rule_is_rendered_as_it_is() -> None:
    assert rendered_groups() == RULE_GROUPS


def test_disabled_alerts_are_left_out_and_nothing_else() -> None:
    groups = rendered_groups(disabledAlerts=[ALERTS[0]])
    names = [rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule]
    records = [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]
    assert names == ALERTS[1:]
    assert records == [rule["record"] for group in RULE_GROUPS for rule in group["rules"] if "record" in rule]


def test_a_group_without_its_last_rule_is_gone() -> None:
    groups = rendered_groups(disabledAlerts=ALERTS)
    assert all("record" in rule for group in groups for rule in group["rules"])
    assert all(group["rules"] for group in groups)


def test_alerts_get_labels_and_keep_their_own() -> None:
    severity = {
        rule["alert"]: rule["labels"]["severity"] for group in RULE_GROUPS for rule in group["rules"] if "alert" in rule
    }
    for group in rendered_groups(additionalAlertLabels={"team": "chat", "severity": "none"}):
        for rule in group["rules"]:
            if "alert" in rule:
                assert rule["labels"]["team"] == "chat"
                assert rule["labels"]["severity"] == severity[rule["alert"]]
            else:
                assert "team" not in rule.get("labels", {})
