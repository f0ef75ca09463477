"""Grafana panels and dashboards as Python values, and the JSON that Grafana loads.

Invariant: every panel has a description, and every query the dashboard's data source.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

SCHEMA_VERSION: Final = 39
"""Of Grafana 10.4; newer ones read it and migrate."""
COLUMNS: Final = 24
"""Of Grafana's grid."""

_DATASOURCE: Final[Json] = {"type": "prometheus", "uid": "${datasource}"}

GREEN, YELLOW, RED, BLUE = "green", "#EAB839", "red", "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """From `value` (the panel's unit) on, the colour."""

    value: float
    colour: str


_WITH_EXEMPLARS: Final = re.compile(r"kakitome_(delivery|handshake)_seconds_bucket")
"""The histograms by route, whose exemplars name sessions (docs/metrics.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One PromQL expression; `legend` names its series, with labels in double braces."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What all kinds of panels have; the subclasses say how they are drawn."""

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    """Grafana's name of the unit."""
    lowest: str = GREEN
    """The colour below the first threshold."""
    thresholds: Sequence[Threshold] = ()
    """Ascending."""
    width: int = 8
    """Columns."""
    height: int = 8
    minimum: float | None = 0
    maximum: float | None = None

    def render(self, identifier: int, x: int, y: int) -> Json:
        """The panel's JSON, with its upper left corner at column x and row y."""
        defaults: Json = {
            "unit": self.unit,
            "color": {"mode": "palette-classic"},
            "custom": {},
            "thresholds": _thresholds(self.lowest, self.thresholds),
            "mappings": [],
        }
        if self.minimum is not None:
            defaults["min"] = self.minimum
        if self.maximum is not None:
            defaults["max"] = self.maximum
        panel: Json = {
            "id": identifier,
            "title": self.title,
            "description": self.description,
            "datasource": _DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [_target(query, number) for number, query in enumerate(self.queries)],
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": {},
        }
        self.draw(panel, defaults)
        return panel

    def draw(self, panel: Json, defaults: Json) -> None:
        """Fills in `type`, `options` and what is special about the kind."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat(Panel):
    """One number, coloured by the thresholds."""

    width: int = 4
    height: int = 4
    texts: Sequence[tuple[float, str, str]] = ()
    """Values that are shown as a text: (value, text, colour)."""

    def draw(self, panel: Json, defaults: Json) -> None:
        panel["type"] = "stat"
        defaults["color"] = {"mode": "thresholds"}
        if self.texts:
            options = {
                f"{value:g}": {"text": text, "color": colour, "index": index}
                for index, (value, text, colour) in enumerate(self.texts)
            }
            defaults["mappings"] = [{"type": "value", "options": options}]
        panel["options"] = {
            "colorMode": "value",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": "auto",
            "wideLayout": True,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Series(Panel):
    """Lines over time; thresholds are drawn as dashed lines."""

    stacked: bool = False

    def draw(self, panel: Json, defaults: Json) -> None:
        panel["type"] = "timeseries"
        defaults["custom"] = {
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 1,
            "fillOpacity": 30 if self.stacked else 8,
            "gradientMode": "none",
            "showPoints": "never",
            # A gateway that restarts leaves a gap; a line across it would claim what nobody measured.
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stacked else "none", "group": "A"},
            "axisPlacement": "auto",
            "scaleDistribution": {"type": "linear"},
            "thresholdsStyle": {"mode": "dashed" if self.thresholds else "off"},
        }
        panel["options"] = {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Heatmap(Panel):
    """A histogram's buckets over time; the query gives the increase of each, by `le`."""

    unit: str = "s"
    width: int = 12
    height: int = 9

    def draw(self, panel: Json, defaults: Json) -> None:
        panel["type"] = "heatmap"
        for target in panel["targets"]:
            target |= {"format": "heatmap", "legendFormat": "{{le}}"}
        defaults.pop("min", None)
        defaults["unit"] = "short"
        defaults["custom"] = {"hideFrom": {"legend": False, "tooltip": False, "viz": False}}
        panel["options"] = {
            "calculate": False,
            "cellGap": 1,
            "cellValues": {"unit": "short", "decimals": 0},
            "color": {
                "mode": "scheme",
                "scheme": "Turbo",
                "fill": "dark-orange",
                "exponent": 0.5,
                "scale": "exponential",
                "steps": 64,
                "reverse": False,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "auto"},
            "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": True},
            "yAxis": {"axisPlacement": "left", "reverse": False, "unit": self.unit},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class States(Panel):
    """A band for each series, which shows when it had which state."""

    texts: Sequence[tuple[float, str, str]]
    """(value, text, colour)."""
    maximum: float | None = 1

    def draw(self, panel: Json, defaults: Json) -> None:
        panel["type"] = "state-timeline"
        defaults["color"] = {"mode": "thresholds"}
        defaults["custom"] = {"fillOpacity": 70, "lineWidth": 0, "insertNulls": False, "spanNulls": False}
        options = {
            f"{value:g}": {"text": text, "color": colour, "index": index}
            for index, (value, text, colour) in enumerate(self.texts)
        }
        defaults["mappings"] = [{"type": "value", "options": options}]
        panel["options"] = {
            "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "auto",
            "tooltip": {"mode": "single", "sort": "none"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A heading, and the panels below it from left to right, in as many lines as they need."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the dashboard's top: the values of a metric's label, several or all."""

    name: str
    label: str
    metric: str
    description: str
    chosen_by: str = ""
    """Matchers that apply the choices before it."""
    all_value: str | None = ".*"
    """What `All` matches; None: the values there are, and nothing that other metrics have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One file."""

    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    links: Sequence[tuple[str, str]] = ()
    """Other dashboards: (title, uid)."""

    def render(self) -> Json:
        """The JSON model."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["kakitome"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": "now-1h", "to": "now"},
            "refresh": "30s",
            "fiscalYearStartMonth": 0,
            "weekStart": "",
            "annotations": {"list": []},
            "links": [_link(title, uid) for title, uid in self.links],
            "templating": {"list": [_DATASOURCE_VARIABLE, *map(_variable, self.variables)]},
            "panels": _place(self.rows),
        }


_DATASOURCE_VARIABLE: Final[Json] = {
    "name": "datasource",
    "label": "Data source",
    "description": "The Prometheus that scrapes the gateways.",
    "type": "datasource",
    "query": "prometheus",
    "regex": "",
    "current": {},
    "hide": 0,
    "includeAll": False,
    "multi": False,
    "options": [],
    "refresh": 1,
}


def _variable(variable: Variable) -> Json:
    chosen = f"{{{variable.chosen_by}}}" if variable.chosen_by else ""
    query = f"label_values({variable.metric}{chosen}, {variable.name})"
    return {
        "name": variable.name,
        "label": variable.label,
        "description": variable.description,
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": variable.name},
        "regex": "",
        "sort": 1,
        "refresh": 2,
        "hide": 0,
        "multi": True,
        "includeAll": True,
        # Not the list of all: what matched no route has an empty label, and belongs to all.
        "allValue": variable.all_value,
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
    }


def _link(title: str, uid: str) -> Json:
    return {
        "title": title,
        "type": "link",
        "url": f"/d/{uid}",
        "icon": "dashboard",
        "tooltip": "",
        "tags": [],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
    }


def _target(query: Query, number: int) -> Json:
    named = {"exemplar": True} if _WITH_EXEMPLARS.search(query.expr) else {}
    return {
        **named,
        "refId": chr(ord("A") + number),
        "datasource": _DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": True,
        "instant": False,
    }


def _thresholds(lowest: str, thresholds: Sequence[Threshold]) -> Json:
    steps: list[Json] = [{"color": lowest, "value": None}]
    steps += [{"color": threshold.colour, "value": threshold.value} for threshold in thresholds]
    return {"mode": "absolute", "steps": steps}


def _place(rows: Sequence[Row]) -> list[Json]:
    """Gives every panel its number and its place: left to right, a new line where the grid's width is used up."""
    placed: list[Json] = []
    y = 0
    for row in rows:
        position = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        heading = {"type": "row", "title": row.title, "collapsed": False, "gridPos": position, "panels": []}
        placed.append({"id": len(placed) + 1, **heading})
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            placed.append(panel.render(len(placed) + 1, x, y))
            x += panel.width
            tallest = max(tallest, panel.height)
        y += tallest
    return placed
