"""The command: its report on standard output, its exit status."""

import json

import pytest
from click.testing import CliRunner

from gateway.cli import main

SHORT = ["--clients", "2", "--messages", "50", "--faults", "3", "--seed", "9"]


def test_a_trial_that_keeps_what_it_promises_exits_with_0() -> None:
    result = CliRunner().invoke(main, ["trial", "--json", *SHORT])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["promise_kept"] is True
    assert report["settings"]["seed"] == 9


def test_the_report_for_people_is_a_table() -> None:
    result = CliRunner().invoke(main, ["trial", "--backend", "stream", *SHORT])
    assert result.exit_code == 0, result.output
    assert "told by send()" in result.stdout
    assert "told by records" in result.stdout


def test_a_trial_that_finds_a_promise_broken_exits_with_1() -> None:
    nowhere = ["trial", "ws://127.0.0.1:1/", "--patience", "0.3", *SHORT]
    result = CliRunner().invoke(main, nowhere)
    assert result.exit_code == 1
    assert "nothing moved for 0.3 s" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "websocket"], "is for plain clients"),
        (["--kill", "60"], "100 faults cannot have 60 kills"),
        (["wss://example.com/"], "needs a ws:// URL"),
        (["--backend-bind", "unix:/tmp/x"], "needs a TCP address"),
        (["--backend-bind", "nonsense"], "Invalid value for '--backend-bind'"),
    ],
)
def test_what_cannot_be_tried_is_a_wrong_command_line(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, ["trial", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr
