"""What a logout token must be, and that nothing passes for one that was meant for something else, nor the reverse."""

from typing import Any

import pytest

from gateway.errors import HandshakeRefused
from gateway.policy.jws import Rules, check_rules, parse_token
from gateway.policy.logout import EVENT, Logout, check_logout
from tests.access.doubles import ISSUER, NOW, claims, signed


def logout_claims(**changes: object) -> dict[str, Any]:
    """Good at NOW; None takes one away."""
    return claims(**{"events": {EVENT: {}}, "sid": "login-1", "aud": "chat", **changes})


def check(body: dict[str, Any], **header: object) -> Logout:
    token = parse_token(signed(body, header=header))
    return check_logout(token, audiences=["chat"], algorithms=["ES256"], leeway=30, now=NOW)


@pytest.mark.parametrize("typ", ["logout+jwt", "application/logout+jwt", "JWT", None])
def test_what_a_provider_sends(typ: str | None) -> None:
    assert check(logout_claims(), typ=typ) == Logout(
        issuer=ISSUER,
        subject="alice",
        login_session="login-1",
        issued_at=NOW - 10,
        token_id="t-1",
        expires_at=NOW + 330,
    )


def test_one_of_the_two_names_is_enough() -> None:
    assert check(logout_claims(sid=None)).login_session is None
    assert check(logout_claims(sub=None)).subject is None


def test_a_list_of_audiences_and_events_beside_ours() -> None:
    assert check(logout_claims(aud=["other", "chat"], events={"https://example.com/more": {}, EVENT: {"x": 1}}))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"aud": "another"}, "another audience"),
        ({"aud": None}, "another audience"),
        ({"exp": None}, "no exp"),
        ({"exp": NOW - 31}, "expired"),
        ({"exp": True}, "no exp"),
        ({"iat": None}, "no iat"),
        ({"iat": NOW + 31}, "in the future"),
        ({"iat": "yesterday"}, "iat that is no time"),
        ({"nbf": NOW + 31}, "not good yet"),
        ({"jti": None}, "no jti"),
        ({"jti": ""}, "no jti"),
        ({"jti": 7}, "jti that is no text"),
        ({"events": None}, "no back-channel logout"),
        ({"events": {}}, "no back-channel logout"),
        ({"events": [EVENT]}, "no back-channel logout"),
        ({"events": {EVENT: True}}, "no back-channel logout"),
        ({"events": {EVENT.upper(): {}}}, "no back-channel logout"),
        ({"nonce": "n"}, "nonce"),
        ({"nonce": ""}, "nonce"),
        ({"sub": None, "sid": None}, "neither who"),
        ({"sub": ""}, "sub that is no text"),
        ({"sub": 7}, "sub that is no text"),
        ({"sid": ""}, "sid that is no text"),
        ({"sid": ["login-1"]}, "sid that is no text"),
    ],
)
def test_what_is_no_logout_token(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(HandshakeRefused, match=problem):
        check(logout_claims(**changes))


def test_a_null_nonce_is_a_nonce() -> None:
    with pytest.raises(HandshakeRefused, match="nonce"):
        check({**logout_claims(), "nonce": None})


@pytest.mark.parametrize("typ", ["at+jwt", "id_token", "secevent+jwt"])
def test_another_type(typ: str) -> None:
    with pytest.raises(HandshakeRefused, match="typ"):
        check(logout_claims(), typ=typ)


def test_an_algorithm_that_is_not_named() -> None:
    token = parse_token(signed(logout_claims()))
    with pytest.raises(HandshakeRefused, match="algorithm"):
        check_logout(token, audiences=["chat"], algorithms=["RS256"], leeway=30, now=NOW)


def test_a_logout_token_lets_nobody_in() -> None:
    """Its issuer, audience, subject and lifetime are all as a credential's may be."""
    rules = Rules(audiences=["chat"], algorithms=["ES256"], types=(), subject=["sub"], leeway=30)
    check_rules(parse_token(signed(logout_claims(events=None))), rules, now=NOW)
    with pytest.raises(HandshakeRefused, match="lets nobody in"):
        check_rules(parse_token(signed(logout_claims())), rules, now=NOW)
