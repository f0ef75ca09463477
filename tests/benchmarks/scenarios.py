"""What is measured: the scenarios, one measurement, and the numbers it gives."""

import json
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Protocol, Self

from tests.benchmarks.contenders import Contender, Running
from tests.support import procfs
from tests.support.process import ServiceProcess
from tests.support.tools import CACHE

GATEWAY_CORE: Final = 0
LOAD_CORE: Final = 1
"""Load generator, echo backend and the driver share it; messages per CPU-second do not depend on their speed."""

ANSWER_SECONDS: Final = 120

TURN_SECONDS: Final = 0.05
"""How long one of two gateways is under load before the other is: short beside what disturbs machines."""

REST_SECONDS: Final = 0.004
"""Behind a turn nobody is under load for so long: one gateway does the last of its turn before the other begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`connections` that each keep `window` messages of `size_bytes` under way; "idle" ones send one message in all.

    Of a "handshake" so many are under way at a time, at the `door` of that name, and each sends one message, or with
    `size_bytes` 0 none.
    """

    name: str
    title: str
    connections: int
    window: int = 1
    size_bytes: int = 64
    kind: Literal["busy", "idle", "handshake"] = "busy"
    door: str = "plain"
    beside: str | None = None
    """The scenario that this one is told from: what it costs more than that."""


UNDER_WAY: Final = 16
"""Handshakes at a time: a storm, not one client after the other."""

TURN_HANDSHAKES: Final = 100
"""Of one kind at one gateway, before the next has its turn: some tens of milliseconds."""

