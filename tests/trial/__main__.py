"""`make trial`: every pairing and other gateways through the same trial, one after the other; writes docs/trial.md.

    python -m tests.trial                   # all but the long ones
    python -m tests.trial --long            # the long ones, too
    python -m tests.trial --only nginx      # one

Reports are kept in reports/trial.json, and the document is made of what is there: rows may be run on different days.
"""

import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gateway.trial.report import document, print_table
from gateway.trial.trial import Progress as Step
from gateway.trial.trial import run_trial
from tests.support.tools import REPOSITORY
from tests.trial.document import write_document
from tests.trial.rows import ROWS, Row

RECORD: Final = REPOSITORY / "reports" / "trial.json"
DOCUMENT: Final = REPOSITORY / "docs" / "trial.md"


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(ROWS)), help="Run this one; repeatable.")
@click.option("--long", "and_long", is_flag=True, help="Run the long proofs, too: 100,000 messages each way.")
def main(only: tuple[str, ...], and_long: bool) -> None:
    """Run the trials of docs/trial.md and write it. Exit status 1: a promise was not kept."""
    chosen = [ROWS[name] for name in only] or [row for row in ROWS.values() if and_long or not row.is_long]
    console = Console()
    record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    all_kept = True
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("faults"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for row in chosen:
            record[row.name] = report = _run(row, progress)
            all_kept = all_kept and report["promise_kept"]
            RECORD.parent.mkdir(exist_ok=True)
            RECORD.write_text(json.dumps(record, indent=2) + "\n")
    if record.keys() >= {row.name for row in ROWS.values() if not row.is_long}:
        DOCUMENT.write_text(write_document(record))
        console.print(f"written: {DOCUMENT.relative_to(REPOSITORY)}")
    if not all_kept:
        sys.exit(1)


def _run(row: Row, progress: Progress) -> dict[str, Any]:
    """The report as JSON has it, with the day and the machine."""
    bar = progress.add_task(row.name, total=row.settings.faults)

    def show(step: Step) -> None:
        progress.update(bar, completed=step.faults)

    with tempfile.TemporaryDirectory(prefix="kakitome-trial-") as folder:
        report = trio.run(run_trial, row.prepare(row.settings, Path(folder)), show)
    print_table(report, progress.console)
    result = document(report)
    result["run"] = {
        "date": time.strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    return result


if __name__ == "__main__":
    main()
