"""What the chart makes of values: each feature alone, all of them together, and none."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from click.testing import CliRunner

from gateway.cli import main
from gateway.command import ExitStatus
from gateway.config import load_with_files
from gateway.config.model import RESTART_KEYS
from helm.__main__ import CHART
from helm.readme import ADAPTER_RULE, EXAMPLE
from helm.values import Value, read_values
from tests.helm.cases import DEFAULTS, EVERYTHING, FEATURES, Case
from tests.helm.chart import ABSENT, Object, Release, find, render
from tests.helm.validation import VERSIONS, problem_of

CASES: Final = {
    "defaults": DEFAULTS,
    **FEATURES,
    "everything": Case(
        values=EVERYTHING,
        expected=dict.fromkeys(
            (
                "Certificate",
                "ConfigMap",
                "ConfigMap/-check",
                "ConfigMap/-dashboards",
                "Deployment",
                "HTTPRoute",
                "HorizontalPodAutoscaler",
                "Ingress",
                "Job/-check",
                "NetworkPolicy",
                "Pod/-test",
                "PodDisruptionBudget",
                "PrometheusRule",
                "Secret/-extra",
                "Service",
                "Service/-admin",
                "ServiceMonitor",
            ),
            ...,
        ),
    ),
    "the README's example": Case(
        values=yaml.safe_load(EXAMPLE),
        expected={
            "Ingress: spec.rules[0].host": "chat.example.com",
            "HorizontalPodAutoscaler: spec.metrics[1].pods.metric.name": "kakitome_connections",
            "config: admin.token": "file:/run/secrets/kakitome/admin/token",
        },
    ),
}
EACH_CASE: Final = pytest.mark.parametrize("name", CASES)


@cache
def release_of(name: str) -> Release:
    case = CASES[name]
    return render(case.values, name=case.name, fullname=case.fullname)


def look_up(release: Release, expectation: str) -> Any:
    subject, _, path = expectation.partition(": ")
    found: Any = yaml.safe_load(release.config_text) if subject == "config" else release.objects.get(subject, ABSENT)
    return find(found, path) if path else found


@EACH_CASE
def test_it_makes_what_is_expected(name: str) -> None:
    release = release_of(name)
    found = {expectation: look_up(release, expectation) for expectation in CASES[name].expected}
    wanted = {
        expectation: found[expectation] if value is ... and found[expectation] is not ABSENT else value
        for expectation, value in CASES[name].expected.items()
    }
    assert found == wanted


@EACH_CASE
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_holds_before_kubernetes_schemas(name: str, version: str) -> None:
    problems = [problem_of(subject, version) for subject in release_of(name).objects.values()]
    assert not [problem for problem in problems if problem is not None]


@EACH_CASE
def test_the_gateway_accepts_the_rendered_configuration(name: str, tmp_path: Path) -> None:
    path = tmp_path / "kakitome.yaml"
    if "ConfigMap" not in release_of(name).objects:
        assert FEATURES[name].values["existingConfigMap"], "the configuration is somebody's, or the chart's"
        return
    path.write_text(release_of(name).config_text)
    loaded = load_with_files(path, environment={"ADMIN_TOKEN": "secret"}, read_files=False)
    assert loaded.config.admin is not None


@EACH_CASE
def test_whatever_is_named_is_there(name: str) -> None:
    release = release_of(name)
    volumes = {volume["name"] for volume in release.pod["volumes"]}
    ports = {port["name"] for port in release.gateway["ports"]}
    labels = release.objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert {mount["name"] for mount in release.gateway["volumeMounts"]} <= volumes
    assert set(named_ports(release)) <= ports
    for selector in selectors(release):
        assert selector.items() <= labels.items()
    for subject in release.objects.values():
        assert len(subject["metadata"]["name"]) <= 63
        assert subject["metadata"]["namespace" if "namespace" in subject["metadata"] else "name"]


def named_ports(release: Release) -> Iterator[str]:
    """The gateway's ports that other objects, and its probes, know by name."""
    for key in ("Service", "Service/-admin"):
        yield from (port["targetPort"] for port in release.objects.get(key, {"spec": {"ports": []}})["spec"]["ports"])
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        for handler in release.gateway.get(probe, {}).values():
            if isinstance(handler, dict):
                yield handler["port"]
    if "PodMonitor" in release.objects:
        yield release.objects["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"]


