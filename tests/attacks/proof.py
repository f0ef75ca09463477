"""What shows that an attacker did what its name says: an attack that was turned away at the door proves nothing.

Half of it is what the attacker saw, half what the gateway and its backends counted by themselves. The figures are far
below what an attacker does on a machine with time for it, and far above what one does that is not let in; those of the
crowd, which the suite does not run, are for the thirty seconds of `make attack`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What there is to judge one attacker by."""

    attacker: Mapping[str, int]
    """Its own counts: `connections`; `answered`, as it had hoped; `sent`, `dripped`, `received`, `unread` bytes."""
    gained: Mapping[str, float] = field(default_factory=dict)
    """By how much each of the gateway's counters has grown, by its series."""
    backends: Mapping[str, int] = field(default_factory=dict)
    """What its backends have sent, and have left unread, by their kind."""
    honest: int = 0
    """Clients that were there besides, and of whose sessions the gateway counted one each."""
    honest_messages: int = 0

    def did(self, count: str) -> int:
        return self.attacker.get(count, 0)

    def counted(self, name: str, **labels: str) -> float:
        """Of the gateway's, all series with these labels together."""
        wanted = {f"{label}={value}" for label, value in labels.items()}
        return sum(
            gained
            for series, gained in self.gained.items()
            if series.partition("{")[0] == f"kakitome_{name}_total"
            and wanted <= set(series.partition("{")[2].rstrip("}").split(","))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One thing that has to be so: a figure, and the least that it may be."""

    what: str
    figure: Callable[[Seen], float]
    least: float = 1


def _was(least: int, what: str, count: str) -> Claim:
    return Claim(what=f"the attacker {what}", figure=lambda seen: seen.did(count), least=least)


def _counted(least: float, what: str, name: str, **labels: str) -> Claim:
    return Claim(what=f"the gateway {what}", figure=lambda seen: seen.counted(name, **labels), least=least)


_LET_IN: Final = _was(1, "was let in", "answered")
_LEFT_REPLIES: Final = _was(1000, "left replies unread", "unread")


def _unanswered(seen: Seen) -> float:
    """Connections that never became a request: whose time was over, who went, whose TLS broke off."""
    return sum(seen.counted("handshakes", outcome=outcome) for outcome in ("timed_out", "abandoned", "tls_failed"))


_STOOD: Final = Claim(what="the gateway had connections that asked for nothing", figure=_unanswered, least=100)

CLAIMS: Final[Mapping[str, tuple[Claim, ...]]] = {
    "empty_messages": (
        _LET_IN,
        _counted(10_000, "took in messages", "messages", direction="upstream", route="hole"),
    ),
    "one_byte_messages": (
        _LET_IN,
        _counted(10_000, "took in messages", "messages", direction="upstream", route="hole"),
        _counted(10_000, "took in their bytes", "bytes", direction="upstream", route="hole"),
    ),
    "one_byte_fragments": (
        _LET_IN,
        _counted(100_000, "took in fragments", "bytes", direction="upstream", route="lines"),
    ),
    "pings": (_LET_IN, _was(100_000, "left pongs unread", "unread")),
    "parked_sessions": (
        _was(20, "began sessions", "answered"),
        Claim(
            what="sessions of nobody ended",
            figure=lambda seen: seen.counted("closes", route="echo") - seen.honest,
            least=20,
        ),
    ),
    "unread_receipts": (
        _LET_IN,
        _LEFT_REPLIES,
        Claim(
            what="the gateway relayed what was to be receipted",
            figure=lambda seen: seen.counted("messages", direction="upstream", route="echo") - seen.honest_messages,
            least=1000,
        ),
    ),
    "unread_rejects": (
        _LET_IN,
        _LEFT_REPLIES,
        _counted(500, "rejected messages", "rejected_messages", direction="upstream", route="lines"),
    ),
    "deflate_bombs": (
        _LET_IN,
        _counted(1 << 20, "inflated and passed on", "bytes", direction="upstream", route="deflated"),
    ),
    "slow_heads": (_was(100, "sent a byte now and then", "dripped"), _STOOD),
    "half_tls_handshakes": (
        _STOOD,
        _was(100 * 50, "sent halves of a ClientHello", "sent"),
    ),
    "slow_readers": (
        _was(10, "was let in", "answered"),
        _was(10_000, "left messages unread", "unread"),
        _counted(
            1, "waited for it, in seconds", "paused_seconds", cause="buffer", direction="downstream", route="fire"
        ),
    ),
    "slow_downloads": (
        _was(10, "was served", "answered"),
        _was(10_000, "left files unread", "unread"),
        _counted(10, "served files", "file_responses", route="files", status="2xx"),
    ),
    "refused_handshakes": (
        _was(50, "was refused", "answered"),
        _counted(50, "knew no such route", "refusals", reason="no_route"),
    ),
    "hello_and_hang_up": (
        _was(20, "saw a ServerHello", "answered"),
        _counted(20, "was left in the handshake", "handshakes", outcome="abandoned", route=""),
    ),
    "silent_connections": (_was(1000, "connected", "connections"), _STOOD),
    "relayed_connections": (
        _was(1000, "was let in", "answered"),
        _was(1000, "said something", "dripped"),
    ),
    "resumes": (
        _LET_IN,
        _counted(3, "resumed the session", "resumes", outcome="resumed", route="fire"),
        _counted(3, "sent its window again", "replayed_messages", direction="downstream", route="fire"),
    ),
    "pinging_backend": (
        _LET_IN,
        Claim(what="the backend pinged", figure=lambda seen: seen.backends.get("pinging_sent", 0), least=100_000),
        Claim(
            what="the backend left pongs unread",
            figure=lambda seen: seen.backends.get("pinging_unread", 0),
            least=10_000,
        ),
    ),
}
"""By threat."""


def unproven(threat: str, seen: Seen) -> list[str]:
    """What of it is not so, in words; nothing where the attack was one."""
    return [
        f"{threat}: {claim.what}: {claim.figure(seen):g}, at least {claim.least:g} expected"
        for claim in CLAIMS[threat]
        if claim.figure(seen) < claim.least
    ]
