"""docs/trial.md: what a record of runs becomes, and how each row is to be repeated."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.trial.faults import Direction, FaultKind
from gateway.trial.report import document
from gateway.trial.tally import DirectionReport, Witness
from gateway.trial.trial import Account, BackendKind, ClientKind, Report, Settings
from tests.trial.document import command_line, label, write_document
from tests.trial.rows import ROWS, SEED, Row

UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM
SHORT = [row for row in ROWS.values() if not row.is_long]


def accounts(settings: Settings) -> list[Account]:
    def account(direction: Direction, witness: Witness, arrived: int = 9_000, **numbers: Any) -> Account:
        report = DirectionReport(sent=10_000, arrived=arrived, lost=10_000 - arrived, **numbers)
        return Account(direction=direction, witness=witness, report=report)

    if settings.client is ClientKind.RECORDS:
        return [account(way, Witness.RECORDS, arrived=10_000, told_settled=10_000) for way in Direction]
    found = [account(way, Witness.SEND, told_settled=9_500, settled_not_arrived=500) for way in Direction]
    if settings.name == "kakitome":
        found.append(account(UP, Witness.LOG, told_settled=8_999))
        found.append(Account(direction=DOWN, witness=Witness.LOG, report=DirectionReport(sent=77, arrived=77)))
    return found


def entry(row: Row, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = row.prepare(row.settings, folder)
    report = Report(
        settings=settings,
        seconds=12.3,
        finished=True,
        faults={FaultKind.CUT: 3},
        connections=5,
        resumes=4_321,
        most_unknown=0,
        accounts=accounts(settings),
    )
    run = {"date": "2026-11-21", "kernel": "6.1", "python": "3.11.7"}
    return document(replace(report, **changes)) | {"run": run}


def lines_about(text: str, what: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {what} |")]


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    return {row.name: entry(row, tmp_path) for row in SHORT}


def test_every_row_is_in_each_table_once_for_each_account(record: dict[str, Any]) -> None:
    text = write_document(record)
    assert f"10 clients, 10,000 messages each way, the same 100 faults of seed {SEED}" in text
    for row in SHORT:
        found = lines_about(text, label(record[row.name]["settings"]))
        tellers = len(record[row.name]["accounts"])
        assert len(found) == len(Direction) + tellers + 1, row.name  # arrived, told, command


def test_what_arrived_is_told_once_for_each_direction_and_in_numbered_messages(record: dict[str, Any]) -> None:
    arrived, told = write_document(record).split("| told by |")
    up, down = lines_about(arrived, "kakitome, plain → stream")
    assert up == "| kakitome, plain → stream | upstream | 10,000 | 9,000 | 1,000 | 0 | 0 | – | 4,321 |"
    assert down == "| kakitome, plain → stream | downstream | 10,000 | 9,000 | 1,000 | 0 | 0 | – |  |"
    assert [line for line in lines_about(told, "kakitome, plain → stream") if "| gateway's log |" in line]


def test_where_no_long_trial_has_run_it_says_how_to_run_them(record: dict[str, Any]) -> None:
    assert "Not run yet: `make trial TRIAL_ARGS=--long`." in write_document(record)


def test_long_trials_stand_by_themselves_with_their_faults(record: dict[str, Any], tmp_path: Path) -> None:
    name = "long-records-stream-kills"
    record[name] = entry(ROWS[name], tmp_path, most_unknown=250, faults={FaultKind.KILL_GATEWAY: 50, FaultKind.CUT: 9})
    text = write_document(record)
    assert "Not run yet" not in text
    assert (
        "- kakitome, records → stream, kills: 12 s, 5 connections; 9 cut, 50 kill gateway;"
        " at most 250 messages were told unknown at once, the window is 256." in text
    )


def test_a_broken_promise_is_told_and_none_is_ascribed_to_others(record: dict[str, Any], tmp_path: Path) -> None:
    record["plain-stream"] = entry(ROWS["plain-stream"], tmp_path, finished=False)
    text = write_document(record)
    assert "| **no** |" in lines_about(text, "kakitome, plain → stream")[-1]
    assert "| yes |" in lines_about(text, "kakitome, records → stream")[-1]
    assert "| none is made |" in lines_about(text, "websockify, plain → stream")[-1]


def test_no_path_or_port_of_the_machine_gets_into_it(record: dict[str, Any], tmp_path: Path) -> None:
    text = write_document(record)
    assert str(tmp_path) not in text
    for name in ("websockify", "nginx"):
        assert record[name]["settings"]["gateway_command"] not in text


def test_the_command_of_a_row_repeats_it() -> None:
    settings = document_settings(ROWS["records-stream-kills"].settings)
    assert command_line("records-stream-kills", settings) == (
        "kakitome trial --client records --backend stream --clients 10 --messages 1000 --faults 100 --kill 5"
        f" --seed {SEED}"
    )
    other = document_settings(replace(ROWS["nginx"].settings, url="ws://127.0.0.1:1/"))
    assert command_line("nginx", other) == "make trial TRIAL_ARGS='--only nginx'"


def document_settings(settings: Settings) -> dict[str, Any]:
    nothing = Report(
        settings=settings, seconds=0, finished=True, faults={}, connections=0, resumes=0, most_unknown=0, accounts=[]
    )
    return dict(document(nothing)["settings"])


def test_other_gateways_get_the_faults_of_plain_clients_and_a_backend_they_can_reach(tmp_path: Path) -> None:
    for name, backend in (("websockify", BackendKind.STREAM), ("nginx", BackendKind.WEBSOCKET)):
        row = ROWS[name]
        settings = row.prepare(row.settings, tmp_path)
        assert (settings.client, settings.backend, settings.seed) == (ClientKind.PLAIN, backend, SEED)
        port = str(settings.backend_bind[1])
        config = (tmp_path / "nginx.conf").read_text() if name == "nginx" else settings.gateway_command or ""
        assert port in config
        assert (settings.url or "").split(":")[-1].rstrip("/") in config
