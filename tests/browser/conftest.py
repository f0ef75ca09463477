"""The browsers that each browser test runs in: one process each for all tests, a fresh person's tab for each test."""

from collections.abc import Iterator

import pytest

from tests.browser import bidi
from tests.browser.bidi import Session, Tab
from tests.browser.screenshots import demonstration

BROWSERS = {"chromium": bidi.chromium, "firefox": bidi.firefox}


@pytest.fixture(scope="session", params=list(BROWSERS))
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    with BROWSERS[request.param](tmp_path_factory.mktemp("profile")) as session:
        yield session


@pytest.fixture
def tab(browser: Session) -> Iterator[Tab]:
    """A tab without cookies and storage; the test runs once in each browser."""
    with browser.open_tab() as tab:
        yield tab


@pytest.fixture(scope="module")
def demo() -> Iterator[str]:
    """The URL of a running demonstration."""
    with demonstration() as (url, _):
        yield url
