"""A short run of every fuzz target, and proof that the runner sees misbehaviour."""

from pathlib import Path

import pytest

from tests.fuzz import runner
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

RUNS = 3000


@pytest.mark.parametrize("name", TARGETS)
def test_random_and_mutated_inputs_find_no_misbehaviour(name: str) -> None:
    assert runner.run_random(TARGETS[name], runs=RUNS, seed=1) == RUNS


def test_the_first_misbehaviour_ends_a_run_and_keeps_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "REPORTS", tmp_path)

    def check(data: bytes) -> None:
        assert b"\xff" not in data, "cannot bear 0xFF"

    fragile = Target(name="fragile", check=check, seeds=(b"abc",), peak_bytes=1 << 20)
    with pytest.raises(runner.Misbehaviour, match="cannot bear 0xFF"):
        runner.run_random(fragile, runs=10_000, seed=1)
    (kept,) = tmp_path.iterdir()
    assert b"\xff" in kept.read_bytes()


def test_memory_beyond_what_is_allowed_is_misbehaviour() -> None:
    def check(data: bytes) -> None:
        assert len(bytes(1_000_000)) == 1_000_000

    greedy = Target(name="greedy", check=check, seeds=(b"",), peak_bytes=900_000)
    with pytest.raises(AssertionError, match="900000 are allowed"):
        runner.check_measured(greedy, b"")
