"""`jwt`: signed tokens of the issuers that the operator named."""

from collections.abc import Mapping
from typing import ClassVar, Final

from gateway.access.keys import KeySource
from gateway.access.method import Evidence, Method
from gateway.policy.jws import Rules, check_rules, check_signature, looks_like_token, parse_token
from gateway.policy.principal import Principal, claim_at
from gateway.policy.refusals import invalid


class JwtMethod(Method):
    """Checks tokens by keys that are at hand; a request to the issuer is made for keys only, never for a token."""

    name: ClassVar[str] = "jwt"

    def __init__(self, issuers: Mapping[str, KeySource], rules: Rules) -> None:
        self._issuers: Final = dict(issuers)
        self._rules: Final = rules

    def applies(self, evidence: Evidence) -> bool:
        """Whether the credential has the form of a signed token."""
        return evidence.credential is not None and looks_like_token(evidence.credential)

    async def identify(self, evidence: Evidence, now: float) -> Principal:
        """See `Method`. What costs nothing is checked first: only a token that would do is worth a signature check."""
        assert evidence.credential is not None
        token = parse_token(evidence.credential)
        issuer = token.issuer
        source = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if source is None or not isinstance(issuer, str):
            raise invalid("is of an issuer that is not known here")
        check_rules(token, self._rules, now=now)
        keys = await source.find(token.key_id)
        if not keys:
            raise invalid("is signed with a key that its issuer does not publish")
        if not check_signature(token, keys):
            raise invalid("has a signature that does not hold")
        claims = token.claims
        subject, expires_at, issued_at = claim_at(claims, self._rules.subject), claims["exp"], claims.get("iat")
        token_id, login_session = claims.get("jti"), claims.get("sid")
        assert isinstance(subject, str)
        assert isinstance(expires_at, int | float)
        return Principal(
            subject=subject,
            method=self.name,
            issuer=issuer,
            claims=claims,
            issued_at=float(issued_at) if isinstance(issued_at, int | float) else None,
            expires_at=float(expires_at) + self._rules.leeway,
            token_id=token_id if isinstance(token_id, str) else None,
            login_session=login_session if isinstance(login_session, str) else None,
        )
