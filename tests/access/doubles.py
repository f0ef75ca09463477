"""An authoriser that answers as it is told, and evidence to show to a method."""

import base64
import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import trio
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from gateway.access.asking import Answer, AuthoriserAway, Question
from gateway.access.method import CertificateNames, Evidence
from gateway.protocol.http import Headers, Request

NOW = 1_790_000_000.0
ISSUER = "https://login.example.com"

EC = ECKey.generate_key("P-256", {"kid": "ec-1"})
OTHER_EC = ECKey.generate_key("P-256", {"kid": "ec-2"})
RSA = RSAKey.generate_key(2048, {"kid": "rsa-1"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed-1"})

JWKS_URL = "https://login.example.com/keys"


def claims(**changes: object) -> dict[str, Any]:
    """Claims that are good at NOW; None takes one away."""
    good: dict[str, Any] = {
        "iss": ISSUER,
        "sub": "alice",
        "aud": "kakitome",
        "iat": int(NOW) - 10,
        "exp": int(NOW) + 300,
        "jti": "t-1",
    }
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(
    body: Mapping[str, Any],
    key: ECKey | RSAKey | OKPKey | OctKey = EC,
    *,
    algorithm: str = "ES256",
    header: Mapping[str, Any] | None = None,
) -> str:
    """A token."""
    head = {"alg": algorithm, "kid": key.kid} | dict(header or {})
    head = {name: value for name, value in head.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # EdDSA has a name without a curve
        return jwt.encode(head, dict(body), key, algorithms=[algorithm])


def forged(header: object, body: object, signature: bytes = b"x" * 64) -> str:
    """Three parts, whatever they hold; bytes go in as they are."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, body)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*parts, signature))


def key_set(*keys: ECKey | RSAKey | OKPKey) -> bytes:
    """What an issuer publishes."""
    return json.dumps({"keys": [key.as_dict(private=False) for key in keys]}).encode()


class ScriptedAsker:
    """Answers each URL by a function, and keeps the questions; a URL without one is away."""

    def __init__(self, **_: object) -> None:
        self.questions: list[Question] = []
        self.answers: dict[str, Callable[[Question], Answer]] = {}
        self.delay_seconds = 0.0
        self.under_way = 0
        self.most_under_way = 0

    def say(self, url: str, body: bytes = b"", *, status: int = 200, headers: Headers = ()) -> None:
        """What `url` answers from now on."""
        self.answers[url] = lambda question: Answer(status=status, headers=headers, body=body)

    async def ask(self, question: Question) -> Answer:
        """See `Asker`."""
        self.questions.append(question)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await trio.sleep(self.delay_seconds)
        finally:
            self.under_way -= 1
        if question.url not in self.answers:
            raise AuthoriserAway("connection refused")
        return self.answers[question.url](question)

    def asked(self, url: str) -> int:
        """How often."""
        return sum(question.url == url for question in self.questions)


def evidence(
    credential: str | None = None,
    *,
    headers: Headers = (),
    target: str = "/chat",
    route: str = "chat",
    certificate: CertificateNames | None = None,
) -> Evidence:
    """Of a request over https from 192.0.2.7."""
    return Evidence(
        route=route,
        credential=credential,
        request=Request.parse(method="GET", target=target, headers=headers),
        scheme="https",
        host="chat.example.com",
        address="192.0.2.7",
        certificate=certificate,
    )
