"""Which faults a trial has, and when and where each strikes. Sans-I/O.

Invariant: the same seed and counts give the same plan. A plan is spaced by the trial's *progress* (messages that have
arrived, of all that are to), not by time or bytes: however fast the machine and however much is sent again, the faults
are spread over the whole of the trial, and a trial that is slowed by its faults is not struck more often for it.
"""

import math
import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Direction(StrEnum):
    """Which way bytes go."""

    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"


class Hop(StrEnum):
    """Where a connection runs."""

    FRONT = "client to gateway"
    BACK = "gateway to backend"


class FaultKind(StrEnum):
    """What can happen to a connection, or to a process."""

    CUT = "cut"
    """Both sides see the end of the stream (FIN), in the midst of whatever was under way."""
    RESET = "reset"
    """Both sides see a reset (RST); what their kernels had not passed on is gone."""
    STALL = "stall"
    """Nothing moves for a while, then all goes on."""
    BLACK_HOLE = "black hole"
    """What is sent is taken and goes nowhere; in the end the connection is reset."""
    TRICKLE = "trickle"
    """A few bytes at a time get through for a while."""
    HALF_CLOSE = "half-close"
    """The direction in which something is on its way ends, the other goes on for a while; then all is cut."""
    KILL_GATEWAY = "kill gateway"
    """SIGKILL; the process is started again."""
    KILL_BACKEND = "kill backend"


KILLS: Final = frozenset({FaultKind.KILL_GATEWAY, FaultKind.KILL_BACKEND})
"""Faults of processes."""

CONNECTION_FAULTS: Final = frozenset(FaultKind) - KILLS

HARMLESS: Final = frozenset({FaultKind.STALL, FaultKind.TRICKLE})
"""Faults that end no connection, unless somebody loses patience."""

SECONDS: Final[Mapping[FaultKind, tuple[float, float]]] = {
    FaultKind.STALL: (0.02, 0.8),
    FaultKind.BLACK_HOLE: (0.5, 5.0),  # longer than the keepalive of the gateway that the trial starts itself
    FaultKind.TRICKLE: (0.1, 1.0),
    FaultKind.HALF_CLOSE: (0.05, 1.0),
}
"""How long each kind lasts, at least and at most; the others take no time."""

FIRST, LAST = 0.005, 0.97
"""The part of the trial in which faults strike: each is to have messages behind it that must find their way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a plan."""

    kind: FaultKind
    at: float
    """The trial's progress from which on it is due, 0 to 1."""
    hop: Hop | None
    """None for a process that is killed."""
    place: float
    """How much of what is on its way still gets through, 0 to 1."""
    seconds: float
    """How long it lasts."""


def spread(faults: int, kinds: Iterable[FaultKind]) -> dict[FaultKind, int]:
    """`faults` in all, as many of each kind as of the next."""
    ordered = sorted(kinds)
    share, more = divmod(faults, len(ordered))
    return {kind: share + (index < more) for index, kind in enumerate(ordered)}


def plan(seed: int, wanted: Mapping[Hop | None, Mapping[FaultKind, int]]) -> tuple[Fault, ...]:
    """So many faults of each kind on each hop (None: kills), in the order in which they become due."""
    draw = random.Random(seed)
    kinds = [(hop, kind) for hop, by_kind in wanted.items() for kind, count in by_kind.items() for _ in range(count)]
    draw.shuffle(kinds)
    faults = []
    for number, (hop, kind) in enumerate(kinds):
        at = FIRST + (LAST - FIRST) * (number + draw.random()) / len(kinds)
        low, high = SECONDS.get(kind, (0.0, 0.0))
        faults.append(
            Fault(
                kind=kind,
                at=at,
                hop=hop,
                place=draw.random(),
                seconds=draw.uniform(low, high),
            )
        )
    return tuple(faults)


HEADROOM: Final = 0.025
"""How far the trial may get, beyond where a kill is due, before that kill is done. A process takes longer to come back
than thousands of messages need: without such a limit the last kills would find everyone done. Less than what remains
after `LAST`, and enough that every kill finds messages under way."""


class FaultSchedule:
    """Deals out the faults of a plan: kills to whoever advances it, all others to whoever carries bytes."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        """`faults` in the order in which they become due."""
        self._coming = deque(faults)
        self._kills = deque(fault for fault in faults if fault.hop is None)
        """Those that are not done."""
        self._due: dict[Hop, deque[Fault]] = {hop: deque() for hop in Hop}
        self.struck: Counter[FaultKind] = Counter()
        """How many of each kind there have been."""

    def advance(self, progress: float) -> Sequence[Fault]:
        """The trial is at `progress`, 0 to 1: the kills that are due now."""
        kills = []
        while self._coming and self._coming[0].at <= progress:
            fault = self._coming.popleft()
            if fault.hop is None:
                kills.append(fault)
            else:
                self._due[fault.hop].append(fault)
        return kills

    def strike(self, hop: Hop) -> Fault | None:
        """The fault, if one is due, for what is on its way on `hop` now, in whichever direction."""
        due = self._due[hop]
        if not due:
            return None
        fault = due.popleft()
        self.struck[fault.kind] += 1
        return fault

    def finish_kill(self) -> None:
        """The first kill of those that are not done is done."""
        self.struck[self._kills.popleft().kind] += 1

    @property
    def next_kill_at(self) -> float:
        """The progress at which the first kill that is not done is due; infinite when all are done."""
        return self._kills[0].at if self._kills else math.inf

    @property
    def outstanding(self) -> int:
        """Faults that have not struck."""
        coming = sum(fault.hop is not None for fault in self._coming)
        return coming + len(self._kills) + sum(map(len, self._due.values()))
