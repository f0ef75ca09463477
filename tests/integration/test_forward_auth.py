"""One service for nginx's `auth_request` and for our `forward`: both ask it the same, and give the same answers."""

import http.client
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import tcp_echo
from tests.support.forward_auth import CHALLENGE, ForwardAuth, forward_auth
from tests.support.gateway import GatewayProcess, route
from tests.support.network import free_port, wait_for_port
from tests.support.peers.raw_client import RawClient
from tests.support.process import ServiceProcess
from tests.support.tools import need

PAGE = b"<p>a page</p>"

NGINX = """\
{user}
worker_processes 1;
error_log stderr;
pid nginx.pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{public};
        location / {{
            auth_request /auth;
            root {folder};
        }}
        location = /auth {{
            internal;
            proxy_pass {service}/check;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Forwarded-Method $request_method;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Uri $request_uri;
            proxy_set_header X-Forwarded-For $remote_addr;
        }}
    }}
}}
"""

ASKED = ("cookie", "x-forwarded-method", "x-forwarded-proto", "x-forwarded-uri", "x-forwarded-for")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The service, and the two who ask it."""

    service: ForwardAuth
    gateway: GatewayProcess
    gateway_port: int
    nginx_port: int

    def ask(self, port: int, path: str, headers: Mapping[str, str]) -> tuple[int, bytes, str | None]:
        """Status, body of a 200, and the challenge."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path, headers={"Host": "app.example.com", **headers})
            answer = connection.getresponse()
            body = answer.read()
            assert answer.headers.get("X-Secret") is None
            assert answer.headers.get("X-Auth-Request-User") is None
            return answer.status, body if answer.status == 200 else b"", answer.headers.get("WWW-Authenticate")
        finally:
            connection.close()

    def heard(self) -> dict[str, str | None]:
        """What it was asked last."""
        return {name: self.service.heard[-1].get(name) for name in ASKED}


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    pages = folder / "pages"
    for place in (pages, pages / "ops"):
        place.mkdir()
        (place / "page.html").write_bytes(PAGE)
    with ExitStack() as stack:
        service = stack.enter_context(forward_auth())
        nginx_port = free_port()
        # As root its workers would be somebody else, whom this folder is closed to.
        user = "user root;" if os.geteuid() == 0 else ""
        configured = NGINX.format(user=user, public=nginx_port, folder=pages, service=service.url)
        (folder / "nginx.conf").write_text(configured)
        nginx = need("nginx", "apt-get install nginx")
        argv = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", "daemon off;", "-e", "stderr"]
        wait_for_port(nginx_port, stack.enter_context(ServiceProcess(argv, name="nginx")))
        method: dict[str, Any] = {"url": f"{service.url}/check", "request_headers": ["Cookie"]}
        asking: dict[str, Any] = {"authentication": {"methods": [{"forward": method}]}}
        backend = stack.enter_context(tcp_echo())
        routes = [
            {"name": "pages", "match": {"path": "/*"}, "files": str(pages), **asking},
            route("chat", "/chat", f"tcp://127.0.0.1:{backend}", **asking) | {"origins": ["https://app.example.com"]},
            route("ops", "/ops/chat", f"tcp://127.0.0.1:{backend}", **asking)
            | {"origins": ["https://app.example.com"]},
        ]
        gateway = stack.enter_context(GatewayProcess({"routes": routes}))
        yield Scene(service=service, gateway=gateway, gateway_port=gateway.port(), nginx_port=nginx_port)


def test_nginx_and_the_gateway_ask_the_same_and_answer_the_same(tmp_path: Path) -> None:
    with scene(tmp_path) as both:
        for path, cookie, expected in (
            ("/page.html", "session=s-alice", 200),
            ("/page.html?a=b&c=%20d", "session=s-alice", 200),
            ("/page.html", "other=1; session=s-alice", 200),
            ("/ops/page.html", "session=s-alice", 403),
            ("/ops/page.html", "session=s-ops", 200),
            ("/page.html", "session=s-mallory", 403),
            ("/page.html", "session=made-up", 401),
            ("/page.html", "session=", 401),
            ("/missing.html", "session=s-alice", 404),
            ("/missing.html", "session=made-up", 401),
        ):
            found = []
            for port in (both.nginx_port, both.gateway_port):
                answer = both.ask(port, path, {"Cookie": cookie})
                found.append((answer, both.heard()))
            assert found[0] == found[1], path
            status, body, challenge = found[0][0]
            assert status == expected
            assert challenge == (CHALLENGE if status == 401 else None)
            assert body == (PAGE if status == 200 else b"")


@pytest.mark.parametrize("broken", [302, 500, 418])
def test_a_service_that_gives_no_answer_lets_nobody_in_at_either(broken: int, tmp_path: Path) -> None:
    with scene(tmp_path) as both:
        both.service.broken_status = broken
        cookie = {"Cookie": "session=s-alice"}
        assert both.ask(both.nginx_port, "/page.html", cookie)[0] == 500
        # nginx says that something is broken; we, that it is worth another try.
        assert both.ask(both.gateway_port, "/page.html", cookie)[0] == 503


def test_what_a_client_forges_is_not_what_the_service_hears(tmp_path: Path) -> None:
    forged = {
        "Cookie": "session=s-alice",
        "X-Forwarded-Uri": "/public",
        "X-Forwarded-Method": "TRACE",
        "X-Forwarded-For": "203.0.113.66",
        "X-Auth-Request-User": "ops",
    }
    with scene(tmp_path) as both:
        for port in (both.nginx_port, both.gateway_port):
            assert both.ask(port, "/ops/page.html", forged)[0] == 403
            assert both.heard() == {
                "cookie": "session=s-alice",
                "x-forwarded-method": "GET",
                "x-forwarded-proto": "http",
                "x-forwarded-uri": "/ops/page.html",
                "x-forwarded-for": "127.0.0.1",
            }


def test_websockets_are_asked_about_as_pages_are(tmp_path: Path) -> None:
    origin = {"Origin": "https://app.example.com"}
    with scene(tmp_path) as both:
        for path, cookie, expected in (
            ("/chat", "session=s-alice", 101),
            ("/chat", "session=made-up", 401),
            ("/ops/chat", "session=s-alice", 403),
            ("/ops/chat", "session=s-ops", 101),
        ):
            try:
                with RawClient(both.gateway.url(path), headers={**origin, "Cookie": cookie}) as client:
                    status = client.status
            except ConnectionError as refused:
                status = int(str(refused).split()[1])
            assert status == expected
            assert both.heard()["x-forwarded-uri"] == path
