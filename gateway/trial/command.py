"""What `kakitome trial` does for the terminal: a progress bar, the table or the JSON, and the exit status.

Invariant: standard output has the report and nothing else; how far it is stands on standard error.
"""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway.command import run_until_done
from gateway.trial.report import print_table, to_json
from gateway.trial.trial import Progress as Step
from gateway.trial.trial import Report, Settings, run_trial


def run(settings: Settings, *, as_json: bool) -> bool:
    """Runs the trial and prints its report; whether what the pairing promises was kept.

    Raises ValueError for settings that contradict each other; what cannot be started ends the process, as everywhere.
    """
    reports: list[Report] = []
    columns = (
        SpinnerColumn(),
        TextColumn("messages"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("faults"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    console = Console(file=sys.stderr)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=settings.faults)

        def show(step: Step) -> None:
            progress.update(bar, completed=step.faults)

        async def work() -> None:
            reports.append(await run_trial(settings, show))

        run_until_done(work)
    (report,) = reports
    if as_json:
        sys.stdout.write(to_json(report) + "\n")
    else:
        print_table(report, Console())
    return report.promise_kept
