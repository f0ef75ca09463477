"""Log lines that a peer can cause at will are folded: the first ones are written, the others counted.

Invariant: of one kind and source no more than `burst` lines are written in an interval, of one kind no more than
`kind_burst`, whatever many sources there are; what is not written is told behind the interval in one line a kind and
source with how many they were, when the first came and when the last. The memory is bounded: sources beyond `KEPT` are
told together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

KEPT: Final = 1024
"""Kinds and sources that are told apart within an interval."""

PEERS_EVENTS: Final = frozenset(
    {
        "refused",
        "tls_failed",
        "proxy_header_invalid",
        "message_rejected",
        "gateway_exhausted",
        "backend_unreachable",
        "dial_failed",
        "connection_failed",
        "redial_failed",
    }
)
"""The kinds of lines that anybody can cause as often as he likes."""

FAMILIAR: Final = ("level", "logger", "route", "reason", "status")
"""What the lines of a kind may have in common, and the line that stands for them says."""


@dataclass(slots=True, kw_only=True)
class _Fold:
    """One kind of one source within an interval."""

    began: float
    written: int = 0
    folded: int = 0
    first: float = 0.0
    last: float = 0.0
    common: dict[str, object] = field(default_factory=dict)


class Folding:
    """Says of each line whether it is to be written; time is an argument, in seconds since the epoch."""

    def __init__(self, *, burst: int = 10, kind_burst: int = 100, interval_seconds: float = 10.0) -> None:
        self._burst: Final = burst
        self._kind_burst: Final = kind_burst
        self._interval: Final = interval_seconds
        self._kinds: Final[dict[str, _Fold]] = {}
        self._folds: Final[dict[tuple[str, str], _Fold]] = {}

    def writes(self, line: Mapping[str, object], now: float) -> bool:
        """Whether `line` is to be written; if not it is counted, for `due` to tell."""
        event = str(line.get("event"))
        if event not in PEERS_EVENTS:
            return True
        kind = self._kinds.get(event)
        if kind is None or now - kind.began >= self._interval:
            kind = self._kinds[event] = _Fold(began=now)
        key = (event, source_of(line))
        if key not in self._folds and len(self._folds) >= KEPT:
            key = (event, "")
        fold = self._folds.get(key)
        if fold is None:
            fold = self._folds[key] = _Fold(began=now)
        if now - fold.began < self._interval and fold.written < self._burst and kind.written < self._kind_burst:
            fold.written += 1
            kind.written += 1
            return True
        fold.common = {name: line[name] for name in FAMILIAR if name in line}
        fold.first = fold.first or now
        fold.last = now
        fold.folded += 1
        return False

    def due(self, now: float) -> list[dict[str, object]]:
        """The lines that stand for those that were folded in intervals that are over; to be called now and then."""
        over = [key for key, fold in self._folds.items() if now - fold.began >= self._interval]
        lines: list[dict[str, object]] = []
        for key in over:
            fold = self._folds.pop(key)
            if fold.folded:
                source = {"source": key[1]} if key[1] else {}
                lines.append(
                    {"event": "lines_folded", "of": key[0], **source, **fold.common, "lines": fold.folded}
                    | {"first": round(fold.first, 3), "last": round(fold.last, 3)}
                )
        return lines


def source_of(line: Mapping[str, object]) -> str:
    """Whom a line is about: an address without its port, else a session or an endpoint."""
    address = line.get("address")
    if isinstance(address, str):
        return address.rpartition(":")[0] or address
    return str(line.get("endpoint", ""))
