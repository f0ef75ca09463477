"""The stage of an attack: a gateway with default limits and 64 MiB, its backends, honest clients and an attacker.

What is measured while it lasts: the gateway's resident memory, its account, whether its health probe answers. What is
asked for afterwards: that the account, the descriptors and the tasks are back where they were.
"""

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support.certificates import Certificates
from tests.support.gateway import LOOPBACK_ANY_PORT, GatewayProcess, route

MIB: Final = 1 << 20
BUDGET_BYTES: Final = 64 * MIB
PROBE_SECONDS: Final = 1.0
"""In which a health probe is answered, where the gateway has a core for itself."""
PATIENT_PROBE_SECONDS: Final = 10.0
SAMPLE_SECONDS: Final = 0.05
FATAL_BYTES: Final = 600 * MIB
"""A gateway that has grown to this is killed: the test has failed, and the machine is not to fail with it."""
SETTLE_SECONDS: Final = 30.0
LARGE_FILE_BYTES: Final = 32 * MIB


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What an attack came to."""

    threat: str
    attack: dict[str, int]
    honest: dict[str, Any]
    idle_resident_bytes: int = 0
    peak_resident_bytes: int = 0
    peak_account_bytes: int = 0
    slowest_probe_seconds: float = 0.0
    failed_probes: int = 0
    cpu_seconds: float = 0.0
    log_bytes: int = 0
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds, RSS, account."""

    def check(self, *, probe_seconds: float = PATIENT_PROBE_SECONDS) -> None:
        """Nobody else loses anything, and memory keeps its limit. No figures of latency: the machine may be busy."""
        assert self.attack.get("connections", 0) > 0, "there was no attack"
        assert self.honest["sent"] > 0
        assert self.honest["lost"] == 0, f"honest clients lost messages: {self.honest}"
        assert self.honest["faults"] == []
        assert self.peak_account_bytes <= BUDGET_BYTES
        grown = self.peak_resident_bytes - self.idle_resident_bytes
        assert grown <= BUDGET_BYTES, f"RSS grew by {grown / MIB:.0f} MiB"
        assert self.failed_probes == 0
        assert self.slowest_probe_seconds < probe_seconds


