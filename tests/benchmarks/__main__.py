"""`python -m tests.benchmarks`: starts the gateways, measures them in turns, prints a table and writes the report."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.benchmarks import against, handshakes, report
from tests.benchmarks.contenders import CONTENDERS, Contender, Running
from tests.benchmarks.doors import house_of
from tests.benchmarks.scenarios import (
    LOAD_CORE,
    SCENARIOS,
    Measurement,
    Scenario,
    build_programs,
    measure_busy,
    measure_idle,
    measure_in_turns,
    serving,
    warm_up,
)
from tests.support.tools import REPOSITORY, find_tool


@contextmanager
def all_running(programs: Path, contenders: list[Contender]) -> Iterator[list[tuple[Contender, Running]]]:
    """All gateways up and warm, each with an echo backend of its own; a gateway without traffic uses no CPU."""
    with ExitStack() as stack:
        up = []
        for contender in contenders:
            running = stack.enter_context(serving(programs, contender))
            warm_up(programs, contender, running)
            up.append((contender, running))
        yield up


def in_order(up: list[tuple[Contender, Running]], run: int) -> list[tuple[Contender, Running]]:
    """The opposite order in every other round."""
    return up if run % 2 == 0 else up[::-1]


def near_pairs(up: list[tuple[Contender, Running]]) -> Iterator[list[tuple[Contender, Running]]]:
    """Ours with each of those that are near it."""
    named = {contender.name: (contender, running) for contender, running in up}
    yield from ([named[report.OURS], named[name]] for name in report.NEAR if {report.OURS, name} <= named.keys())


def describe_machine() -> dict[str, str]:
    """What the numbers depend on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


COLUMNS = (
    ("msg/s", "messages_per_second", 1),
    ("msg/CPU-s", "messages_per_cpu_second", 1),
    ("p50 µs", "p50_microseconds", 1),
    ("p99 µs", "p99_microseconds", 1),
    ("kB/conn", "bytes_per_connection", 1000),
    ("µs/handshake", "handshake_microseconds", 1),
    ("µs/end", "close_microseconds", 1),
    ("alive", "answered", 1),
)


def print_table(console: Console, medians: report.Medians, scenarios: list[Scenario]) -> None:
    """One row for each gateway and scenario, medians over the runs; what broke stands below."""
    table = Table(title="Kakitome beside its peers (medians)", title_justify="left")
    table.add_column("gateway", no_wrap=True)
    for title, _, _ in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for scenario in scenarios:
        table.add_row(f"[bold]{scenario.name}", *[""] * len(COLUMNS))
        for gateway in medians.gateways:
            values = (medians.value(scenario.name, gateway, field) for _, field, _ in COLUMNS)
            shown = [report.shown(value, scale) for value, (_, _, scale) in zip(values, COLUMNS, strict=True)]
            table.add_row(f"  {gateway}", *shown)
        table.add_section()
    console.print(table)
    for failure in medians.failures():
        console.print(f"[red]{failure}")


def compare(
    console: Console,
    commit: str,
    scenarios: list[Scenario],
    forms: tuple[against.Form, ...],
    *,
    runs: int,
    seconds: float,
) -> None:
    """Measures this tree beside a commit and prints the ratios; ends with 1 where a gateway broke."""
    compared = [scenario for scenario in scenarios if scenario.kind != "idle"]
    try:
        commit = against.commit_named(commit)
        found = against.measure(console, commit, compared, forms, runs=runs, seconds=seconds)
    except against.BuildFailed as failure:
        raise click.ClickException(str(failure)) from None
    against.print_ratios(console, commit, compared, found)
    against.print_costs(console, compared, found)
    if any(rounds.failures for rounds in found.values()):
        sys.exit(1)


