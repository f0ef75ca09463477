"""A certificate authority that every transport test trusts: making one takes longer than most tests."""

import pytest
import trustme


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    return trustme.CA()
