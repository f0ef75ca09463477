"""What is compiled in the tree under test, and how setup.py builds with a compiler, and without one."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gateway.protocol.build import CODEC, DATA_PATH, SLOW
from tests.support.tools import REPOSITORY, need


def test_the_data_path_under_test_is_the_one_that_was_asked_for() -> None:
    wanted = "compiled" if "KAKITOME_TEST_TREE" in os.environ else "interpreted"
    assert wanted == DATA_PATH
    assert CODEC == "compiled" or DATA_PATH == "interpreted"
    assert ((CODEC, DATA_PATH) != ("compiled", "compiled")) == SLOW


def test_what_lints_and_tests_is_what_builds() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    (builds,) = [wanted for wanted in project["build-system"]["requires"] if wanted.startswith("mypy")]
    (lints,) = [wanted for wanted in project["dependency-groups"]["dev"] if str(wanted).startswith("mypy")]
    assert builds.partition(";")[0] == lints


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What setup.py needs, with nothing compiled."""
    tree = tmp_path / "checkout"
    built = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    shutil.copytree(REPOSITORY / "gateway", tree / "gateway", ignore=built)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "kakitome.py"):
        shutil.copy(REPOSITORY / name, tree)
    return tree


def build(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", *(arguments or ("build", "--build-lib", "lib", "--build-temp", "temp"))],
        cwd=checkout,
        env={**os.environ, "KAKITOME_COMPILE": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def compiled(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.so"))


def compiler(folder: Path, condition: str) -> str:
    """A C compiler that does nothing but fail where the shell's condition, of its arguments, holds."""
    program = folder / "cc"
    real = need("gcc", "apt-get install gcc libc6-dev")
    program.write_text(
        f'#!/bin/sh\ncase "$*" in {condition}) echo no such luck >&2; exit 1;; esac\nexec {real} "$@" -O0\n'
    )
    program.chmod(0o755)
    return str(program)


def test_without_a_compiler_the_slow_form_is_built_and_nothing_stale_with_it(checkout: Path) -> None:
    suffix = ".cpython-311-x86_64-linux-gnu.so"
    for stale in ("lib/kakitome__mypyc", "lib/gateway/relay/pump", "lib/gateway/protocol/_frames"):
        path = checkout / (stale + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (checkout / "lib/gateway/left_over.py").touch()
    done = build(checkout, CC="/nonexistent/cc")
    assert done.returncode == 0, done.stderr
    assert "the data path stays interpreted: there is no C compiler that works" in done.stderr
    assert compiled(checkout / "lib") == []
    assert (checkout / "lib/gateway/relay/pump.py").exists()
    assert not (checkout / "lib/gateway/left_over.py").exists()


def test_where_all_of_it_was_asked_for_a_missing_compiler_is_an_error(checkout: Path) -> None:
    done = build(checkout, CC="/nonexistent/cc", KAKITOME_COMPILE="1")
    assert done.returncode != 0
    assert "/nonexistent/cc" in done.stderr


def test_a_data_path_that_cannot_be_compiled_is_left_out_as_a_whole(checkout: Path) -> None:
    """One module compiled without the others could not be imported."""
    done = build(checkout, CC=compiler(checkout, "*__native_*"))
    assert done.returncode == 0, done.stderr
    assert "the data path stays interpreted" in done.stderr
    assert [name.partition(".")[0] for name in compiled(checkout / "lib")] == [
        "gateway/protocol/_frames",
        "gateway/relay/_sockets",
    ]


def test_the_data_path_can_be_left_out(checkout: Path) -> None:
    done = build(checkout, CC=compiler(checkout, "*__native_*"), KAKITOME_COMPILE="0")
    assert done.returncode == 0, done.stderr
    assert "stays interpreted" not in done.stderr
    assert len(compiled(checkout / "lib")) == 2


def test_in_place_the_data_path_is_never_compiled(checkout: Path) -> None:
    """There it would hide what is changed in the sources."""
    done = build(checkout, "build_ext", "--inplace", CC=compiler(checkout, "*__native_*"), KAKITOME_COMPILE="1")
    assert done.returncode == 0, done.stderr
    assert len(compiled(checkout / "gateway")) == 2


def test_another_word_in_its_variable_is_an_error() -> None:
    done = build(REPOSITORY, "--version", KAKITOME_COMPILE="yes")
    assert done.returncode != 0
    assert "KAKITOME_COMPILE is 'yes': 1 (all of it or an error)" in done.stderr
