"""The benchmark command measures, and its report says what the record says."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from tests.benchmarks import against, handshakes, report
from tests.benchmarks.scenarios import SCENARIOS, TURN_HANDSHAKES, LoadFailed, Measurement, take_turns
from tests.support.tools import REPOSITORY, need, need_path


def make_record(rates: dict[str, float]) -> dict[str, Any]:
    """A record of three runs, in which each gateway has its rate in all scenarios; the outlier must not count."""
    measurements = []
    for gateway, rate in rates.items():
        for scenario in SCENARIOS:
            for run, factor in enumerate((1.0, 50.0, 0.5)):
                numbers: dict[str, Any]
                match scenario.kind:
                    case "busy":
                        numbers = {"messages_per_cpu_second": rate * factor, "messages_per_second": 1.0}
                        numbers["p50_microseconds"] = 2.0
                    case "idle":
                        numbers = {"bytes_per_connection": 4000.0, "answered": scenario.connections}
                    case "handshake":
                        more = 100.0 if scenario.door == "jwt" else 0.0
                        numbers = {"handshake_microseconds": (8e5 / rate + more) * factor, "close_microseconds": 60.0}
                measurement = Measurement(
                    gateway=gateway, scenario=scenario.name, run=run, connections=scenario.connections, **numbers
                )
                measurements.append(asdict(measurement))
    return {
        "date": "2026-01-01T00:00:00+00:00",
        "machine": {"processor": "a processor", "cores": "2", "kernel": "6", "python": "3"},
        "runs": 3,
        "seconds": 1.0,
        "gateways": [{"name": name, "version": "1", "note": "a note"} for name in rates],
        "scenarios": [asdict(scenario) for scenario in SCENARIOS],
        "measurements": measurements,
    }


def test_the_report_gives_medians_ratios_and_whether_the_aims_are_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "DOCUMENT", tmp_path / "benchmarks.md")
    monkeypatch.setattr(report, "PLOT", tmp_path / "benchmarks.svg")
    rates = {"kakitome": 4000.0, "picows": 5000.0, "websockify": 1000.0, "websocat": 4000.0}
    report.write_document(make_record(rates))
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| 100 connections, 64 B | 4,000 | 5,000 (0.80×) | 1,000 (4.00×) | 4,000 (1.00×) |" in text
    assert "no fewer messages per CPU-second than picows | 0.80× | no |" in text
    assert "4 times websockify | 4.00× | yes |" in text
    assert "at most 12 kB | 4.0 kB | yes |" in text
    assert "20,000 idle connections held | 20,000 | yes |" in text
    assert "| a handshake: at most 0.25 ms | 0.20 ms | yes |" in text
    assert "keys at hand: at most 0.15 ms more | 0.10 ms | yes |" in text
    assert "| handshake | 200 + 60.0 | 160 + 60.0 | 800 + 60.0 | 200 + 60.0 |" in text
    assert "| handshake with a JWT (ES256), kakitome | handshake | +100 |" in text
    assert (tmp_path / "benchmarks.svg").read_text().startswith("<?xml")


def test_a_ratio_is_of_the_measurements_in_turns_where_there_are_such() -> None:
    def measured(gateway: str, rate: float, beside: str | None) -> dict[str, Any]:
        row = Measurement(gateway=gateway, scenario="hundred", run=0, beside=beside, messages_per_cpu_second=rate)
        return asdict(row)

    rows = [measured("kakitome", 100.0, None), measured("picows", 50.0, None), measured("nginx", 25.0, None)]
    rows += [measured("kakitome", 90.0, "picows"), measured("picows", 60.0, "kakitome")]
    medians = report.Medians({**make_record({}), "measurements": rows})
    assert medians.ratio("hundred", "kakitome", "picows") == 1.5
    assert medians.ratio("hundred", "kakitome", "nginx") == 4.0
    assert medians.ratio("hundred", "kakitome", "websocat") is None
    assert medians.value("hundred", "kakitome", "messages_per_cpu_second") == 100.0


class Worker:
    """A load generator that only notes whether it would work, with a clock that tells how often it was told to."""

    def __init__(self, switches: list[tuple[str, bool]], name: str) -> None:
        self.switches = switches
        self.name = name
        self.resumed = 0

    def pause(self) -> None:
        self.switches.append((self.name, False))

    def resume(self) -> None:
        self.resumed += 1
        self.switches.append((self.name, True))

    def clock(self) -> float:
        return 1.5 * self.resumed


def test_load_generators_work_in_turns_and_only_their_own_turns_count() -> None:
    switches: list[tuple[str, bool]] = []
    a, b = Worker(switches, "a"), Worker(switches, "b")
    assert take_turns([a, b], [a.clock, b.clock], 2) == [3.0, 3.0]
    assert switches[:2] == [("a", False), ("b", False)]
    assert switches[2:] == [("a", True), ("a", False), ("b", True), ("b", False)] * 2


def test_what_handshakes_cost_more_is_told_round_by_round() -> None:
    console = Console(record=True, width=120)
    plain, asked = (scenario for scenario in SCENARIOS if scenario.name in ("handshake", "handshake-jwt"))
    found: dict[tuple[against.Form, str], against.Rounds] = {
        ("compiled", plain.name): against.Rounds(here=[200.0, 400.0, 300.0], there=[400.0, 800.0, 600.0]),
        ("compiled", asked.name): against.Rounds(here=[300.0, 520.0, 390.0]),
    }
    against.print_ratios(console, "0123456789abcdef", [plain, asked], found)
    against.print_costs(console, [plain, asked], found)
    text = console.export_text()
    ratios, alone, more = (line for line in text.splitlines() if "handshake" in line and "│" in line)
    assert [cell.strip() for cell in ratios.split("│")[2:-1]] == ["300.00", "600.00", "2.000", "2.00 to 2.00"]
    assert [cell.strip() for cell in alone.split("│")[2:-1]] == ["390.00", "", "", ""]
    assert [cell.strip() for cell in more.split("│")[2:-1]] == ["handshake", "100", "90 to 120"]


def test_a_gateway_rests_as_soon_as_its_clock_stands_nearly_still() -> None:
    readings = iter([1.0, 1.5, 1.9, 1.9001, 7.0])
    assert handshakes.settled(lambda: next(readings)) == 1.9001


def test_a_turn_counts_what_was_used_for_opening_apart_from_what_was_used_for_closing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = iter([1.0, 1.3, 1.4, 2.0, 2.6, 2.8, 3.0])
    monkeypatch.setattr(handshakes, "settled", lambda clock: next(used))
    shaker = Mock(spec=handshakes.Shaker)
    tally = handshakes.Tally()
    tally.take_turn(shaker, lambda: 0.0, 10)
    tally.take_turn(shaker, lambda: 0.0, 10)
    assert tally.handshakes == 20
    assert tally.opening == pytest.approx(0.9)
    assert tally.closing == pytest.approx(0.3)
    shaker.open.side_effect = LoadFailed("it was refused")
    for _ in range(2):  # the second is none: nothing is asked of what is broken
        tally.take_turn(shaker, lambda: 0.0, 10)
    assert (tally.handshakes, tally.error) == (20, "it was refused")


def test_a_quick_run_measures_the_gateway(tmp_path: Path) -> None:
    need("gcc", "apt-get install gcc libc6-dev")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two cores are needed: one for the gateway, one for the load")
    argv = [sys.executable, "-m", "tests.benchmarks", "--quick", "--gateways", "kakitome-interpreted"]
    argv += ["--only", "hundred", "--only", "idle", "--output", str(tmp_path / "record.json")]
    shakes = [scenario for scenario in SCENARIOS if scenario.kind == "handshake"]
    argv += [word for scenario in shakes for word in ("--only", scenario.name)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=REPOSITORY, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = {row["scenario"]: row for row in json.loads((tmp_path / "record.json").read_text())["measurements"]}
    assert measured["hundred"]["messages_per_cpu_second"] > 1000
    assert 0 < measured["hundred"]["p50_microseconds"] <= measured["hundred"]["p99_microseconds"]
    assert measured["idle"]["answered"] == 1000
    assert measured["idle"]["bytes_per_connection"] < 20_000
    for scenario in shakes:
        if scenario.door in ("tls", "mtls") and handshakes.left_out() is not None:
            continue
        shaken = measured[scenario.name]
        assert shaken["connections"] == 5 * TURN_HANDSHAKES
        assert shaken["handshake_microseconds"] > 0
        assert shaken["close_microseconds"] > 0


def test_a_comparison_with_a_commit_gives_ratios_of_what_was_measured_in_turns() -> None:
    rounds = against.Rounds(here=[2.0, 4.0, 5.0], there=[1.0, 4.0, 10.0])
    assert rounds.ratios() == [0.5, 1.0, 2.0]
    console = Console(record=True, width=120)
    hundred, broken = SCENARIOS[2], SCENARIOS[3]
    found: dict[tuple[against.Form, str], against.Rounds] = {
        ("compiled", hundred.name): rounds,
        ("compiled", broken.name): against.Rounds(failures=["the gateway broke a connection"]),
    }
    against.print_ratios(console, "0123456789abcdef", [hundred, broken], found)
    text = console.export_text()
    row = next(line for line in text.splitlines() if hundred.title in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["4.00", "4.00", "1.000", "0.50 to 2.00"]
    assert f"compiled, {broken.title}: the gateway broke a connection" in text


def test_a_commit_that_is_none_is_said_to_be_none() -> None:
    need("git", "apt-get install git")
    with pytest.raises(against.BuildFailed, match="'no-such-commit' names no commit here"):
        against.commit_named("no-such-commit")


def test_a_quick_comparison_measures_this_tree_beside_what_a_commit_was_built_into() -> None:
    need("gcc", "apt-get install gcc libc6-dev")
    need_path(str(REPOSITORY / ".git"), "git clone, for a commit to compare with")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("two cores are needed: one for the gateways, one for the load")
    built = REPOSITORY / "build" / "against" / against.commit_named("HEAD") / "interpreted"
    was_there = built.exists()
    if not was_there:  # building takes a minute: this tree stands in
        built.parent.mkdir(parents=True, exist_ok=True)
        built.symlink_to(REPOSITORY)
    argv = [sys.executable, "-m", "tests.benchmarks", "--quick", "--against", "HEAD", "--form", "interpreted"]
    try:
        done = subprocess.run(
            [*argv, "--only", "one"], capture_output=True, text=True, cwd=REPOSITORY, timeout=120, check=False
        )
    finally:
        if not was_there:
            built.unlink()
            built.parent.rmdir()
    assert done.returncode == 0, done.stdout + done.stderr
    row = next(line for line in done.stdout.splitlines() if SCENARIOS[1].title in line and "│" in line)
    here, there, ratio = (float(cell) for cell in row.split("│")[2:5])
    assert ratio == pytest.approx(there / here, abs=0.02)
