"""`python -m helm`: what is generated is current, and what is not is named."""

from pathlib import Path

import helm_python
import pytest
from click.testing import CliRunner

from helm.__main__ import CHART, generated, main, stale

FILES = generated()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A chart that is current, whatever the one here is."""
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    return tmp_path


def test_everything_generated_is_current() -> None:
    assert stale() == [], "run: make chart"


def test_check_says_so_with_its_exit_status() -> None:
    result = CliRunner().invoke(main, ["--check"])
    assert (result.exit_code, result.output) == (0, "")


def test_what_is_as_generated_is_current(copy: Path) -> None:
    assert stale(copy) == []


def test_what_is_changed_missing_or_left_over_is_stale(copy: Path) -> None:
    (copy / "README.md").write_text("changed")
    (copy / "values.schema.json").unlink()
    left_over = copy / "files" / "rules" / "old.yaml"
    left_over.touch()
    assert stale(copy) == [Path("README.md"), Path("files/rules/old.yaml"), Path("values.schema.json")]


def test_generated_files_end_with_a_line_break() -> None:
    for path in (Path("README.md"), Path("values.schema.json")):
        assert FILES[path].endswith(b"\n")
        assert not FILES[path].endswith(b"\n\n")


# --- the chart as a whole -------------------------------------------------------------------------------------------


def test_the_version_is_the_gateways() -> None:
    from gateway import __version__

    with helm_python.Chart.load(CHART) as chart:
        assert chart.metadata["appVersion"] == __version__
        assert chart.version == __version__


def test_a_package_holds_what_renders_and_none_of_what_generates(tmp_path: Path) -> None:
    with helm_python.Chart.load(helm_python.package(CHART, destination=tmp_path)) as packaged:
        assert packaged.render({}, name="a", namespace="b") == render_source()
        names = {file["name"] for file in packaged.files}
        assert {"README.md", "files/connection_test.py", "files/demo-routes.yaml"} <= names
        assert not [name for name in names if name.endswith(".pyc")]


def render_source() -> dict[str, str]:
    with helm_python.Chart.load(CHART) as chart:
        return chart.render({}, name="a", namespace="b")
