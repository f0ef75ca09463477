"""What a handshake costs: CPU time of the gateway from its accept to its 101 (and first echo), and that of its end.

All gateways and all doors have their turns within a second or two: a turn is so many handshakes, counted from the
load's own start to its own end, then the ends of these connections. So whatever a machine does to one of them it does
to all, and what is told is the ratio, or the difference, within such a round.
"""

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tests.benchmarks.contenders import Contender
from tests.benchmarks.doors import Door, House, OpenHouse
from tests.benchmarks.scenarios import (
    GATEWAY_CORE,
    TURN_HANDSHAKES,
    LoadFailed,
    Measurement,
    Scenario,
    echo_backend,
    has_openssl,
)
from tests.support import procfs

TURNS_A_SECOND: Final = 10
"""Turns that each has for each second of a measurement."""

REST_SECONDS: Final = 0.005
QUIET_SECONDS: Final = 0.0002
MOST_RESTS: Final = 100
"""A gateway has done with what it was asked for when it has used next to no time for so long; a busy one is not waited
for for ever."""


class Shaker:
    """`shake.c` in a process: opens connections at one door, and closes them."""

    def __init__(self, programs: Path, door: Door, scenario: Scenario) -> None:
        self._argv = [str(programs / "shake"), str(door.port), door.path, str(scenario.connections)]
        self._argv += [str(scenario.size_bytes), "tls" if door.tls else "plain"]
        self._argv += [str(file) for file in door.certificate] if door.certificate is not None else ["-", "-"]
        self._argv += door.headers

    @contextmanager
    def run(self) -> Iterator["Shaker"]:
        """Starts it; then call `open` and `close` in turns."""
        with subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as self._process:
            try:
                yield self
            finally:
                self._process.kill()

    def open(self, connections: int) -> None:
        """Returns when all of them are open. Raises LoadFailed."""
        self._ask(f"open {connections}", "opened")

    def close(self) -> None:
        """Returns when the gateway has ended all of them. Raises LoadFailed."""
        self._ask("close", "closed")

    def _ask(self, order: str, answer: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline().strip()
        except BrokenPipeError:
            line = ""
        if line != answer:
            assert self._process.stderr is not None
            raise LoadFailed(line or self._process.stderr.read().strip() or "the load generator ended without a word")


def settled(clock: Callable[[], float]) -> float:
    """The clock, as soon as the gateway rests."""
    before = clock()
    for _ in range(MOST_RESTS):
        time.sleep(REST_SECONDS)
        now = clock()
        if now - before < QUIET_SECONDS:
            return now
        before = now
    return before


@dataclass(slots=True, kw_only=True)
class Tally:
    """CPU-seconds of a gateway at one door."""

    handshakes: int = 0
    opening: float = 0.0
    closing: float = 0.0
    error: str | None = None

    def take_turn(self, shaker: Shaker, clock: Callable[[], float], connections: int) -> None:
        """One turn; what goes wrong is kept, and there are no further ones."""
        if self.error is not None:
            return
        try:
            before = settled(clock)
            shaker.open(connections)
            opened = settled(clock)
            shaker.close()
            closed = settled(clock)
        except LoadFailed as failure:
            self.error = str(failure)
            return
        self.handshakes += connections
        self.opening += opened - before
        self.closing += closed - opened


@contextmanager
def open_houses(programs: Path, wanted: Sequence[tuple[Contender, OpenHouse]]) -> Iterator[dict[str, House]]:
    """The gateways by name, each with an echo backend of its own."""
    with ExitStack() as stack:
        houses = {}
        for contender, opened in wanted:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kakitome-bench-")))
            backend_port = stack.enter_context(echo_backend(programs, contender))
            houses[contender.name] = stack.enter_context(opened(backend_port, GATEWAY_CORE, folder))
        yield houses


def left_out() -> str | None:
    """Why handshakes over TLS are not measured here; None where they are."""
    return None if has_openssl() else "handshakes over TLS are left out: apt-get install libssl-dev"


def measure_handshakes(
    programs: Path, houses: Mapping[str, House], scenarios: Sequence[Scenario], *, run: int, seconds: float
) -> list[Measurement]:
    """Every scenario at every gateway that has its door, in turns; one that breaks has `error`."""
    clocks = {name: partial(procfs.cpu_seconds, house.pid) for name, house in houses.items()}
    without_tls = left_out() is not None
    with ExitStack() as stack:
        taking_turns: list[tuple[str, Scenario, Shaker, Tally]] = []
        for scenario in scenarios:
            for name, house in houses.items():
                door = house.doors.get(scenario.door)
                if door is not None and not (door.tls and without_tls):
                    shaker = stack.enter_context(Shaker(programs, door, scenario).run())
                    taking_turns.append((name, scenario, shaker, Tally()))
        for name, scenario, shaker, tally in taking_turns:
            tally.take_turn(shaker, clocks[name], scenario.connections)  # what is done once is done by now
            tally.handshakes, tally.opening, tally.closing = 0, 0.0, 0.0
        for turn in range(max(1, round(seconds * TURNS_A_SECOND))):
            for name, _, shaker, tally in taking_turns if turn % 2 == 0 else taking_turns[::-1]:
                tally.take_turn(shaker, clocks[name], TURN_HANDSHAKES)
    return [_measured(name, scenario, tally, run) for name, scenario, _, tally in taking_turns]


def _measured(gateway: str, scenario: Scenario, tally: Tally, run: int) -> Measurement:
    if tally.error is not None or not tally.handshakes:
        return Measurement(gateway=gateway, scenario=scenario.name, run=run, error=tally.error)
    return Measurement(
        gateway=gateway,
        scenario=scenario.name,
        run=run,
        connections=tally.handshakes,
        handshake_microseconds=1e6 * tally.opening / tally.handshakes,
        close_microseconds=1e6 * tally.closing / tally.handshakes,
    )
