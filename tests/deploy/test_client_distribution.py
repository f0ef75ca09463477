"""kakitome-client: what is in it, what it needs, and that it does its work where nothing else is installed."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from deploy import client_distribution
from tests.docs.test_reference import CLIENT, KIT, answer, example, run_client, served
from tests.support.tools import REPOSITORY

UNWANTED = (
    "cryptography",
    "rich",
    "prometheus_client",
    "yaml",
    "structlog",
    "joserfc",
    "httpx2",
    "click",
    "mypy_extensions",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return client_distribution.build(tmp_path_factory.mktemp("wheel"))


def test_it_needs_nothing_of_the_gateway() -> None:
    needed = {client_distribution._project_name(line) for line in client_distribution.requirements()}
    assert needed == {"anyio", "h11", "idna", "pydantic", "trio"}


def test_it_holds_what_is_imported_and_nothing_compiled(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"gateway/client/session.py", "gateway/backend/service.py", "gateway/py.typed", "kakitome.py"} <= names
    assert not [name for name in names if name.endswith((".so", ".pyx", ".c"))]
    folders = {name.split("/")[1] for name in names if name.startswith("gateway/") and name.count("/") > 1}
    assert folders == {"backend", "client", "ends", "protocol"}
    assert not {"gateway/client/console.py", "gateway/client/terminal.py", "gateway/backend/echo.py"} & names


def test_the_docs_tell_its_size(wheel: Path) -> None:
    """To the nearest ten: a line more or less is no news."""
    kilobytes = round(wheel.stat().st_size / 1000, -1)
    assert f"({kilobytes:.0f} kB for version" in CLIENT.read_text()


def test_the_same_sources_make_the_same_modules(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for file in client_distribution.modules().values():
            assert archive.read(str(file.relative_to(REPOSITORY))) == file.read_bytes()


def test_client_and_kit_talk_where_nothing_else_is_installed(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--only-binary", ":all:"]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    look = f"import importlib.util as i; print([name for name in {UNWANTED!r} if i.find_spec(name)])"
    found = subprocess.run([python, "-I", "-c", look], check=True, capture_output=True, text=True)
    assert found.stdout == "[]\n"
    with served(example(KIT, "python", "shout"), tmp_path, python) as gateway:
        assert run_client(example(CLIENT, "python", "open_session"), gateway, tmp_path, python) == answer(CLIENT)
    by_name = "from kakitome import backend, client; print(client.connect.__module__, backend.serve.__module__)"
    done = subprocess.run([python, "-I", "-c", by_name], check=True, capture_output=True, text=True)
    assert done.stdout == "gateway.client.connection gateway.backend.service\n"
