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
