"""The configuration of who may come in: `routes[].authentication`.

Invariant: what a credential is judged by stands in the file, never in the credential: issuers, their keys, algorithms
and audiences are named here, and what is not named is not believed.
"""

import json
import math
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from gateway.config.fields import Duration, LocalPath, Secret, Token
from gateway.config.section import Section
from gateway.config.units import DURATION_PATTERN, format_duration, parse_duration

AlgorithmName = Literal[
    "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "Ed25519", "EdDSA",
    "HS256", "HS384", "HS512",
]  # fmt: skip
"""`none` is not among them, and cannot be asked for."""

SYMMETRIC: Final = frozenset({"HS256", "HS384", "HS512"})

MIN_SECRET_BYTES: Final = 32
"""Of a secret that tickets are signed with: as many as SHA-256 gives (RFC 7518 section 3.2)."""

_HTTP_URL: Final = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[^/?#@:\s]+)(:[0-9]{1,5})?(/[^\s#]*)?")


def _url(value: str) -> str:
    found = _HTTP_URL.fullmatch(value)
    if found is None:
        raise ValueError(
            f'"{value}" is no URL such as https://login.example.com/keys; users and fragments have no place'
        )
    return value


def _leeway(value: object) -> object:
    if isinstance(value, str):
        return 0.0 if re.fullmatch(r"0(ms|[smhd])", value) else parse_duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError("must be a duration such as 30s, or 0s for none")
    return value


def _claims(value: object) -> object:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be a mapping of claims to values")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ValueError("must have values that JSON has, too: put dates in quotes") from None
    return value


def _claim_path(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(part, str) and part for part in value):
        raise ValueError("must be a claim's name, or a list of names that leads into a claim, as [realm_access, roles]")
    return tuple(value)


Url = Annotated[
    str,
    AfterValidator(_url),
    WithJsonSchema({"type": "string", "title": "URL", "pattern": "^https?://"}),
]
"""An http or https URL that the operator wrote."""

Leeway = Annotated[
    float,
    BeforeValidator(_leeway),
    PlainSerializer(lambda seconds: format_duration(seconds) if seconds else "0s"),
    WithJsonSchema({"type": "string", "title": "duration", "pattern": DURATION_PATTERN}),
]
"""Seconds, 0 or more."""

Claims = Annotated[dict[str, Any], BeforeValidator(_claims), WithJsonSchema({"type": "object", "title": "mapping"})]
"""Claims by name, as they would stand in a token."""

ClaimPath = Annotated[
    tuple[str, ...],
    BeforeValidator(_claim_path),
    WithJsonSchema(
        {
            "title": "claim",
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1},
            ],
        }
    ),
]
"""Where a claim stands: its name, or the names on the way to one inside another."""

ClaimValue = str | int | float | bool


class CredentialPlaces(Section):
    """Where a request may carry its credential; several that differ are refused, and what is found goes no further."""

    header: bool = True
    """`Authorization: Bearer ...`."""
    cookie: Token | None = None
    """A cookie of this name. Browsers send it from any page, so it counts only with an Origin that `origins` names."""
    query: Token | None = None
    """A query parameter of this name. Proxies before the gateway write it into their logs."""
    subprotocol: Token | None = None
    """A prefix in the list of subprotocols, the rest of which is the credential in base64url:
    `base64url.bearer.authorization.k8s.io.` is Kubernetes' form. It is never the subprotocol that is chosen."""
    open: bool = False
    """Records clients may send it in OPEN (`token`), behind the upgrade: a page then learns why it was refused."""


class Issuer(Section):
    """Who signs tokens, and with which keys; exactly one of `keys`, `keys_url`, `discovery` and `secrets`."""

    issuer: Annotated[str, Field(min_length=1)]
    """What stands in `iss`, to the letter."""
    keys: LocalPath | None = None
    """A file of public keys: a JWK set, or PEM. It is read again when it changes."""
    keys_url: Url | None = None
    """Where the issuer publishes its JWK set."""
    discovery: bool = False
    """The JWK set's address is asked of `ISSUER/.well-known/openid-configuration`."""
    secrets: tuple[Secret, ...] = ()
    """Shared secrets, of the HS algorithms only; several while one replaces the other."""


class Jwt(Section):
    """Signed tokens (RFC 7519), checked here; the issuer is asked for its keys only."""

    issuers: Annotated[tuple[Issuer, ...], Field(min_length=1)]
    """A token of anybody else is refused, and nothing is fetched for it."""
    audiences: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """One of them must stand in `aud`: a token that was made for another service is not taken."""
    algorithms: Annotated[tuple[AlgorithmName, ...], Field(min_length=1)]
    """The only ones taken, whatever a token says."""
    types: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """If given, the token's `typ` must be one of them, as `at+jwt`, so that an ID token is not taken for an access
    token."""
    subject: ClaimPath = ("sub",)
    """The claim that says who it is."""
    leeway: Leeway = 30.0
    """By how much clocks may differ, for `exp`, `nbf` and `iat`."""
    refresh: Duration = 600.0
    """How old keys from a URL may be before they are fetched again; while the issuer is away old ones stay good."""
    timeout: Duration = 5.0
    """For fetching keys, as a whole."""


