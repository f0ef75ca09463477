"""`token` and `mtls`: who it is stands in the configuration, or in the certificate that the listener has verified."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import trio
from pydantic import JsonValue

from gateway.access.cache import digest
from gateway.access.method import Evidence, Method
from gateway.policy.principal import Principal
from gateway.policy.refusals import invalid


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has a token."""

    subject: str
    claims: Mapping[str, JsonValue]


class TokenMethod(Method):
    """Tokens are found by their digests, so that how long it takes says nothing about them."""

    name: ClassVar[str] = "token"

    def __init__(self, holders: Mapping[str, Holder]) -> None:
        """`holders` by token."""
        self._holders: Final = {digest(token): holder for token, holder in holders.items()}

    def applies(self, evidence: Evidence) -> bool:
        """Whether it is one of these tokens."""
        return evidence.credential is not None and digest(evidence.credential) in self._holders

    async def identify(self, evidence: Evidence, now: float) -> Principal:
        """See `Method`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        assert evidence.credential is not None
        holder = self._holders[digest(evidence.credential)]
        return Principal(subject=holder.subject, method=self.name, claims=holder.claims)


class MtlsMethod(Method):
    """The TLS handshake has verified the certificate: only its names are left to read."""

    name: ClassVar[str] = "mtls"

    def __init__(self, subject: Literal["san", "subject", "common_name"]) -> None:
        self._subject: Final = subject

    def applies(self, evidence: Evidence) -> bool:
        """Whether the client showed a certificate."""
        return evidence.certificate is not None

    async def identify(self, evidence: Evidence, now: float) -> Principal:
        """See `Method`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        names = evidence.certificate
        assert names is not None
        match self._subject:
            case "san":
                subject = names.alternative_name or names.subject
            case "subject":
                subject = names.subject
            case "common_name":
                subject = names.common_name or ""
        if not subject:
            raise invalid("(the client certificate) has no common name to tell who it is of")
        claims = {"subject": names.subject, "common_name": names.common_name, "name": names.alternative_name}
        return Principal(subject=subject, method=self.name, claims=claims)
