"""The books of a trial: what was sent, what arrived, what was told; and what that amounts to. Sans-I/O.

Invariant: a tally believes nobody. What arrived is what the far end had in hand, byte for byte; what was told is kept
beside it, and the two are compared only in the end.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum, StrEnum
from typing import Any

from gateway.trial.faults import Direction


class Witness(StrEnum):
    """Who told a sender what became of its messages."""

    RECORDS = "records"
    """The acknowledgements and loss reports of the record protocol."""
    LOG = "gateway's log"
    """What the gateway wrote down when the connection had ended."""
    SEND = "send()"
    """Nobody. The sender's own kernel took the bytes; a sender that is told no more believes in that."""


class Told(IntEnum):
    """What a message's sender was told became of it."""

    NOTHING = 0
    SETTLED = 1
    """It got to where its settling rung says."""
    UNKNOWN = 2
    """Nobody can say whether it arrived."""
    NEVER_FORWARDED = 3
    """It did not arrive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionReport:
    """What became of the messages of one direction."""

    sent: int = 0
    """Messages that their senders handed over."""
    arrived: int = 0
    """Different ones that the far end had in hand."""
    lost: int = 0
    """Sent, and never arrived."""
    doubled: int = 0
    """Arrivals of a message that had arrived before."""
    out_of_order: int = 0
    """Arrivals behind a later one."""
    damaged: int = 0
    """Arrivals of what nobody sent: other bytes, or another client's."""
    told_settled: int = 0
    settled_not_arrived: int = 0
    """Told settled, but not arrived: a lie. 0 for any honest system."""
    told_unknown: int = 0
    arrived_but_unknown: int = 0
    """Told unknown, and had arrived: the price of honesty."""
    told_never_forwarded: int = 0
    arrived_but_never_forwarded: int = 0
    """Told never forwarded, and had arrived: a lie."""
    told_nothing: int = 0
    longest_gap_seconds: float = 0.0
    """The longest time without progress in one client's stream."""

    @property
    def misreported(self) -> int:
        """Messages whose sender was told what is not true."""
        return self.settled_not_arrived + self.arrived_but_never_forwarded

    @property
    def is_exact(self) -> bool:
        """Every message arrived once, in order, unharmed."""
        return not (self.lost or self.doubled or self.out_of_order or self.damaged)


class Tally:
    """One client's messages of one direction, of which there are to be `total`. Times in seconds."""

    __slots__ = (
        "_arrivals",
        "arrived",
        "damaged",
        "doubled",
        "longest_gap",
        "newest",
        "out_of_order",
        "progressed_at",
        "sent",
        "total",
    )

    def __init__(self, total: int) -> None:
        self.total = total
        self.sent = 0
        """All messages up to this one were handed over."""
        self.arrived = 0
        self.doubled = self.out_of_order = self.damaged = 0
        self.longest_gap = 0.0
        self.progressed_at = 0.0
        self.newest = 0
        """The highest that arrived."""
        self._arrivals = bytearray(total + 1)

    def progress(self, now: float) -> None:
        """The stream has moved: by an arrival, or by news of one."""
        self.longest_gap = max(self.longest_gap, now - self.progressed_at)
        self.progressed_at = now

    def arrive(self, number: int) -> None:
        """The far end has message `number`."""
        if not 1 <= number <= self.total:
            self.damaged += 1
        elif self._arrivals[number]:
            self.doubled += 1
        else:
            self._arrivals[number] = 1
            self.arrived += 1
            if number < self.newest:
                self.out_of_order += 1
            self.newest = max(number, self.newest)

    def report(self, told: Sequence[int]) -> DirectionReport:
        """Compares what arrived with what was `told`, a `Told` for each number."""
        pairs = Counter(zip(told[1 : self.sent + 1], self._arrivals[1 : self.sent + 1], strict=True))

        def count(what: Told) -> int:
            return pairs[what, 0] + pairs[what, 1]

        return DirectionReport(
            sent=self.sent,
            arrived=self.arrived,
            lost=sum(pairs[what, 0] for what in Told),
            doubled=self.doubled,
            out_of_order=self.out_of_order,
            # What arrived beyond what was sent is nobody's message either.
            damaged=self.damaged + sum(self._arrivals[self.sent + 1 :]),
            told_settled=count(Told.SETTLED),
            settled_not_arrived=pairs[Told.SETTLED, 0],
            told_unknown=count(Told.UNKNOWN),
            arrived_but_unknown=pairs[Told.UNKNOWN, 1],
            told_never_forwarded=count(Told.NEVER_FORWARDED),
            arrived_but_never_forwarded=pairs[Told.NEVER_FORWARDED, 1],
            told_nothing=count(Told.NOTHING),
            longest_gap_seconds=self.longest_gap,
        )


class Books:
    """The tallies of all clients in both directions, and what each witness told."""

    def __init__(self, clients: int, messages: int) -> None:
        self.up = [Tally(messages) for _ in range(clients)]
        self.down = [Tally(messages) for _ in range(clients)]
        self._blank = bytes(messages + 1)
        self._told: dict[tuple[Direction, Witness], list[bytearray]] = {}

    def begin(self, now: float) -> None:
        """The clients begin: gaps count from here."""
        for tally in (*self.up, *self.down):
            tally.progressed_at = now

    def tell(self, direction: Direction, witness: Witness, client: int, number: int, what: Told) -> None:
        """The sender of a message was told that."""
        told = self._told.get((direction, witness))
        if told is None:
            told = self._told[direction, witness] = [bytearray(self._blank) for _ in self.up]
        told[client][number] = what

    def reports(self) -> list[tuple[Direction, Witness, DirectionReport]]:
        """For each direction and witness: all clients together."""
        result = []
        for (direction, witness), told in sorted(self._told.items(), reverse=True):
            tallies = self.up if direction is Direction.UPSTREAM else self.down
            reports = [tally.report(its) for tally, its in zip(tallies, told, strict=True)]
            result.append((direction, witness, summed(reports)))
        return result


def summed(reports: Sequence[DirectionReport]) -> DirectionReport:
    """All of them as one; the longest gap is the longest of any."""
    names = [field.name for field in fields(DirectionReport) if field.name != "longest_gap_seconds"]
    totals: dict[str, Any] = {name: sum(getattr(report, name) for report in reports) for name in names}
    totals["longest_gap_seconds"] = max((report.longest_gap_seconds for report in reports), default=0.0)
    return DirectionReport(**totals)