@click.command()
@click.option("--quick", is_flag=True, help="One short run of each scenario: to see that it works, not to quote.")
@click.option("--only", multiple=True, type=click.Choice([s.name for s in SCENARIOS]), help="Scenario; repeatable.")
@click.option("--gateways", multiple=True, type=click.Choice([c.name for c in CONTENDERS]), help="Repeatable.")
@click.option("--runs", default=7, show_default=True, help="Rounds over all gateways; medians are reported.")
@click.option("--seconds", default=1.0, show_default=True, help="Length of one measurement.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the JSON record goes, instead of reports/.",
)
@click.option("--document", is_flag=True, help="Write docs/benchmarks.md and docs/benchmarks.svg too.")
@click.option("--against", "commit", metavar="COMMIT", help="Only this tree beside that commit of it, in both forms.")
@click.option("--form", "forms", multiple=True, type=click.Choice(against.FORMS), help="Of --against; repeatable.")
def main(
    quick: bool,
    only: tuple[str, ...],
    gateways: tuple[str, ...],
    runs: int,
    seconds: float,
    output: Path | None,
    document: bool,
    commit: str | None,
    forms: tuple[against.Form, ...],
) -> None:
    """Compare gateways on this machine: one core for the gateway, the other for load and echo."""
    console = Console()
    if find_tool("gcc") is None:
        raise click.ClickException("the load generator needs a C compiler: apt-get install gcc libc6-dev")
    if (os.cpu_count() or 1) < 2:
        raise click.ClickException("two cores are needed: one for the gateway, one for the load")
    if quick:
        runs, seconds = 1, 0.5
    scenarios = [scenario for scenario in SCENARIOS if not only or scenario.name in only]
    if commit is not None:
        compare(console, commit, scenarios, forms or against.FORMS, runs=runs, seconds=seconds)
        return
    chosen = [c for c in CONTENDERS if (c.name in gateways if gateways else c.default)]
    for contender in [c for c in chosen if c.missing()]:
        console.print(f"[yellow]{contender.name} is left out: {contender.missing()}")
        chosen.remove(contender)
    programs = build_programs()
    os.sched_setaffinity(0, [LOAD_CORE])
    measurements: list[Measurement] = []
    idle = [scenario for scenario in scenarios if scenario.kind == "idle"]
    busy = [scenario for scenario in scenarios if scenario.kind == "busy"]
    shakes = [scenario for scenario in scenarios if scenario.kind == "handshake"]
    with_doors = [(contender, opened) for contender in chosen if (opened := house_of(contender)) is not None]
    if shakes and (reason := handshakes.left_out()) is not None:
        console.print(f"[yellow]{reason}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        names = {contender.name for contender in chosen}
        turns = len(chosen) + sum({report.OURS, name} <= names for name in report.NEAR)
        bar = progress.add_task("", total=len(chosen) * len(idle) + runs * turns * len(busy) + runs * bool(shakes))
        for scenario in idle:
            for contender in chosen:
                progress.update(bar, description=f"{scenario.title}: {contender.name}")
                measurements.append(measure_idle(programs, contender, scenario))
                progress.advance(bar)
        # Round by round, and within a round scenario by scenario: what is compared is measured within seconds, since
        # machines like these get faster and slower by a third from minute to minute.
        for run in range(runs if busy else 0):
            with all_running(programs, chosen) as up:
                for scenario in busy:
                    for contender, running in in_order(up, run):
                        progress.update(bar, description=f"{scenario.title}: {contender.name}")
                        measurements.append(
                            measure_busy(programs, contender, running, scenario, run=run, seconds=seconds)
                        )
                        progress.advance(bar)
                    for pair in near_pairs(in_order(up, run)):
                        shown = " and ".join(contender.name for contender, _ in pair)
                        progress.update(bar, description=f"{scenario.title}: {shown}")
                        measurements += measure_in_turns(programs, pair, scenario, run=run, seconds=seconds)
                        progress.advance(bar)
        for run in range(runs if shakes else 0):
            progress.update(bar, description="handshakes, all in turns")
            with handshakes.open_houses(programs, with_doors) as houses:
                measurements += handshakes.measure_handshakes(programs, houses, shakes, run=run, seconds=seconds)
            progress.advance(bar)
    record = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "runs": runs,
        "seconds": seconds,
        "gateways": [{"name": c.name, "version": c.version(), "note": c.note} for c in chosen],
        "scenarios": [asdict(scenario) for scenario in scenarios],
        "measurements": [asdict(measurement) for measurement in measurements],
    }
    print_table(console, report.Medians(record), scenarios)
    path = output or REPOSITORY / "reports" / f"benchmarks-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1))
    console.print(f"Written: {path}")
    if document:
        for written in report.write_document(record):
            console.print(f"Written: {written.relative_to(REPOSITORY)}")
    if any(measurement.error for measurement in measurements):
        sys.exit(1)


if __name__ == "__main__":
    main()
