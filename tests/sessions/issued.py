"""Tokens of an issuer whose secret stands in the configuration, and routes that take them in every place."""

import time
from collections.abc import Mapping
from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import OctKey

SECRET: Final = "a secret of at least thirty-two bytes"
ISSUER: Final = "https://login.example.com"


def issued(subject: str = "alice", *, seconds: float = 300.0, **claims: object) -> str:
    """A token that is good for `seconds` from now on."""
    now = time.time()
    body = {"iss": ISSUER, "sub": subject, "aud": "kakitome", "iat": now, "exp": now + seconds, **claims}
    return jwt.encode({"alg": "HS256"}, body, OctKey.import_key(SECRET.encode()), algorithms=["HS256"])


def bearer(token: str) -> list[tuple[str, str]]:
    """As a request's headers."""
    return [("Authorization", f"Bearer {token}")]


def asking(route: Mapping[str, Any], **authentication: Any) -> dict[str, Any]:
    """That route, for holders of such tokens."""
    methods = [
        {
            "jwt": {
                "issuers": [{"issuer": ISSUER, "secrets": [SECRET]}],
                "audiences": ["kakitome"],
                "algorithms": ["HS256"],
                "leeway": 0,
            }
        }
    ]
    return {**route, "authentication": {"credential": {"open": True}, "methods": methods, **authentication}}
