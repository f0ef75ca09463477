"""A signed token taken apart, and judged by keys and rules that did not come with it.

Invariant: nothing that a token says of itself chooses how it is judged: `iss` picks one of the issuers that the
operator named, `alg` must be one of the algorithms named and fit the key, and `jwk`, `jku`, `x5c` and `x5u` are never
looked at. A token that two readers could understand in two ways (a name that stands twice, a number that is none) is
refused before its signature is checked.

RFC 7515, RFC 7519, RFC 8725 (best current practices). joserfc checks signatures; what it leaves to its caller stands
here: its `decode` looks at no claim, takes HS256 unless told which algorithms, and limits a header to 512 bytes.
"""

import base64
import binascii
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeGuard

from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from pydantic import JsonValue

from gateway.policy.json_text import read_json
from gateway.policy.principal import claim_at
from gateway.policy.refusals import expired, invalid

Key = OctKey | RSAKey | ECKey | OKPKey

MAX_TOKEN_BYTES: Final = 16 * 1024
"""As much as a request head may have in all; OPEN could carry more."""

MAX_HEADER_BYTES: Final = 4096

KEYS_TRIED: Final = 8
"""Of a token without `kid`, which names none: more than an issuer has in use while it rotates."""

KEY_TYPES: Final[Mapping[str, str]] = {"HS": "oct", "RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
"""What kind of key each family of algorithms needs: a public RSA key is never an HMAC secret."""

MIN_RSA_BITS: Final = 2048
"""RFC 7518 section 3.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token that is well-formed; nothing in it is known to be true."""

    text: str
    algorithm: str
    key_id: str | None
    type: str | None
    claims: Mapping[str, JsonValue]

    @property
    def issuer(self) -> object:
        """`iss` as it stands there."""
        return self.claims.get("iss")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What must be true of a token, besides its signature."""

    audiences: Sequence[str]
    algorithms: Collection[str]
    types: Sequence[str]
    subject: Sequence[str]
    leeway: float
    """Seconds."""


def looks_like_token(text: str) -> bool:
    """Whether this means to be a JWS in compact form, as opposed to an opaque credential."""
    # A JSON object begins with a brace, whose first six bits are an e in base64url.
    return text.count(".") == 2 and text.startswith("e")


def parse_token(text: str) -> Token:
    """The token's parts. Raises HandshakeRefused (401)."""
    if len(text) > MAX_TOKEN_BYTES:
        raise invalid(f"is longer than {MAX_TOKEN_BYTES} bytes")
    parts = text.split(".")
    if len(parts) != 3:
        raise invalid("is no signed token: it must have three parts")
    if len(parts[0]) > MAX_HEADER_BYTES:
        raise invalid(f"has a header longer than {MAX_HEADER_BYTES} bytes")
    header, claims = _json_object(parts[0], "header"), _json_object(parts[1], "claims")
    # RFC 7515 section 4.1.11: extensions that are not understood must be refused, and none is understood here.
    if "crit" in header:
        raise invalid("has critical header parameters, of which none is known here")
    algorithm = header.get("alg")
    if not isinstance(algorithm, str):
        raise invalid("names no algorithm")
    return Token(
        text=text,
        algorithm=algorithm,
        key_id=_text(header, "kid"),
        type=_text(header, "typ"),
        claims=claims,
    )


def check_rules(token: Token, rules: Rules, *, now: float) -> None:
    """Whether the token is meant for us, and good at `now` (Unix time). Raises HandshakeRefused (401)."""
    claims = token.claims
    if rules.types and media_type(token.type) not in {media_type(name) for name in rules.types}:
        raise invalid("is a token of another type than is taken here")
    if "events" in claims:
        # RFC 8417: it says that something happened to somebody. A logout token of ours would pass all else there is.
        raise invalid("is the news of an event, as a logout token is, and lets nobody in")
    check_envelope(token, audiences=rules.audiences, algorithms=rules.algorithms, leeway=rules.leeway, now=now)
    subject = claim_at(claims, rules.subject)
    if not isinstance(subject, str) or not subject:
        raise invalid("does not say who it is of")


def check_envelope(
    token: Token, *, audiences: Collection[str], algorithms: Collection[str], leeway: float, now: float
) -> None:
    """What must be true of a token whatever it is for. Raises HandshakeRefused (401)."""
    claims = token.claims
    if token.algorithm not in algorithms:
        raise invalid("is signed by an algorithm that is not taken here")
    audience = claims.get("aud")
    named = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(name, str) and name in audiences for name in named):
        raise invalid("is meant for another audience")
    expires_at = claims.get("exp")
    if not _is_time(expires_at):
        raise invalid("has no exp: one that is good for ever is not taken")
    if expires_at <= now - leeway:
        raise expired()
    for name, words in (("nbf", "is not good yet"), ("iat", "was issued in the future")):
        time = claims.get(name)
        if time is None:
            continue
        if not _is_time(time):
            raise invalid(f"has a {name} that is no time")
        if time > now + leeway:
            raise invalid(words)
    for name in ("jti", "sid"):
        if name in claims and not isinstance(claims[name], str):
            raise invalid(f"has a {name} that is no text")


def check_signature(token: Token, keys: Iterable[Key]) -> bool:
    """Whether one of `keys` signed the token; those of another kind than its algorithm needs are passed over."""
    wanted = KEY_TYPES.get(token.algorithm[:2])
    fitting = [key for key in keys if key.key_type == wanted]
    return any(_is_signed_by(token, key) for key in fitting[:KEYS_TRIED])


def _is_signed_by(token: Token, key: Key) -> bool:
    registry = _registry(token.algorithm)
    try:
        # It warns of EdDSA, whose name says no curve (RFC 9864); the key says which.
        with _unwarned() if token.algorithm == "EdDSA" else nullcontext():
            jws.deserialize_compact(token.text, key, algorithms=[token.algorithm], registry=registry)
    except (JoseError, ValueError):
        return False
    return True


@lru_cache(16)  # there are fourteen algorithms that can be named
def _registry(algorithm: str) -> jws.JWSRegistry:
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = MAX_HEADER_BYTES
    registry.max_payload_length = MAX_TOKEN_BYTES
    registry.max_signature_length = MAX_TOKEN_BYTES
    return registry


@contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        yield


def is_sound(key: Key) -> bool:
    """Whether a key is strong enough to be believed."""
    return not isinstance(key, RSAKey) or key.raw_value.key_size >= MIN_RSA_BITS


# --- reading JSON that an attacker wrote ----------------------------------------------------------------------------


def _json_object(part: str, name: str) -> dict[str, JsonValue]:
    try:
        # Python's decoder skips what is not of its alphabet, so that one token would have many spellings.
        if not part.isascii() or not part.replace("-", "a").replace("_", "a").isalnum():
            raise ValueError
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        value = read_json(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (binascii.Error, ValueError):
        raise invalid(f"has a {name} part that is no JSON object in base64url, with each name once") from None
    if not isinstance(value, dict):
        raise invalid(f"has a {name} part that is no JSON object in base64url, with each name once")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _text(header: Mapping[str, object], name: str) -> str | None:
    value = header.get(name)
    if value is not None and not isinstance(value, str):
        raise invalid(f"has a {name} that is no text")
    return value


def media_type(name: str | None) -> str | None:
    """RFC 7515 section 4.1.9: `application/` may be left out, and case does not matter."""
    return None if name is None else name.lower().removeprefix("application/")


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
