"""`make bench BENCH_ARGS='--against COMMIT'`: this tree beside another commit of it, in both forms, in turns.

Each tree is built as pip leaves it: *compiled*, and *interpreted* (`KAKITOME_COMPILE=0`: the frame codec compiled, the
rest not). Both gateways of a pair share one core and are under load in turns of a twentieth of a second, so that
whatever else the machine does happens to both; a ratio is of the CPU time in their own turns. So the ratios hold to a
few hundredths where the numbers themselves are off by a third, and what is printed says how far the rounds disagree.

Handshakes are compared likewise, and beside each other: what it costs to ask who comes, which the other commit may not
know how to do, is told as the difference to a handshake that nobody is asked at.
"""

import os
import shutil
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.benchmarks.contenders import Contender, serve_kakitome
from tests.benchmarks.doors import open_kakitome
from tests.benchmarks.handshakes import measure_handshakes, open_houses
from tests.benchmarks.scenarios import LOAD_CORE, Scenario, build_programs, measure_in_turns, serving, warm_up
from tests.support.tools import COMPILED_TREE, REPOSITORY

Form = Literal["compiled", "interpreted"]
FORMS: Final[tuple[Form, ...]] = ("compiled", "interpreted")

HERE: Final = "here"


class BuildFailed(Exception):
    """The other commit cannot be had or built; the text says what was said."""


