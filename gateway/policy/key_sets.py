"""Keys as issuers publish them and operators keep them: JWK sets (RFC 7517) and PEM.

Invariant: what comes out can check signatures, is public, and is strong enough; what is not that is left out of a set,
and refused as a file.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Final

from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import JWKRegistry, KeySet

from gateway.policy.json_text import read_json
from gateway.policy.jws import Key, is_sound

KEYS_AT_MOST: Final = 64
"""Of one set; the rest is not looked at."""

_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def parse_key_set(data: bytes) -> Sequence[Key]:
    """The public signature keys of a JWK set (RFC 7517 section 5); those of a kind not known here are passed over.

    Raises ValueError, saying what is wrong. A secret key has no place where everybody can read it, and is not taken.
    """
    document = json_object(data, "the key set")
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise ValueError("the key set has no list of keys")
    keys = [key for entry in entries[:KEYS_AT_MOST] if (key := _key(entry)) is not None]
    if not keys:
        raise ValueError("the key set has no public key that signatures can be checked with")
    return tuple(keys)


def parse_key_file(data: bytes) -> Sequence[Key]:
    """The keys of a JWK set, or the one of a PEM file. Raises ValueError, which goes on from the file's name."""
    if b"-----BEGIN" not in data:
        try:
            return parse_key_set(data)
        except ValueError as fault:
            raise ValueError(f"holds no keys: {fault}") from None
    if b"PRIVATE KEY-----" in data:
        raise ValueError("holds a private key; the gateway needs the public one only")
    for kind in ("RSA", "EC", "OKP"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SecurityWarning)
                key = JWKRegistry.import_key(data.decode("ascii"), kind)
        except (JoseError, ValueError):
            continue
        if not is_sound(key):
            raise ValueError("holds an RSA key of less than 2048 bits")
        return (key,)
    raise ValueError("holds no public key in PEM form (-----BEGIN PUBLIC KEY-----)")


def _key(entry: object) -> Key | None:
    """RFC 7517 section 5: what is not understood is passed over, so that a new kind of key breaks no old reader."""
    if not isinstance(entry, dict) or entry.get("kty") == "oct" or entry.get("use", "sig") != "sig":
        return None
    operations = entry.get("key_ops")
    if isinstance(operations, list) and "verify" not in operations:
        return None
    try:
        public = {name: value for name, value in entry.items() if name not in _PRIVATE}
        public.pop("key_ops", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # of a key that is too small: `is_sound` says no
            (key,) = KeySet.import_key_set({"keys": [public]}).keys
    except (JoseError, ValueError, TypeError):
        return None
    if "kid" not in entry:
        key.ensure_kid()
    return key if is_sound(key) else None


def json_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object that somebody else wrote. Raises ValueError, saying of `what`."""
    try:
        value = read_json(data)
    except ValueError:
        raise ValueError(f"{what} is no JSON") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no JSON object")
    return value
