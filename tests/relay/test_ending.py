"""What a fault makes of a session's end."""

import pytest

from gateway.errors import (
    BackendAway,
    BackendFault,
    BackendReset,
    BackendVanished,
    ConnectionFault,
    FramingViolation,
    KeepaliveTimeout,
    ProtocolViolation,
)
from gateway.relay.ending import Ending, ending_by_fault, reason_for_unknown
from gateway.telemetry.metrics import ClosedBy, UnknownReason


@pytest.mark.parametrize(
    ("fault", "by", "unknown"),
    [
        (BackendReset, ClosedBy.BACKEND, UnknownReason.RESET),
        (BackendVanished, ClosedBy.BACKEND, UnknownReason.VANISHED),
        (BackendAway, ClosedBy.BACKEND, UnknownReason.GRACE_EXPIRED),
        (FramingViolation, ClosedBy.BACKEND, UnknownReason.FAULT),
        (BackendFault, ClosedBy.BACKEND, UnknownReason.FAULT),
        (ProtocolViolation, ClosedBy.CLIENT, UnknownReason.FAULT),
        (KeepaliveTimeout, ClosedBy.GATEWAY, UnknownReason.VANISHED),
    ],
)
def test_a_fault_says_who_ended_and_why_messages_are_unknown(
    fault: type[ConnectionFault], by: ClosedBy, unknown: UnknownReason
) -> None:
    ending = ending_by_fault(fault("what happened"))
    assert (ending.by, ending.code, ending.unknown) == (by, fault.close_code, unknown)
    assert ending.reason == "what happened"


def test_what_the_gateway_is_to_blame_for_is_not_told() -> None:
    ending = ending_by_fault(ConnectionFault("a detail of ours"))
    assert (ending.by, ending.code, ending.reason) == (ClosedBy.GATEWAY, 1011, "")


@pytest.mark.parametrize(
    ("by", "first", "side", "then", "told"),
    [
        (ClosedBy.BACKEND, "closed", ClosedBy.BACKEND, "vanished", "closed"),
        (ClosedBy.BACKEND, "closed", ClosedBy.CLIENT, "evicted", "evicted"),
        (ClosedBy.BACKEND, "reset", ClosedBy.CLIENT, "closed", "closed"),
        (ClosedBy.CLIENT, "closed", ClosedBy.BACKEND, "reset", "reset"),
        (ClosedBy.CLIENT, "vanished", ClosedBy.BACKEND, "closed", "closed"),
        # It is what cut both off, unless nobody cut a client off that could have come back.
        (ClosedBy.CLIENT, "fault", ClosedBy.BACKEND, "closed", "fault"),
        (ClosedBy.BACKEND, "fault", ClosedBy.CLIENT, "grace_expired", "grace_expired"),
        (ClosedBy.GATEWAY, "drain", ClosedBy.CLIENT, "vanished", "drain"),
        (ClosedBy.CLIENT, "evicted", ClosedBy.BACKEND, "closed", "evicted"),
    ],
)
def test_messages_are_unknown_for_what_befell_who_should_tell(
    by: ClosedBy, first: str, side: ClosedBy, then: str, told: str
) -> None:
    ending = Ending(by=by, code=1000, unknown=UnknownReason(first))
    assert reason_for_unknown(ending, side, UnknownReason(then)) == told
