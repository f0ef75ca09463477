"""Runs fuzz targets: by random and mutated inputs, or guided by coverage with atheris."""

import hashlib
import random
import sys
import time
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Final, NoReturn

from tests.fuzz.mutation import inputs
from tests.fuzz.target import MAX_INPUT_BYTES, Target
from tests.support.memory import peak_bytes

REPORTS: Final = Path(__file__).parents[2] / "reports" / "fuzz"
MEASURED: Final = 64
"""Memory is measured for one input in so many: it slows a run down fivefold."""


class Misbehaviour(AssertionError):
    """A core did what it must not do; the text says where the input is kept."""


def run_random(target: Target, *, runs: int | None = None, seconds: float | None = None, seed: int = 0) -> int:
    """Checks so many inputs, or for so long; how many there were. Raises Misbehaviour at the first that fails."""
    deadline = None if seconds is None else time.monotonic() + seconds
    source = inputs(target, random.Random(seed))
    for done in count():
        if done == runs or (deadline is not None and time.monotonic() >= deadline):
            return done
        data = next(source)
        try:
            if done % MEASURED == 0:
                check_measured(target, data)
            else:
                target.check(data)
        except Exception as error:
            raise Misbehaviour(f"{target.name}: {error!r}; the input is in {_keep(target, data)}") from error
    raise AssertionError("count() does not end")


def check_measured(target: Target, data: bytes) -> None:
    """Checks one input, and that it did not make the core allocate more than the target's `peak_bytes`."""
    peak = peak_bytes(lambda: target.check(data), enough=target.peak_bytes)
    if peak > target.peak_bytes:
        raise AssertionError(f"{peak} bytes were allocated at once, {target.peak_bytes} are allowed")


def run_guided(target: Target, *, runs: int | None, seconds: float | None, seed: int) -> NoReturn:
    """Hands the process over to libFuzzer, which exits when it is done. Needs atheris, and instruments `gateway`.

    Its corpus grows in `reports/fuzz/<target>`, and is where the next run begins.
    """
    atheris = import_module("atheris")

    corpus = REPORTS / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for data in target.seeds:
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    options = [f"-max_len={MAX_INPUT_BYTES}", f"-artifact_prefix={REPORTS / target.name}-", "-rss_limit_mb=1024"]
    options += [f"-seed={seed + 1}", "-timeout=20", "-print_final_stats=1"]
    if runs is not None:
        options.append(f"-runs={runs}")
    if seconds is not None:
        options.append(f"-max_total_time={max(1, round(seconds))}")

    def check(data: bytes) -> None:
        target.check(data)

    atheris.Setup([sys.argv[0], *options, str(corpus)], check)
    atheris.Fuzz()
    raise AssertionError("libFuzzer returned")


def _keep(target: Target, data: bytes) -> Path:
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"{target.name}-{hashlib.sha256(data).hexdigest()[:16]}"
    path.write_bytes(data)
    return path
