"""`python -m tests.fuzz`: long runs of the fuzz targets; see `--help`."""

import argparse
import subprocess
import sys
import time
from importlib import import_module

SECONDS = 60.0


def main() -> int:
    """Exit status 0 if nothing misbehaved."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--target", action="append", help="name of a target; may be repeated; all by default")
    parser.add_argument("--runs", type=int, help="inputs per target")
    parser.add_argument("--seconds", type=float, help=f"time for all targets together; {SECONDS:g} without --runs")
    parser.add_argument("--seed", type=int, default=0, help="begins another sequence of inputs")
    parser.add_argument("--atheris", action="store_true", help="guide by coverage; needs the fuzz dependency group")
    parser.add_argument("--input", metavar="FILE", help="check one kept input and nothing else")
    options = parser.parse_args()
    if options.runs is None and options.seconds is None:
        options.seconds = SECONDS

    if options.atheris:
        # Before anything of ours is imported: only what is imported under its hook is instrumented.
        atheris = import_module("atheris")

        with atheris.instrument_imports(include=["gateway"]):
            from tests.fuzz.targets import TARGETS
    else:
        from tests.fuzz.targets import TARGETS
    from tests.fuzz.runner import Misbehaviour, check_measured, run_guided, run_random

    names = options.target or list(TARGETS)
    if unknown := set(names) - TARGETS.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    if options.input:
        with open(options.input, "rb") as file:
            data = file.read()
        for name in names:
            check_measured(TARGETS[name], data)
        return 0
    seconds = None if options.seconds is None else options.seconds / len(names)
    if options.atheris and len(names) == 1:
        run_guided(TARGETS[names[0]], runs=options.runs, seconds=seconds, seed=options.seed)
    failed = False
    for name in names:
        started = time.monotonic()
        if options.atheris:
            # libFuzzer takes a process for itself.
            command = [sys.executable, "-m", "tests.fuzz", "--atheris", "--target", name, "--seed", str(options.seed)]
            command += [] if options.runs is None else ["--runs", str(options.runs)]
            command += [] if seconds is None else ["--seconds", str(seconds)]
            failed = subprocess.run(command, check=False).returncode != 0 or failed
            continue
        try:
            done = run_random(TARGETS[name], runs=options.runs, seconds=seconds, seed=options.seed)
        except Misbehaviour as fault:
            failed = True
            print(fault, file=sys.stderr)  # noqa: T201
        else:
            print(f"{name}: {done} inputs in {time.monotonic() - started:.0f} s, nothing found")  # noqa: T201
    return failed


if __name__ == "__main__":
    sys.exit(main())
