"""When a session looks for evidence: with data where the pace allows it, at any pace where somebody waits."""

import pytest

from gateway.protocol.ledger import Ledger
from gateway.protocol.pieces import Piece
from gateway.protocol.records import Rung
from gateway.relay.lane import Lane
from gateway.relay.looking import Looking
from gateway.relay.pace import LOOK_SECONDS, TICK_SECONDS, Pace
from gateway.relay.retained import Retained
from gateway.telemetry.metrics import RouteMetrics
from tests.relay.harness import open_tab
from tests.relay.junction import message

NOW = 1000.0


class Session:
    """Two lanes and the looks at them; a `records` client's is one that retains what its client may miss."""

    def __init__(self, *, records: bool = False, track: bool = True) -> None:
        metrics, tab = RouteMetrics("test"), open_tab()
        self.up = Lane(metrics.upstream, self._ledger(track), tab)
        retained = Retained(tab, limit_bytes=1 << 20) if records else None
        self.down = Lane(metrics.downstream, self._ledger(track), tab, retained)
        self.looking = Looking(Pace(), up=self.up, down=self.down, now=NOW)

    @staticmethod
    def _ledger(track: bool) -> Ledger | None:
        if not track:
            return None
        return Ledger(Rung.REACHED, window_messages=8, window_bytes=1 << 20, overhead_bytes=0)

    def send_up(self, count: int) -> list[Piece]:
        pieces = [message(b"x") for _ in range(count)]
        self.up.enter(pieces, 0, NOW)
        return pieces


def test_nothing_is_asked_of_the_kernel_before_half_of_the_window_is_used() -> None:
    session = Session(records=True)
    session.send_up(3)
    assert not session.looking.asks_before([message(b"x")])
    session.send_up(1)
    assert session.looking.asks_before([message(b"x")])


def test_a_plain_clients_kernel_is_asked_only_when_there_is_no_room() -> None:
    session = Session()
    session.send_up(7)
    assert not session.looking.asks_before([message(b"x")])
    session.send_up(1)
    assert session.looking.asks_before([message(b"x")])


def test_acknowledgements_ride_on_answers_at_the_pace_and_at_any_for_who_waits() -> None:
    session = Session()
    assert not session.looking.asks_behind_answer(True)  # nothing is unsettled
    session.send_up(1)
    assert session.looking.asks_behind_answer(True)
    assert not session.looking.asks_behind_answer(False)
    session.up.hold([message(b"waits")])
    assert session.looking.asks_behind_answer(False)


def test_a_look_that_is_taken_puts_the_next_one_off() -> None:
    looking = Session().looking
    assert looking.is_due(NOW)
    looking.take_turn(NOW)
    assert not looking.is_due(NOW)
    assert looking.is_due(NOW + LOOK_SECONDS)


def test_a_timer_is_planned_once_and_sooner_for_who_waits() -> None:
    session = Session()
    pace_at = NOW
    for _ in range(100):  # others are due to look before it
        session.looking.take_turn(NOW)
    session.send_up(1)
    assert session.looking.plan(pace_at)
    later = session.looking.deadline
    assert not session.looking.plan(pace_at)
    session.up.hold([message(b"waits")])
    assert session.looking.plan(pace_at)
    assert session.looking.deadline < later
    assert session.looking.deadline <= NOW + LOOK_SECONDS + TICK_SECONDS


def test_a_timer_that_is_set_is_reason_enough_but_for_a_client_that_counts_its_window_itself() -> None:
    plain, records = Session(), Session(records=True)
    for session in (plain, records):
        assert session.looking.has_reason()
        session.send_up(4)
        session.looking.plan(NOW)
    assert not plain.looking.has_reason()
    assert records.looking.has_reason()


@pytest.mark.parametrize("records", [False, True])
def test_without_tracking_nothing_is_ever_looked_for(records: bool) -> None:
    session = Session(records=records, track=False)
    assert not session.looking.is_due(1e12)
    assert not session.looking.asks_before([message(b"x")])
    assert not session.looking.asks_behind_answer(True)
