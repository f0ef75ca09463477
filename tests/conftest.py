"""What holds for every test: its limit, what becomes of a skip, how far properties look, which test begins."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# A shell starts what it runs in the background with interrupts ignored, and so would be whatever the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine must not fail a property, nor the making of its examples; `HYPOTHESIS_PROFILE=deep` looks further.
settings.register_profile("fast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("deep", settings.get_profile("fast"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

pytest_plugins = ("tests.support.patience", "tests.support.left_out")


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
