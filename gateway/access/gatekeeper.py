"""Decides who comes in to one route: finds the credential, asks the method that it belongs to, checks what is demanded.

Invariant: one method decides, the first whose credential is there; no method's no is another's yes. What goes on to a
backend has no credential in it, whether or not it was good.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from gateway.access.authorisers import Authorisers
from gateway.access.forward import ForwardMethod
from gateway.access.introspection import IntrospectionMethod
from gateway.access.jwt import JwtMethod
from gateway.access.method import CertificateNames, Evidence, Method
from gateway.access.tickets import TicketMethod
from gateway.access.tokens import Holder, MtlsMethod, TokenMethod
from gateway.config.access import Authentication
from gateway.config.access import Method as MethodConfig
from gateway.errors import HandshakeRefused
from gateway.policy.credentials import take_credential
from gateway.policy.jws import Rules
from gateway.policy.origin import NULL
from gateway.policy.principal import AccessRefusal, Principal, unmet
from gateway.policy.refusals import forbidden, invalid, missing
from gateway.protocol.http import Request
from gateway.telemetry.metrics import NO_METHOD, RouteMetrics

ACCEPTED: Final = "accepted"
ANONYMOUS: Final = "anonymous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Whoever sent the request, as far as others than the request itself say."""

    scheme: str
    """`http` or `https`, as the client sees it."""
    host: str
    address: str | None
    origin: str | None
    """The Origin that was allowed, in canonical form."""
    certificate: CertificateNames | None
    is_page: bool
    """A WebSocket handshake, for which browsers apply no same-origin policy; not a request for a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A request that may go on."""

    principal: Principal | None
    """None: nobody in particular, where that is allowed; or not known yet."""
    request: Request
    """Without its credential."""
    evidence: Evidence
    awaits_open: bool
    """The credential is to come in OPEN: until then nobody is let in, and nothing dialled."""


class Gatekeeper:
    """Of one route."""

    def __init__(
        self,
        config: Authentication,
        authorisers: Authorisers,
        metrics: RouteMetrics,
        *,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        """Raises ValueError, naming the file, for keys that cannot be used."""
        self._route: Final = metrics.name
        self._metrics: Final = metrics
        self._config: Final = config
        self._state: Final = authorisers.state
        self._unix_time: Final = unix_time
        self._methods: Final[Sequence[Method]] = tuple(_method(entry, authorisers) for entry in config.methods)

    @property
    def takes_open(self) -> bool:
        """A records client may show its credential in OPEN, and another one in AUTH."""
        return self._config.credential.open

    async def admit(self, request: Request, visitor: Visitor, *, speaks_records: bool) -> Entry:
        """Who it is, or that this is to be told in OPEN.

        Raises HandshakeRefused: 400 for several credentials, 401, 403, 503 where it cannot be known at present.
        """
        shown = take_credential(request, self._config.credential)
        credential = shown.credential
        if credential is not None and credential.from_cookie and visitor.is_page and visitor.origin in (None, NULL):
            raise forbidden("a cookie is no credential here without an Origin that says which page sent it")
        evidence = Evidence(
            route=self._route,
            credential=None if credential is None else credential.value,
            request=request,
            scheme=visitor.scheme,
            host=visitor.host,
            address=visitor.address,
            certificate=visitor.certificate,
        )
        method = self._deciding(evidence)
        awaits_open = method is None and credential is None and speaks_records and self._config.credential.open
        principal = None if awaits_open else await self._identify(method, evidence)
        return Entry(principal=principal, request=shown.request, evidence=evidence, awaits_open=awaits_open)

    async def admit_open(self, evidence: Evidence, token: str | None) -> Principal | None:
        """The same for what a records client says in OPEN, or in AUTH. Raises HandshakeRefused."""
        evidence = replace(evidence, credential=token)
        return await self._identify(self._deciding(evidence), evidence)

    def _deciding(self, evidence: Evidence) -> Method | None:
        return next((method for method in self._methods if method.applies(evidence)), None)

    async def _identify(self, method: Method | None, evidence: Evidence) -> Principal | None:
        label = NO_METHOD if method is None else method.name
        try:
            principal = await self._judge(method, evidence)
        except HandshakeRefused as refusal:
            self._metrics.count_authentication(label, refusal.reason)
            raise
        self._metrics.count_authentication(label, ANONYMOUS if principal is None else ACCEPTED)
        return principal

    async def _judge(self, method: Method | None, evidence: Evidence) -> Principal | None:
        if method is None:
            if evidence.credential is not None:
                raise invalid("is not known here")
            if self._config.optional:
                return None
            raise missing()
        now = self._unix_time()
        principal = await method.identify(evidence, now)
        bar = self._state.bar_for(principal, route=self._route, address=evidence.address, session=None, now=now)
        if bar is not None:
            raise invalid("has been revoked", reason=AccessRefusal.REVOKED)
        if unmet(principal, self._config.allow) is not None:
            raise forbidden("you are known here, and may not use this address")
        return principal


def _method(entry: MethodConfig, authorisers: Authorisers) -> Method:
    if (jwt := entry.jwt) is not None:
        rules = Rules(
            audiences=jwt.audiences,
            algorithms=jwt.algorithms,
            types=jwt.types,
            subject=jwt.subject,
            leeway=jwt.leeway,
        )
        issuers = {
            issuer.issuer: authorisers.keys(issuer, refresh_seconds=jwt.refresh, timeout_seconds=jwt.timeout)
            for issuer in jwt.issuers
        }
        return JwtMethod(issuers, rules)
    if entry.introspection is not None:
        return IntrospectionMethod(entry.introspection, authorisers.asker)
    if entry.forward is not None:
        return ForwardMethod(entry.forward, authorisers.asker)
    if entry.mtls is not None:
        return MtlsMethod(entry.mtls.subject)
    if entry.ticket is not None:
        return TicketMethod(
            [secret.get_secret_value() for secret in entry.ticket.secrets],
            longest_seconds=entry.ticket.longest,
            state=authorisers.state,
        )
    assert entry.token is not None  # config.checks: exactly one is given
    holders = {
        held.token.get_secret_value(): Holder(subject=held.subject, claims=held.claims) for held in entry.token.tokens
    }
    return TokenMethod(holders)