def commit_named(name: str) -> str:
    """The full hash of a commit. Raises BuildFailed for none."""
    done = _run(["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], f"{name!r} names no commit here")
    return done.stdout.strip()


TREES: Final[dict[Form, Path]] = {"compiled": COMPILED_TREE, "interpreted": REPOSITORY}
"""Where this tree's forms are; `make bench` sees to it that they are fresh."""


def build(commit: str, form: Form) -> Path:
    """Builds a commit and returns what to put in PYTHONPATH; it is kept in build/against. Raises BuildFailed."""
    folder = REPOSITORY / "build" / "against" / commit
    built, unfinished = folder / form, folder / f"{form}.part"
    if built.exists():
        return built
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    archive, sources, tree = unfinished / "sources.tar", unfinished / "sources", unfinished / "tree"
    _run(["git", "archive", "--output", str(archive), commit], f"git cannot give the files of {commit}")
    shutil.unpack_archive(archive, sources, filter="data")
    # Without isolation: older commits do not name mypyc among what they are built with, and here it is at hand.
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = {**os.environ, "KAKITOME_COMPILE": "1" if form == "compiled" else "0"}
    _run([*argv, "--target", str(tree), str(sources)], f"{commit} cannot be built", environment)
    tree.rename(built)
    shutil.rmtree(unfinished)
    return built


def _run(argv: list[str], problem: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise BuildFailed(f"{problem}: {said}" if said else problem)
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What one form did in one scenario: microseconds of CPU a message or handshake, here and there, round by round.

    `there` is empty where the other commit does not know how.
    """

    here: list[float] = field(default_factory=list)
    there: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """Messages per CPU-second here as a share of those there: more than 1 is faster here."""
        return [there / here for here, there in zip(self.here, self.there, strict=True)] if self.there else []


def measure(
    console: Console, commit: str, scenarios: list[Scenario], forms: tuple[Form, ...], *, runs: int, seconds: float
) -> dict[tuple[Form, str], Rounds]:
    """Builds what is missing, then goes round by round through forms and scenarios."""
    shakes = [scenario for scenario in scenarios if scenario.kind == "handshake"]
    busy = [scenario for scenario in scenarios if scenario.kind == "busy"]
    programs = build_programs()
    pairs: dict[Form, list[Contender]] = {}
    for form in forms:
        with console.status(f"Building {commit[:12]}, {form}"):
            trees = [TREES[form], build(commit, form)]
        names = (HERE, commit[:12])
        pairs[form] = [
            Contender(name=name, note="", serve=serve_kakitome(tree=tree), version=lambda: "", tree=tree)
            for name, tree in zip(names, trees, strict=True)
        ]
    os.sched_setaffinity(0, [LOAD_CORE])
    found = {(form, scenario.name): Rounds() for form in forms for scenario in scenarios}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=runs * len(found))
        for run in range(runs):
            for form, pair in pairs.items():
                in_order = pair if run % 2 == 0 else pair[::-1]
                if shakes:
                    progress.update(bar, description=f"{form}: handshakes, all in turns")
                    _compare_handshakes(programs, in_order, shakes, found, form, run=run, seconds=seconds)
                    progress.advance(bar, len(shakes))
                with ExitStack() as stack:
                    up = []
                    for contender in in_order if busy else ():
                        running = stack.enter_context(serving(programs, contender))
                        warm_up(programs, contender, running)
                        up.append((contender, running))
                    for scenario in busy:
                        progress.update(bar, description=f"{form}: {scenario.title}")
                        rounds = found[form, scenario.name]
                        made = measure_in_turns(programs, up, scenario, run=run, seconds=seconds)
                        rates = {row.gateway: row.messages_per_cpu_second for row in made}
                        here, there = rates.get(HERE), rates.get(commit[:12])
                        if here and there:
                            rounds.here.append(1e6 / here)
                            rounds.there.append(1e6 / there)
                        else:
                            rounds.failures.append(made[0].error or "no message came back")
                        progress.advance(bar)
    return found


def _compare_handshakes(
    programs: Path,
    pair: list[Contender],
    scenarios: list[Scenario],
    found: dict[tuple[Form, str], Rounds],
    form: Form,
    *,
    run: int,
    seconds: float,
) -> None:
    """One round of them."""
    with open_houses(programs, [(contender, open_kakitome(tree=contender.tree)) for contender in pair]) as houses:
        made = measure_handshakes(programs, houses, scenarios, run=run, seconds=seconds)
    for row in made:
        rounds = found[form, row.scenario]
        if row.handshake_microseconds is None:
            rounds.failures.append(f"{row.gateway}: {row.error}")
        else:
            (rounds.here if row.gateway == HERE else rounds.there).append(row.handshake_microseconds)


def print_costs(console: Console, scenarios: list[Scenario], found: dict[tuple[Form, str], Rounds]) -> None:
    """One row a form and handshake that is told from another one: how much more CPU time it takes, here."""
    told_from = {scenario.name: scenario.beside for scenario in scenarios if scenario.beside is not None}
    titles = {scenario.name: scenario.title for scenario in scenarios}
    table = Table(title="What handshakes cost more, here", title_justify="left")
    for title in ("handshake", "more than", "µs", "rounds"):
        table.add_column(title, justify="right" if title in ("µs", "rounds") else "left", no_wrap=True)
    for (form, name), rounds in found.items():
        base = found.get((form, told_from.get(name) or ""))
        if base is None or not rounds.here or len(base.here) != len(rounds.here):
            continue
        more = [here - plain for here, plain in zip(rounds.here, base.here, strict=True)]
        spread = f"{min(more):.0f} to {max(more):.0f}"
        table.add_row(f"{form}: {titles[name]}", titles[told_from[name]], f"{statistics.median(more):.0f}", spread)
    if table.row_count:
        console.print(table)


def print_ratios(
    console: Console, commit: str, scenarios: list[Scenario], found: dict[tuple[Form, str], Rounds]
) -> None:
    """One row a form and scenario: CPU time a message, and messages per CPU-second as a share of the other's."""
    table = Table(title=f"This tree beside {commit[:12]}, in turns", title_justify="left")
    for title in ("scenario", "µs here", "µs there", "here/there", "rounds"):
        table.add_column(title, justify="left" if title == "scenario" else "right", no_wrap=True)
    titles = {scenario.name: scenario.title for scenario in scenarios}
    last_form = None
    for (form, name), rounds in found.items():
        if form != last_form:
            table.add_section()
            table.add_row(f"[bold]{form}", *[""] * 4)
            last_form = form
        if rounds.here and not rounds.there and not rounds.failures:  # the other commit does not know how
            table.add_row(f"  {titles[name]}", f"{statistics.median(rounds.here):.2f}", "", "", "")
            continue
        ratios = [] if rounds.failures and len(rounds.here) != len(rounds.there) else rounds.ratios()
        if not ratios:
            table.add_row(f"  {titles[name]}", "", "", "[red]failed", "")
            continue
        numbers = [statistics.median(values) for values in (rounds.here, rounds.there, ratios)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        table.add_row(f"  {titles[name]}", f"{numbers[0]:.2f}", f"{numbers[1]:.2f}", f"{numbers[2]:.3f}", spread)
    console.print(table)
    for (form, name), rounds in found.items():
        for failure in rounds.failures:
            console.print(f"[red]{form}, {titles[name]}: {failure}")
