"""How somebody is told that they are not let in: HTTP's word and the Close code that says the same."""

from collections.abc import Callable

import pytest

from gateway.errors import Blame, HandshakeRefused
from gateway.policy.principal import AccessRefusal
from gateway.policy.refusals import close_code, expired, forbidden, invalid, missing, unavailable


@pytest.mark.parametrize(
    ("refusal", "status", "code", "reason"),
    [
        (missing, 401, 3000, AccessRefusal.MISSING),
        (lambda: invalid("is none"), 401, 3000, AccessRefusal.INVALID),
        (expired, 401, 3000, AccessRefusal.EXPIRED),
        (lambda: invalid("was revoked", reason=AccessRefusal.REVOKED), 401, 3000, AccessRefusal.REVOKED),
        (lambda: forbidden("you may not"), 403, 3003, AccessRefusal.FORBIDDEN),
        (unavailable, 503, 1013, AccessRefusal.UNAVAILABLE),
    ],
)
def test_before_the_upgrade_and_behind_it_the_same_is_said(
    refusal: Callable[[], HandshakeRefused], status: int, code: int, reason: AccessRefusal
) -> None:
    fault = refusal()
    assert (fault.status, close_code(fault), fault.reason) == (status, code, reason)


def test_a_request_without_a_credential_is_told_no_error_code() -> None:
    """RFC 6750 section 3."""
    assert missing().headers == (("WWW-Authenticate", 'Bearer realm="kakitome"'),)


def test_a_credential_that_is_no_good_is_told_what_was_wrong() -> None:
    fault = invalid("is signed by nobody")
    assert str(fault) == "the credential is signed by nobody"
    ((name, challenge),) = fault.headers
    assert name == "WWW-Authenticate"
    assert challenge == (
        'Bearer realm="kakitome", error="invalid_token", error_description="the credential is signed by nobody"'
    )


def test_who_is_known_is_not_asked_to_say_again_who_they_are() -> None:
    assert forbidden("you may not").headers == ()


def test_when_we_cannot_know_it_is_our_fault_and_not_for_ever() -> None:
    fault = unavailable()
    assert fault.blame is Blame.GATEWAY
    assert fault.headers == (("Retry-After", "5"),)
