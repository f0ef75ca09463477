"""Balancing: fair shares, known-dead endpoints last but never gone, suspension after failed dials."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.addresses import TcpAddress, parse_endpoint
from gateway.config.model import BalanceName
from gateway.telemetry.metrics import DialOutcome
from gateway.transport.balancing import SUSPENSIONS_SECONDS, Balancer, EndpointState
from gateway.transport.resolving import literal_target

FAILURES = (DialOutcome.REFUSED, DialOutcome.TIMED_OUT, DialOutcome.TLS_FAILED, DialOutcome.FAILED)
POLICIES: tuple[BalanceName, ...] = ("round_robin", "least_connections", "session_hash")


def states(count: int) -> list[EndpointState]:
    return [EndpointState(parse_endpoint(f"tcp://chat-{number}:9000")) for number in range(count)]


def test_round_robin_takes_turns_and_falls_over_to_the_next() -> None:
    a, b, c = states(3)
    balancer = Balancer("round_robin")
    assert [balancer.order([a, b, c], b"", now=0) for _ in range(4)] == [[a, b, c], [b, c, a], [c, a, b], [a, b, c]]


def test_round_robin_shares_a_dead_endpoints_turns_evenly() -> None:
    a, b, c = states(3)
    a.record_check(passed=False, now=0)
    balancer = Balancer("round_robin")
    orders = [balancer.order([a, b, c], b"", now=0) for _ in range(100)]
    assert Counter(order[0] for order in orders) == {b: 50, c: 50}
    assert all(order[-1] is a for order in orders)


def test_least_connections_orders_by_load_and_lets_equals_take_turns() -> None:
    a, b, c = states(3)
    balancer = Balancer("least_connections")
    first = Counter[EndpointState]()
    for _ in range(300):
        chosen = balancer.order([a, b, c], b"", now=0)[0]
        chosen.active += 1
        first[chosen] += 1
    assert set(first.values()) == {100}
    b.active, c.active = 7, 3
    assert balancer.order([a, b, c], b"", now=0) == [c, b, a]


@given(st.binary(max_size=40))
def test_session_hash_is_stable_and_moves_only_the_keys_of_the_endpoint_that_goes(key: bytes) -> None:
    endpoints = states(5)
    before = Balancer("session_hash").order(endpoints, key, now=0)
    assert Balancer("session_hash").order(list(reversed(endpoints)), key, now=0) == before
    endpoints[2].record_check(passed=False, now=0)
    after = Balancer("session_hash").order(endpoints, key, now=0)
    assert after == [state for state in before if state is not endpoints[2]] + [endpoints[2]]


def test_session_hash_spreads_keys_evenly() -> None:
    endpoints, balancer = states(4), Balancer("session_hash")
    shares = Counter(balancer.order(endpoints, str(number).encode(), now=0)[0].name for number in range(4000))
    assert all(850 < share < 1150 for share in shares.values())


@pytest.mark.parametrize("policy", POLICIES)
@given(up=st.lists(st.booleans(), min_size=1, max_size=6), rounds=st.integers(1, 10))
def test_every_order_holds_every_endpoint_once_and_the_available_ones_first(
    policy: BalanceName, up: list[bool], rounds: int
) -> None:
    endpoints = states(len(up))
    for state, passed in zip(endpoints, up, strict=True):
        state.record_check(passed=passed, now=0)
    balancer = Balancer(policy)
    for _ in range(rounds):
        order = balancer.order(endpoints, b"key", now=0)
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


def verdict(state: EndpointState) -> bool | None:
    return state.up  # mypy does not see that calls change it


def test_the_last_that_was_heard_counts_be_it_a_dial_or_a_check() -> None:
    (state,) = states(1)
    assert verdict(state) is None, "nothing is known"
    assert not state.record_check(passed=True, now=0), "that one is well is no news where nothing was known"
    assert verdict(state) is True
    state.record_dial(DialOutcome.REFUSED, now=0)
    assert verdict(state) is False
    assert not state.is_available(0)
    assert not state.record_check(passed=False, now=0), "a dial had said so already"
    assert state.record_check(passed=True, now=0)
    assert state.is_available(0)


def test_a_first_check_that_fails_is_news() -> None:
    (state,) = states(1)
    assert state.record_check(passed=False, now=0)
    assert state.up is False


def test_a_failed_health_check_lasts_until_one_passes() -> None:
    (state,) = states(1)
    changes = [(state.record_check(passed=passed, now=0), state.up) for passed in (False, False, True, True)]
    assert changes == [(True, False), (False, False), (True, True), (False, True)]
    state.record_check(passed=False, now=0)
    assert not state.is_available(1000)


def test_what_was_outpaced_comes_last_for_a_while_though_nobody_knows_that_it_is_down() -> None:
    slow, other = states(2)
    assert not slow.record_dial(DialOutcome.OUTPACED, now=0)
    assert slow.up is None
    assert Balancer("round_robin").order([slow, other], b"", now=0.5) == [other, slow]
    assert slow.is_available(SUSPENSIONS_SECONDS[0])


def test_where_it_is_checked_a_suspension_lasts_until_it_answers_and_its_back_off_is_the_checks() -> None:
    (state,) = states(1)
    calls: list[str] = []
    state.on_suspended = lambda: calls.append("suspended")
    now = 0.0
    state.record_dial(DialOutcome.REFUSED, now=now)
    assert calls == ["suspended"]
    for seconds in SUSPENSIONS_SECONDS[:-1]:
        assert state.retry_at == now + seconds
        now = state.retry_at
        assert not state.is_available(now), "the check is to find out, not a client"
        state.record_dial(DialOutcome.TIMED_OUT, now=now)
        assert state.retry_at == now, "a client that was led there for want of anything better puts no check off"
        state.record_check(passed=False, now=now)
    state.record_dial(DialOutcome.CONNECTED, now=now)
    assert state.is_available(now)
    assert not state.is_suspended
    assert calls == ["suspended"]


def test_a_check_that_could_not_be_made_is_no_verdict() -> None:
    (state,) = states(1)
    state.on_suspended = lambda: None
    state.put_off(now=5)
    assert (state.up, state.is_suspended) == (None, False)
    state.record_dial(DialOutcome.REFUSED, now=5)
    before = state.failures
    state.put_off(now=6)
    assert state.retry_at > 6
    assert state.failures == before


def test_what_nobody_checks_any_more_is_not_held_against_it_for_ever() -> None:
    (state,) = states(1)
    state.on_suspended = lambda: None
    state.record_check(passed=False, now=0)
    state.forget_checks()
    assert state.up is None
    assert state.is_available(SUSPENSIONS_SECONDS[0])


# --- several addresses of a name ----------------------------------------------------------------------------------


def addresses(name: str, *hosts: str) -> list[EndpointState]:
    endpoint = parse_endpoint(f"tcp://{name}:9000")
    targets = [literal_target(TcpAddress(host=host, port=9000)) for host in hosts]
    return [EndpointState(endpoint, target) for target in targets]


@given(st.binary(max_size=40))
def test_session_hash_keeps_a_key_at_its_address_whatever_order_the_resolver_gives(key: bytes) -> None:
    hosts = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::4"]
    first = Balancer("session_hash").order(addresses("chat", *hosts), key, now=0)
    other = Balancer("session_hash").order(addresses("chat", *reversed(hosts)), key, now=0)
    assert [state.target for state in first] == [state.target for state in other]
    gone = first[1].target
    fewer = [state for state in addresses("chat", *hosts) if state.target != gone]
    after = Balancer("session_hash").order(fewer, key, now=0)
    assert [state.target for state in after] == [state.target for state in first if state.target != gone]


def test_session_hash_spreads_keys_over_the_addresses_of_a_name() -> None:
    states, balancer = addresses("chat", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"), Balancer("session_hash")
    shares = Counter(balancer.order(states, str(number).encode(), now=0)[0] for number in range(4000))
    assert all(850 < share < 1150 for share in shares.values())


@given(st.binary(max_size=40))
def test_session_hash_keeps_a_key_at_a_name_that_leads_to_another_address_now(key: bytes) -> None:
    before = [*addresses("chat-0", "10.0.0.1"), *addresses("chat-1", "10.0.0.2")]
    after = [*addresses("chat-0", "10.0.0.9"), *addresses("chat-1", "10.0.0.2")]
    names = [[state.name for state in Balancer("session_hash").order(its, key, now=0)] for its in (before, after)]
    assert names[0] == names[1]


def test_an_address_of_a_name_is_told_apart_in_the_log_and_a_literal_one_said_once() -> None:
    (named,) = addresses("chat", "10.0.0.1")
    assert named.place == "tcp://chat:9000 (10.0.0.1:9000)"
    assert named.labels == {"endpoint": "tcp://chat:9000", "address": "10.0.0.1:9000"}
    (literal,) = addresses("10.0.0.1", "10.0.0.1")
    assert (literal.place, literal.labels) == ("tcp://10.0.0.1:9000", {"endpoint": "tcp://10.0.0.1:9000"})
