"""The `kakitome` command: what it prints where, and its exit statuses."""

import json
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
import trio
from click.testing import CliRunner, Result

from gateway import __version__
from gateway.access.state import open_state
from gateway.access.tickets import TicketMethod
from gateway.cli import main
from gateway.config.reference import reference
from gateway.protocol.build import CODEC, DATA_PATH, SLOW
from tests.access.doubles import evidence

GOOD = """\
listeners:
  - bind: 127.0.0.1:8080
  - bind: unix:/run/k.sock
routes:
  - name: chat
    match: {host: chat.example.com, path: /chat}
    backend: {endpoints: [tcp://127.0.0.1:9000, tls://b:9443], framing: lines}
  - name: pages
    files: .
"""


def run(*arguments: str, **environment: str | None) -> Result:
    return CliRunner().invoke(main, arguments, env=environment, prog_name="kakitome")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kakitome.yaml"
    path.write_text(GOOD)
    return path


def test_version_tells_what_is_compiled_python_and_trio() -> None:
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"kakitome {__version__} ({CODEC} codec, {DATA_PATH} data path, ")
    assert f"trio {trio.__version__}" in result.stdout
    assert ("install Kakitome" in result.stdout) == SLOW


def test_help_lists_the_commands_and_the_exit_statuses() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in main.commands:
        assert f"\n  {name} " in result.stdout
        assert "Exit status:\n    0 " in run(name, "--help").stdout
    assert "Exit status:\n    0 " in result.stdout


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from gateway.cli import main\n"
        "try: main(['serve', '--help'], prog_name='kakitome')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('trio', 'pydantic', 'yaml', 'rich', 'structlog') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_python_m_gateway_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "/"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (1, "kakitome: /: cannot be read: Is a directory\n")


# --- check --------------------------------------------------------------------------------------------------------


def test_check_sums_a_good_file_up(path: Path) -> None:
    result = run("check", str(path))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        f"{path}: good\n"
        "  listener     127.0.0.1:8080         ws, http\n"
        "  listener     unix:/run/k.sock       ws, http\n"
        "  admin        127.0.0.1:9090         http\n"
        "  route chat   chat.example.com/chat  lines to tcp://127.0.0.1:9000, tls://b:9443\n"
        f"  route pages  /*                     files of {path.parent}\n"
    )


def test_check_names_every_fault_with_file_line_and_key(path: Path) -> None:
    path.write_text(GOOD + "log: {level: loud}\nadmin: {bind: 9090}\n")
    result = run("check", str(path))
    assert (result.exit_code, result.stderr) == (2, "")
    assert result.stdout == (
        f'{path}:10: log.level: must be one of debug, info, warning, error, not "loud"\n'
        f"{path}:11: admin.bind: 9090 is only a port; write 127.0.0.1:9090 for this host, 0.0.0.0:9090 for all\n"
    )


def test_check_takes_the_file_from_the_environment_too(path: Path) -> None:
    assert run("check", KAKITOME_CONFIG=str(path)).exit_code == 0
    result = run("check", KAKITOME_CONFIG=None)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Missing argument 'FILE'" in result.stderr


def test_check_leaves_files_of_another_machine_alone_on_demand(path: Path) -> None:
    path.write_text(GOOD + "  - {name: more, match: {path: /more}, files: none}\n")
    assert run("check", str(path)).exit_code == 2
    assert run("check", "--no-files", str(path)).exit_code == 0


def test_a_file_that_is_not_there_is_one_line_and_status_1(tmp_path: Path) -> None:
    for command in (["check"], ["serve", "--config"]):
        result = run(*command, str(tmp_path / "none.yaml"))
        assert (result.exit_code, result.stdout) == (1, "")
        message = "there is no such file; give the path of the configuration"
        assert result.stderr == f"kakitome: {tmp_path}/none.yaml: {message}\n"


# --- schema -------------------------------------------------------------------------------------------------------


def test_schema_prints_the_json_schema_or_the_reference() -> None:
    printed = json.loads(run("schema").stdout)
    jsonschema.Draft7Validator.check_schema(printed)
    assert set(printed["required"]) == {"listeners", "routes"}
    assert run("schema", "--markdown").stdout == reference()


# --- serve --------------------------------------------------------------------------------------------------------


def test_serve_refuses_a_faulty_configuration_on_standard_error(path: Path) -> None:
    path.write_text(GOOD + "log: {level: loud}\n")
    result = run("serve", "--config", str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f'{path}:10: log.level: must be one of debug, info, warning, error, not "loud"\n'


def test_serve_needs_a_configuration() -> None:
    result = run("serve", KAKITOME_CONFIG=None)
    assert result.exit_code == 2
    assert "Missing option '-c' / '--config'" in result.stderr
    assert "KAKITOME_CONFIG" in result.stderr


@pytest.mark.parametrize("command", ["serve", "demo", "trial"])
def test_another_system_than_linux_is_told_in_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    options = ["--config", str(tmp_path / "kakitome.yaml")] if command == "serve" else []
    result = CliRunner().invoke(main, [command, *options])
    assert result.exit_code == 1
    assert result.stderr == (
        "kakitome: the gateway runs on Linux only, and this is Darwin: use a container or a virtual machine\n"
    )


# --- ticket -----------------------------------------------------------------------------------------------------------


async def test_ticket_prints_one_that_lets_in(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of at least thirty-two bytes\n")
    result = run("ticket", "alice", "--secret", str(secret), "--claim", "room=7", "--route", "chat", "--for", "30s")
    assert result.exit_code == 0
    state = open_state(None, now=time.time() - 10)
    tickets = TicketMethod(["a secret of at least thirty-two bytes"], longest_seconds=60, state=state)
    principal = await tickets.identify(evidence(result.stdout.strip(), route="chat"), time.time())
    assert principal.subject == "alice"
    assert principal.claims["room"] == "7"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--secret", "missing"], "cannot read missing"),
        (["--secret", "short"], "fewer than 32 bytes"),
        (["--secret", "good", "--for", "5"], "is not a duration"),
        (["--secret", "good", "--claim", "room"], "must be NAME=VALUE"),
    ],
)
def test_ticket_says_what_is_wrong(
    arguments: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short").write_text("short")
    (tmp_path / "good").write_text("a secret of at least thirty-two bytes")
    monkeypatch.chdir(tmp_path)
    result = run("ticket", "alice", *arguments)
    assert result.exit_code == 2
    assert problem in result.stderr
