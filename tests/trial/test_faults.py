"""Plans of faults: repeatable, complete, spread over the whole trial; and how they are dealt out."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gateway.trial.faults import (
    CONNECTION_FAULTS,
    KILLS,
    SECONDS,
    Fault,
    FaultKind,
    FaultSchedule,
    Hop,
    plan,
    spread,
)

WANTED = {
    Hop.FRONT: spread(60, CONNECTION_FAULTS),
    Hop.BACK: spread(30, CONNECTION_FAULTS),
    None: dict.fromkeys(KILLS, 5),
}


def fault(kind: FaultKind, at: float, hop: Hop | None = Hop.FRONT) -> Fault:
    return Fault(kind=kind, at=at, hop=hop, place=0.5, seconds=0.0)


@given(st.integers(0, 1000), st.sets(st.sampled_from(sorted(FaultKind)), min_size=1))
def test_spread_gives_every_kind_as_many_as_any_other_but_one(faults: int, kinds: set[FaultKind]) -> None:
    dealt = spread(faults, kinds)
    assert dealt.keys() == kinds
    assert sum(dealt.values()) == faults
    assert max(dealt.values()) - min(dealt.values()) <= 1


def test_a_seed_gives_the_same_plan_again_and_another_one_gives_another() -> None:
    assert plan(7, WANTED) == plan(7, WANTED)
    assert plan(7, WANTED) != plan(8, WANTED)


@given(st.integers(0, 2**32))
def test_a_plan_has_what_was_wanted_in_order_over_the_whole_trial(seed: int) -> None:
    faults = plan(seed, WANTED)
    assert len(faults) == 100
    for hop, kinds in WANTED.items():
        assert {kind: sum(one.hop is hop and one.kind is kind for one in faults) for kind in kinds} == kinds
    times = [one.at for one in faults]
    assert times == sorted(times)
    assert 0 < times[0] < 0.05
    assert 0.9 < times[-1] < 1
    assert max(later - earlier for earlier, later in pairwise(times)) < 0.05
    for one in faults:
        low, high = SECONDS.get(one.kind, (0.0, 0.0))
        assert low <= one.seconds <= high
        assert 0 <= one.place < 1


def test_a_schedule_deals_kills_to_who_advances_it_and_other_faults_to_who_carries_bytes() -> None:
    kill = fault(FaultKind.KILL_GATEWAY, 0.2, None)
    front, back, later = (
        fault(FaultKind.CUT, 0.1),
        fault(FaultKind.RESET, 0.3, Hop.BACK),
        fault(FaultKind.STALL, 0.9),
    )
    schedule = FaultSchedule([front, kill, back, later])
    assert schedule.advance(0.05) == []
    assert schedule.strike(Hop.FRONT) is None
    assert schedule.advance(0.5) == [kill]
    assert schedule.strike(Hop.FRONT) is front
    assert schedule.strike(Hop.FRONT) is None
    assert schedule.outstanding == 3
    assert schedule.next_kill_at == 0.2
    schedule.finish_kill()
    assert schedule.next_kill_at == math.inf
    assert schedule.outstanding == 2
    assert schedule.strike(Hop.BACK) is back
    assert schedule.advance(1.0) == []
    assert schedule.strike(Hop.FRONT) is later
    assert schedule.outstanding == 0
    assert schedule.struck == dict.fromkeys((FaultKind.CUT, FaultKind.KILL_GATEWAY, FaultKind.RESET), 1) | {
        FaultKind.STALL: 1
    }
