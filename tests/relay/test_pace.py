"""The pace at which sessions look for evidence."""

import pytest

from gateway.relay.pace import LOOK_SECONDS, PATIENCE_SECONDS, SLOT_SECONDS, TICK_SECONDS, Pace, next_tick


def test_a_session_that_is_alone_looks_at_its_least_distance() -> None:
    pace = Pace()
    assert [pace.reserve(now) - now for now in (100.0, 100.5, 101.0)] == pytest.approx([LOOK_SECONDS] * 3)


@pytest.mark.parametrize("sessions", [10, 100, 120])
def test_sessions_share_one_look_a_slot_in_turn(sessions: int) -> None:
    pace = Pace()
    due = {session: pace.reserve(100.0) for session in range(sessions)}
    looks = 0
    while (now := min(due.values())) < 110.0:
        session = min(due, key=due.__getitem__)
        due[session] = pace.reserve(now)
        assert due[session] - now <= max(LOOK_SECONDS, sessions * SLOT_SECONDS) + SLOT_SECONDS
        looks += 1
    assert looks <= 10 / SLOT_SECONDS


def test_no_session_waits_for_longer_than_a_second_however_many_there_are() -> None:
    pace = Pace()
    assert max(pace.reserve(100.0) for _ in range(50_000)) == pytest.approx(100.0 + PATIENCE_SECONDS)


def test_slots_that_nobody_wanted_are_not_made_up_for() -> None:
    pace = Pace()
    for _ in range(500):
        pace.reserve(100.0)
    assert pace.reserve(200.0) == pytest.approx(200.0 + LOOK_SECONDS)


def test_looks_that_timers_bring_come_on_common_ticks() -> None:
    times = [100.0 + number / 1000 for number in range(100)]
    ticks = [next_tick(time) for time in times]
    assert all(-1e-9 < tick - time <= TICK_SECONDS + 1e-9 for time, tick in zip(times, ticks, strict=True))
    assert len(set(ticks)) <= 11
