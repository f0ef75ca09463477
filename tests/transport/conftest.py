"""A certificate authority that every transport test trusts: making one takes longer than most tests. And the level."""

import logging
from collections.abc import Iterator

import pytest
import structlog
import trustme


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(autouse=True)
def told_from_info_up() -> Iterator[None]:
    """Lines are captured from the level up that the gateway has by default, whatever test came before this one."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    yield
    structlog.configure(wrapper_class=before)
