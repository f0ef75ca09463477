"""What is told of a session, in the log and by the admin API: who takes part, and how far messages got.

Invariant: no credential and no payload is in it.
"""

from dataclasses import dataclass

from gateway.protocol.records import Rung
from gateway.relay.ending import Ending
from gateway.relay.lane import Lane
from gateway.telemetry.metrics import UnknownReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Participants:
    """Who speaks with whom; what a log line and the admin API say of a session."""

    route: str
    address: str | None
    """The client's, as the trusted proxies say; None where nobody tells."""
    path: str
    origin: str | None
    subprotocol: str | None
    subject: str | None = None
    """Who was let in; None where nobody is asked, or nobody in particular came."""
    listener: str | None = None
    """The `bind` that was connected to."""

    def as_fields(self) -> dict[str, object]:
        """For a log line, the values fit for JSON."""
        return {
            "route": self.route,
            "address": self.address,
            "path": self.path,
            "origin": self.origin,
            "subprotocol": self.subprotocol,
            "subject": self.subject,
            "listener": self.listener,
        }


def ladder(lane: Lane, now: float) -> dict[str, object]:
    """How far one direction's messages got, for the admin API."""
    told: dict[str, object] = {
        "messages": lane.messages,
        "bytes": lane.bytes,
        "held_bytes": lane.held_bytes,
    }
    ledger = lane.ledger
    if ledger is not None:
        oldest = ledger.oldest_accepted_at
        told |= {
            "settles_at": ledger.settles_at.name.lower(),
            "positions": {rung.name.lower(): ledger.position(rung) for rung in Rung if rung <= ledger.settles_at},
            "in_flight_messages": ledger.in_flight_messages,
            "in_flight_bytes": ledger.in_flight_bytes,
            "oldest_in_flight_seconds": None if oldest is None else round(now - oldest, 3),
        }
    return told


def settle_accounts(lane: Lane, ending: Ending, unknown: UnknownReason | None = None) -> dict[str, object]:
    """One direction's totals for the log, its unsettled messages counted into the metrics on the way.

    `unknown` is why those without evidence are so, where the ending says less.
    """
    account: dict[str, object] = {"messages": lane.messages, "bytes": lane.bytes}
    if lane.ledger is not None:
        report = lane.report()
        account["settled"] = report.settled
        if not ending.taken_over:  # what is unsettled is the other gateway's to tell of
            reason = unknown or ending.unknown
            lane.metrics.unknown[reason] += _width(report.unknown)
            lane.metrics.never_forwarded += _width(report.never_forwarded)
            account |= {"unknown": report.unknown, "never_forwarded": report.never_forwarded}
            if report.unknown is not None:
                account["unknown_reason"] = reason.value
    return account


def _width(span: tuple[int, int] | None) -> int:
    return 0 if span is None else span[1] - span[0] + 1
