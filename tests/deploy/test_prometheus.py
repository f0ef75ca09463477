"""The rules: sound, tested, explained in the runbook; what each looks at is there when a real gateway is scraped."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.monitored import POD, RULES, SECOND_RELEASE, Monitored
from tests.helm.chart import NAMESPACE, render
from tests.support.tools import REPOSITORY, need

RULES_TEST: Final = RULES.with_name("rules_test.yaml")
RUNBOOK: Final = REPOSITORY / "docs" / "runbook.md"

GROUPS: Final = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: Final[dict[str, dict[str, Any]]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}
RECORDED: Final[dict[str, str]] = {
    rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule
}

TRUE_UNDER_LOAD: Final = frozenset(
    {
        "KakitomeUpstreamMessagesUnknown",
        "KakitomeRouteWithoutBackend",
        "KakitomeBackendDown",
        "KakitomeResumesFailing",
        "KakitomeOriginRefusalsRising",
        "KakitomeConnectionsNearLimit",
        "KakitomeScrapeFailing",
        "KakitomeConfigRejected",
        "KakitomeCertificateExpiring",
        "KakitomeCertificateAboutToExpire",
    }
)
"""Alerts whose condition the monitored gateway's faults fulfil; the others want more time or a worse fault."""


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    tool = need("promtool", "apt-get install prometheus")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, cwd=RULES.parent, check=False)


def operands(expression: str) -> Iterator[str]:
    """What an alert compares and combines: `a > 0.1 and b > 3 * c` has a, b and 3 * c; numbers are left out.

    What is combined within an operand comes after it, for `sum(a or b)` has data without b.
    """
    parts = _parts(expression)
    whole = expression.strip()
    if len(parts) > 1:
        for part in parts:
            yield from operands(part)
    elif re.fullmatch(r"(?:absent)?\(\0*\)", _masked(whole)):
        yield from operands(whole[whole.index("(") + 1 : -1])
    elif re.search("[a-z]", whole):
        yield whole
        yield from _combined_within(whole)


def _combined_within(operand: str) -> Iterator[str]:
    for group in re.finditer(r"\((\0*)\)", _masked(operand)):
        inner = operand[group.start(1) : group.end(1)]
        yield from operands(inner) if len(_parts(inner)) > 1 else _combined_within(inner)


