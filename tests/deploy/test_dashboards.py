"""The dashboards: current, complete, drawable; and each of their queries returns data from a real gateway."""

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import pytest

from deploy.grafana.generate import FOLDER, dashboards
from deploy.grafana.panels import COLUMNS
from gateway.telemetry.declarations import DECLARATIONS, PREFIX, Kind
from tests.deploy.monitored import POD, Monitored, Sample
from tests.helm.chart import NAMESPACE

FILES: Final = sorted(FOLDER.glob("*.json"))
UNITS: Final = frozenset({"short", "s", "bytes", "Bps", "mps", "cps", "percentunit"})
"""Of Grafana's units, those in use here; a name that it does not know it would write behind the number."""

SUBSTITUTES: Final = {"$__rate_interval": "5m", "$__range": "15m", "$route": ".*", "$instance": ".*"} | {
    "$namespace": ".*",
    "$job": "kakitome",
    "$pod": ".*",
}
"""What Grafana puts in place of its variables, with `All` chosen."""

Json = dict[str, Any]


def load(path: Path) -> Json:
    document: Json = json.loads(path.read_text())
    return document


def panels(path: Path) -> list[Json]:
    """Those that show something; rows are headings."""
    shown = [panel for panel in load(path)["panels"] if panel["type"] != "row"]
    assert len({panel["title"] for panel in shown}) == len(shown), "two panels have one title"
    return shown


def queries() -> Iterator[tuple[str, str]]:
    """(where it stands, expression) of every query of every dashboard."""
    for path in FILES:
        for panel in panels(path):
            for target in panel["targets"]:
                yield f"{path.stem}/{panel['title']}/{target['refId']}", target["expr"]


QUERIES: Final = dict(queries())


def substituted(expression: str) -> str:
    for variable, value in SUBSTITUTES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, f"a variable that the dashboard does not have: {expression}"
    return expression


# --- the files ----------------------------------------------------------------------------------------------------


