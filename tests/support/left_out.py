"""A pytest plugin: a run says at its end which tests were left out, and what to install for them.

In CI a skipped test is a failed one: everything that tests need is installed there.
"""

import os
import re
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from typing import Final, TypeVar

import pytest
from _pytest.terminal import TerminalReporter

IN_CI: Final = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

_INSTALLABLE: Final = re.compile(r"(apt-get|pip|npm) install ([a-z0-9][a-z0-9. +-]*[a-z0-9])")

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def fail_if_skipped(report: Report) -> Report:
    """Turns a skip into a failure that keeps the reason; an expected failure is no skip."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"Skipped in CI, where everything is to be installed. {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return fail_if_skipped((yield))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """The last words of a run that left something out."""
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if not hasattr(report, "wasxfail")]
    if skipped:
        terminalreporter.section("left out", "-")
        for line in left_out(map(_reason, skipped)):
            terminalreporter.write_line(line)


def left_out(reasons: Iterable[str]) -> Iterator[str]:
    """What to do about the tests that were skipped for `reasons`: one command for each installer, then the rest."""
    counts = Counter(reasons)
    packages: dict[str, set[str]] = {}
    others: list[str] = []
    installable = 0
    for reason, tests in counts.items():
        found = _INSTALLABLE.findall(reason)
        installable += tests if found else 0
        for installer, names in found:
            packages.setdefault(installer, set()).update(names.split())
        if not found:
            others.append(f"  {tests} {_tests(tests)}: {reason}")
    if packages:
        yield f"  {installable} {_tests(installable)}, for which something is to be installed:"
        for installer, names_wanted in sorted(packages.items()):
            yield f"    {installer} install {' '.join(sorted(names_wanted))}"
    yield from others
    yield "  Nothing is left out by .ci/run, which installs all of it."


def _tests(count: int) -> str:
    return "test" if count == 1 else "tests"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")
