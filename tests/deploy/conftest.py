"""One monitored gateway for all tests that only ask about it."""

from collections.abc import Iterator

import pytest

from tests.deploy.monitored import Monitored, monitored


@pytest.fixture(scope="session")
def under_load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Monitored]:
    """A gateway under load and with faults, scraped by a Prometheus that runs the rules."""
    with monitored(tmp_path_factory.mktemp("monitored")) as running:
        yield running
