"""How somebody who is not let in is told: over HTTP, or by a Close where OPEN carried the credential.

Invariant: a text says what was wrong with the credential and nothing of what it should have been, nor of whom we asked.
"""

from http import HTTPStatus
from typing import Final

from gateway.codes import FORBIDDEN, TRY_AGAIN_LATER, UNAUTHORIZED
from gateway.errors import Blame, HandshakeRefused
from gateway.policy.principal import AccessRefusal

REALM: Final = "kakitome"
RETRY_AFTER_SECONDS: Final = 5


def missing() -> HandshakeRefused:
    """401 for a request without any credential (RFC 6750 section 3: without an error code)."""
    return _unauthorized("this address asks for a credential, and the request has none", AccessRefusal.MISSING)


def invalid(problem: str, *, reason: AccessRefusal = AccessRefusal.INVALID) -> HandshakeRefused:
    """401 for a credential that is not good; `problem` goes on from "the credential"."""
    return _unauthorized(f"the credential {problem}", reason, error="invalid_token")


def expired(what: str = "has expired") -> HandshakeRefused:
    """401 for a credential that was good once."""
    return invalid(what, reason=AccessRefusal.EXPIRED)


def forbidden(problem: str) -> HandshakeRefused:
    """403 for somebody who is known, and may not come in here."""
    return HandshakeRefused(problem, status=HTTPStatus.FORBIDDEN, reason=AccessRefusal.FORBIDDEN)


def unavailable() -> HandshakeRefused:
    """503: whoever knows the answer cannot be asked at present. Those who are in stay in."""
    return HandshakeRefused(
        "who you are cannot be found out at present; try again later",
        status=HTTPStatus.SERVICE_UNAVAILABLE,
        reason=AccessRefusal.UNAVAILABLE,
        blame=Blame.GATEWAY,
        headers=(("Retry-After", str(RETRY_AFTER_SECONDS)),),
    )


def close_code(refusal: HandshakeRefused) -> int:
    """The Close code that says behind the upgrade what `refusal` says before it."""
    match refusal.status:
        case HTTPStatus.FORBIDDEN:
            return FORBIDDEN
        case HTTPStatus.SERVICE_UNAVAILABLE:
            return TRY_AGAIN_LATER
        case _:
            return UNAUTHORIZED


def _unauthorized(message: str, reason: AccessRefusal, *, error: str | None = None) -> HandshakeRefused:
    challenge = f'Bearer realm="{REALM}"'
    if error is not None:
        challenge += f', error="{error}", error_description="{message}"'
    return HandshakeRefused(
        message, status=HTTPStatus.UNAUTHORIZED, reason=reason, headers=(("WWW-Authenticate", challenge),)
    )
