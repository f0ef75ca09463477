"""Balancing: fair shares, known-dead endpoints last but never gone, suspension after failed dials."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.addresses import parse_endpoint
from gateway.config.model import BalanceName
from gateway.telemetry.metrics import DialOutcome
from gateway.transport.balancing import SUSPENSIONS_SECONDS, Balancer, EndpointState

FAILURES = (DialOutcome.REFUSED, DialOutcome.TIMED_OUT, DialOutcome.TLS_FAILED, DialOutcome.FAILED)
POLICIES: tuple[BalanceName, ...] = ("round_robin", "least_connections", "session_hash")


def states(count: int) -> list[EndpointState]:
    return [EndpointState(parse_endpoint(f"tcp://chat-{number}:9000")) for number in range(count)]


def test_round_robin_takes_turns_and_falls_over_to_the_next() -> None:
    a, b, c = states(3)
    balancer = Balancer([a, b, c], "round_robin")
    assert [balancer.order(b"", now=0) for _ in range(4)] == [[a, b, c], [b, c, a], [c, a, b], [a, b, c]]


def test_round_robin_shares_a_dead_endpoints_turns_evenly() -> None:
    a, b, c = states(3)
    a.record_check(passed=False)
    balancer = Balancer([a, b, c], "round_robin")
    orders = [balancer.order(b"", now=0) for _ in range(100)]
    assert Counter(order[0] for order in orders) == {b: 50, c: 50}
    assert all(order[-1] is a for order in orders)


def test_least_connections_orders_by_load_and_lets_equals_take_turns() -> None:
    a, b, c = states(3)
    balancer = Balancer([a, b, c], "least_connections")
    first = Counter[EndpointState]()
    for _ in range(300):
        chosen = balancer.order(b"", now=0)[0]
        chosen.active += 1
        first[chosen] += 1
    assert set(first.values()) == {100}
    b.active, c.active = 7, 3
    assert balancer.order(b"", now=0) == [c, b, a]


@given(st.binary(max_size=40))
def test_session_hash_is_stable_and_moves_only_the_keys_of_the_endpoint_that_goes(key: bytes) -> None:
    endpoints = states(5)
    before = Balancer(endpoints, "session_hash").order(key, now=0)
    assert Balancer(list(reversed(endpoints)), "session_hash").order(key, now=0) == before
    endpoints[2].record_check(passed=False)
    after = Balancer(endpoints, "session_hash").order(key, now=0)
    assert after == [state for state in before if state is not endpoints[2]] + [endpoints[2]]


def test_session_hash_spreads_keys_evenly() -> None:
    balancer = Balancer(states(4), "session_hash")
    shares = Counter(balancer.order(str(number).encode(), now=0)[0].name for number in range(4000))
    assert all(850 < share < 1150 for share in shares.values())


@pytest.mark.parametrize("policy", POLICIES)
@given(up=st.lists(st.booleans(), min_size=1, max_size=6), rounds=st.integers(1, 10))
def test_every_order_holds_every_endpoint_once_and_the_available_ones_first(
    policy: BalanceName, up: list[bool], rounds: int
) -> None:
    endpoints = states(len(up))
    for state, passed in zip(endpoints, up, strict=True):
        state.record_check(passed=passed)
    balancer = Balancer(endpoints, policy)
    for _ in range(rounds):
        order = balancer.order(b"key", now=0)
        assert sorted(state.name for state in order) == sorted(state.name for state in endpoints)
        assert [state.up for state in order] == sorted(up, reverse=True)


@pytest.mark.parametrize("outcome", FAILURES)
def test_a_failed_dial_suspends_for_longer_each_time_and_a_connection_forgives(outcome: DialOutcome) -> None:
    (state,) = states(1)
    now = 100.0
    for seconds in (*SUSPENSIONS_SECONDS, SUSPENSIONS_SECONDS[-1]):
        state.record_dial(outcome, now=now)
        assert not state.up
        assert not state.is_available(now + seconds - 0.01)
        now += seconds
        assert state.is_available(now)
    state.record_dial(DialOutcome.CONNECTED, now=now)
    assert state.up
    state.record_dial(outcome, now=now)
    assert state.is_available(now + SUSPENSIONS_SECONDS[0])


def test_dials_that_fail_together_count_as_one_failure_but_are_all_counted() -> None:
    (state,) = states(1)
    assert [state.record_dial(DialOutcome.REFUSED, now=5) for _ in range(100)] == [True] + [False] * 99
    assert state.failures == 1
    assert state.dials[DialOutcome.REFUSED] == 100
    assert state.is_available(5 + SUSPENSIONS_SECONDS[0])


def test_a_backend_that_rejects_a_session_is_alive() -> None:
    (state,) = states(1)
    state.record_dial(DialOutcome.REJECTED, now=0)
    assert state.up
    assert state.is_available(0)
    assert state.dials[DialOutcome.REJECTED] == 1


def test_a_health_check_overrules_dials_and_reports_only_changes() -> None:
    (state,) = states(1)
    assert not state.record_check(passed=True)
    state.record_dial(DialOutcome.REFUSED, now=0)
    assert state.up, "what is checked is judged by its checks"
    assert not state.is_available(0)
    assert not state.record_check(passed=True)
    assert state.is_available(0)


def test_a_failed_health_check_lasts_until_one_passes() -> None:
    (state,) = states(1)
    changes = [(state.record_check(passed=passed), state.up) for passed in (False, False, True, True)]
    assert changes == [(True, False), (False, False), (True, True), (False, True)]
    state.record_check(passed=False)
    assert not state.is_available(1000)
