"""The browsers that each browser test runs in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import bidi
from tests.browser.bidi import Tab

BROWSERS = {"chromium": bidi.chromium, "firefox": bidi.firefox}


@pytest.fixture(params=list(BROWSERS))
def tab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tab]:
    """A tab of a fresh browser; the test runs once in each."""
    profile = tmp_path / "profile"
    profile.mkdir()
    with BROWSERS[request.param](profile) as tab:
        yield tab
