"""Who a session is: what is given to a client cannot be guessed from what everybody may know, and binds it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.sessions.identity import Binding, new_session_id, new_token, next_epoch, session_id

MINE = Binding(route="chat", origin="https://mine.example", subject="issuer|alice")


def test_tokens_are_fresh_and_fit_into_a_url() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert {len(token) for token in tokens} == {43}
    assert all(token.replace("-", "").replace("_", "").isalnum() for token in tokens)


def test_the_same_token_of_the_same_holder_is_the_same_session_everywhere() -> None:
    token = new_token()
    assert session_id(token, MINE) == session_id(token, replace(MINE)) != session_id(new_token(), MINE)
    assert token not in session_id(token, MINE)
    assert len(session_id(token, MINE)) == len(new_session_id()) == 32


@pytest.mark.parametrize(
    "other",
    [
        replace(MINE, route="other"),
        replace(MINE, origin="https://thief.example"),
        replace(MINE, origin=None),
        replace(MINE, subject="issuer|bob"),
        replace(MINE, subject=None),
        replace(MINE, certificate="CN=alice"),
    ],
    ids=lambda binding: f"{binding.route} {binding.origin} {binding.subject} {binding.certificate}",
)
def test_a_token_in_other_hands_names_another_session(other: Binding) -> None:
    token = new_token()
    assert session_id(token, other) != session_id(token, MINE)


@given(st.integers(0, 2**53))
def test_an_epoch_is_above_the_one_before_and_above_what_others_gave_earlier(before: int) -> None:
    assert next_epoch(before) > before
    assert next_epoch(before) >= next_epoch() - 1000
