"""How a session ended: who ended it, with which close code, and what that makes of messages without evidence."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.codes import SUPERSEDED, TRY_AGAIN_LATER
from gateway.errors import (
    BackendAway,
    BackendReset,
    BackendUnheard,
    BackendVanished,
    Blame,
    ConnectionFault,
    KeepaliveTimeout,
)
from gateway.telemetry.metrics import ClosedBy, UnknownReason

_UNKNOWN: Final[Mapping[type[ConnectionFault], UnknownReason]] = {
    BackendReset: UnknownReason.RESET,
    BackendVanished: UnknownReason.VANISHED,
    BackendUnheard: UnknownReason.VANISHED,
    BackendAway: UnknownReason.GRACE_EXPIRED,
}
"""What a fault makes of messages without evidence, where that says more than `fault`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """The first cause of a session's end; later ones do not change it."""

    by: ClosedBy
    code: int
    reason: str = ""
    unknown: UnknownReason = UnknownReason.CLOSED
    """What it makes of messages that stayed without evidence."""
    unknown_upstream: UnknownReason | None = None
    """The same of those to the backend, where what became of that one says more."""
    unknown_downstream: UnknownReason | None = None
    """The same of those to the client."""
    taken_over: bool = False
    """Another gateway has the session: it is over here only, and nothing of it is lost."""


TAKEN_OVER: Final = Ending(
    by=ClosedBy.GATEWAY, code=SUPERSEDED, reason="another gateway took the session over", taken_over=True
)

CAME_TOO_EARLY: Final = Ending(
    by=ClosedBy.GATEWAY, code=TRY_AGAIN_LATER, reason="another gateway had the session; try again", taken_over=True
)
"""The same, where the client itself may have been at the other one and come back before we heard of that: it is to come
again, and is taken to the backend anew."""

_NOT_AWAITED: Final = frozenset({UnknownReason.GRACE_EXPIRED, UnknownReason.EVICTED, UnknownReason.DRAIN})
"""Nobody waits any more for a client that could have come back for what it is owed."""


def reason_for_unknown(first: Ending, side: ClosedBy, then: UnknownReason) -> UnknownReason:
    """Why messages to `side` are without evidence: what befell it after the first cause, where that was not its doing.

    A fault stays the reason for both: it is what cut them off.
    """
    if first.by is side or (first.unknown is UnknownReason.FAULT and then not in _NOT_AWAITED):
        return first.unknown
    return first.unknown if first.unknown in _NOT_AWAITED else then


def ending_by_fault(fault: ConnectionFault) -> Ending:
    """The ending that a fault makes. What we are to blame for is told without detail: the log has it."""
    by = {Blame.CLIENT: ClosedBy.CLIENT, Blame.BACKEND: ClosedBy.BACKEND}.get(fault.blame, ClosedBy.GATEWAY)
    if isinstance(fault, KeepaliveTimeout):
        return Ending(
            by=ClosedBy.GATEWAY, code=fault.close_code, reason=fault.close_reason, unknown=UnknownReason.VANISHED
        )
    reason = "" if by is ClosedBy.GATEWAY else fault.close_reason
    return Ending(by=by, code=fault.close_code, reason=reason, unknown=_UNKNOWN.get(type(fault), UnknownReason.FAULT))
