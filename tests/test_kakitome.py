"""The name that is nobody else's: what it is, and what it says where another `gateway` hides ours."""

import subprocess
import sys
from pathlib import Path

import pytest

import gateway.backend
import gateway.client
import kakitome
from tests.support.tools import REPOSITORY


def python(*arguments: str, cwd: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


def test_it_leads_to_the_client_and_the_kit() -> None:
    assert kakitome.client is gateway.client
    assert kakitome.backend is gateway.backend


def test_what_it_does_not_have_is_named() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'relay'; it has backend, client"):
        kakitome.relay  # noqa: B018


@pytest.mark.parametrize("hiding", ["gateway.py", "gateway/__init__.py"])
def test_another_gateway_is_named_with_what_to_do(hiding: str, tmp_path: Path) -> None:
    file = tmp_path / hiding
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine = True\n")
    done = python("-c", "from kakitome import client", cwd=tmp_path, path=str(REPOSITORY))
    assert f"ImportError: the module 'gateway' that Python finds is {file}, and not Kakitome's" in done.stderr
    assert "rename it" in done.stderr


def test_one_that_is_imported_already_is_named(tmp_path: Path) -> None:
    (tmp_path / "gateway.py").write_text("mine = True\n")
    done = python("-c", "import gateway; from kakitome import client", cwd=tmp_path, path=str(REPOSITORY))
    assert f"that Python finds is {tmp_path / 'gateway.py'}" in done.stderr


def test_a_folder_without_init_beside_it_hides_nothing(tmp_path: Path) -> None:
    """Python takes a package with `__init__.py` that comes later on its path first."""
    (tmp_path / "gateway").mkdir()
    done = python("-c", "from kakitome import client; print(client.__name__)", cwd=tmp_path, path=str(REPOSITORY))
    assert done.stdout == "gateway.client\n", done.stderr


def test_the_command_ends_with_that_sentence_and_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "gateway.py").write_text("mine = True\n")
    done = python("-c", "import kakitome; kakitome.main()", "--version", cwd=tmp_path, path=str(REPOSITORY))
    assert done.returncode == 1
    assert done.stderr.startswith("kakitome: the module 'gateway' that Python finds is")
    assert "Traceback" not in done.stderr


def test_the_command_is_the_gateway_s(tmp_path: Path) -> None:
    done = python("-c", "import kakitome; kakitome.main()", "--version", cwd=tmp_path, path=str(REPOSITORY))
    assert done.stdout.startswith("kakitome "), done.stderr