class Scene:
    """All but the attacker, while the `with` block lasts."""

    def __init__(self, *, honest_clients: int = 100, tls: bool = False, config: dict[str, Any] | None = None) -> None:
        self._honest_clients = honest_clients
        self._tls = tls
        self._config = config or {}
        self._folder = tempfile.TemporaryDirectory(prefix="kakitome-attack-")
        self._children: list[subprocess.Popen[str]] = []
        self.gateway: GatewayProcess
        self._backends: subprocess.Popen[str]

    def __enter__(self) -> Self:
        self._backends = self._start("backends")
        ports = json.loads(self._backends.stdout.readline())  # type: ignore[union-attr]
        folder = Path(self._folder.name)
        (folder / "files").mkdir()
        with open(folder / "files" / "large", "wb") as large:
            large.truncate(LARGE_FILE_BYTES)
        certificates = Certificates.issue(folder)
        tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}

        def to(kind: str) -> str:
            return f"tcp://127.0.0.1:{ports[kind]}"

        config: dict[str, Any] = {
            "listeners": [{"bind": LOOPBACK_ANY_PORT}, {"bind": LOOPBACK_ANY_PORT, "tls": tls}],
            "memory": BUDGET_BYTES,
            "routes": [
                route("echo", "/echo", to("echo"), delivery={"grace": "2s"}),
                route("hole", "/hole", to("hole")),
                route("fire", "/fire", to("fire"), delivery={"grace": "2s"}),
                route("lines", "/lines", to("hole"), framing="lines"),
                route("pinging", "/pinging", to("pinging"), framing="records"),
                route("deflated", "/deflated", to("hole"), compression={"enabled": True}),
                {"name": "files", "match": {"path": "/files/*"}, "files": str(folder / "files")},
            ],
            **self._config,
        }
        self.gateway = GatewayProcess(config, covered=False)
        self.gateway.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for child in self._children:
            child.kill()
            child.communicate()
        self.gateway.__exit__(kind, error, traceback)
        self._folder.cleanup()

    def _start(self, module: str, *arguments: object) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-m", f"tests.attacks.{module}", *map(str, arguments)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._children.append(child)
        return child

    def _end_of(self, child: subprocess.Popen[str]) -> Any:
        output = child.communicate()[0]
        self._children.remove(child)
        assert child.returncode == 0, f"{child.args!r} ended with {child.returncode}: {output}"
        return json.loads(output.splitlines()[-1])

    # --- what is looked at ------------------------------------------------------------------------------------------

    @property
    def descriptors(self) -> int:
        """How many the gateway has open."""
        return len(list(Path(f"/proc/{self.gateway.pid}/fd").iterdir()))

    def memory(self) -> dict[str, Any]:
        """The account, as the admin listener tells."""
        account: dict[str, Any] = json.loads(self.gateway.ask_admin("/memory").body)
        return account

    def run(self, threat: str, *, seconds: float = 3.0, addresses: int = 1, attacked: bool = True) -> Outcome:
        """The attack beside the honest clients. `attacked` False: the control run, without an attack."""
        gateway = self.gateway
        rest = self.descriptors
        honest = self._start("honest", gateway.port(), self._honest_clients, seconds + 1)
        assert honest.stdout is not None
        assert "connected" in honest.stdout.readline()
        port = gateway.port(1 if "hello" in threat or "tls" in threat else 0)
        attacker = self._start("attacker", threat, port, seconds, addresses) if attacked else None
        outcome = Outcome(threat=threat, attack={}, honest={}, idle_resident_bytes=gateway.resident_bytes())
        with self._watch(outcome):
            if attacker is not None:
                outcome.attack = self._end_of(attacker)
            outcome.honest = self._end_of(honest)
        self._await_rest(rest)
        return outcome

    @contextmanager
    def _watch(self, outcome: Outcome) -> Iterator[None]:
        """Samples until the block ends; probes once in a while."""
        over = threading.Event()
        began = time.monotonic()

        def sample() -> None:
            while not over.wait(SAMPLE_SECONDS):
                resident = self.gateway.resident_bytes()
                outcome.peak_resident_bytes = max(outcome.peak_resident_bytes, resident)
                if resident > FATAL_BYTES:
                    self.gateway.kill()
                    return

        def probe() -> None:
            while not over.wait(4 * SAMPLE_SECONDS):
                asked_at = time.monotonic()
                try:
                    url = f"http://{self.gateway.admin_address}"
                    with urllib.request.urlopen(f"{url}/healthz", timeout=PATIENT_PROBE_SECONDS):
                        taken = time.monotonic() - asked_at
                    with urllib.request.urlopen(f"{url}/memory", timeout=PATIENT_PROBE_SECONDS) as answer:
                        used = json.load(answer)["used_bytes"]
                except OSError:
                    outcome.failed_probes += 1
                    continue
                outcome.slowest_probe_seconds = max(outcome.slowest_probe_seconds, taken)
                outcome.peak_account_bytes = max(outcome.peak_account_bytes, used)
                outcome.samples.append((asked_at - began, self.gateway.resident_bytes(), used))

        threads = [threading.Thread(target=sample), threading.Thread(target=probe)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _await_rest(self, descriptors: int) -> None:
        """Waits until nothing is left of what was: account, descriptors. Sessions that are parked hold theirs."""
        self._backends.send_signal(signal.SIGUSR1)  # what a backend never takes is held for as long as it is there
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            account = self.memory()
            if account["used_bytes"] == 0 and self.descriptors <= descriptors + 2:
                return
            time.sleep(SAMPLE_SECONDS)
        raise AssertionError(f"{self.descriptors} descriptors where {descriptors} were, account {self.memory()}")
