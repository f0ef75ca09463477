"""Admission: limits by route and by address, places given back once, and the rate of messages."""

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Blame, HandshakeRefused
from gateway.policy.admission import (
    NO_ADDRESS,
    Admission,
    AdmissionRefusal,
    MessageRate,
    Ticket,
    address_group,
    holder_of,
)
from gateway.policy.principal import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A route's limits."""

    connections: int | None = None
    connections_per_address: int | None = None


def admit(admission: Admission, limits: Limits, *, address: str | None = "192.0.2.1", route: str = "chat") -> Ticket:
    """One more connection."""
    return admission.admit(route=route, address=address, limits=limits)


def refusal(
    admission: Admission, limits: Limits, *, address: str | None = "192.0.2.1", route: str = "chat"
) -> HandshakeRefused:
    """The refusal of one more connection."""
    with pytest.raises(HandshakeRefused) as caught:
        admit(admission, limits, address=address, route=route)
    return caught.value


def test_a_full_route_asks_to_come_back_later() -> None:
    admission, limits = Admission(), Limits(connections=2)
    admit(admission, limits)
    admit(admission, limits, address="192.0.2.2")
    error = refusal(admission, limits, address="192.0.2.3")
    assert (error.status, error.reason, error.blame) == (503, AdmissionRefusal.ROUTE, Blame.GATEWAY)
    assert error.headers == (("Retry-After", "5"),)
    assert admission.connections("chat") == 2


def test_an_address_has_its_share() -> None:
    admission, limits = Admission(), Limits(connections_per_address=1)
    admit(admission, limits)
    error = refusal(admission, limits)
    assert (error.status, error.reason, error.blame) == (429, AdmissionRefusal.ADDRESS, Blame.CLIENT)
    admit(admission, limits, address="192.0.2.2")
    assert admission.connections("chat") == 2


def test_an_address_that_has_its_share_is_told_so_also_on_a_full_route() -> None:
    admission, limits = Admission(), Limits(connections=1, connections_per_address=1)
    admit(admission, limits)
    assert refusal(admission, limits).status == 429
    assert refusal(admission, limits, address="192.0.2.2").status == 503


def test_routes_do_not_take_each_others_places() -> None:
    admission, limits = Admission(), Limits(connections=1, connections_per_address=1)
    admit(admission, limits, route="a")
    admit(admission, limits, route="b")
    assert [admission.connections(name) for name in ("a", "b", "c")] == [1, 1, 0]


def test_without_limits_and_without_an_address_all_are_admitted() -> None:
    admission = Admission()
    for _ in range(3):
        admit(admission, Limits(connections_per_address=1), address=None)
        admit(admission, Limits())
    assert admission.connections("chat") == 6


def test_limits_may_change_between_calls() -> None:
    admission = Admission()
    admit(admission, Limits(connections=1))
    admit(admission, Limits(connections=2))
    assert refusal(admission, Limits(connections=1)).status == 503


def test_a_place_is_given_back_once() -> None:
    admission, limits = Admission(), Limits(connections=2, connections_per_address=2)
    first, _second = admit(admission, limits), admit(admission, limits)
    first.release()
    first.release()
    assert admission.connections("chat") == 1
    admit(admission, limits)
    assert refusal(admission, limits).status == 429


def test_a_ticket_is_released_at_the_end_of_its_block() -> None:
    admission, limits = Admission(), Limits(connections_per_address=1)
    with pytest.raises(RuntimeError, match="dial failed"), admit(admission, limits):
        raise RuntimeError("dial failed")
    with admit(admission, limits) as ticket:
        ticket.release()
    assert admission.connections("chat") == 0


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_who_shares_a_limit(address: str, group: str) -> None:
    assert address_group(address) == group


def test_what_is_no_address_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="does not appear"):
        address_group("unknown")


