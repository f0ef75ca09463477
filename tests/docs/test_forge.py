"""What a forge reads: workflows, templates, hooks; checked as far as it goes without one."""

import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import pytest
import yaml

from tests.support.tools import REPOSITORY, need, tracked_files

FORGE: Final = REPOSITORY / ".github"
WORKFLOWS: Final = sorted((FORGE / "workflows").glob("*.yml"))
FORMS: Final = [path for path in sorted((FORGE / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]


def run(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = need(tool, f"pip install {tool}")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=REPOSITORY)


def test_workflows_have_no_hole_that_zizmor_knows() -> None:
    done = run("zizmor", "--offline", "--no-progress", "--pedantic", FORGE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", WORKFLOWS),
        ("github-issue-forms", FORMS),
        ("github-issue-config", [FORGE / "ISSUE_TEMPLATE" / "config.yml"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_are_as_their_schema_says(schema: str, files: list[Path]) -> None:
    assert files
    done = run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_hooks_can_be_read() -> None:
    done = run("pre-commit", "validate-config", ".pre-commit-config.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def steps(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step for job in jobs for step in job.get("steps", ())]


def test_ci_is_what_runs_anywhere() -> None:
    assert ".ci/run" in [step.get("run") for step in steps(FORGE / "workflows" / "ci.yml")]


def test_every_script_of_a_step_is_good_shell() -> None:
    bash = need("bash", "apt-get install bash")
    for workflow in WORKFLOWS:
        for script in [step["run"] for step in steps(workflow) if "run" in step]:
            # Expressions are replaced before a shell sees them.
            done = subprocess.run(
                [bash, "-n", "-c", re.sub(r"\$\{\{.*?\}\}", "x", script)], capture_output=True, text=True
            )
            assert done.returncode == 0, f"{script}\n{done.stderr}"


# --- .ci/commit-message -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ("Subject\n\nWhy it is so.\n", None),
        (f"{'x' * 72}\n\nWhy.\n", None),
        ("# a comment\nSubject\n\nWhy.\n", None),
        ("fixup! Subject\n", None),
        (f"{'x' * 73}\n\nWhy.\n", "73 characters"),
        ("Subject\nWhy.\n", "an empty line"),
        ("Subject\n", "a body that says why"),
        ("\n", "is empty"),
    ],
)
def test_a_commit_s_message_has_a_short_subject_and_says_why(
    message: str, complaint: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "message"
    file.write_text(message)
    done = subprocess.run([REPOSITORY / ".ci" / "commit-message", file], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if complaint is None else 1)
    assert (complaint or "") in done.stderr


# --- .ci/release-agrees -------------------------------------------------------------------------------------------

Disagreements = Callable[[Path, str, str], list[str]]


@pytest.fixture(scope="module")
def disagreements() -> Disagreements:
    return cast(Disagreements, runpy.run_path(str(REPOSITORY / ".ci" / "release-agrees"))["disagreements"])


def tree(folder: Path, *, version: str, chart: str, changelog: str, source: str) -> Path:
    (folder / "helm" / "kakitome").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "kakitome"\nversion = "{version}"\n'
        f'[project.urls]\nSource = "{source}"\nIssues = "{source}/issues"\n'
    )
    (folder / "mkdocs.yml").write_text(f"site_name: k\nrepo_url: {source}  # a comment\n")
    (folder / "helm" / "kakitome" / "Chart.yaml").write_text(f'version: {chart}\nappVersion: "{chart}"\n')
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## [{changelog}] - 2026-11-28\n")
    return folder


def test_a_release_in_which_all_agrees(disagreements: Disagreements, tmp_path: Path) -> None:
    root = tree(tmp_path, version="1.2.3", chart="1.2.3", changelog="1.2.3", source="https://forge.example/k")
    assert disagreements(root, "v1.2.3", "https://forge.example/k") == []


def test_each_disagreement_of_a_release_is_named(disagreements: Disagreements, tmp_path: Path) -> None:
    root = tree(tmp_path, version="1.2.3", chart="1.2.2", changelog="1.2.1", source="https://forge.example/k")
    found = disagreements(root, "v1.2.4", "https://forge.example/fork")
    tag, version, app_version, changelog, source, site, issues = found
    assert "the tag is v1.2.4, and pyproject.toml says 1.2.3" in tag
    assert "version in helm/kakitome/Chart.yaml is 1.2.2" in version
    assert "appVersion" in app_version
    assert "[1.2.3]" in changelog
    assert "project.urls.Source" in source
    assert "released from https://forge.example/fork" in source
    assert "repo_url in mkdocs.yml is https://forge.example/k" in site
    assert "project.urls.Issues in pyproject.toml is https://forge.example/k/issues, which is not below" in issues


def test_the_repository_s_own_versions_agree(disagreements: Disagreements) -> None:
    """All but the changelog's section, which a release begins with."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    version, source = re.search(r'^version = "(.+)"', text, re.M), re.search(r'^Source = "(.+)"', text, re.M)
    assert version is not None
    assert source is not None
    found = disagreements(REPOSITORY, f"v{version[1]}", source[1])
    assert [fault for fault in found if not fault.startswith("CHANGELOG.md")] == []


def test_no_file_names_an_address_that_somebody_else_may_claim() -> None:
    """The project has none on a forge: what stands for is said to be a placeholder, and can be nobody's (RFC 2606)."""
    claimed = re.compile(r"git(hub|lab)\.com/kakitome")
    texts = {name: (REPOSITORY / name).read_text(errors="ignore") for name in tracked_files()}
    assert [name for name, text in texts.items() if claimed.search(text)] == []
    for name in ("pyproject.toml", "mkdocs.yml"):
        text = (REPOSITORY / name).read_text()
        assert "forge.invalid" not in text or "placeholder" in text, name