class Introspection(Section):
    """The authorisation server is asked about each token (RFC 7662)."""

    url: Url
    """Its introspection endpoint."""
    client_id: str
    """Who the gateway is to it."""
    client_secret: Secret
    """The password that goes with it."""
    audiences: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """If given, one of them must stand in the answer's `aud`."""
    subject: ClaimPath = ("sub",)
    """The member of the answer that says who it is."""
    cache: Duration | None = 30.0
    """How long an answer is good, its `exp` permitting; `null`: every connection asks."""
    timeout: Duration = 5.0
    """For each question, as a whole."""


class Forward(Section):
    """A service of your own is asked: 2xx lets in, 401 and 403 are passed on, everything else and silence refuse."""

    url: Url
    """Where it is asked, by a GET without a body."""
    request_headers: Annotated[tuple[Token, ...], Field(min_length=1)] = ("Authorization", "Cookie")
    """What of the request it is shown, besides `X-Forwarded-Method`, `-Proto`, `-Host`, `-Uri` and `-For`."""
    subject_header: Token = "X-Auth-Request-User"
    """The header of its answer that says who it is."""
    claim_headers: tuple[Token, ...] = ()
    """Headers of its answer that become claims, under their names in lower case."""
    refusal_headers: tuple[Token, ...] = ("WWW-Authenticate",)
    """Headers that are passed on with its 401 or 403; its body is not."""
    cache: Duration | None = None
    """How long a yes is good for the same request headers, host and path; `null`: every connection asks."""
    expires_after: Duration | None = None
    """How long a connection may live by it; `null`: no end."""
    timeout: Duration = 5.0
    """For each question, as a whole."""


class Mtls(Section):
    """The client's certificate, which the listener has verified, says who it is."""

    subject: Literal["san", "subject", "common_name"] = "san"
    """What of it: the first name of its subjectAltName (URI, then mail, then DNS) or, without one, its subject."""


class Ticket(Section):
    """A single use, for a minute or so, signed by your application: for those whose own session is not ours to read."""

    secrets: Annotated[tuple[Secret, ...], Field(min_length=1)]
    """Of 32 bytes or more; several while one replaces the other."""
    longest: Duration = 300.0
    """Tickets that are good for longer than this are refused: each that is used must be remembered for so long."""


class StaticToken(Section):
    """One token, and who has it."""

    subject: Annotated[str, Field(min_length=1)]
    """Who it is."""
    token: Secret
    """Text, or `file:PATH`. Long and random: it is good until it is taken out of the file."""
    claims: Claims = Field(default_factory=dict)
    """What is said of them, as a token's claims would."""


class Tokens(Section):
    """Tokens that stand in the configuration, or in files that it names: for a few machines."""

    tokens: Annotated[tuple[StaticToken, ...], Field(min_length=1)]
    """Who has which; several may have the same subject, while one replaces the other."""


class Method(Section):
    """One way to tell who it is: exactly one of these keys."""

    jwt: Jwt | None = None
    introspection: Introspection | None = None
    forward: Forward | None = None
    mtls: Mtls | None = None
    ticket: Ticket | None = None
    token: Tokens | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """The keys that are there."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) is not None)


class Logout(Section):
    """OpenID Connect Back-Channel Logout: a provider POSTs a token here when somebody has logged out there."""

    issuers: Annotated[tuple[Issuer, ...], Field(min_length=1)]
    """Who may say so: the issuers of the tokens that other routes let in."""
    audiences: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """One of them must stand in `aud`: the client IDs by which the provider knows your application."""
    algorithms: Annotated[tuple[AlgorithmName, ...], Field(min_length=1)]
    """The only ones taken, whatever a token says."""
    ends: Literal["login", "subject"] = "login"
    """What a token that names both ends: the sessions of that login (`sid`), or all of the subject: for providers whose
    access tokens have no `sid`."""
    hold: Duration = 86_400.0
    """How long credentials from before the logout stay barred: as long as the provider's longest access token is good,
    or longer. It takes effect at once for whoever is in."""
    leeway: Leeway = 30.0
    """By how much clocks may differ, for `exp`, `nbf` and `iat`."""
    refresh: Duration = 600.0
    """How old keys from a URL may be before they are fetched again."""
    timeout: Duration = 5.0
    """For fetching keys, as a whole."""


class Condition(Section):
    """What a claim must be; a claim that is a list needs one element that is among `any_of`."""

    claim: ClaimPath
    """Its name, or the way to it: `groups`, `[realm_access, roles]`."""
    any_of: Annotated[tuple[ClaimValue, ...], Field(min_length=1)]
    """The values it may have; text, numbers and truth values are not mixed up: `"3"` is not `3`."""


class Authentication(Section):
    """Who may use a route; absent: everybody whose Origin is allowed."""

    credential: CredentialPlaces = CredentialPlaces()
    methods: Annotated[tuple[Method, ...], Field(min_length=1)]
    """The first whose credential is there decides; there is no second opinion."""
    optional: bool = False
    """Clients without any credential come in as nobody; one that is not good is refused all the same."""
    allow: tuple[Condition, ...] = ()
    """Conditions that all must hold; else 403."""
