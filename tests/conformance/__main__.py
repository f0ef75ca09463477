"""`python -m tests.conformance`: the gateway, or any other server, through Autobahn, with a progress bar."""

import sys
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.conformance.autobahn import INSTALL, INSTALLED, Expectations, choose_cases, run_cases
from tests.conformance.document import write_document
from tests.conformance.gateway import serve_echo


@click.command()
@click.option("--codec", type=click.Choice(["compiled", "pure"]), default="compiled", show_default=True)
@click.option("--cases", default="all", show_default=True, help="`all`, groups as `1-7,9`, or cases as `6.4.*`.")
@click.option("--tls", is_flag=True, help="Over wss.")
@click.option("--url", help="Test the echo server there instead of the gateway.")
@click.option("--document", type=click.Path(path_type=Path, dir_okay=False), help="Write the report there (Markdown).")
def main(codec: str, cases: str, tls: bool, url: str | None, document: Path | None) -> None:
    """Run Autobahn's cases; fails on a verdict that is neither OK nor explained in expected.yaml."""
    console = Console()
    if not (INSTALLED / "bin" / "wstest").exists():
        raise click.ClickException(f"Autobahn is not installed: {INSTALL}")
    chosen = choose_cases(cases)
    expectations = Expectations.load()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        target = url or stack.enter_context(serve_echo(codec, tls=tls))
        progress = stack.enter_context(Progress(*columns, console=console))
        label = url or f"{codec} codec over {'wss' if tls else 'ws'}"
        task = progress.add_task(label, total=len(chosen))
        verdicts = run_cases(target, chosen, progress=lambda done: progress.update(task, completed=done))
    if document is not None:
        document.write_text(write_document(verdicts, expectations))
        console.print(f"Written: {document}")
    unexpected = expectations.unexpected(verdicts)
    for verdict in unexpected:
        console.print(f"[red]{verdict}")
    if cases == "all" and url is None:
        for entry in expectations.unused(verdicts):
            console.print(f"[red]expected.yaml lists {', '.join(entry.cases)} as {entry.behaviour}, but none is")
            unexpected = unexpected or verdicts
    console.print(f"{len(verdicts)} cases: {len(verdicts) - len(unexpected)} as expected")
    sys.exit(1 if unexpected else 0)


if __name__ == "__main__":
    main()