SCENARIOS: Final = (
    Scenario(name="idle", title="1,000 idle connections", connections=1000, kind="idle"),
    Scenario(name="one", title="1 connection, 64 B", connections=1),
    Scenario(name="hundred", title="100 connections, 64 B", connections=100),
    Scenario(name="thousand", title="1,000 connections, 64 B", connections=1000),
    Scenario(name="pipelined", title="100 connections, 16 × 64 B under way", connections=100, window=16),
    Scenario(name="medium", title="20 connections, 16 KiB", connections=20, size_bytes=16 * 1024),
    Scenario(name="large", title="4 connections, 1 MiB", connections=4, size_bytes=1024 * 1024),
    Scenario(name="held", title="20,000 idle connections", connections=20_000, kind="idle"),
    Scenario(name="handshake", title="handshake", connections=UNDER_WAY, size_bytes=0, kind="handshake"),
    *(
        Scenario(
            name=f"handshake-{name}",
            title=title,
            connections=UNDER_WAY,
            size_bytes=size_bytes,
            kind="handshake",
            door=door,
            beside=beside,
        )
        for name, title, size_bytes, door, beside in (
            ("message", "handshake and the first 64 B", 64, "plain", "handshake"),
            ("token", "handshake with a token", 0, "token", "handshake"),
            ("jwt", "handshake with a JWT (ES256)", 0, "jwt", "handshake"),
            ("tls", "handshake over TLS 1.3", 0, "tls", "handshake"),
            ("mtls", "handshake with a certificate", 0, "mtls", "handshake-tls"),
        )
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One run of one scenario; the fields that do not belong to its kind are None, all are when `error` says why."""

    gateway: str
    scenario: str
    run: int
    beside: str | None = None
    """The gateway that it took turns with, under the same load and on the same core."""
    connections: int = 0
    processes: int = 1
    """Of the gateway, each with its share of the connections."""
    messages_per_second: float | None = None
    messages_per_cpu_second: float | None = None
    p50_microseconds: float | None = None
    p99_microseconds: float | None = None
    bytes_per_connection: float | None = None
    answered: int | None = None
    handshake_microseconds: float | None = None
    """CPU time from the first handshake to the last, of one."""
    close_microseconds: float | None = None
    """The same of their ends."""
    error: str | None = None


class LoadFailed(Exception):
    """The load generator gave up; the text says what the gateway did."""


def build_programs() -> Path:
    """Compiles load generator and echo backend where the sources are newer; returns their folder."""
    folder = CACHE / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("load", "echo", "shake"):
        source, program = Path(__file__).with_name(f"{name}.c"), folder / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            argv: list[str | Path] = ["gcc", "-O3", "-Wall", "-Wextra", "-o", program, source]
            tls = ["-DWITH_TLS", "-lssl", "-lcrypto"] if name == "shake" and has_openssl() else []
            subprocess.run([*argv, *tls], check=True)
    return folder


def has_openssl() -> bool:
    """Whether the load generator can shake hands over TLS: its library's headers are there."""
    asked = subprocess.run(
        ["gcc", "-E", "-x", "c", "-"], input="#include <openssl/ssl.h>\n", text=True, capture_output=True, check=False
    )
    return asked.returncode == 0


def shares(scenario: Scenario, contender: Contender) -> list[int]:
    """The scenario's connections, as few processes of the gateway as possible for them: each has two sockets for one.

    More than one only where the hard limit on open files demands it, as on machines where that cannot be raised.
    """
    wanted = min(scenario.connections, contender.most_connections or scenario.connections)
    _, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    processes = -(-wanted // ((open_files - 200) // 2))
    return [wanted // processes + (index < wanted % processes) for index in range(processes)]


@contextmanager
def echo_backend(programs: Path, contender: Contender) -> Iterator[int]:
    """Runs the echo backend that the contender needs and gives its port."""
    argv: list[str | Path] = [programs / "echo", contender.backend]
    with ServiceProcess(argv, name="echo backend", started=r"^port (\d+)$", cores=[LOAD_CORE]) as service:
        assert service.started_match is not None
        yield int(service.started_match[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuSample:
    """CPU time of a gateway at a moment. Reading a thousand processes takes a while: the moment is its middle."""

    at: float
    cpu_seconds: float

    @classmethod
    def take(cls, running: Running) -> Self:
        begun = time.monotonic()
        cpu_seconds = procfs.cpu_seconds(running.pid)
        return cls(at=(begun + time.monotonic()) / 2, cpu_seconds=cpu_seconds)

    def share_of_core(self, later: "CpuSample") -> float:
        """CPU-seconds used per second between the two."""
        return (later.cpu_seconds - self.cpu_seconds) / (later.at - self.at)


class LoadGenerator:
    """`load.c` in a process; its lines and ours keep the phases apart."""

    def __init__(self, programs: Path, running: Running, scenario: Scenario, connections: int) -> None:
        self._argv = [str(programs / "load"), str(running.port), running.path]
        self._argv += [str(connections), str(scenario.window), str(scenario.size_bytes)]

    @contextmanager
    def run(self, warmup_seconds: float, seconds: float | None) -> Iterator["LoadGenerator"]:
        """Connects; then call `go`, `wait_measuring`, `stop` if `seconds` is None, and `result`, in that order."""
        argv = [*self._argv, str(warmup_seconds), str(-1 if seconds is None else seconds)]
        with subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as self._process:
            try:
                self._expect("connected")
                yield self
            finally:
                self._process.kill()

    def go(self) -> None:
        self._say("go")

    def wait_measuring(self) -> None:
        """Returns when the warm-up is over."""
        self._expect("measuring")

    def stop(self) -> None:
        """Ends a measurement that has no end of its own; what has come back by then counts."""
        self._say("stop")

    def result(self) -> dict[str, float]:
        """Waits for the end of the measurement; the load goes on until the generator is left."""
        numbers: dict[str, float] = json.loads(self._line())
        return numbers

    def pause(self) -> None:
        """It sends nothing and reads nothing, until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise LoadFailed(self._process.stderr.read().strip() or "the load generator ended without a word")
        return line.strip()

    def _expect(self, wanted: str) -> None:
        line = self._line()
        if line != wanted:
            raise LoadFailed(f"expected {wanted!r}, got {line!r}")


class Worker(Protocol):
    """What takes turns: a load generator."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


def take_turns(workers: Sequence[Worker], clocks: Sequence[Callable[[], float]], rounds: int) -> list[float]:
    """Has one of them work at a time, all for the same time; afterwards they are paused.

    What each one's clock, the CPU-seconds of its gateway, says of its own turns: between them a gateway looks after
    what is unsettled, by its timers, and that it would do half as often a message under a load that goes on.
    """
    used = [0.0] * len(workers)
    for worker in workers:
        worker.pause()
    time.sleep(REST_SECONDS)
    for _ in range(rounds):
        for index, (worker, clock) in enumerate(zip(workers, clocks, strict=True)):
            before = clock()
            worker.resume()
            time.sleep(TURN_SECONDS)
            worker.pause()
            time.sleep(REST_SECONDS)
            used[index] += clock() - before
    return used


@contextmanager
def serving(programs: Path, contender: Contender) -> Iterator[Running]:
    """Runs the gateway, with an echo backend of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kakitome-bench-")))
        backend_port = stack.enter_context(echo_backend(programs, contender))
        yield stack.enter_context(contender.serve(backend_port, GATEWAY_CORE, folder))


def warm_up(programs: Path, contender: Contender, running: Running) -> None:
    """Has it do once what is done once."""
    scenario = Scenario(name="warm-up", title="warm-up", connections=10, kind="idle")
    with LoadGenerator(programs, running, scenario, scenario.connections).run(0, 0) as generator:
        generator.go()
        generator.wait_measuring()
        generator.result()


def measure_busy(
    programs: Path, contender: Contender, running: Running, scenario: Scenario, *, run: int, seconds: float
) -> Measurement:
    """Runs the scenario once; a gateway that breaks gives `error`."""
    connections = sum(shares(scenario, contender))
    known: dict[str, Any] = {
        "gateway": contender.name,
        "scenario": scenario.name,
        "run": run,
        "connections": connections,
    }
    generator = LoadGenerator(programs, running, scenario, connections)
    try:
        with generator.run(min(1.0, seconds / 3), seconds):
            generator.go()
            generator.wait_measuring()
            before = CpuSample.take(running)
            numbers = generator.result()
            share_of_core = before.share_of_core(CpuSample.take(running))
    except LoadFailed as failure:
        return Measurement(**known, error=str(failure))
    rate = numbers["messages"] / numbers["seconds"]
    return Measurement(
        **known,
        messages_per_second=rate,
        messages_per_cpu_second=rate / share_of_core,
        p50_microseconds=numbers["p50_us"],
        p99_microseconds=numbers["p99_us"],
    )


def measure_in_turns(
    programs: Path, gateways: Sequence[tuple[Contender, Running]], scenario: Scenario, *, run: int, seconds: float
) -> list[Measurement]:
    """Runs the scenario once on two gateways, in short turns, for `seconds` each.

    Whatever happens to the core happens to both of them then, so that small differences show. If one breaks, both have
    `error`. There are no latencies: those that wait for their turn would be among them.
    """
    connections = min(sum(shares(scenario, contender)) for contender, _ in gateways)
    known: list[dict[str, Any]] = [
        {
            "gateway": contender.name,
            "scenario": scenario.name,
            "run": run,
            "beside": other.name,
            "connections": connections,
        }
        for (contender, _), (other, _) in zip(gateways, reversed(gateways), strict=True)
    ]
    rounds = max(1, round(seconds / TURN_SECONDS))
    clocks = [partial(procfs.cpu_seconds, running.pid) for _, running in gateways]
    try:
        with ExitStack() as stack:
            generators = []
            for _, running in gateways:
                generator = LoadGenerator(programs, running, scenario, connections)
                generators.append(stack.enter_context(generator.run(min(1.0, seconds / 3), None)))
            for generator in generators:
                generator.go()
            for generator in generators:
                generator.wait_measuring()
            used = take_turns(generators, clocks, rounds)
            messages = []
            for generator in generators:
                generator.stop()
                generator.resume()
                messages.append(generator.result()["messages"])
    except LoadFailed as failure:
        return [Measurement(**fields, error=str(failure)) for fields in known]
    return [
        Measurement(
            **fields,
            messages_per_second=count / (rounds * TURN_SECONDS),
            messages_per_cpu_second=count / cpu_seconds,
        )
        for fields, count, cpu_seconds in zip(known, messages, used, strict=True)
    ]


def measure_idle(programs: Path, contender: Contender, scenario: Scenario) -> Measurement:
    """Memory that open connections cost a fresh gateway, and how many of them answer afterwards."""
    parts = shares(scenario, contender)
    memory = answered = 0
    try:
        with ExitStack() as stack:
            generators = []
            for connections in parts:
                running = stack.enter_context(serving(programs, contender))
                warm_up(programs, contender, running)
                before = procfs.proportional_bytes(running.pid)
                generator = LoadGenerator(programs, running, scenario, connections)
                generators.append(stack.enter_context(generator.run(0, 0)))
                memory += procfs.proportional_bytes(running.pid) - before
            for generator in generators:  # with all of them open
                generator.go()
                generator.wait_measuring()
                answered += int(generator.result()["messages"])
    except LoadFailed as failure:
        return Measurement(
            gateway=contender.name, scenario=scenario.name, run=0, connections=sum(parts), error=str(failure)
        )
    return Measurement(
        gateway=contender.name,
        scenario=scenario.name,
        run=0,
        connections=sum(parts),
        processes=len(parts),
        bytes_per_connection=memory / sum(parts),
        answered=answered,
    )
