"""A trial's report for people (a table), for documents (Markdown) and for programs (JSON)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from gateway.trial.clients import WINDOW_MESSAGES
from gateway.trial.faults import FaultKind
from gateway.trial.tally import DirectionReport, Witness
from gateway.trial.trial import Account, ClientKind, Report

COLUMNS: Final[Sequence[tuple[str, str]]] = (
    ("sent", "sent"),
    ("arrived", "arrived"),
    ("lost", "lost"),
    ("doubled", "doubled"),
    ("out of order", "out_of_order"),
    ("told settled", "told_settled"),
    ("… not arrived", "settled_not_arrived"),
    ("told unknown", "told_unknown"),
    ("… had arrived", "arrived_but_unknown"),
    ("never forwarded", "told_never_forwarded"),
    ("told nothing", "told_nothing"),
    ("longest gap, s", "longest_gap_seconds"),
)
"""Title and field of each number; a title that begins with an ellipsis goes on with the one before it."""


def document(report: Report) -> dict[str, Any]:
    """The report as JSON has it."""
    settings = asdict(report.settings)
    return {
        "settings": settings,
        "seconds": round(report.seconds, 3),
        "finished": report.finished,
        "promise_kept": report.promise_kept,
        "faults": {str(kind): report.faults.get(kind, 0) for kind in FaultKind},
        "connections": report.connections,
        "resumes": report.resumes,
        "most_unknown": report.most_unknown,
        "evidence": None if report.evidence is None else str(report.evidence),
        "accounts": [
            {"direction": account.direction, "told_by": account.witness, **asdict(account.report)}
            for account in report.accounts
        ],
    }


def to_json(report: Report) -> str:
    """The report as one JSON object."""
    return json.dumps(document(report), indent=2)


def faults_line(faults: Mapping[FaultKind, int]) -> str:
    """How many of each kind there were, in words."""
    return ", ".join(f"{faults[kind]} {kind}" for kind in FaultKind if faults.get(kind))


def summary(report: Report) -> str:
    """The trial in one sentence."""
    settings = report.settings
    return (
        f"{settings.clients} {settings.client} clients of {settings.name}, {settings.backend} backend,"
        f" {settings.messages} messages each way: {report.seconds:.0f} s, {report.connections} connections,"
        f" {report.resumes} resumes; {faults_line(report.faults) or 'no faults'}; seed {settings.seed}"
    )


def verdict(report: Report) -> str:
    """What to make of it."""
    if not report.finished:
        return f"nothing moved for {report.settings.patience_seconds:g} s: the trial was ended"
    if report.most_unknown > WINDOW_MESSAGES:
        return f"{report.most_unknown} messages were told unknown at once, more than the window of {WINDOW_MESSAGES}"
    lies = sum(account.report.misreported for account in report.accounts if account.witness is not Witness.SEND)
    if lies:
        return f"{lies} messages were misreported"
    if any(account.report.damaged for account in report.accounts):
        return "messages arrived that nobody had sent"
    if report.settings.is_lossless:
        return (
            "every message arrived once and in order"
            if report.promise_kept
            else "messages were lost, doubled or out of order"
        )
    if report.settings.client is ClientKind.PLAIN:
        believed = sum(
            account.report.settled_not_arrived for account in report.accounts if account.witness is Witness.SEND
        )
        return f"{believed} messages were lost that their senders believe to have arrived"
    return "nothing was told that is not true"


def numbers(report: DirectionReport) -> list[str]:
    """The row of `COLUMNS` for one direction."""
    row = []
    for _, field in COLUMNS:
        value = getattr(report, field)
        row.append(f"{value:.1f}" if isinstance(value, float) else f"{value:,}")
    return row


def print_table(report: Report, console: Console) -> None:
    """The report for a terminal."""
    console.print(summary(report), highlight=False)
    table = Table()
    table.add_column("")
    names = [f"{account.direction}\ntold by {account.witness}" for account in report.accounts]
    for name in names:
        table.add_column(name, justify="right")
    rows = [numbers(account.report) for account in report.accounts]
    for index, (title, field) in enumerate(COLUMNS):
        wrong = any(_is_wrong(account, field, report) for account in report.accounts)
        table.add_row(title, *(row[index] for row in rows), style="red" if wrong else None)
    console.print(table)
    if report.evidence is not None:
        console.print(f"Messages came twice; what the backend and the gateway wrote of it is in {report.evidence}")
    console.print(verdict(report), style=None if report.promise_kept else "red", highlight=False)


def _is_wrong(account: Account, field: str, report: Report) -> bool:
    if field in ("lost", "doubled", "out_of_order"):
        return report.settings.is_lossless and bool(getattr(account.report, field))
    return field == "settled_not_arrived" and bool(account.report.settled_not_arrived)


MARKDOWN_COLUMNS: Final = ("sent", "lost", "doubled", "told_settled", "settled_not_arrived", "told_unknown")


def markdown_table(reports: Sequence[Report]) -> str:
    """Trials side by side, a row for each direction and witness."""
    titles = [
        "gateway",
        "clients → backend",
        "direction",
        "told by",
        "sent",
        "lost",
        "doubled",
        "told settled",
        "of these not arrived",
        "told unknown",
    ]
    lines = [titles, [*["---"] * 4, *["---:"] * len(MARKDOWN_COLUMNS)]]
    for report in reports:
        settings = report.settings
        pairing = f"{settings.client} → {settings.backend}"
        if settings.kills:
            pairing += ", kills"
        for account in report.accounts:
            values = [f"{getattr(account.report, field):,}" for field in MARKDOWN_COLUMNS]
            lines.append([settings.name, pairing, account.direction, account.witness, *values])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
