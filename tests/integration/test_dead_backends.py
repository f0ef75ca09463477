"""Backends that are dead or silent: what their route's users see, and what all others must not notice."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient

CHECKED = {"health": {"interval": "100ms", "timeout": "1s"}}


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    with tcp_echo() as port:
        yield port


@contextmanager
def nobody() -> Iterator[int]:
    """A port at which nothing listens."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def dead_route(port: int, name: str = "dead") -> dict[str, Any]:
    return route(name, f"/{name}", f"tcp://127.0.0.1:{port}", backend=CHECKED)


def test_a_dead_backend_is_no_reason_to_take_the_other_routes_from_their_users(echo: int) -> None:
    with nobody() as port:
        routes = [dead_route(port), route("echo", "/echo", f"tcp://127.0.0.1:{echo}")]
        with GatewayProcess({"routes": routes}) as gateway:
            gateway.wait_for_event("backend_down", route="dead")
            assert gateway.ask_admin("/readyz").status == 200
            assert gateway.metrics().value("kakitome_backend_up", route="dead") == 0
            with RawClient(gateway.url("/echo")) as client:
                assert client.status == 101


@pytest.mark.parametrize("last", ["backend", "files"])
def test_where_it_is_asked_for_a_gateway_is_unready_once_no_route_is_left(tmp_path: Path, last: str) -> None:
    with nobody() as port, nobody() as other:
        routes = [dead_route(port, "one"), dead_route(other, "two")]
        if last == "files":
            routes.append({"name": "pages", "match": {"path": "/pages/*"}, "files": str(tmp_path)})
        config = {"routes": routes, "admin": {"bind": "127.0.0.1:0", "readiness": "any_route"}}
        with GatewayProcess(config) as gateway:
            for name in ("one", "two"):
                gateway.wait_for_event("backend_down", route=name)
            answer = gateway.ask_admin("/readyz")
            if last == "files":
                assert answer.status == 200, "pages are still served"
                return
            assert answer.status == 503
            assert '"routes_without_backend": ["one", "two"]' in answer.body
            with socket.create_server(("127.0.0.1", other), reuse_port=True):
                gateway.wait_for_event("backend_up", route="two")
                assert gateway.ask_admin("/readyz").status == 200
