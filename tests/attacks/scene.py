"""The stage of an attack: a gateway with default limits and 64 MiB, its backends, honest clients and attackers.

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
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

from tests.attacks.attacker import THREATS
from tests.attacks.proof import Seen, unproven
from tests.support import procfs
from tests.support.certificates import Certificates
from tests.support.gateway import LOOPBACK_ANY_PORT, GatewayProcess, Metrics, route

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
FEW: Final = 2
"""Descriptors and tasks that may be there for the very question how many there are."""

HONEST: Final = ("echo",)
HOSTILE: Final = ("hole", "fire", "lines", "pinging")
"""Backends that share a process: what honest clients talk to does not wait for the others."""

Aim = Literal["gateway", "decoy", "nothing"]
"""Where the attackers connect to: "decoy" is another process, "nothing" means that there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """One attacker's process; `connections` None: as many as the threat has."""

    threat: str
    addresses: int = 1
    connections: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What there is while nobody is there."""

    account_bytes: int
    descriptors: int
    tasks: int

    def is_as(self, before: "Rest") -> bool:
        """Nothing more than before is left."""
        return (
            self.account_bytes == 0
            and self.descriptors <= before.descriptors + FEW
            and self.tasks <= before.tasks + FEW
        )


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What an attack came to."""

    attack: dict[str, int]
    honest: dict[str, Any]
    before: Rest
    after: Rest
    idle_resident_bytes: int = 0
    peak_resident_bytes: int = 0
    peak_account_bytes: int = 0
    slowest_probe_seconds: float = 0.0
    failed_probes: int = 0
    cpu_seconds: float = 0.0
    """The gateway's, from the first attacker to the last honest answer."""
    seconds: float = 0.0
    """The same in time."""
    unproven: list[str] = field(default_factory=list)
    """What an attacker should have done and did not, by its own counts or by those of the gateway and the backends."""
    samples: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds, RSS, account."""

    def check(self, *, ends: bool | None = None, probe_seconds: float = PATIENT_PROBE_SECONDS) -> None:
        """Nobody else loses anything, and memory keeps its limit. No figures of latency: the machine may be busy.

        `ends`: whether the gateway ends some of the attackers' connections, or none; None: as may be.
        """
        assert self.attack.get("connections", 0) > 0, "there was no attack"
        assert self.unproven == [], f"the attack was none: {self.attack}"
        if ends is not None:
            assert (self.attack.get("ended", 0) > 0) is ends, self.attack
        assert self.honest["sent"] > 0
        assert self.honest["lost"] == 0, f"honest clients lost messages: {self.honest}"
        assert self.honest["faults"] == []
        assert self.peak_account_bytes <= BUDGET_BYTES
        assert self.grown_bytes <= BUDGET_BYTES, f"RSS grew by {self.grown_bytes / MIB:.0f} MiB"
        assert self.failed_probes == 0
        assert self.slowest_probe_seconds < probe_seconds
        assert self.after.is_as(self.before), f"{self.after} is left where {self.before} was"

    @property
    def grown_bytes(self) -> int:
        """What was resident at most over what was before the attack, with the honest clients there."""
        return max(0, self.peak_resident_bytes - self.idle_resident_bytes)


class Scene:
    """All but the attackers, while the `with` block lasts. `cores`: the gateway's own; None: any."""

    def __init__(
        self, *, honest_clients: int = 100, cores: Sequence[int] | None = None, config: dict[str, Any] | None = None
    ) -> None:
        self._honest_clients = honest_clients
        self._cores = cores
        self._config = config or {}
        self._folder = tempfile.TemporaryDirectory(prefix="kakitome-attack-")
        self._children: list[subprocess.Popen[str]] = []
        self.gateway: GatewayProcess
        self._backends: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        ports = self._serve(*HONEST) | self._serve(*HOSTILE)
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
                route("lines", "/lines", to("lines"), framing="lines", delivery={"grace": "2s"}),
                route("pinging", "/pinging", to("pinging"), framing="records"),
                route("deflated", "/deflated", to("hole"), compression={"enabled": True}),
                {"name": "files", "match": {"path": "/files/*"}, "files": str(folder / "files")},
            ],
            **self._config,
        }
        self.gateway = GatewayProcess(config, covered=False, cores=self._cores)
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

    def _serve(self, *kinds: str) -> dict[str, int]:
        """A process with these backends; the port of each."""
        child = self._start("backends", *kinds)
        self._backends.append(child)
        assert child.stdout is not None
        ports: dict[str, int] = json.loads(child.stdout.readline())
        return ports

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

    def rest(self) -> Rest:
        """What there is now; asked for while nobody is there, it is what there is anyway."""
        tasks = int(self.gateway.metrics().value("kakitome_tasks"))
        return Rest(account_bytes=self.memory()["used_bytes"], descriptors=self.descriptors, tasks=tasks)

    def run(self, *named: Wave | str, seconds: float = 3.0, addresses: int = 1, aim: Aim = "gateway") -> Outcome:
        """The attack beside the honest clients. Where all of `named` are names, they come from so many `addresses`."""
        attackers = [wave if isinstance(wave, Wave) else Wave(threat=wave, addresses=addresses) for wave in named]
        gateway = self.gateway
        before, scrape = self.rest(), gateway.metrics()
        decoy = self._serve("decoy")["decoy"] if aim == "decoy" else None
        honest = self._start("honest", gateway.port(), self._honest_clients, seconds + 1)
        assert honest.stdout is not None
        assert "connected" in honest.stdout.readline()
        outcome = Outcome(
            attack={}, honest={}, before=before, after=before, idle_resident_bytes=gateway.resident_bytes()
        )
        began, cpu = time.monotonic(), procfs.cpu_seconds(gateway.pid)
        with self._watch(outcome):
            waves = attackers if aim != "nothing" else []
            started = [self._attack(wave, host, seconds, decoy) for host, wave in enumerate(waves, 1)]
            did = [self._end_of(attacker) for attacker in started]
            counts: Counter[str] = Counter()
            for its in did:
                counts.update(its)
            outcome.attack = dict(counts)
            outcome.honest = self._end_of(honest)
        outcome.cpu_seconds = procfs.cpu_seconds(gateway.pid) - cpu
        outcome.seconds = time.monotonic() - began
        backends = self._hang_up()
        outcome.after = self._await_rest(before)
        if aim == "gateway":
            gained = self._gained(scrape)
            for wave, its in zip(attackers, did, strict=True):
                seen = Seen(
                    attacker=its,
                    gained=gained,
                    backends=backends,
                    honest=outcome.honest["clients"],
                    honest_messages=outcome.honest["sent"],
                )
                outcome.unproven += unproven(wave.threat, seen)
        return outcome

    def _attack(self, wave: Wave, host: int, seconds: float, decoy: int | None) -> subprocess.Popen[str]:
        port = self.gateway.port(1 if "hello" in wave.threat or "tls" in wave.threat else 0)
        connections = THREATS[wave.threat]().connections if wave.connections is None else wave.connections
        return self._start("attacker", wave.threat, decoy or port, seconds, wave.addresses, connections, host)

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

    def _gained(self, before: Metrics) -> dict[str, float]:
        """What the gateway has counted since then, by series as in its exposition."""
        samples = self.gateway.metrics().samples.items()
        return {
            f"{name}{{{','.join(f'{label}={value}' for label, value in sorted(labels))}}}": gained
            for (name, labels), total in samples
            if name.endswith("_total") and (gained := total - before.samples.get((name, labels), 0.0))
        }

    def _hang_up(self) -> dict[str, int]:
        """Has the backends end their connections: what they never take is held for as long as they are there.

        What they have sent, and left unread, by their kind.
        """
        done: Counter[str] = Counter()
        for backends in self._backends:
            backends.send_signal(signal.SIGUSR1)
            assert backends.stdout is not None
            done.update(json.loads(backends.stdout.readline()))
        return dict(done)

    def _await_rest(self, before: Rest) -> Rest:
        """Waits until nothing is left of what was, or patience is: sessions that are parked hold theirs for a while."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not (rest := self.rest()).is_as(before) and time.monotonic() < deadline:
            time.sleep(2 * SAMPLE_SECONDS)
        return rest
