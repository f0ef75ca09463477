"""The dashboards and rules in the chart: the very files of deploy/, and all of them."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.__main__ import CHART, REPOSITORY
from helm.embedded import embedded_files
from tests.helm.chart import NAMESPACE, find, render

FILES = embedded_files(REPOSITORY)
RULE_GROUPS = [
    group
    for path, content in sorted(FILES.items())
    if path.parts[0] == "rules"
    for group in yaml.safe_load(content)["groups"]
]
SELECTOR = re.compile(r"(?<![\w:])(?:[\w:]*kakitome_[\w:]+|up\b)")
"""What begins a selector in a rule's expression."""
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


def test_every_rule_is_rendered_for_its_release_and_otherwise_as_it_is() -> None:
    scoped = copy.deepcopy(RULE_GROUPS)
    for rule in (rule for group in scoped for rule in group["rules"]):
        rule["expr"] = rule["expr"].replace('job="kakitome"', f'job="kakitome", namespace="{NAMESPACE}"')
    assert rendered_groups() == scoped


@pytest.mark.parametrize(
    ("values", "release", "job"),
    [
        ({}, "blue", "blue-kakitome"),
        ({"nameOverride": "post"}, "blue", "blue-post"),
        ({"fullnameOverride": "letters"}, "blue", "letters"),
    ],
    ids=["another release", "nameOverride", "fullnameOverride"],
)
@pytest.mark.parametrize("monitor", ["ServiceMonitor", "PodMonitor"])
def test_rules_look_at_the_job_that_the_monitor_names(
    values: dict[str, Any], release: str, job: str, monitor: str
) -> None:
    enabled = {monitor[0].lower() + monitor[1:]: {"enabled": True}, "prometheusRule": {"enabled": True}}
    objects = render({**values, **enabled}, name=release, fullname=job).objects
    endpoints = "endpoints" if monitor == "ServiceMonitor" else "podMetricsEndpoints"
    relabelings = find(objects[monitor], f"spec.{endpoints}[0].relabelings")
    assert relabelings == [{"targetLabel": "job", "replacement": job}]
    for group in find(objects["PrometheusRule"], "spec.groups"):
        for rule in group["rules"]:
            jobs = re.findall(r'job="([^"]*)", namespace="([^"]*)"', rule["expr"])
            assert set(jobs) == {(job, NAMESPACE)}, rule
            assert len(jobs) == len(SELECTOR.findall(rule["expr"])), "a selector looks at other releases too"


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
