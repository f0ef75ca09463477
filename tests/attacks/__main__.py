"""`make attack`: each attack in its long form, and a control run beside it; writes docs/attacks.md.

    python -m tests.attacks                              # all, 30 s each
    python -m tests.attacks --only pings --seconds 5     # one, shorter

What is found is kept in reports/attacks.json, and the page is made of what is there: attacks may be run on different
days.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.attacks import report
from tests.attacks.plan import ATTACKS, Attack
from tests.attacks.scene import Scene
from tests.benchmarks.__main__ import describe_machine
from tests.benchmarks.scenarios import GATEWAY_CORE, LOAD_CORE
from tests.support.tools import REPOSITORY

RECORD: Final = REPOSITORY / "reports" / "attacks.json"


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(ATTACKS)), help="Run this one; repeatable.")
@click.option("--seconds", default=30.0, show_default=True, help="Length of an attack, and of its control run.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=RECORD,
    help="Where the JSON record is kept, instead of reports/attacks.json.",
)
@click.option("--document", is_flag=True, help="Write docs/attacks.md and docs/attacks.svg too.")
def main(only: tuple[str, ...], seconds: float, output: Path, document: bool) -> None:
    """Attack the gateway. Exit status 1: memory, messages, probes or what is left missed its aim (latency may)."""
    if (os.cpu_count() or 1) < 2:
        raise click.ClickException("two cores are needed: one for the gateway, one for all others")
    chosen = [ATTACKS[name] for name in only] or list(ATTACKS.values())
    console = Console()
    record: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    os.sched_setaffinity(0, [LOAD_CORE])
    missed: list[str] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("", total=len(chosen))
        for attack in chosen:
            progress.update(bar, description=attack.title)
            record[attack.name] = found = run(attack, seconds)
            output.parent.mkdir(exist_ok=True)
            output.write_text(json.dumps(record, indent=1) + "\n")
            faults = [aim.title for aim in report.AIMS if not aim.is_met(found)]
            missed += [aim.title for aim in report.AIMS if aim.is_binding and not aim.is_met(found)]
            progress.console.print(f"{attack.name}: {'; '.join(f'NOT {fault}' for fault in faults) or 'all aims met'}")
            progress.advance(bar)
    console.print(f"Written: {output}")
    if document:
        for written in report.write_document(record):
            console.print(f"Written: {written.relative_to(REPOSITORY)}")
    if missed:
        sys.exit(1)


def run(attack: Attack, seconds: float) -> dict[str, Any]:
    """The control run and the attack, fit for JSON; `load` is what the machine was busy with before."""
    load = os.getloadavg()[0]
    with Scene(cores=[GATEWAY_CORE]) as scene:
        control = scene.run(*attack.waves, seconds=seconds, aim="decoy")
        outcome = scene.run(*attack.waves, seconds=seconds)
    return {
        "seconds": seconds,
        "load": round(load, 1),
        "date": time.strftime("%Y-%m-%d"),
        "machine": describe_machine(),
        "control": asdict(control),
        "outcome": asdict(outcome),
    }


if __name__ == "__main__":
    main()
