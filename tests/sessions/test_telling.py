"""What is told of a session: how far each direction got, and what is counted of it when it ends."""

from gateway.protocol.ledger import Ledger
from gateway.protocol.records import Rung
from gateway.relay.ending import Ending
from gateway.relay.lane import Lane
from gateway.sessions.telling import Participants, ladder, settle_accounts
from gateway.telemetry.metrics import ClosedBy, RouteMetrics, UnknownReason
from tests.relay.harness import open_tab
from tests.relay.junction import message


def lane_with(*, track: bool = True) -> Lane:
    """Five messages accepted, three of them written, two settled."""
    ledger = Ledger(Rung.REACHED, window_messages=8, window_bytes=1000, overhead_bytes=0) if track else None
    lane = Lane(RouteMetrics("test").upstream, ledger, open_tab())
    for now in range(5):
        lane.enter([message(b"x")], 0, float(now))
    lane.settle_to(Rung.REACHED, 2, 5.0)
    lane.settle_to(Rung.WRITTEN, 3, 5.0)
    return lane


def test_participants_are_told_as_they_are_and_nothing_else() -> None:
    fields = Participants(route="chat", address=None, path="/", origin=None, subprotocol=None).as_fields()
    assert fields == {
        "route": "chat",
        "address": None,
        "path": "/",
        "origin": None,
        "subprotocol": None,
        "subject": None,
        "listener": None,
    }


def test_the_ladder_has_a_position_for_each_rung_up_to_the_settling_one() -> None:
    assert ladder(lane_with(), 10.0) == {
        "messages": 5,
        "bytes": 5,
        "held_bytes": 0,
        "settles_at": "reached",
        "positions": {"accepted": 5, "written": 3, "reached": 2},
        "in_flight_messages": 3,
        "in_flight_bytes": 3,
        "oldest_in_flight_seconds": 8.0,
    }
    assert ladder(lane_with(track=False), 10.0) == {"messages": 5, "bytes": 5, "held_bytes": 0}


def test_what_is_unsettled_at_the_end_is_told_and_counted() -> None:
    lane = lane_with()
    ending = Ending(by=ClosedBy.CLIENT, code=1006, unknown=UnknownReason.VANISHED)
    assert settle_accounts(lane, ending) == {
        "messages": 5,
        "bytes": 5,
        "settled": 2,
        "unknown": (3, 3),
        "never_forwarded": (4, 5),
        "unknown_reason": "vanished",
    }
    assert (lane.metrics.unknown[UnknownReason.VANISHED], lane.metrics.never_forwarded) == (1, 2)


def test_a_direction_is_told_by_what_befell_its_own_side() -> None:
    lane = lane_with()
    ending = Ending(by=ClosedBy.CLIENT, code=1006, unknown=UnknownReason.VANISHED)
    assert settle_accounts(lane, ending, UnknownReason.RESET)["unknown_reason"] == "reset"
    assert (lane.metrics.unknown[UnknownReason.VANISHED], lane.metrics.unknown[UnknownReason.RESET]) == (0, 1)


def test_what_goes_on_at_another_gateway_is_its_to_tell() -> None:
    lane = lane_with()
    ending = Ending(by=ClosedBy.GATEWAY, code=4001, unknown=UnknownReason.VANISHED, taken_over=True)
    assert settle_accounts(lane, ending) == {"messages": 5, "bytes": 5, "settled": 2}
    assert (lane.metrics.unknown[UnknownReason.VANISHED], lane.metrics.never_forwarded) == (0, 0)
