"""Runs Autobahn's fuzzing client, which needs Python 2.7, and judges its verdicts against expected.yaml."""

import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import yaml

from tests.support.process import ProcessFailed, ServiceProcess
from tests.support.tools import CACHE

INSTALLED: Final = CACHE / "autobahn"
INSTALL: Final = (
    "run .ci/run once, or make a Python 2.7 virtualenv at .cache/autobahn "
    "with autobahntestsuite==0.8.2 and wsaccel==0.6.2"
)
EXPECTED_FILE: Final = Path(__file__).with_name("expected.yaml")

CASE_SECONDS: Final = 15.0
"""Longest average of a case, on a busy machine (alone it is below one): beyond it the run hangs."""

# The suite's own numbering: which cases a group name means.
GROUPS: Final = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing handshake",
    "9": "limits and performance",
    "10": "automatic fragmentation",
    "12": "compression",
    "13": "compression parameters",
}

LIST_CASES: Final = """
from autobahntestsuite.case import Cases, CaseCategories
from autobahntestsuite.caseset import CaseSet
chosen = {"cases": ["*"], "exclude-cases": []}
print "\\n".join(CaseSet("Case", "Case", Cases, CaseCategories, {}).parseSpecCases(chosen))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What Autobahn says of one case."""

    case: str
    behaviour: str
    closing: str

    @property
    def group(self) -> str:
        return self.case.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.case}: {self.behaviour}, closing {self.closing}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A verdict other than OK that is right for a gateway, and why; `cases` are numbers, also with a * at the end."""

    cases: tuple[str, ...]
    behaviour: str
    reason: str

    def covers(self, verdict: Verdict) -> bool:
        return verdict.behaviour == self.behaviour and any(
            re.fullmatch(re.escape(case).replace(r"\*", ".*"), verdict.case) for case in self.cases
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """The content of expected.yaml."""

    entries: tuple[Expectation, ...]

    @classmethod
    def load(cls, path: Path = EXPECTED_FILE) -> Self:
        entries = yaml.safe_load(path.read_text()) or []
        return cls(
            entries=tuple(
                Expectation(cases=tuple(entry["cases"]), behaviour=entry["behaviour"], reason=entry["reason"])
                for entry in entries
            )
        )

    def unexpected(self, verdicts: Iterable[Verdict]) -> list[Verdict]:
        """Verdicts that are neither OK nor listed; a close other than a clean one is never to be expected."""
        return [
            verdict
            for verdict in verdicts
            if verdict.closing not in {"OK", "INFORMATIONAL"}
            or (verdict.behaviour != "OK" and not any(entry.covers(verdict) for entry in self.entries))
        ]

    def unused(self, verdicts: Sequence[Verdict]) -> list[Expectation]:
        """Entries that no verdict of a complete run needs any more."""
        return [entry for entry in self.entries if not any(map(entry.covers, verdicts))]


def case_order(case: str) -> tuple[int, ...]:
    """Sorts 2.10 after 2.9."""
    return tuple(map(int, case.split(".")))


def list_cases() -> list[str]:
    """All cases that this Autobahn knows, in order."""
    python = INSTALLED / "bin" / "python"
    done = subprocess.run([python, "-W", "ignore", "-c", LIST_CASES], capture_output=True, text=True, check=True)
    return sorted(done.stdout.split(), key=case_order)


def choose_cases(wanted: str) -> list[str]:
    """Cases of `all`, of groups as in `1-7,9`, or single ones as `6.4.*`."""
    cases = list_cases()
    if wanted == "all":
        return cases
    chosen: list[str] = []
    for part in wanted.split(","):
        if "." in part:
            pattern = re.escape(part).replace(r"\*", ".*")
            chosen += [case for case in cases if re.fullmatch(pattern, case)]
        else:
            first, _, last = part.partition("-")
            groups = range(int(first), int(last or first) + 1)
            chosen += [case for case in cases if int(case.partition(".")[0]) in groups]
    return chosen


def run_cases(
    url: str, cases: Sequence[str], *, processes: int = 2, progress: Callable[[int], None] = lambda done: None
) -> list[Verdict]:
    """Runs the cases against the server at `url` with several fuzzing clients, and returns their verdicts in order.

    The cases are dealt out in turn: neighbours cost about the same. `progress` is told how many have begun.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autobahn-")))
        clients = []
        for index in range(processes):
            share = list(cases[index::processes])
            if share:
                clients.append(stack.enter_context(fuzzing_client(folder / str(index), url, share)))
        deadline = time.monotonic() + max(60, CASE_SECONDS * len(cases))
        while running := [client for client in clients if client.process.poll() is None]:
            try:
                running[0].wait(0.5)
            except ProcessFailed:
                if time.monotonic() > deadline:
                    raise
            progress(sum(line.startswith("Running test case") for client in clients for line in client.lines))
        verdicts = [verdict for client in clients for verdict in read_verdicts(client)]
    if len(verdicts) != len(cases):
        raise ProcessFailed(f"{len(verdicts)} of {len(cases)} cases ran\n" + "\n".join(c.report() for c in clients))
    return sorted(verdicts, key=lambda verdict: case_order(verdict.case))


class FuzzingClient(ServiceProcess):
    """One `wstest -m fuzzingclient`, with its reports in `folder`."""

    reports: Path


def fuzzing_client(folder: Path, url: str, cases: Sequence[str]) -> FuzzingClient:
    """Writes the specification and prepares the process."""
    folder.mkdir()
    specification = {
        "outdir": str(folder / "reports"),
        "servers": [{"agent": "kakitome", "url": url}],
        "cases": list(cases),
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    (folder / "spec.json").write_text(json.dumps(specification))
    # Its Python finds this at the start: compressing, a quarter of its work, is done at the fastest level.
    (folder / "sitecustomize.py").write_text("import zlib\nzlib.Z_DEFAULT_COMPRESSION = zlib.Z_BEST_SPEED\n")
    client = FuzzingClient(
        [INSTALLED / "bin" / "wstest", "-m", "fuzzingclient", "-s", folder / "spec.json"],
        name="wstest",
        environment={"PYTHONWARNINGS": "ignore", "PYTHONPATH": str(folder), "PATH": os.environ["PATH"]},
        folder=folder,
    )
    client.reports = folder / "reports"
    return client


def read_verdicts(client: FuzzingClient) -> list[Verdict]:
    """The verdicts in the client's index.json."""
    index = client.reports / "index.json"
    if not index.exists():
        raise ProcessFailed(f"wstest wrote no report\n{client.report()}")
    results = json.loads(index.read_text()).get("kakitome", {})
    return [
        Verdict(case=case, behaviour=result["behavior"], closing=result["behaviorClose"])
        for case, result in results.items()
    ]
