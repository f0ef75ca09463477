"""docs/attacks.md: what a record becomes, and that the command makes one."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.attacks import __main__, report
from tests.attacks.attacker import THREATS
from tests.attacks.plan import ATTACKS, Attack
from tests.attacks.scene import MIB, Outcome, Rest, Scene

QUIET = Rest(account_bytes=0, descriptors=12, tasks=18)


def honest(p99: float, lost: int = 0) -> dict[str, Any]:
    return {"sent": 3000, "lost": lost, "faults": [], "p50_ms": 1.0, "p99_ms": p99, "max_ms": 2 * p99}


def found(*, p99: float = 19.0, lost: int = 0, **changes: Any) -> dict[str, Any]:
    """An attack with a control p99 of 5 ms, which allows 20."""
    control = Outcome(attack={"connections": 8}, honest=honest(5.0), before=QUIET, after=QUIET, seconds=3.0)
    numbers: dict[str, Any] = {
        "before": QUIET,
        "after": QUIET,
        "idle_resident_bytes": 70 * MIB,
        "peak_resident_bytes": 90 * MIB,
        "peak_account_bytes": 10 * MIB,
        "slowest_probe_seconds": 0.25,
        "cpu_seconds": 1.5,
        "seconds": 3.0,
        **changes,
    }
    outcome = Outcome(attack={"connections": 8, "sent": MIB}, honest=honest(p99, lost), **numbers)
    machine = {"processor": "a processor", "cores": "2", "kernel": "6", "python": "3"}
    return {
        "seconds": 3.0,
        "load": 0.5,
        "date": "2026-01-01",
        "machine": machine,
        "control": asdict(control),
        "outcome": asdict(outcome),
    }


MISSES = {
    "every attacker did": found(unproven=["pings: the attacker was let in: 0, at least 1 expected"]),
    "the account at most": found(peak_account_bytes=65 * MIB),
    "resident memory grown": found(idle_resident_bytes=10 * MIB, peak_resident_bytes=107 * MIB),
    "resident memory in all": found(peak_resident_bytes=97 * MIB),
    "every honest message": found(lost=1),
    "health probes": found(slowest_probe_seconds=1.5),
    "afterwards": found(after=Rest(account_bytes=0, descriptors=12, tasks=30)),
    "honest p99": found(p99=21.0),
}


@pytest.mark.parametrize("aim", report.AIMS, ids=lambda aim: aim.title)
def test_each_aim_is_met_by_what_meets_it_and_missed_by_what_does_not(aim: report.Aim) -> None:
    assert aim.is_met(found())
    (missing,) = (record for words, record in MISSES.items() if aim.title.startswith(words))
    assert not aim.is_met(missing)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(report, "DOCUMENT", tmp_path / "attacks.md")
    monkeypatch.setattr(report, "PLOT", tmp_path / "attacks.svg")
    return tmp_path


def test_the_page_says_what_was_reached_what_was_missed_and_what_was_not_run(folder: Path) -> None:
    report.write_document({"pings": found(), "crowd": found(p99=21.0, lost=7)})
    text = (folder / "attacks.md").read_text()
    assert "| every honest message arrived | 1 of 2 | **no**: `crowd` |" in text
    assert "| afterwards account, descriptors and tasks as before | 2 of 2 | yes |" in text
    assert "| pings, their pongs unread | 3,000 | 3,000 | 5.0 | 19.0 | 20.0 | 38.0 | 250 |" in text
    assert "| 3,000 | 2,993 | 5.0 | 21.0 | 20.0 |" in text
    assert "| pings, their pongs unread | 10.0 | 20.0 | 90.0 | 50% | 0 | 12 → 12 | 18 → 18 |" in text
    assert "Not run yet: `empty_messages`" in text
    assert (folder / "attacks.svg").read_text().startswith("<?xml")


def test_every_threat_is_part_of_the_plan() -> None:
    planned = {wave.threat for attack in ATTACKS.values() for wave in attack.waves}
    assert planned == set(THREATS)


@pytest.mark.parametrize(("result", "status"), [(found(), 0), (found(p99=21.0), 0), (found(lost=1), 1)])
def test_the_command_keeps_what_it_found_and_fails_where_a_binding_aim_is_missed(
    result: dict[str, Any], status: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, float]] = []

    def run(attack: Attack, seconds: float) -> dict[str, Any]:
        asked.append((attack.name, seconds))
        return result

    monkeypatch.setattr(__main__, "run", run)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, _cores: None)
    record = folder / "record.json"
    record.write_text(json.dumps({"mix": found()}))
    argv = ["--only", "pings", "--seconds", "5", "--output", str(record)]
    done = CliRunner().invoke(__main__.main, argv)
    assert done.exit_code == status, done.output
    assert asked == [("pings", 5.0)]
    assert json.loads(record.read_text()).keys() == {"mix", "pings"}
    assert not (folder / "attacks.md").exists(), "only where it is asked for"


def test_a_control_run_keeps_the_attackers_busy_and_the_gateway_out_of_it() -> None:
    with Scene(honest_clients=10) as scene:
        outcome = scene.run("refused_handshakes", "resumes", seconds=2.0, aim="decoy")
        refused = scene.gateway.metrics().value("kakitome_handshakes_total", route="", outcome="refused")
    outcome.check()
    assert outcome.attack["connections"] > 50
    assert refused == 0
