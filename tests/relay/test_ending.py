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
from gateway.relay.ending import ending_by_fault
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
