"""Who may come in, at a whole gateway: what clients are told, what backends hear, and what nobody ever writes down."""

import base64
import json
import socket
import time
import urllib.request
from contextlib import AbstractContextManager, ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme

from gateway.access.tickets import make_ticket
from gateway.protocol.records import RecordType, encode_record, parse_record
from tests.access.doubles import EC, key_set, signed
from tests.support.backends import serve, serving, tcp_echo
from tests.support.certificates import Certificates
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient
from tests.support.peers.wire import upgrade

SECRET = "a secret of at least thirty-two bytes"
ORIGIN = {"Origin": "https://app.example.com"}


class Authority(ThreadingHTTPServer):
    """An issuer, an introspection endpoint and a forward-auth service in one; `heard` is what was asked of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.heard: list[tuple[str, dict[str, str]]] = []
        self.forward_status = 200


class _Handler(BaseHTTPRequestHandler):
    server: Authority

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.server.heard.append((self.path, dict(self.headers)))
        match self.path:
            case "/.well-known/openid-configuration":
                document = {"issuer": self.server.url, "jwks_uri": f"{self.server.url}/keys"}
                self._answer(200, json.dumps(document).encode())
            case "/keys":
                self._answer(200, key_set(EC))
            case _:
                self._answer(self.server.forward_status, X_Auth_Request_User="dave", X_Groups="ops")

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.heard.append((self.path, dict(self.headers)))
        known = form["token"] == ["opaque-token"]
        self._answer(200, json.dumps({"active": known, "sub": "carol"} if known else {"active": False}).encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing."""


def authority() -> AbstractContextManager[Authority]:
    return serving(Authority())


def jwt_for(issuer: str, **changes: object) -> str:
    now = int(time.time())
    body = {"iss": issuer, "sub": "alice", "aud": "kakitome", "iat": now, "exp": now + 300, "groups": ["ops"]}
    return signed({**body, **changes})


def access(url: str, **settings: Any) -> dict[str, Any]:
    """Every method at once."""
    jwt = {"issuers": [{"issuer": url, "discovery": True}], "audiences": ["kakitome"], "algorithms": ["ES256"]}
    return {
        "credential": {
            "cookie": "session",
            "query": "token",
            "subprotocol": "base64url.bearer.authorization.k8s.io.",
            "open": True,
        },
        "methods": [
            {"jwt": jwt},
            {"ticket": {"secrets": [SECRET]}},
            {"token": {"tokens": [{"subject": "ci", "token": "static-token-of-ci"}]}},
            {"introspection": {"url": f"{url}/introspect", "client_id": "gateway", "client_secret": "client-secret"}},
            {"forward": {"url": f"{url}/check", "request_headers": ["X-Session"], "claim_headers": ["X-Groups"]}},
        ],
        **settings,
    }