def selectors(release: Release) -> Iterator[dict[str, str]]:
    """What the gateway's pods are chosen by."""
    objects = release.objects
    yield objects["Deployment"]["spec"]["selector"]["matchLabels"]
    yield objects["Service"]["spec"]["selector"]
    if "Service/-admin" in objects:
        yield objects["Service/-admin"]["spec"]["selector"]
    for kind in ("PodDisruptionBudget", "PodMonitor"):
        if kind in objects:
            yield objects[kind]["spec"]["selector"]["matchLabels"]
    if "NetworkPolicy" in objects:
        yield objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]


@EACH_CASE
def test_no_service_takes_the_test_pod_for_a_gateway(name: str) -> None:
    release = release_of(name)
    if "Pod/-test" in release.objects:
        labels = release.objects["Pod/-test"]["metadata"]["labels"]
        assert not release.objects["Service"]["spec"]["selector"].items() <= labels.items()


@EACH_CASE
def test_a_service_monitor_finds_the_admin_service_and_no_other(name: str) -> None:
    objects = release_of(name).objects
    if "ServiceMonitor" in objects:
        selector = objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"].items()
        found = [key for key in ("Service", "Service/-admin") if selector <= objects[key]["metadata"]["labels"].items()]
        assert found == ["Service/-admin"]


# --- pods are replaced when, and only when, they must be ------------------------------------------------------------


def checksum(**values: Any) -> object:
    deployment: Object = render(values).objects["Deployment"]
    return find(deployment, 'spec.template.metadata.annotations."checksum/config"')


RESTARTING: Final = {
    "listeners": {"listeners": [{"bind": "0.0.0.0:8081"}]},
    "admin": {"admin": {"bind": "0.0.0.0:9091"}},
    "log.format": {"log": {"format": "console"}},
    "state": {"state": "/var/lib/kakitome/state"},
}


def test_what_a_running_gateway_cannot_take_up_makes_new_pods() -> None:
    assert RESTARTING.keys() == set(RESTART_KEYS)
    for config in RESTARTING.values():
        assert checksum() != checksum(config=config), config
    assert checksum() != checksum(admin={"existingSecret": "secrets"})


@pytest.mark.parametrize(
    "config",
    [
        {"log": {"level": "debug"}},
        {"timeouts": {"drain": "20s"}},
        {"trusted_proxies": ["10.0.0.0/8"]},
        {"routes": [{"name": "a", "match": {"path": "/a"}, "backend": {"endpoints": ["tcp://a:1"]}}]},
    ],
    ids=lambda config: next(iter(config)),
)
def test_what_it_reads_by_itself_keeps_the_pods(config: dict[str, Any]) -> None:
    assert checksum() == checksum(config=config)


def test_another_chart_of_the_same_image_keeps_the_pods() -> None:
    labels = render().objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert "helm.sh/chart" not in labels
    pinned = render({"image": {"digest": "sha256:" + 64 * "0"}}).objects["Deployment"]
    assert "app.kubernetes.io/version" not in pinned["spec"]["template"]["metadata"]["labels"]
    assert "app.kubernetes.io/version" in pinned["metadata"]["labels"]


def test_the_check_before_an_upgrade_looks_at_the_new_configuration(tmp_path: Path) -> None:
    release = render({"config": {"log": {"level": "debug"}}})
    (container,) = release.objects["Job/-check"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["kakitome"]
    mounted = release.objects["ConfigMap/-check"]["data"]["kakitome.yaml"]
    assert mounted == release.config_text
    path = tmp_path / "kakitome.yaml"
    for text, code in ((mounted, 0), (mounted + "typo: 1\n", ExitStatus.CONFIG_FAULTY)):
        path.write_text(text)
        arguments = [argument.replace("/etc/kakitome", str(tmp_path)) for argument in container["args"]]
        assert CliRunner().invoke(main, arguments).exit_code == code


def test_what_is_not_the_configuration_keeps_the_pods() -> None:
    assert checksum() == checksum(service={"port": 8000}, ingress={"enabled": True, "hosts": [{"host": "a"}]})


# --- completeness -----------------------------------------------------------------------------------------------------


def all_values() -> list[Value]:
    sections = read_values((CHART / "values.yaml").read_text())
    return [value for section in sections for value in section.values]


@pytest.mark.parametrize("value", all_values(), ids=lambda value: value.key)
def test_every_value_is_set_by_some_case(value: Value) -> None:
    assert any(find(case.values, value.key) is not ABSENT for case in FEATURES.values())


def test_the_adapters_metric_is_the_autoscalers() -> None:
    (rule,) = yaml.safe_load(ADAPTER_RULE)["rules"]["custom"]
    metric = render({"autoscaling": {"enabled": True, "targetConnections": 1}}).objects["HorizontalPodAutoscaler"]
    assert rule["name"]["as"] == find(metric, "spec.metrics[1].pods.metric.name")