def test_the_files_are_as_they_would_be_generated() -> None:
    current = {path: path.read_text() for path in FILES}
    assert current == dashboards(), "to be mended by: python -m deploy.grafana.generate"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_panel_is_explained_and_has_its_place(path: Path) -> None:
    document = load(path)
    assert document["uid"] == path.stem
    assert document["description"]
    identifiers = [panel["id"] for panel in document["panels"]]
    assert len(identifiers) == len(set(identifiers))
    for panel in panels(path):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["targets"]
        shown_in = panel["options"]["yAxis"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]
        assert shown_in["unit"] in UNITS
        place = panel["gridPos"]
        assert 0 <= place["x"] <= place["x"] + place["w"] <= COLUMNS
    for one, other in combinations([panel["gridPos"] for panel in document["panels"]], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dashboard_lets_one_choose_data_source_release_gateway_and_route(path: Path) -> None:
    document = load(path)
    variables = {variable["name"]: variable for variable in document["templating"]["list"]}
    assert variables.keys() == {"datasource", "namespace", "job", "pod", "instance", "route"}
    assert variables["datasource"]["type"] == "datasource"
    for panel in panels(path):
        for query in (panel, *panel["targets"]):
            assert query["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in (target for panel in panels(path) for target in panel["targets"]):
        for name in ("namespace", "job", "pod", "instance"):
            assert target["expr"].count("{") == target["expr"].count(f'{name}=~"${name}"'), f"a selector without {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_thresholds_ascend(path: Path) -> None:
    for panel in panels(path):
        base, *steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert base["value"] is None
        values = [step["value"] for step in steps]
        assert values == sorted(set(values))


def test_exemplars_are_asked_for_where_there_are_any_and_nowhere_else() -> None:
    asked: dict[bool, set[str]] = {True: set(), False: set()}
    for path in FILES:
        for panel in panels(path):
            for target in panel.get("targets", ()):
                found = re.findall(r"kakitome_\w+_bucket", target["expr"])
                asked[target.get("exemplar", False)].update(found)
    assert asked == {
        True: {"kakitome_delivery_seconds_bucket", "kakitome_handshake_seconds_bucket"},
        False: {"kakitome_event_loop_lag_seconds_bucket"},
    }


def test_dashboards_link_to_each_other() -> None:
    for path in FILES:
        linked = {link["url"].removeprefix("/d/") for link in load(path)["links"]}
        assert linked == {other.stem for other in FILES if other != path}


def test_every_metric_of_the_gateway_that_is_shown_is_declared_and_has_the_labels() -> None:
    labels_of: dict[str, set[str]] = {}
    for declaration in DECLARATIONS:
        name = PREFIX + declaration.name
        for suffix in ("_bucket", "_count", "_sum") if declaration.kind is Kind.HISTOGRAM else ("",):
            labels_of[name + suffix] = {*declaration.labels, "namespace", "job", "pod", "instance", "le"}
    for where, expression in QUERIES.items():
        for name, matchers in re.findall(rf"({PREFIX}\w+)\{{([^}}]*)\}}", expression):
            assert set(re.findall(r"(\w+)=", matchers)) <= labels_of[name], where


# --- a real gateway, a real Prometheus ----------------------------------------------------------------------------


@pytest.mark.parametrize("where", QUERIES)
def test_a_query_returns_data(under_load: Monitored, where: str) -> None:
    under_load.prometheus.wait_for_data(substituted(QUERIES[where]))


SEEN: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    ("kakitome-overview/Messages, upstream/A", {"route": "records"}),
    ("kakitome-overview/Messages, downstream/A", {"route": "echo"}),
    ("kakitome-overview/Rungs, upstream/A", {"rung": "reached"}),
    ("kakitome-overview/Rungs, downstream/A", {"rung": "consumed"}),
    ("kakitome-overview/Settle latency, upstream/A", {"le": "+Inf"}),
    ("kakitome-overview/Refusals/A", {"reason": "origin_not_allowed"}),
    ("kakitome-overview/Handshakes/A", {"outcome": "unreachable"}),
    ("kakitome-overview/Closes/A", {"code": "1000", "by": "client"}),
    ("kakitome-overview/Endpoints down/A", {}),
    ("kakitome-overview/Reloads/A", {"outcome": "rejected"}),
    ("kakitome-delivery/Messages in flight/A", {"route": "stalled", "direction": "upstream"}),
    ("kakitome-delivery/Oldest in flight/A", {"route": "stalled", "direction": "upstream"}),
    ("kakitome-delivery/Unknown messages/A", {"direction": "upstream", "reason": "reset"}),
    ("kakitome-delivery/Resumes/A", {"outcome": "resumed"}),
    ("kakitome-delivery/Resumes that failed/A", {"route": "records"}),
    ("kakitome-delivery/Parked sessions/A", {"route": "records"}),
)
"""What the load and the faults must have raised: the query, and labels of the series."""


@pytest.mark.parametrize(("where", "labels"), SEEN, ids=[where for where, _ in SEEN])
def test_load_and_faults_are_seen(under_load: Monitored, where: str, labels: dict[str, str]) -> None:
    def raised() -> list[Sample]:
        samples = under_load.prometheus.query(substituted(QUERIES[where]))
        return [
            sample for sample in samples if labels.items() <= sample["metric"].items() and sample["value"][1] != "0"
        ]

    under_load.prometheus.wait_for(raised, f"rise of {where} {labels}")


def test_paused_time_is_shown_by_its_cause(under_load: Monitored) -> None:
    query = substituted(QUERIES["kakitome-delivery/Paused, upstream/A"])

    def causes() -> set[str]:
        return {sample["metric"]["cause"] for sample in under_load.prometheus.query(query) if sample["value"][1] != "0"}

    assert under_load.prometheus.wait_for(causes, "paused time") <= {"buffer", "receiver", "window", "redial", "parked"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_variables_have_values_to_choose_from(under_load: Monitored, path: Path) -> None:
    found = {}
    for variable in load(path)["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((\w+(?:\{.*\})?), (\w+)\)", variable["query"]["query"])
            assert match is not None
            series = {"match[]": substituted(match[1])}
            found[variable["name"]] = under_load.prometheus.ask(f"label/{match[2]}/values", **series)
    configured = {route["name"] for route in under_load.gateway.config["routes"]}
    assert set(found["route"]) == configured
    assert found["instance"] == [under_load.gateway.admin_address]
    assert (found["namespace"], found["job"], found["pod"]) == ([NAMESPACE], ["kakitome"], [POD])