def guarded(name: str, path: str, port: int, authentication: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return route(name, path, f"tcp://127.0.0.1:{port}", authentication=authentication, **settings) | {
        "origins": ["https://app.example.com"]
    }


def status(gateway: GatewayProcess, path: str = "/", headers: dict[str, str] | None = None) -> int:
    """What the handshake was answered with; an accepted one echoes."""
    try:
        with RawClient(gateway.url(path), headers=ORIGIN | (headers or {})) as client:
            client.send(2, b"hello")
            assert client.receive_message() == b"hello"
    except ConnectionError as refused:
        return int(str(refused).split()[1])
    return 101


def kubernetes(token: str) -> str:
    return "base64url.bearer.authorization.k8s.io." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def test_each_method_and_each_place_lets_in_whom_it_should() -> None:
    with authority() as issuer, tcp_echo() as port:
        config = {"routes": [guarded("chat", "/", port, access(issuer.url), subprotocols=["chat"])]}
        with GatewayProcess(config) as gateway:
            token = jwt_for(issuer.url)
            ticket = make_ticket(SECRET, subject="erin", now=time.time() + 1, good_for_seconds=60)
            assert status(gateway) == 401
            assert status(gateway, headers={"Authorization": f"Bearer {token}"}) == 101
            assert status(gateway, headers={"Cookie": f"theme=dark; session={token}"}) == 101
            assert status(gateway, headers={"Sec-WebSocket-Protocol": f"{kubernetes(token)}, chat"}) == 101
            assert status(gateway, headers={"Authorization": f"Bearer {ticket}"}) == 101
            assert status(gateway, headers={"Authorization": f"Bearer {ticket}"}) == 401
            assert status(gateway, headers={"Authorization": "Bearer static-token-of-ci"}) == 101
            assert status(gateway, headers={"Authorization": "Bearer opaque-token"}) == 101
            assert status(gateway, headers={"Authorization": "Bearer another-token"}) == 401
            assert status(gateway, headers={"X-Session": "abc"}) == 101
            assert status(gateway, headers={"Authorization": f"Bearer {jwt_for(issuer.url, exp=1)}"}) == 401
            assert status(gateway, headers={"Authorization": f"Bearer {jwt_for('https://other')}"}) == 401
            issuer.forward_status = 403
            assert status(gateway, headers={"X-Session": "abc"}) == 403
            issuer.forward_status = 500
            assert status(gateway, headers={"X-Session": "abc"}) == 503
            metrics = gateway.metrics()
            for method, outcome, count in (
                ("none", "credential_missing", 1),
                ("jwt", "accepted", 3),
                ("jwt", "credential_expired", 1),
                ("ticket", "accepted", 1),
                ("token", "accepted", 1),
                ("introspection", "accepted", 1),
                ("introspection", "credential_invalid", 1),
                ("forward", "accepted", 1),
                ("forward", "access_forbidden", 1),
                ("forward", "authoriser_unavailable", 1),
            ):
                labels = {"route": "chat", "method": method, "outcome": outcome}
                assert metrics.value("kakitome_authentications_total", **labels) == count, labels


def test_a_refusal_says_how_to_ask_and_no_subprotocol_is_a_credential() -> None:
    with authority() as issuer, tcp_echo() as port:
        config = {"routes": [guarded("chat", "/", port, access(issuer.url), subprotocols=["chat"])]}
        with GatewayProcess(config) as gateway:
            with socket.create_connection(("127.0.0.1", gateway.port())) as sock:
                sock.sendall(upgrade("/", host="h"))
                answer = b""
                while chunk := sock.recv(4096):
                    answer += chunk
            assert answer.startswith(b"HTTP/1.1 401 ")
            assert b'\r\nWWW-Authenticate: Bearer realm="kakitome"\r\n' in answer
            offered = f"{kubernetes('static-token-of-ci')}, chat"
            with RawClient(gateway.url(), headers=ORIGIN | {"Sec-WebSocket-Protocol": offered}) as client:
                assert "Sec-WebSocket-Protocol: chat\r\n" in client.head + "\r\n"


def test_a_route_that_serves_files_asks_too(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello")
    methods = [{"token": {"tokens": [{"subject": "ci", "token": "static-token-of-ci"}]}}]
    files = {
        "name": "files",
        "match": {"path": "/*"},
        "files": str(tmp_path),
        "authentication": {"credential": {"cookie": "session"}, "methods": methods},
    }
    with GatewayProcess({"routes": [files]}) as gateway:
        for cookie, expected in (("", b"401"), ("session=another", b"401"), ("session=static-token-of-ci", b"200")):
            with socket.create_connection(("127.0.0.1", gateway.port())) as sock:
                head = f"GET /index.html HTTP/1.1\r\nHost: h\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
                sock.sendall(head.encode())
                assert sock.recv(64).split()[1] == expected


def opened_by(client: RawClient, body: dict[str, Any]) -> dict[str, Any]:
    """What the answer to a records client's OPEN says."""
    client.send(2, encode_record(RecordType.OPEN, 0, 0, json.dumps(body).encode()))
    record_type, _, _, answer = parse_record(client.receive_message())
    assert record_type == RecordType.OPENED
    opened: dict[str, Any] = json.loads(answer)
    return opened


RECORDS = ORIGIN | {"Sec-WebSocket-Protocol": "kakitome.v1"}


def test_open_carries_a_credential_and_a_page_learns_why_it_was_refused() -> None:
    with authority() as issuer, tcp_echo() as port:
        allow = [{"claim": "groups", "any_of": ["ops"]}]
        config = {"routes": [guarded("chat", "/", port, access(issuer.url, allow=allow))]}
        with GatewayProcess(config) as gateway:
            with RawClient(gateway.url(), headers=RECORDS) as client:
                assert opened_by(client, {"token": jwt_for(issuer.url)})["session"]
            for token, code, words in (
                (None, 3000, "the request has none"),
                (jwt_for(issuer.url, exp=1), 3000, "has expired"),
                ("another", 3000, "is not active"),
                (jwt_for(issuer.url, groups=[]), 3003, "may not use this address"),
            ):
                with RawClient(gateway.url(), headers=RECORDS) as client:
                    client.send(2, encode_record(RecordType.OPEN, 0, 0, json.dumps({"token": token}).encode()))
                    found, reason = client.receive_close()
                    assert found == code
                    assert words in reason


def test_a_session_is_its_subjects() -> None:
    with authority() as issuer, tcp_echo() as port:
        config = {"routes": [guarded("chat", "/", port, access(issuer.url))]}
        with GatewayProcess(config) as gateway:
            with RawClient(gateway.url(), headers=RECORDS) as client:
                session = opened_by(client, {"token": jwt_for(issuer.url)})["session"]
            for token, resumed in (
                (jwt_for(issuer.url, sub="bob"), False),
                ("static-token-of-ci", False),
                (jwt_for(issuer.url, jti="renewed"), True),
            ):
                with RawClient(gateway.url(), headers=RECORDS) as client:
                    opened = opened_by(client, {"session": session, "token": token})
                    assert opened["resumed"] is resumed
                    assert (opened["session"] == session) is resumed
            shown = json.loads(gateway.ask_admin("/sessions").body)["sessions"]
            assert {entry["subject"] for entry in shown} == {"alice", "bob", "ci"}


def test_a_records_backend_hears_who_it_is_and_never_how_they_proved_it() -> None:
    heard: list[dict[str, Any]] = []

    def converse(connection: socket.socket) -> None:
        size = int.from_bytes(connection.recv(4, socket.MSG_WAITALL))
        _, _, _, body = parse_record(connection.recv(size, socket.MSG_WAITALL))
        heard.append(json.loads(body))
        refusal = encode_record(RecordType.CLOSE, 0, 0, b'{"code": 1008, "reason": "enough"}')
        connection.sendall(len(refusal).to_bytes(4) + refusal)

    with authority() as issuer, serve(converse) as port:
        backend = {"headers": ["Cookie", "Authorization"], "framing": "records"}
        config = {"routes": [guarded("chat", "/", port, access(issuer.url), backend=backend)]}
        with GatewayProcess(config) as gateway:
            token = jwt_for(issuer.url)
            assert status(gateway, f"/?token={token}&room=7", {"Cookie": f"a=b; session={token}"}) == 403
            assert status(gateway, headers={"X-Session": "abc"}) == 403
            first, second = heard
            assert first["claims"] | {"sub": "alice", "iss": issuer.url, "groups": ["ops"]} == first["claims"]
            assert first["headers"] == {"cookie": "a=b"}
            assert first["query"] == "room=7"
            assert second["claims"] == {"sub": "dave", "x-groups": "ops"}
            assert token not in json.dumps(heard)


def test_certificates(tmp_path: Path) -> None:
    server = Certificates.issue(tmp_path)
    files = {"certificate": server.certificate, "key": server.key, "client_ca": server.authority_file}
    listener = {"bind": "127.0.0.1:0", "tls": {name: str(file) for name, file in files.items()}}
    allow = [{"claim": "sub", "any_of": ["alice@example.com"]}]
    with tcp_echo() as port:
        config = {
            "listeners": [listener],
            "routes": [guarded("chat", "/", port, {"methods": [{"mtls": {}}], "allow": allow})],
        }
        with GatewayProcess(config) as gateway:
            for name, expected in (("alice@example.com", 101), ("bob@example.com", 403)):
                context = server.client_context()
                issued: trustme.LeafCert = server.authority.issue_cert(name)
                issued.configure_cert(context)
                try:
                    with RawClient(gateway.url(), tls=context, headers=ORIGIN):
                        found = 101
                except ConnectionError as refused:
                    found = int(str(refused).split()[1])
                assert found == expected


def test_used_tickets_stay_used_over_a_restart(tmp_path: Path) -> None:
    with tcp_echo() as port:
        methods = {"methods": [{"ticket": {"secrets": [SECRET]}}]}
        config = {"routes": [guarded("chat", "/", port, methods)], "state": str(tmp_path / "state.db")}
        with GatewayProcess(config) as gateway:
            tickets = [make_ticket(SECRET, subject="erin", now=time.time() + 1, good_for_seconds=60) for _ in range(2)]
            headers = [{"Authorization": f"Bearer {ticket}"} for ticket in tickets]
            assert status(gateway, headers=headers[0]) == 101
            gateway.kill()
            gateway.restart()
            assert status(gateway, headers=headers[0]) == 401
            assert status(gateway, headers=headers[1]) == 101


def test_an_issuer_that_is_away_lets_the_living_live_and_newcomers_wait() -> None:
    with ExitStack() as stack, tcp_echo() as port:
        issuer = stack.enter_context(authority())
        config = {"routes": [guarded("chat", "/", port, access(issuer.url))]}
        with GatewayProcess(config) as gateway:
            bearer = {"Authorization": f"Bearer {jwt_for(issuer.url)}"}
            with RawClient(gateway.url(), headers=ORIGIN | bearer) as client:
                stack.close()
                client.send(2, b"still here")
                assert client.receive_message() == b"still here"
            assert status(gateway, headers=bearer) == 101  # its keys are known
            assert status(gateway, headers={"Authorization": "Bearer opaque-token"}) == 503
            assert status(gateway, headers={"X-Session": "abc"}) == 503


def test_nothing_that_a_process_ever_says_has_a_secret_in_it(tmp_path: Path) -> None:
    with authority() as issuer, tcp_echo() as port:
        tokens = tmp_path / "tokens"
        tokens.write_text(f"console-token: 127.0.0.1:{port}\nconsole-outside: 127.0.0.2:{port}\nconsole-broken\n")
        console = {
            "name": "console",
            "match": {"path": "/console"},
            "origins": ["https://app.example.com"],
            "backend": {
                "endpoint_from": {"file": str(tokens), "allow": [{"networks": ["127.0.0.1/32"], "ports": [port]}]}
            },
        }
        config = {
            "log": {"level": "debug"},
            "routes": [guarded("chat", "/", port, access(issuer.url), subprotocols=["chat"]), console],
        }
        with GatewayProcess(config) as gateway:
            good, bad = jwt_for(issuer.url), jwt_for(issuer.url, aud="another")
            ticket = make_ticket(SECRET, subject="erin", now=time.time() + 1, good_for_seconds=60)
            shown = [good, bad, ticket, "opaque-token", "wrong-token", "static-token-of-ci", "cookie-of-dave"]
            for token in (good, bad, ticket, "opaque-token", "wrong-token", "static-token-of-ci"):
                status(gateway, headers={"Authorization": f"Bearer {token}"})
                status(gateway, headers={"Authorization": f"Bearer {token} {token}"})
                status(gateway, headers={"Cookie": f"session={token}"})
                status(gateway, headers={"Sec-WebSocket-Protocol": f"{kubernetes(token)}, chat"})
                status(gateway, f"/?token={token}")
                status(gateway, f"/?token={token}&token={token}")
                status(gateway, f"/elsewhere?token={token}")
                with pytest.raises(ConnectionError), RawClient(gateway.url(), headers=RECORDS) as client:
                    opened_by(client, {"token": token, "session": 5})
            consoles = {"console-token": 101, "console-outside": 403, "console-broken": 403, "console-unknown": 403}
            for token, expected in consoles.items():
                assert status(gateway, f"/console?token={token}") == expected
                assert status(gateway, f"/console?token={token}&token={token}x") == 400
            shown += consoles
            status(gateway, headers={"X-Session": "cookie-of-dave"})
            issuer.forward_status = 500
            status(gateway, headers={"X-Session": "cookie-of-dave"})
            gateway.write_config(gateway.config | {"routes": []})
            gateway.wait_for_event("config_rejected")
            with RawClient(gateway.url(), headers=ORIGIN | {"Authorization": f"Bearer {good}"}):
                paths = ("/sessions", "/sessions/ended", "/metrics", "/readyz")
                said = [gateway.ask_admin(path).body for path in paths]
            said.append(json.dumps(gateway.events))
            encoded = [kubernetes(token).rpartition(".")[2] for token in shown]
            for secret in (*shown, *encoded, SECRET, "client-secret"):
                assert not [text for text in said if secret in text], secret


def test_the_operator_bars_over_http_and_a_route_is_drained() -> None:
    tokens = [{"name": "oncall", "token": "acting-token", "scopes": ["read", "act"]}]

    def act(gateway: GatewayProcess, method: str, path: str) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://{gateway.admin_address}{path}", method=method, headers={"Authorization": "Bearer acting-token"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, Any] = json.loads(answer.read())
            return found

    with tcp_echo() as port:
        config = {
            "admin": {"bind": "127.0.0.1:0", "tokens": tokens},
            "routes": [route("open", "/", f"tcp://127.0.0.1:{port}") | {"origins": ["https://app.example.com"]}],
        }
        with GatewayProcess(config) as gateway:
            with RawClient(gateway.url(), headers=ORIGIN) as client:
                assert act(gateway, "POST", "/bars?address=127.0.0.1&seconds=600")["ended"] == 1
                assert client.receive_close()[0] == 3000
            assert status(gateway) == 403
            assert act(gateway, "DELETE", "/bars?address=127.0.0.1") == {}
            with RawClient(gateway.url(), headers=ORIGIN) as client:
                assert act(gateway, "POST", "/routes/open/drain") == {"leaving": 1}
                assert client.receive_close()[0] == 1012
            assert status(gateway) == 503
            act(gateway, "DELETE", "/routes/open/drain")
            assert status(gateway) == 101
            assert act(gateway, "PUT", "/log/level?level=debug") == {"level": "debug"}
            assert act(gateway, "GET", "/log/level") == {"level": "debug"}
            acted = [event for event in gateway.events if event.get("event") == "admin_acted"]
            assert {event["who"] for event in acted} == {"oncall"}
            assert "acting-token" not in json.dumps(gateway.events)
