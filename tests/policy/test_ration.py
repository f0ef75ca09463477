"""Turns at the loop: a share for all, fair among groups, and a rate for each."""

from collections import Counter

from gateway.policy.ration import KEPT_GROUPS, Ration


def ration(*, share: float = 0.5, burst: float = 0.1, per_second: float = 100.0) -> Ration[str]:
    return Ration(share=share, burst_seconds=burst, per_second=per_second)


def test_alone_nobody_waits() -> None:
    turns = ration()
    assert turns.may_pass("a", 10.0)
    assert turns.waiting == 0


def test_beyond_its_share_of_the_time_all_wait() -> None:
    turns = ration()
    assert turns.may_pass("a", 10.0)
    turns.spend(0.2)
    assert not turns.may_pass("b", 10.0)
    turns.wait("b", "b1")
    assert turns.seconds_until_next(10.0) > 0.2
    assert turns.next(10.1) is None
    assert turns.next(10.21) == "b1"
    assert turns.waiting == 0


def test_nobody_overtakes_those_who_wait() -> None:
    turns = ration()
    turns.spend(0.2)
    turns.wait("a", "a1")
    assert not turns.may_pass("b", 20.0)
    assert turns.next(20.0) == "a1"
    assert turns.may_pass("b", 20.0)


def test_groups_take_turns_however_many_each_has() -> None:
    turns = ration()
    for number in range(50):
        turns.wait("many", f"many {number}")
    turns.wait("one", "one")
    turns.wait("two", "two 1")
    turns.wait("two", "two 2")
    order = [turns.next(10.0) for _ in range(5)]
    assert order == ["many 0", "one", "two 1", "many 1", "two 2"]


def test_a_group_has_its_rate_and_others_go_on() -> None:
    turns = ration(per_second=5)
    assert [turns.may_pass("a", 10.0) for _ in range(6)] == [True] * 5 + [False]
    turns.wait("a", "a6")
    assert turns.next(10.0) is None
    assert 0 < turns.seconds_until_next(10.0) <= 0.2
    turns.wait("b", "b1")
    assert turns.next(10.0) == "b1"
    assert turns.next(10.21) == "a6"


def test_a_rate_below_one_a_second_lets_single_ones_pass() -> None:
    turns = ration(per_second=0.5)
    assert turns.may_pass("a", 10.0)
    turns.wait("a", "a1")
    passed = Counter(turns.next(10.0 + seconds) for seconds in range(5))
    assert passed["a1"] == 1


def test_who_gave_up_is_skipped() -> None:
    turns = ration()
    turns.spend(0.2)
    turns.wait("a", "a1")
    turns.wait("a", "a2")
    turns.forget("a", "a1")
    turns.forget("a", "a1")
    assert turns.next(20.0) == "a2"
    turns.forget("a", "a2")
    assert turns.waiting == 0


def test_an_idle_time_gives_no_more_than_the_burst() -> None:
    turns = ration(burst=0.1)
    assert turns.may_pass("a", 1000.0)
    turns.spend(0.1)
    assert not turns.may_pass("a", 1000.0)


def test_what_is_remembered_of_groups_is_bounded() -> None:
    turns = ration(burst=1e9)
    for number in range(KEPT_GROUPS + 10):
        assert turns.may_pass(str(number), 10.0)
    assert len(turns._tokens) == KEPT_GROUPS
