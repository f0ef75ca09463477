"""`ticket`: good once and for a short time, signed by the operator's application with a secret that it shares with us.

For applications whose own session the gateway cannot read: the page asks its application for a ticket over HTTP, as
whoever it is logged in there, and shows it here. docs/authentication.md has the format with test vectors.

    ticket    = "kt1." payload "." signature
    payload   = base64url(JSON object), without padding
    signature = base64url(HMAC-SHA256(secret, "kt1." payload)), without padding

The JSON object has `sub` (text: who it is), `iat` and `exp` (Unix times, seconds), `jti` (text of 1 to 128 characters,
never used twice) and, if wanted, `route` (the only route it is good for) and `origin` (the only page); everything else
in it becomes a claim.
"""

import base64
import binascii
import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from gateway.access.method import Evidence, Method
from gateway.access.state import AccessState, StateUnwritable
from gateway.policy.json_text import read_json
from gateway.policy.principal import Principal
from gateway.policy.refusals import expired, invalid, unavailable

PREFIX: Final = "kt1."
MAX_TICKET_BYTES: Final = 4096
MAX_ID_CHARACTERS: Final = 128

CLOCK_SKEW_SECONDS: Final = 5.0
"""How far ahead the clock of whoever issues tickets may be."""


def make_ticket(
    secret: str,
    *,
    subject: str,
    now: float,
    good_for_seconds: float,
    claims: Mapping[str, object] | None = None,
    ticket_id: str | None = None,
) -> str:
    """A ticket, as an application makes it. `now` is Unix time; `claims` may name `route` and `origin`."""
    body = {
        **(claims or {}),
        "sub": subject,
        # Not in whole seconds: of one that was made in the second of the gateway's start nobody knew which was first.
        "iat": _milliseconds(now),
        "exp": _milliseconds(now + good_for_seconds),
        "jti": ticket_id or secrets.token_urlsafe(16),
    }
    signed = PREFIX + _encode(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())
    return f"{signed}.{_encode(_signature(secret, signed))}"


def _milliseconds(moment: float) -> float:
    """A moment as it stands in a ticket, not later than it was."""
    return int(moment) if moment == int(moment) else math.floor(moment * 1000) / 1000


class TicketMethod(Method):
    """Takes each ticket once; `state` remembers those that were."""

    name: ClassVar[str] = "ticket"

    def __init__(self, secret_texts: Sequence[str], *, longest_seconds: float, state: AccessState) -> None:
        self._secrets: Final = tuple(secret_texts)
        self._longest: Final = longest_seconds
        self._state: Final = state

    def applies(self, evidence: Evidence) -> bool:
        """Whether the credential has a ticket's form."""
        return evidence.credential is not None and evidence.credential.startswith(PREFIX)

    async def identify(self, evidence: Evidence, now: float) -> Principal:
        """See `Method`. A ticket that was taken is spent, whatever becomes of the connection."""
        assert evidence.credential is not None
        body = _opened(evidence.credential, self._secrets)
        subject, ticket_id = _text(body, "sub"), _text(body, "jti")
        issued_at, expires_at = _time(body, "iat"), _time(body, "exp")
        if len(ticket_id) > MAX_ID_CHARACTERS:
            raise invalid(f"has a jti of more than {MAX_ID_CHARACTERS} characters")
        if expires_at - issued_at > self._longest:
            raise invalid(f"is good for longer than the {self._longest:g} seconds that are taken here")
        if issued_at > now + CLOCK_SKEW_SECONDS:
            raise invalid("was issued in the future")
        if expires_at <= now:
            raise expired()
        for name, here in (("route", evidence.route), ("origin", evidence.request.get("origin"))):
            if name in body and body[name] != here:
                raise invalid(f"is for another {name}")
        if issued_at < self._state.remembers_since:
            raise expired("is older than this gateway's memory: nobody can say whether it was used before")
        try:
            is_first = await self._state.use(f"ticket:{ticket_id}", until=expires_at, now=now)
        except StateUnwritable:
            raise unavailable() from None
        if not is_first:
            raise invalid("was used before; each is good once")
        return Principal(subject=subject, method=self.name, claims=body, issued_at=issued_at, token_id=ticket_id)


def _opened(ticket: str, secret_texts: Sequence[str]) -> dict[str, Any]:
    """The JSON object of a ticket whose signature holds."""
    if len(ticket) > MAX_TICKET_BYTES:
        raise invalid(f"is longer than {MAX_TICKET_BYTES} bytes")
    signed, _, signature = ticket.rpartition(".")
    payload = signed.removeprefix(PREFIX)
    if not signed.startswith(PREFIX) or "." in payload or not payload:
        raise invalid("is no ticket: it must have three parts")
    given = signature.encode()
    # Compared as text, in constant time, against each secret: only one spelling of a signature is taken.
    matches = [hmac.compare_digest(given, _encode(_signature(secret, signed)).encode()) for secret in secret_texts]
    if not any(matches):
        raise invalid("has a signature that does not hold")
    try:
        body = read_json(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        raise invalid("has a payload that is no JSON object") from None
    if not isinstance(body, dict):
        raise invalid("has a payload that is no JSON object")
    return body


def _signature(secret: str, signed: str) -> bytes:
    return hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise invalid(f"has no {name}, which must be text")
    return value


def _time(body: Mapping[str, Any], name: str) -> float:
    value = body.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 2**53:
        raise invalid(f"has no {name}, which must be a Unix time")
    return float(value)
