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
    DialOutcome,
    HandshakeOutcome,
    PauseCause,
    ReloadOutcome,
    ResumeOutcome,
    SessionState,
    UnknownReason,
)


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
"""


def reference() -> str:
    """The whole page, in Markdown."""
    rungs = ", ".join(f"`{name}`" for name in RUNG_NAMES)
    parts = [_INTRODUCTION.format(rungs=rungs)]
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
