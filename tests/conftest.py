"""In CI a skipped test is a failed one: everything that tests need is installed there."""

import os
from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import settings

# A busy machine must not fail a property; `HYPOTHESIS_PROFILE=deep` looks further.
settings.register_profile("fast", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


def fail_if_skipped(report: Report) -> Report:
    """Turns a skip into a failure that keeps the reason; an expected failure is no skip."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"Skipped in CI, where everything is to be installed. {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return fail_if_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return fail_if_skipped((yield))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begins the long runs of Autobahn first, one on each worker, so that none of them is waited for at the end.

    pytest-xdist's `worksteal` gives each worker an equal run of neighbouring tests to begin with.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    long = [item for item in items if "tests/conformance/" in item.nodeid]
    if workers == 1 or not long:
        return
    others = [item for item in items if item not in set(long)]
    share = -(-len(others) // workers)
    items[:] = []
    for worker in range(workers):
        items += long[worker::workers] + others[worker * share : (worker + 1) * share]
