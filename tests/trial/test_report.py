"""The report of a trial: numbers, verdicts, and that no lie passes."""

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gateway.trial.faults import Direction, FaultKind
from gateway.trial.report import markdown_table, print_table, summary, to_json, verdict
from gateway.trial.tally import DirectionReport, Witness
from gateway.trial.trial import Account, BackendKind, ClientKind, Report, Settings

GOOD = DirectionReport(sent=10, arrived=10, told_settled=10)


def report(
    *accounts: DirectionReport,
    witness: Witness = Witness.RECORDS,
    client: ClientKind = ClientKind.RECORDS,
    backend: BackendKind = BackendKind.RECORDS,
    **settings: Any,
) -> Report:
    directions = (Direction.UPSTREAM, Direction.DOWNSTREAM)
    return Report(
        settings=Settings(client=client, backend=backend, clients=1, messages=10, seed=7, **settings),
        seconds=1.5,
        finished=True,
        faults={FaultKind.CUT: 2, FaultKind.STALL: 1},
        connections=3,
        resumes=2,
        most_unknown=0,
        accounts=[
            Account(direction=direction, witness=witness, report=one)
            for direction, one in zip(directions, accounts, strict=False)
        ],
    )


PLAIN: dict[str, Any] = {"client": ClientKind.PLAIN, "backend": BackendKind.STREAM}
STREAM_KILLED: dict[str, Any] = {"backend": BackendKind.STREAM, "kills": 1, "faults": 4}


@pytest.mark.parametrize(
    ("found", "kept", "words"),
    [
        (report(GOOD, GOOD), True, "every message arrived once and in order"),
        (report(GOOD, replace(GOOD, lost=1)), False, "messages were lost, doubled or out of order"),
        (report(replace(GOOD, doubled=1), GOOD), False, "messages were lost, doubled or out of order"),
        (report(GOOD, replace(GOOD, out_of_order=1)), False, "messages were lost, doubled or out of order"),
        (report(GOOD, replace(GOOD, damaged=1)), False, "messages arrived that nobody had sent"),
        (report(replace(GOOD, lost=2, settled_not_arrived=2), GOOD), False, "2 messages were misreported"),
        (report(replace(GOOD, arrived_but_never_forwarded=1), GOOD), False, "1 messages were misreported"),
        (
            report(replace(GOOD, lost=3, told_unknown=3), GOOD, **STREAM_KILLED),
            True,
            "nothing was told that is not true",
        ),
        (report(replace(GOOD, lost=3, settled_not_arrived=1), **STREAM_KILLED), False, "1 messages were misreported"),
        (
            report(replace(GOOD, lost=3, settled_not_arrived=3), GOOD, witness=Witness.SEND, **PLAIN),
            True,
            "3 messages were lost that their senders believe to have arrived",
        ),
        (
            report(replace(GOOD, lost=3, settled_not_arrived=3), GOOD, witness=Witness.LOG, **PLAIN),
            False,
            "3 messages were misreported",
        ),
        (replace(report(GOOD, **STREAM_KILLED), most_unknown=256), True, "nothing was told that is not true"),
        (
            replace(report(GOOD, **STREAM_KILLED), most_unknown=257),
            False,
            "257 messages were told unknown at once, more than the window of 256",
        ),
        (replace(report(GOOD, GOOD), finished=False), False, "nothing moved for 60 s: the trial was ended"),
    ],
)
def test_what_a_pairing_promises_was_kept_or_not(found: Report, kept: bool, words: str) -> None:
    assert found.promise_kept is kept
    assert verdict(found) == words


def test_the_table_shows_every_number_and_marks_what_is_wrong() -> None:
    out = StringIO()
    console = Console(file=out, width=200, force_terminal=True, color_system="standard")
    print_table(report(GOOD, replace(GOOD, lost=1_234)), console)
    text = out.getvalue()
    assert "told by records" in text
    (line,) = [line for line in text.splitlines() if "1,234" in line]
    assert "\x1b[31m" in line  # red
    assert "seed 7" in text
    assert "2 cut, 1 stall" in text


def test_json_has_all_of_it() -> None:
    parsed = json.loads(to_json(report(GOOD, replace(GOOD, longest_gap_seconds=2.5))))
    assert parsed["settings"]["seed"] == 7
    assert parsed["faults"]["cut"] == 2
    assert parsed["faults"]["kill gateway"] == 0
    assert [account["direction"] for account in parsed["accounts"]] == ["upstream", "downstream"]
    assert parsed["accounts"][1]["longest_gap_seconds"] == 2.5
    assert parsed["promise_kept"] is True


def test_the_summary_says_how_to_repeat_it() -> None:
    assert summary(report(GOOD, GOOD)) == (
        "1 records clients of kakitome, records backend, 10 messages each way: 2 s, 3 connections, 2 resumes;"
        " 2 cut, 1 stall; seed 7"
    )
    assert "no faults" in summary(replace(report(GOOD, GOOD), faults={}))


def test_markdown_puts_trials_side_by_side() -> None:
    table = markdown_table([report(GOOD, GOOD), report(GOOD, **STREAM_KILLED)]).splitlines()
    assert len(table) == 2 + 2 + 1
    assert len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| kakitome | records → records | upstream | records | 10 | 0 | 0 | 10 | 0 | 0 |")
    assert "records → stream, kills" in table[4]


def test_evidence_of_what_came_twice_is_told() -> None:
    found = replace(report(GOOD, GOOD, client=ClientKind.PLAIN), evidence=Path("/tmp/kakitome-trial-doubled-1"))
    output = StringIO()
    print_table(found, Console(file=output, width=160))
    assert "Messages came twice; what the backend and the gateway wrote of it is in /tmp/kakitome-trial-doubled-1" in (
        output.getvalue()
    )
    assert json.loads(to_json(found))["evidence"] == "/tmp/kakitome-trial-doubled-1"
    assert json.loads(to_json(report(GOOD, GOOD)))["evidence"] is None
