"""The metrics reference, docs/metrics.md, made from the declarations: `python -m gateway.telemetry.reference`."""

import sys
from enum import StrEnum
from typing import Final

from gateway.telemetry.declarations import DECLARATIONS, PREFIX
from gateway.telemetry.metrics import (
    AUTHENTICATION_METHODS,
    AUTHENTICATION_OUTCOMES,
    CLOSE_CODE_LABELS,
    REFUSAL_REASONS,
    RUNG_NAMES,
    STATUS_CLASSES,
    AcceptError,
    ClosedBy,
    Detail,
    DialOutcome,
    HandshakeOutcome,
    LogoutOutcome,
    PauseCause,
    ReloadOutcome,
    ResumeOutcome,
    SessionState,
    UnknownReason,
)
from gateway.telemetry.series import BRIEF, series


def _values(kind: type[StrEnum]) -> tuple[str, ...]:
    return tuple(member.value for member in kind)


LABEL_VALUES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("accept_errors_total", "reason"): _values(AcceptError),
    ("authentications_total", "method"): AUTHENTICATION_METHODS,
    ("authentications_total", "outcome"): AUTHENTICATION_OUTCOMES,
    ("backend_dials_total", "outcome"): _values(DialOutcome),
    ("closes_total", "by"): _values(ClosedBy),
    ("closes_total", "code"): CLOSE_CODE_LABELS,
    ("config_reloads_total", "outcome"): _values(ReloadOutcome),
    ("file_responses_total", "status"): STATUS_CLASSES,
    ("handshakes_total", "outcome"): _values(HandshakeOutcome),
    ("logouts_total", "outcome"): _values(LogoutOutcome),
    ("paused_seconds_total", "cause"): _values(PauseCause),
    ("refusals_total", "reason"): tuple(sorted(REFUSAL_REASONS)),
    ("resumes_total", "outcome"): _values(ResumeOutcome),
    ("sessions", "state"): _values(SessionState),
    ("unknown_messages_total", "reason"): _values(UnknownReason),
}
"""The closed sets, by metric and label; `direction` and `rung` are the same everywhere."""

_INTRODUCTION: Final = """\
# Metrics

`GET /metrics` on the admin listener returns these, as Prometheus text or, when asked for, OpenMetrics. They are read
from plain counters when scraped. No label holds anything a peer can choose: `route` and `endpoint` come from the
configuration, the others from the closed sets given here. Beside them stand the `process_*` and `python_*` metrics of
the Prometheus client library.

Counters begin at 0 when the process starts and go on through a reload of the configuration. `direction` is `upstream`
(client to backend) or `downstream`; `rung` is one of {rungs}, explained in [delivery.md](delivery.md).

This page is made by `python -m gateway.telemetry.reference` from the declarations that the gateway exports by.

## How many series

Prometheus pays by the series. These are counted by the same command, for routes that have been used, of each gateway;
those of the process come on top. [`metrics`](configuration.md#metrics) bounds them: `per_endpoint: false`, `buckets:
few`, and `idle_routes: false`, which leaves out routes that nobody has asked for.

| routes | endpoints each | by default | `per_endpoint: false` | and `buckets: few` |
|---|---|---|---|---|
{series}

A route costs {one} series with one endpoint and {endpoint} for each further one; {brief} with both options, whatever
endpoints it has. Reasons of refusals, close codes and methods of authentication that have occurred are added one by
one, from closed sets. Whoever needs less drops it when scraping (`metric_relabel_configs`).

## Exemplars, off by default

With `metrics: {{exemplars: true}}` each bucket of `kakitome_delivery_seconds` and `kakitome_handshake_seconds` names
one of its observations, at most a second older than its newest: `# {{session="..."}}`, its value and when. The session
is that of the log's `session_began` and `session_ended`, and of `/sessions/ID` of the admin API, so that a slow bucket
leads to whose messages were slow. Only OpenMetrics has them, which Prometheus asks for by itself; it keeps them if it
runs with `--enable-feature=exemplar-storage`, and Grafana draws them as dots on the panels of both histograms. They
make no series, but a longer scrape, and who reads the metrics reads ids of sessions: they are off unless asked for.
"""

_SIZES: Final = ((1, 1), (20, 3), (200, 3))


def reference() -> str:
    """The whole page, in Markdown."""
    rungs = ", ".join(f"`{name}`" for name in RUNG_NAMES)
    details = (Detail(), Detail(per_endpoint=False), BRIEF)
    table = [
        f"| {routes} | {endpoints} | "
        + " | ".join(f"{series(routes=routes, endpoints=endpoints, detail=detail):,}" for detail in details)
        + " |"
        for routes, endpoints in _SIZES
    ]

    def more(detail: Detail, *, routes: int, endpoints: int) -> int:
        """Than one route with one endpoint has."""
        one = series(routes=1, endpoints=1, detail=detail)
        return series(routes=routes, endpoints=endpoints, detail=detail) - one

    introduction = _INTRODUCTION.format(
        rungs=rungs,
        series="\n".join(table),
        one=more(Detail(), routes=2, endpoints=1),
        endpoint=more(Detail(), routes=1, endpoints=2),
        brief=more(BRIEF, routes=2, endpoints=1),
    )
    parts = [introduction]
    for declaration in DECLARATIONS:
        unit = f", in {declaration.unit}" if declaration.unit else ""
        parts.append(
            f"\n## {PREFIX}{declaration.name}\n\n{declaration.help}\n\n- {declaration.kind.capitalize()}{unit}\n"
        )
        for label in declaration.labels:
            values = LABEL_VALUES.get((declaration.name, label))
            meaning = ": " + ", ".join(f"`{value}`" for value in values) if values else ""
            parts.append(f"- `{label}`{meaning}\n")
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(reference())