def _parts(expression: str) -> list[str]:
    """Split at the comparisons and set operators that are in no parentheses."""
    ends = [0]
    for operator in re.finditer(
        r"\s(?:(?:and|or|unless)(?:\s(?:on|ignoring)\s?\(\0*\))?|[=!]=|[<>]=?)\s", _masked(expression)
    ):
        ends += operator.span()
    ends.append(len(expression))
    return [expression[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]


def _masked(expression: str) -> str:
    """As long as the expression, with a NUL for each character in quotes or within brackets of any kind."""
    masked, depth, quoted = [], 0, False
    for character in expression:
        closes = not quoted and character in ")]}"
        depth -= closes
        masked.append("\0" if depth or quoted or character == '"' else character)
        depth += not quoted and character in "([{"
        quoted ^= character == '"'
    return "".join(masked)


# --- the files ----------------------------------------------------------------------------------------------------


def test_rules_and_configuration_are_sound() -> None:
    # --lint-fatal: rules that are there twice, too.
    checked = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES.name)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    checked = promtool("check", "config", "prometheus.yml")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_unit_tests_of_the_rules_pass() -> None:
    tested = promtool("test", "rules", RULES_TEST.name, "rules_flapping_test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


SECOND_JOB: Final = f'job="{SECOND_RELEASE}", namespace="{NAMESPACE}"'


def promtool_on(folder: Path, tests: list[dict[str, Any]]) -> None:
    """Runs unit tests on the rules that the chart makes for the second release."""
    values = {"nameOverride": "post", "prometheusRule": {"enabled": True}}
    rules = render(values, name="blue", fullname=SECOND_RELEASE).objects["PrometheusRule"]["spec"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "rules_test.yaml").write_text(yaml.safe_dump(document))
    tested = promtool("test", "rules", str(folder / "rules_test.yaml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def alert_tests() -> list[dict[str, Any]]:
    """Those unit tests in which an alert fires, but for those that play with namespaces themselves."""
    # All values are text: to others than promtool `0x70` is a number.
    tests = yaml.load(RULES_TEST.read_text(), Loader=yaml.BaseLoader)["tests"]
    return [test for test in tests if "alert_rule_test" in test and "namespace=" not in str(test["input_series"])]


def test_a_release_with_an_override_has_every_alert(tmp_path: Path) -> None:
    tests = alert_tests()
    for test in tests:
        for series in test["input_series"]:
            series["series"] = series["series"].replace('job="kakitome"', SECOND_JOB)
        for case in test["alert_rule_test"]:
            for alert in case["exp_alerts"]:
                alert["exp_labels"] = alert["exp_labels"] | {"job": SECOND_RELEASE, "namespace": NAMESPACE}
                notes = alert["exp_annotations"]
                notes["summary"] = notes["summary"].replace("gateway of kakitome", f"gateway of {SECOND_RELEASE}")
        test.pop("promql_expr_test", None)
    promtool_on(tmp_path, tests)


def test_the_faults_of_one_release_are_no_alerts_of_another(tmp_path: Path) -> None:
    tests = alert_tests()
    for test in tests:
        # This one is well, and up; the other has every fault.
        test["input_series"].append({"series": f'up{{{SECOND_JOB}, instance="well"}}', "values": "1x400"})
        test["alert_rule_test"] = [{**case, "exp_alerts": []} for case in test["alert_rule_test"]]
        test.pop("promql_expr_test", None)
    promtool_on(tmp_path, tests)


RELEASES: Final = 2
"""Under the real Prometheus."""

STEADY: Final = frozenset({"KakitomeCertificateExpiring", "KakitomeCertificateAboutToExpire"})
"""Alerts whose condition cannot come and go."""


def test_what_may_flap_fires_once() -> None:
    assert {alert for alert, rule in ALERTS.items() if "keep_firing_for" not in rule} == STEADY


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_firing_and_beside_something_silent(alert: str) -> None:
    cases = [
        (bool(case["exp_alerts"]), any("silent" in series["series"] for series in test["input_series"]))
        for test in yaml.safe_load(RULES_TEST.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        if case["alertname"] == alert
    ]
    assert any(fires for fires, _ in cases), "no test in which it fires"
    assert any(not fires or beside_silent for fires, beside_silent in cases), "no test in which it is silent"


def test_every_recording_rule_is_tested() -> None:
    tested = RULES_TEST.read_text()
    assert not [name for name in RECORDED if not re.search(rf"(expr: |\(){name}\b", tested)]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_happens_and_leads_to_its_section_of_the_runbook(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert {"summary", "description", "runbook_url"} == rule["annotations"].keys()
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert REPOSITORY / page == RUNBOOK
    headings = re.findall(r"^## (.+)$", RUNBOOK.read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}
    assert anchor == alert.lower()


def test_the_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    headings = set(re.findall(r"^## (Kakitome\w+)$", RUNBOOK.read_text(), re.MULTILINE))
    assert headings == ALERTS.keys()


def test_an_expression_is_taken_apart_into_what_it_compares() -> None:
    expression = "sum by (a) (x)\n  > 0.1\nand\nsum by (a) (x)\n  > 3 * y\n"
    assert list(operands(expression)) == ["sum by (a) (x)", "sum by (a) (x)", "3 * y"]
    assert list(operands("x\n  > 1\nunless on (a, b)\n(max by (a) (y) == 0)\n")) == ["x", "max by (a) (y)"]
    assert list(operands('absent(up{job="a"})\nor\nx\n  == 0')) == ['up{job="a"}', "x"]
    assert list(operands('x{a=") > ("} > 1')) == ['x{a=") > ("}']
    within = "min by (a) (\n  x\n  unless on (a)\n  (max by (a) (y) == 0)\n)"
    assert list(operands(f"{within}\n  == 0\n")) == [within, "x", "max by (a) (y)"]


# --- a real gateway, a real Prometheus ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_rule_records(under_load: Monitored, name: str) -> None:
    under_load.prometheus.wait_for_data(name)


@pytest.mark.parametrize(
    ("alert", "operand"),
    [(alert, operand) for alert, rule in ALERTS.items() for operand in operands(rule["expr"])],
)
def test_what_an_alert_looks_at_is_there(under_load: Monitored, alert: str, operand: str) -> None:
    under_load.prometheus.wait_for_data(operand)


@pytest.mark.parametrize("alert", sorted(TRUE_UNDER_LOAD))
def test_an_alert_sees_its_fault(under_load: Monitored, alert: str) -> None:
    under_load.prometheus.wait_for_data(ALERTS[alert]["expr"])


def test_prometheus_evaluates_every_rule_without_a_fault(under_load: Monitored) -> None:
    def evaluated() -> list[dict[str, Any]] | None:
        rules = [rule for group in under_load.prometheus.ask("rules")["groups"] for rule in group["rules"]]
        return None if any(rule["health"] == "unknown" for rule in rules) else rules

    rules = under_load.prometheus.wait_for(evaluated, "evaluation of every rule")
    assert len(rules) == RELEASES * (len(ALERTS) + len(RECORDED))
    assert not [rule["lastError"] for rule in rules if rule["health"] != "ok"]


def test_only_the_release_that_is_gone_is_absent(under_load: Monitored) -> None:
    # Of a gateway that has just begun to be scraped, or was missed once on a busy machine, the alert goes by itself.
    def gone() -> list[tuple[str, str]]:
        alerts = under_load.prometheus.query('ALERTS{alertname="KakitomeAbsent"}')
        return [(alert["metric"]["namespace"], alert["metric"]["job"]) for alert in alerts]

    under_load.prometheus.wait_for(lambda: gone() == [(NAMESPACE, SECOND_RELEASE)], "alert of the second release alone")
    failing = under_load.prometheus.wait_for_data('ALERTS{alertname="KakitomeScrapeFailing"}')
    assert {alert["metric"]["job"] for alert in failing} == {"kakitome"}


def test_a_fault_is_an_alert_of_its_own_release_only(under_load: Monitored) -> None:
    alerts = under_load.prometheus.wait_for_data('ALERTS{alertname!~"KakitomeAbsent"}')
    assert {alert["metric"]["job"] for alert in alerts} == {"kakitome"}
    recorded = under_load.prometheus.wait_for_data('{__name__=~".+:kakitome_.+"}')
    identities = [tuple(sorted(sample["metric"].items())) for sample in recorded]
    assert len(identities) == len(set(identities))


@pytest.mark.parametrize("metric", ["kakitome_delivery_seconds_bucket", "kakitome_handshake_seconds_bucket"])
def test_prometheus_keeps_exemplars_that_name_sessions_of_the_gateway(under_load: Monitored, metric: str) -> None:
    """Asked as Grafana asks: with the panel's whole query."""
    query = f'histogram_quantile(0.99, sum by (le) (rate({metric}{{route="records"}}[1m])))'

    def kept() -> list[dict[str, Any]]:
        now = time.time()
        parameters = {"query": query, "start": str(now - 60), "end": str(now)}
        series = under_load.prometheus.ask("query_exemplars", **parameters)
        return [
            {**exemplar, "le": one["seriesLabels"]["le"], "job": one["seriesLabels"]["job"]}
            for one in series
            for exemplar in one["exemplars"]
        ]

    exemplars = under_load.prometheus.wait_for(kept, f"exemplars of {metric}")
    began = {event["session"] for event in under_load.gateway.events if event["event"] == "session_began"}
    for exemplar in exemplars:
        assert exemplar["labels"].keys() == {"session"}
        assert exemplar["labels"]["session"] in began
        assert 0 <= float(exemplar["value"]) <= float(exemplar["le"].replace("+Inf", "inf"))
        assert exemplar["job"] == "kakitome"


def test_the_operators_labels_do_not_hide_the_backends_endpoint(under_load: Monitored) -> None:
    samples = under_load.prometheus.wait_for_data("kakitome_backend_up")
    assert {sample["metric"]["endpoint"].partition(":")[0] for sample in samples} == {"tcp"}


def test_the_autoscalers_queries_count_the_pods_connections(under_load: Monitored) -> None:
    routes = {"routes": under_load.gateway.config["routes"]}
    keda = {"enabled": True, "prometheus": {"serverAddress": "http://prometheus:9090"}}
    triggers = render({"config": routes, "keda": keda}).objects["ScaledObject"]["spec"]["triggers"]
    (query,) = [trigger["metadata"]["query"] for trigger in triggers if trigger["type"] == "prometheus"]
    held = 4  # on the routes `full`, `shared` and `stalled`; the traffic's come and go
    under_load.prometheus.wait_for_data(f"({query}) >= {held}")  # a scrape may have come before the last of them

    values = {"config": routes, "autoscaling": {"enabled": True, "targetConnections": 1000}}
    metrics = render(values).objects["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (name,) = [metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"]
    # As an adapter asks for a pod's metric: by its name, with the pod's labels.
    adapted = f'sum by (namespace, pod) ({name}{{namespace="relay", pod="{POD}"}})'
    under_load.prometheus.wait_for_data(f"({adapted}) >= {held}")
