"""What an OpenID provider says when somebody has logged out there: a logout token, and what must be true of it.

Invariant: what comes out was meant as a logout and as nothing else: an ID token or an access token of the same
provider, with the same signature, issuer and audience, never passes (OpenID Connect Back-Channel Logout 1.0, section
2.6), and a logout token passes nowhere as a credential (`jws.check_rules`).
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from gateway.policy.jws import Token, check_envelope, media_type
from gateway.policy.refusals import invalid

EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"

TYPES: Final = frozenset({None, "jwt", "logout+jwt"})
"""Providers from before the specification's last draft say nothing, or what all tokens are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logout:
    """Somebody has logged out; `subject`, `login_session` or both are there."""

    issuer: str
    subject: str | None
    login_session: str | None
    issued_at: float
    """Unix time by the issuer's clock, as in `iat` of its other tokens."""
    token_id: str
    expires_at: float
    """Unix time from which on the token is refused for its age."""


def check_logout(
    token: Token, *, audiences: Collection[str], algorithms: Collection[str], leeway: float, now: float
) -> Logout:
    """What `token` says, whose issuer is known and whose signature is still to be checked.

    Raises HandshakeRefused, whose text goes on from "the credential".
    """
    claims = token.claims
    if media_type(token.type) not in TYPES:
        raise invalid("is no logout token, by its typ")
    check_envelope(token, audiences=audiences, algorithms=algorithms, leeway=leeway, now=now)
    issued_at, expires_at, token_id = claims.get("iat"), claims["exp"], claims.get("jti")
    if issued_at is None:
        raise invalid("has no iat")
    if not isinstance(token_id, str) or not token_id:
        raise invalid("has no jti")
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(EVENT), dict):
        raise invalid("is no logout token: its events have no back-channel logout")
    if "nonce" in claims:
        raise invalid("has a nonce, as ID tokens have and no logout token may")
    subject, login_session = claims.get("sub"), claims.get("sid")
    for name, value in (("sub", subject), ("sid", login_session)):
        if name in claims and (not isinstance(value, str) or not value):
            raise invalid(f"has a {name} that is no text")
    if subject is None and login_session is None:
        raise invalid("says neither who has logged out (sub) nor of which login (sid)")
    issuer = token.issuer
    assert isinstance(issuer, str)  # it was found by it
    assert isinstance(issued_at, int | float)  # check_envelope
    assert isinstance(expires_at, int | float)
    return Logout(
        issuer=issuer,
        subject=subject if isinstance(subject, str) else None,
        login_session=login_session if isinstance(login_session, str) else None,
        issued_at=float(issued_at),
        token_id=token_id,
        expires_at=float(expires_at) + leeway,
    )