@given(
    st.lists(
        st.tuples(
            st.booleans(), st.sampled_from("ab"), st.sampled_from([None, "192.0.2.1", "2001:db8::1", "2001:db8::2"])
        )
    ),
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 3),
)
def test_counts_are_those_of_the_tickets_held(
    steps: list[tuple[bool, str, str | None]], connections: int | None, per_address: int | None
) -> None:
    admission = Admission()
    limits = Limits(connections=connections, connections_per_address=per_address)
    held: list[tuple[Ticket, str, str | None]] = []
    for enters, route, address in steps:
        group = None if address is None else address_group(address)
        routes = Counter(name for _, name, _ in held)
        groups = Counter((name, other) for _, name, other in held if other is not None)
        if not enters:
            if held:
                held.pop(0)[0].release()
        elif group is not None and per_address is not None and groups[route, group] >= per_address:
            assert refusal(admission, limits, address=address, route=route).status == 429
        elif connections is not None and routes[route] >= connections:
            assert refusal(admission, limits, address=address, route=route).status == 503
        else:
            held.append((admit(admission, limits, address=address, route=route), route, group))
        routes = Counter(name for _, name, _ in held)
        assert {name: admission.connections(name) for name in "ab"} == {name: routes[name] for name in "ab"}


# --- the rate of messages -----------------------------------------------------------------------------------------


def test_a_second_of_messages_may_come_at_once() -> None:
    rate = MessageRate(10, now=100.0)
    assert rate.take(10, 100.0)
    assert not rate.take(1, 100.0)


def test_tokens_come_back_with_time_up_to_one_second_of_them() -> None:
    rate = MessageRate(10, now=100.0)
    assert rate.take(10, 100.0)
    assert rate.take(5, 100.5)
    assert not rate.take(1, 100.5)
    assert not rate.take(11, 1000.0)
    assert rate.take(10, 1000.0)


def test_a_batch_that_is_too_large_takes_nothing() -> None:
    rate = MessageRate(10, now=0.0)
    assert rate.take(4, 0.0)
    assert not rate.take(7, 0.0)
    assert rate.take(6, 0.0)


def test_a_rate_below_one_a_second_lets_single_messages_pass() -> None:
    rate = MessageRate(0.5, now=0.0)
    assert rate.take(1, 0.0)
    assert not rate.take(1, 1.0)
    assert rate.take(1, 2.0)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    rate = MessageRate(1, now=10.0)
    assert rate.take(1, 10.0)
    assert not rate.take(1, 9.0)
    assert not rate.take(1, 10.0)
    assert rate.take(1, 11.0)


def test_nothing_costs_nothing() -> None:
    rate = MessageRate(1, now=0.0)
    assert rate.take(1, 0.0)
    assert rate.take(0, 0.0)


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3000)), max_size=40),
)
def test_no_span_of_time_sees_more_than_its_share_and_one_burst(
    per_second: int, batches: list[tuple[int, int]]
) -> None:
    rate = MessageRate(per_second, now=0.0)
    taken: list[tuple[float, int]] = []
    now = 0.0
    for messages, wait_milliseconds in batches:
        now += wait_milliseconds / 1000
        if rate.take(messages, now):
            taken.append((now, messages))
    for start in range(len(taken)):
        for end in range(start, len(taken)):
            span = taken[end][0] - taken[start][0]
            assert sum(count for _, count in taken[start : end + 1]) <= per_second * (1 + span) + 1e-6


def test_a_holder_is_who_was_let_in_else_where_it_comes_from() -> None:
    alice = Principal(subject="alice", method="jwt", issuer="https://issuer.test").identity
    assert holder_of("192.0.2.1", alice) == holder_of("2001:db8::1", alice) == holder_of(None, alice) == alice
    assert holder_of("192.0.2.1") == holder_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert holder_of("2001:db8::1") == holder_of("2001:db8::2") == "2001:db8::/64"
    assert holder_of(None) == NO_ADDRESS


@pytest.mark.parametrize("name", ["192.0.2.1", "2001:db8::/64", NO_ADDRESS, ""])
def test_nobody_is_charged_in_the_place_of_an_address_by_having_its_name(name: str) -> None:
    assert holder_of("198.51.100.7", Principal(subject=name, method="jwt").identity) not in (name, "192.0.2.1")
