"""A service that says who somebody is, written as one would for nginx's `auth_request`: it knows sessions by a cookie,
and who may go where by the URI that is asked for. It knows nothing of Kakitome.
"""

from contextlib import AbstractContextManager
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from tests.support.backends import serving

SESSIONS: Final = {"s-alice": "alice", "s-ops": "ops", "s-mallory": "mallory"}
BANNED: Final = frozenset({"mallory"})
OPERATORS: Final = frozenset({"ops"})
CHALLENGE: Final = 'Cookie realm="app", form-action="/login"'


class ForwardAuth(ThreadingHTTPServer):
    """`heard` is what it was asked, by header."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url: Final = f"http://127.0.0.1:{self.server_address[1]}"
        self.heard: list[dict[str, str]] = []
        self.broken_status: int | None = None
        """If set, its answer to everything."""


class _Handler(BaseHTTPRequestHandler):
    server: ForwardAuth
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = {name.lower(): value for name, value in self.headers.items()}
        self.server.heard.append(asked)
        if self.server.broken_status is not None:
            return self._answer(self.server.broken_status, Location="https://login.example.com/")
        try:
            morsel = SimpleCookie(asked.get("cookie", "")).get("session")
        except CookieError:
            morsel = None
        user = None if morsel is None else SESSIONS.get(morsel.value)
        if user is None:
            return self._answer(401, WWW_Authenticate=CHALLENGE, X_Secret="not for clients")
        if user in BANNED or (asked["x-forwarded-uri"].startswith("/ops") and user not in OPERATORS):
            return self._answer(403)
        return self._answer(204, X_Auth_Request_User=user)

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


def forward_auth() -> AbstractContextManager[ForwardAuth]:
    """A service of its own."""
    return serving(ForwardAuth())
