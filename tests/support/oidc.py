"""A small OpenID provider, true to what clients and gateways see of one: discovery, keys that rotate, the authorisation
code flow with PKCE, access tokens that name their login (`sid`) as Keycloak's do, and back-channel logout.

Invariant: it judges as a provider must: a code is good once, for its client, redirect URI and verifier; so a test that
gets a token from it has come by the whole way.
"""

import base64
import hashlib
import json
import secrets
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO, Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey

from tests.support.backends import serving

CLIENT_ID: Final = "chat-client"
AUDIENCE: Final = "kakitome"
REDIRECT_URI: Final = "https://app.example.com/callback"
EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"

ALGORITHM: Final = "ES256"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    user: str
    challenge: str
    login: str


@dataclass(slots=True, kw_only=True)
class _Keys:
    """The key in use, the one that is published before it is used, and those that are used no more but published."""

    current: ECKey
    following: ECKey
    former: list[ECKey] = field(default_factory=list)

    def published(self) -> list[ECKey]:
        return [self.current, self.following, *self.former]


def _new_key() -> ECKey:
    return ECKey.generate_key("P-256", {"kid": secrets.token_urlsafe(6), "use": "sig"})


class Provider(ThreadingHTTPServer):
    """Serves until its context ends; `issuer` is its URL."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.issuer: Final = f"http://127.0.0.1:{self.server_address[1]}"
        self.keys = _Keys(current=_new_key(), following=_new_key())
        self.codes: dict[str, _Code] = {}
        self.logins: dict[str, str] = {}
        """Whose each login (`sid`) is."""
        self.key_fetches = 0

    # --- what its administrator does --------------------------------------------------------------------------------

    def rotate(self) -> None:
        """As providers do: what was published comes into use, and the next one is published."""
        keys = self.keys
        self.keys = _Keys(current=keys.following, following=_new_key(), former=[keys.current])

    def replace_keys(self) -> None:
        """As after a theft: all keys are new, and the old ones gone."""
        self.keys = _Keys(current=_new_key(), following=_new_key())

    def sign(self, claims: dict[str, Any], *, typ: str) -> str:
        key = self.keys.current
        return jwt.encode({"alg": ALGORITHM, "kid": key.kid, "typ": typ}, claims, key, algorithms=[ALGORITHM])

    def logout_token(self, login: str | None = None, *, subject: str | None = None, **changes: object) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 120,
            "jti": secrets.token_urlsafe(8),
            "events": {EVENT: {}},
            "sub": subject,
            "sid": login,
            **changes,
        }
        return self.sign({name: value for name, value in claims.items() if value is not None}, typ="logout+jwt")

    def log_out(self, url: str, login: str) -> int:
        """Ends a login and tells the application at `url`; the status of its answer."""
        return post(url, {"logout_token": self.logout_token(login, subject=self.logins.pop(login))})[0]


def post(url: str, form: dict[str, str]) -> tuple[int, bytes]:
    """Status and body of the answer to a form."""
    request = urllib.request.Request(url, data=urlencode(form).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read()


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def _answer(self, status: int, document: object = None, **headers: str) -> None:
        body = b"" if document is None else json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        provider = self.server
        url = urlsplit(self.path)
        match url.path:
            case "/.well-known/openid-configuration":
                document = {
                    "issuer": provider.issuer,
                    "authorization_endpoint": f"{provider.issuer}/authorize",
                    "token_endpoint": f"{provider.issuer}/token",
                    "jwks_uri": f"{provider.issuer}/keys",
                    "response_types_supported": ["code"],
                    "subject_types_supported": ["public"],
                    "id_token_signing_alg_values_supported": [ALGORITHM],
                    "code_challenge_methods_supported": ["S256"],
                    "backchannel_logout_supported": True,
                    "backchannel_logout_session_supported": True,
                }
                self._answer(HTTPStatus.OK, document)
            case "/keys":
                provider.key_fetches += 1
                keys = [key.as_dict(private=False) for key in provider.keys.published()]
                self._answer(HTTPStatus.OK, {"keys": keys})
            case "/authorize":
                self._authorize({name: values[0] for name, values in parse_qs(url.query).items()})
            case _:
                self._answer(HTTPStatus.NOT_FOUND)

    def _authorize(self, query: dict[str, str]) -> None:
        """`login_hint` stands for the form that a person would fill in."""
        asked = (query.get("client_id"), query.get("redirect_uri"), query.get("response_type"))
        if asked != (CLIENT_ID, REDIRECT_URI, "code") or query.get("code_challenge_method") != "S256":
            return self._answer(HTTPStatus.BAD_REQUEST, {"error": "invalid_request"})
        code, login = secrets.token_urlsafe(16), secrets.token_urlsafe(8)
        user = query["login_hint"]
        self.server.logins[login] = user
        self.server.codes[code] = _Code(user=user, challenge=query["code_challenge"], login=login)
        answer = urlencode({"code": code, "state": query["state"], "iss": self.server.issuer})
        return self._answer(HTTPStatus.FOUND, Location=f"{REDIRECT_URI}?{answer}")

    def do_POST(self) -> None:
        provider = self.server
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        code = provider.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        asked = (form.get("grant_type"), form.get("client_id"), form.get("redirect_uri"))
        good = asked == ("authorization_code", CLIENT_ID, REDIRECT_URI)
        if self.path != "/token" or code is None or code.challenge != challenge or not good:
            return self._answer(HTTPStatus.BAD_REQUEST, {"error": "invalid_grant"})
        now = int(time.time())
        claims = {"iss": provider.issuer, "sub": code.user, "iat": now, "exp": now + 300, "sid": code.login}
        access = provider.sign({**claims, "aud": AUDIENCE, "jti": secrets.token_urlsafe(8)}, typ="at+jwt")
        identity = provider.sign({**claims, "aud": CLIENT_ID}, typ="JWT")
        document = {"access_token": access, "id_token": identity, "token_type": "Bearer", "expires_in": 300}
        return self._answer(HTTPStatus.OK, document, Cache_Control="no-store")

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _redirected(url: str) -> str:
    """Where a request is led to."""
    try:
        urllib.request.build_opener(_NoRedirect).open(url, timeout=10).close()
    except urllib.error.HTTPError as answer:
        with answer:
            location = answer.headers["Location"]
            if isinstance(location, str):
                return location
    raise AssertionError("the provider did not lead back to the application")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """What an application has of somebody who logged in."""

    access_token: str
    id_token: str
    session: str
    """`sid`."""


def log_in(issuer: str, user: str) -> Login:
    """As an application does: discovery, the authorisation code flow with PKCE, and the code for tokens."""
    with urllib.request.urlopen(f"{issuer}/.well-known/openid-configuration", timeout=10) as answer:
        found = json.load(answer)
    verifier, state = secrets.token_urlsafe(32), secrets.token_urlsafe(8)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
    query = {
        "client_id": CLIENT_ID,
        "redirect_uri": REDIRECT_URI,
        "response_type": "code",
        "scope": "openid",
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
        "login_hint": user,
    }
    back = parse_qs(urlsplit(_redirected(f"{found['authorization_endpoint']}?{urlencode(query)}")).query)
    assert back["state"] == [state]
    form = {
        "grant_type": "authorization_code",
        "client_id": CLIENT_ID,
        "redirect_uri": REDIRECT_URI,
        "code": back["code"][0],
        "code_verifier": verifier,
    }
    status, body = post(found["token_endpoint"], form)
    assert status == HTTPStatus.OK, body
    tokens = json.loads(body)
    claims = json.loads(base64.urlsafe_b64decode(tokens["access_token"].split(".")[1] + "=="))
    return Login(access_token=tokens["access_token"], id_token=tokens["id_token"], session=claims["sid"])


def provider() -> AbstractContextManager[Provider]:
    """A provider of its own."""
    return serving(Provider())
