"""The judge of objects sees what the API server would refuse, and what it would drop without a word."""

from typing import Any

import pytest

from tests.helm.cases import EVERYTHING
from tests.helm.chart import Object, render
from tests.helm.validation import VERSIONS, problem_of


def changed(kind: str, path: tuple[str, ...], value: Any) -> Object:
    """An object of the chart's with one value changed."""
    values = EVERYTHING
    if kind == "ScaledObject":
        values = {"keda": {"enabled": True, "prometheus": {"serverAddress": "http://p"}}}
    if kind == "PodMonitor":
        values = {"podMonitor": {"enabled": True}}
    subject = render(values).objects[kind]
    below = subject
    for key in path[:-1]:
        below = below[key]
    below[path[-1]] = value
    return subject


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("kind", "path", "value", "problem"),
    [
        ("Deployment", ("spec", "template", "spec", "volumes"), {}, "is not of type 'array'"),
        ("Deployment", ("spec", "replica"), 2, "'replica' was unexpected"),
        ("Deployment", ("spec", "strategy"), {"rollingUpdates": {}}, "'rollingUpdates' was unexpected"),
        ("Service", ("spec", "ports"), [{"name": "ws"}], "'port' is a required property"),
        ("ConfigMap", ("data",), {"kakitome.yaml": 1}, "1 is not of type"),
        ("HTTPRoute", ("spec", "parentRef"), [], "'parentRef' was unexpected"),
        ("HTTPRoute", ("spec", "rules"), [{"backendRefs": [{"name": "a", "port": "ws"}]}], "'ws' is not of type"),
        ("ServiceMonitor", ("spec", "endpoints"), [{"port": 9090}], "9090 is not of type 'string'"),
        ("PodMonitor", ("spec", "endpoints"), [], "'endpoints' was unexpected"),
        ("PrometheusRule", ("spec", "groups"), [{"name": "a", "rules": [{"expr": "1"}]}], "not valid under any"),
        ("ScaledObject", ("spec", "triggers"), [{"type": "cpu", "metadata": {"value": 60}}], "60 is not of type"),
        ("Certificate", ("spec", "usages"), ["everything"], "'everything' is not one of"),
    ],
)
def test_faults_are_seen(kind: str, path: tuple[str, ...], value: Any, problem: str, version: str) -> None:
    found = problem_of(changed(kind, path, value), version)
    assert found is not None
    assert problem in found
