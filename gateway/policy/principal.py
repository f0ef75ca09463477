"""Who a client was found to be, and what has to be true of them.

Invariant: a `Principal` holds no credential: all of it may be logged, shown by the admin API, and told to a backend.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias

from pydantic import JsonValue

from gateway.errors import HandshakeRefused

ClaimValue: TypeAlias = str | int | float | bool

MAX_ENTRY_BYTES: Final = 1024
"""Of one entry. Receivers have buffers: HAProxy's takes headers of 16 KiB by default, others 4 KiB."""

REGISTERED: Final = frozenset({"iss", "sub", "aud", "exp", "nbf", "iat", "jti"})
"""RFC 7519 section 4.1."""


class AccessRefusal(StrEnum):
    """Why somebody was not let in, as a metric's label."""

    MISSING = "credential_missing"
    INVALID = "credential_invalid"
    EXPIRED = "credential_expired"
    FORBIDDEN = "access_forbidden"
    REVOKED = "access_revoked"
    ENDPOINT = "endpoint_refused"
    UNAVAILABLE = "authoriser_unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody who was let in."""

    subject: str
    """Who it is: unique within `issuer`."""
    method: str
    """How it was found out: the key of the configuration, as `jwt`."""
    issuer: str | None = None
    """Who says so; None: this gateway's own configuration."""
    claims: Mapping[str, JsonValue] = field(default_factory=dict)
    """What else was said of them; never a credential."""
    issued_at: float | None = None
    """Unix time in seconds; None where the credential does not say."""
    expires_at: float | None = None
    """Unix time in seconds; None: the permission has no end of its own."""
    token_id: str | None = None
    """`jti` of the credential, for revocation."""
    login_session: str | None = None
    """`sid` of OpenID Connect: the login that the credential came of."""

    @property
    def subject_of_issuer(self) -> str:
        """Who it is in the issuer's own words (`sub`), which `subject` need not be: a route may go by another claim."""
        said = self.claims.get("sub")
        return said if isinstance(said, str) else self.subject

    @property
    def identity(self) -> str:
        """What a session is bound to: the same for a renewed credential of the same subject, another for any other."""
        return f"{self.issuer or ''}|{self.subject}"


class Demand(Protocol):
    """What a claim must be."""

    @property
    def claim(self) -> Sequence[str]:
        """The names on the way to it."""
        ...

    @property
    def any_of(self) -> Sequence[ClaimValue]:
        """Values of which it must be one or, if it is a list, hold one."""
        ...


def claim_at(claims: Mapping[str, object], path: Sequence[str]) -> object:
    """The value at the end of `path`; None if there is none."""
    value: object = claims
    for name in path:
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def said_of(principal: Principal, path: Sequence[str]) -> object:
    """The claim at the end of `path`; `sub` is who it was found to be. None if there is none."""
    return principal.subject if tuple(path) == ("sub",) else claim_at(principal.claims, path)


def unmet(principal: Principal, demands: Sequence[Demand]) -> Demand | None:
    """The first demand that does not hold; None if all do."""
    for demand in demands:
        value = said_of(principal, demand.claim)
        found = value if isinstance(value, list | tuple) else (value,)
        if not any(_same(element, wanted) for element in found for wanted in demand.any_of):
            return demand
    return None


def _same(value: object, wanted: ClaimValue) -> bool:
    """JSON's equality: true is not 1, and "1" is not 1."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        return value == wanted
    return isinstance(value, str) and value == wanted


class ToldEntry(Protocol):
    """An entry of a PROXY protocol header that says something of a client."""

    @property
    def type(self) -> int: ...
    @property
    def claim(self) -> Sequence[str]: ...


def told_by_proxy(entries: Sequence[ToldEntry], principal: Principal | None) -> tuple[tuple[int, bytes], ...]:
    """Type and value of each entry that there is something to say for. Raises HandshakeRefused for one too long."""
    told: list[tuple[int, bytes]] = []
    for entry in entries if principal is not None else ():
        assert principal is not None
        value = said_of(principal, entry.claim)
        if value is None:
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        data = text.encode("utf-8", "replace")
        if len(data) > MAX_ENTRY_BYTES:
            raise HandshakeRefused(
                "more is said of you than this address can pass on",
                status=HTTPStatus.FORBIDDEN,
                reason=AccessRefusal.FORBIDDEN,
            )
        told.append((entry.type, data))
    return tuple(told)
