"""The systemd unit, judged by systemd itself; it need not be this machine's process 1."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.command import ExitStatus
from gateway.config import load_with_files
from gateway.config.model import Timeouts
from gateway.config.units import parse_duration
from tests.support.tools import REPOSITORY, need

UNIT = REPOSITORY / "deploy/systemd/kakitome.service"
TEMPLATE = REPOSITORY / "deploy/systemd/kakitome@.service"
SOCKET = REPOSITORY / "deploy/systemd/kakitome.socket"
SEVERAL = REPOSITORY / "deploy/systemd/several.yaml"
INSTALL = "apt-get install systemd"


def service() -> configparser.SectionProxy:
    # A key may stand several times; no test here asks for one that does.
    parser = configparser.RawConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that is there in place of the one that is to be installed: systemd looks."""
    program = shutil.which("true")
    assert program is not None
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/kakitome/bin/kakitome", program))
    return path


def test_systemd_understands_every_line(unit: Path) -> None:
    analyze = need("systemd-analyze", INSTALL)
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_sees_a_mistake_where_there_is_one(unit: Path) -> None:
    analyze = need("systemd-analyze", INSTALL)
    unit.write_text(unit.read_text().replace("ProtectClock", "ProtectClocks"))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert "ProtectClocks" in done.stderr


def test_systemd_rates_its_exposure_as_low(unit: Path) -> None:
    """1.2 of 10; the threshold is in tenths, and the rating of an ordinary service is 9.6."""
    analyze = need("systemd-analyze", INSTALL)
    command = [analyze, "security", "--offline=true", "--threshold=15", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_runs_commands_that_there_are() -> None:
    executed = service()["ExecStart"].split()
    result = subprocess.run(
        [sys.executable, "-m", "gateway", *executed[1:2], "--help"], capture_output=True, text=True, check=True
    )
    assert executed[0] == "/opt/kakitome/bin/kakitome"
    assert executed[2] in result.stdout
    assert service()["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_it_is_given_longer_than_the_drain_takes_and_no_restart_for_a_faulty_configuration() -> None:
    assert parse_duration(service()["TimeoutStopSec"]) > Timeouts().drain + 5
    assert int(service()["RestartPreventExitStatus"]) == ExitStatus.CONFIG_FAULTY


def test_the_docs_show_no_other_paths_than_the_unit_has() -> None:
    text = (REPOSITORY / "docs/deployment-systemd.md").read_text()
    assert set(re.findall(r"/opt/[\w/.-]+/kakitome\b", text)) == {"/opt/kakitome/bin/kakitome"}
    assert service()["ConfigurationDirectory"] == "kakitome"
    assert "/etc/kakitome/kakitome.yaml" in text


DOCS = (REPOSITORY / "docs/deployment-systemd.md").read_text()


@pytest.mark.parametrize("drop_in", re.findall(r"```ini\n(.*?)```", DOCS, re.DOTALL))
def test_systemd_understands_the_drop_ins_of_the_docs(unit: Path, drop_in: str) -> None:
    analyze = need("systemd-analyze", INSTALL)
    folder = unit.with_name(unit.name + ".d")
    folder.mkdir()
    (folder / "override.conf").write_text(drop_in)
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# --- several processes ----------------------------------------------------------------------------------------------


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Template and socket beside each other, as they are installed; the first instance."""
    program = shutil.which("true")
    assert program is not None
    (tmp_path / TEMPLATE.name).write_text(TEMPLATE.read_text().replace("/opt/kakitome/bin/kakitome", program))
    shutil.copy(SOCKET, tmp_path)
    instance = tmp_path / "kakitome@1.service"
    instance.symlink_to(TEMPLATE.name)
    return instance


def verify(*units: Path) -> tuple[int, str]:
    analyze = need("systemd-analyze", INSTALL)
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_systemd_understands_template_and_socket(template: Path) -> None:
    assert verify(template, template.with_name(SOCKET.name)) == (0, "")


def test_systemd_sees_a_mistake_in_the_socket(template: Path) -> None:
    socket = template.with_name(SOCKET.name)
    socket.write_text(socket.read_text().replace("Backlog=", "Backlogs="))
    assert "Backlogs" in verify(socket)[1]


def test_an_instance_is_as_confined_as_the_only_one() -> None:
    """The template says what the unit says, but for what several have to differ in."""

    def lines(unit: Path) -> set[str]:
        return {line for line in unit.read_text().splitlines() if line and not line.startswith("#")}

    only, several = lines(UNIT) - lines(TEMPLATE), lines(TEMPLATE) - lines(UNIT)
    assert {line.partition("=")[0] for line in only} == {"Description", "After", "ExecStart", "RuntimeDirectory"}
    assert several - {line for line in several if line.partition("=")[0] in {"Description", "After"}} == {
        "Requires=kakitome.socket",
        "Sockets=kakitome.socket",
        "Environment=KAKITOME_INSTANCE=%i",
        "ExecStart=/opt/kakitome/bin/kakitome serve --config /etc/kakitome/several.yaml",
        "RuntimeDirectory=kakitome-%i",
    }


def test_the_configuration_takes_the_socket_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAKITOME_INSTANCE", "2")
    config = load_with_files(SEVERAL, read_files=False).config
    (name,) = re.findall(r"^FileDescriptorName=(.+)$", SOCKET.read_text(), re.MULTILINE)
    assert str(config.listeners[0].bind) == f"systemd:{name}"
    assert config.admin is not None
    assert str(config.admin.bind) == "127.0.0.1:9092"
