"""Who somebody was found to be: what claims must be, what is said of them, and what two credentials share."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.errors import HandshakeRefused
from gateway.policy.principal import MAX_ENTRY_BYTES, Principal, claim_at, said_of, told_by_proxy, unmet


@dataclass(frozen=True)
class Demanded:
    claim: tuple[str, ...]
    any_of: tuple[str | int | float | bool, ...]


@dataclass(frozen=True)
class Told:
    type: int
    claim: tuple[str, ...]


def principal(subject: str = "alice", *, issuer: str | None = None, **claims: Any) -> Principal:
    return Principal(subject=subject, method="jwt", issuer=issuer, claims=claims)


def test_a_renewed_credential_is_the_same_somebody_and_another_issuers_is_not() -> None:
    mine = principal(issuer="a", jti="1")
    assert mine.identity == principal(issuer="a", jti="2").identity
    others = [principal(issuer="b"), principal(), principal("bob", issuer="a")]
    assert mine.identity not in {other.identity for other in others}


def test_the_issuers_own_word_for_somebody_may_be_another() -> None:
    assert principal("bob@example.com", sub="u-17").subject_of_issuer == "u-17"
    assert principal("bob").subject_of_issuer == "bob"
    assert principal("bob", sub=17).subject_of_issuer == "bob"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["a"], {"b": [1]}),
        (["a", "b"], [1]),
        (["a", "c"], None),
        (["a", "b", "0"], None),
        (["none", "of", "these"], None),
        ([], {"a": {"b": [1]}}),
    ],
)
def test_a_claim_is_found_at_the_end_of_its_path(path: list[str], value: object) -> None:
    assert claim_at({"a": {"b": [1]}}, path) == value


def test_sub_is_who_it_was_found_to_be_whatever_the_token_calls_so() -> None:
    assert said_of(principal("bob", sub="u-17"), ["sub"]) == "bob"


@pytest.mark.parametrize(
    ("value", "wanted", "holds"),
    [
        (True, True, True),
        (True, 1, False),
        (1, True, False),
        (1, 1.0, True),
        ("1", 1, False),
        (1, "1", False),
        ("a", "a", True),
        ("a", "A", False),
        (["a", 1, True], True, True),
        (["a", 1], True, False),
        ([], "a", False),
        ({"a": "a"}, "a", False),
        (None, "None", False),
    ],
)
def test_values_are_equal_as_in_json(value: Any, wanted: str | float | bool, holds: bool) -> None:
    demand = Demanded(("role",), (wanted,))
    assert unmet(principal(role=value), [demand]) == (None if holds else demand)


def test_the_first_demand_that_does_not_hold_is_named() -> None:
    holds, fails, also = Demanded(("a",), (1, 2)), Demanded(("b",), (1,)), Demanded(("c",), (1,))
    assert unmet(principal(a=2), [holds, fails, also]) is fails
    assert unmet(principal(a=2), []) is None


def test_a_proxy_header_says_text_as_it_is_and_the_rest_as_json() -> None:
    somebody = principal("Ōe", groups=["a", "b"], admin=False)
    entries = [Told(0xE0, ("sub",)), Told(0xE1, ("groups",)), Told(0xE2, ("none",)), Told(0xE3, ("admin",))]
    told = told_by_proxy(entries, somebody)
    assert told == ((0xE0, "Ōe".encode()), (0xE1, b'["a","b"]'), (0xE3, b"false"))
    assert told_by_proxy(entries, None) == ()


@pytest.mark.parametrize("size", [MAX_ENTRY_BYTES, MAX_ENTRY_BYTES + 1])
def test_more_than_a_receiver_takes_is_refused_and_not_cut(size: int) -> None:
    somebody = principal(note="x" * size)
    if size == MAX_ENTRY_BYTES:
        assert len(told_by_proxy([Told(0xE0, ("note",))], somebody)[0][1]) == size
        return
    with pytest.raises(HandshakeRefused, match="more is said of you") as caught:
        told_by_proxy([Told(0xE0, ("note",))], somebody)
    assert caught.value.status == 403


def test_halves_of_a_character_become_no_invalid_text() -> None:
    ((_, data),) = told_by_proxy([Told(0xE0, ("name",))], principal(name=json.loads('"\\ud800"')))
    assert data.decode() == "?"
