"""The docs as a site: built strictly, so that a dead link, a page that no menu has or a bad anchor is a fault."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES
from tests.support.tools import REPOSITORY, need


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    program = need("mkdocs", "pip install mkdocs-material")
    command = [program, "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_it_is_built_without_a_warning_and_has_every_page(site: Path) -> None:
    for page in PAGES:
        assert (site / page.relative_to(DOCS)).with_suffix(".html").exists(), page


def test_links_to_other_files_of_the_repository_lead_to_the_forge(site: Path) -> None:
    page = (site / "behind-a-proxy.html").read_text()
    assert re.search(r'href="https://[^"]+/blob/main/deploy/proxies/nginx.conf"', page)
    assert re.search(r'href="https://[^"]+/tree/main/deploy/proxies"', page)
    assert 'href="../deploy' not in page


def test_nothing_is_loaded_from_elsewhere_to_read_a_page(site: Path) -> None:
    page = (site / "index.html").read_text()
    assert not re.search(r'<(?:script|link rel="stylesheet"|img)[^>]+(?:src|href)="https?://', page)
