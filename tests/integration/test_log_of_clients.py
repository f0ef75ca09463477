"""The log names the client: its address behind trusted proxies, where it came in, and whom it spoke with."""

import json
import urllib.request
from typing import Any, Final

import pytest

from tests.support.backends import tcp_echo
from tests.support.gateway import LOOPBACK_ANY_PORT, GatewayProcess, route
from tests.support.raw_client import RawClient

CLIENT: Final = "203.0.113.7"
ORIGIN: Final = "https://app.example.com"
CLOSE: Final = 8


def config(backend: int, **log: Any) -> dict[str, Any]:
    endpoint = f"tcp://127.0.0.1:{backend}"
    return {
        "listeners": [{"bind": LOOPBACK_ANY_PORT}],
        "routes": [route("echo", "/echo", endpoint, origins=[ORIGIN], subprotocols=["chat"])],
        "trusted_proxies": ["127.0.0.0/8"],
        "log": log,
    }


def converse(gateway: GatewayProcess) -> None:
    headers = {"Origin": ORIGIN, "X-Forwarded-For": CLIENT, "Sec-WebSocket-Protocol": "chat"}
    with RawClient(gateway.url("/echo"), headers=headers) as client:
        client.send(CLOSE, (1000).to_bytes(2))
        client.receive_close()


def test_a_sessions_begin_and_end_say_who_it_was() -> None:
    with tcp_echo() as backend, GatewayProcess(config(backend)) as gateway:
        converse(gateway)
        expected = {
            "route": "echo",
            "path": "/echo",
            "address": CLIENT,
            "origin": ORIGIN,
            "subprotocol": "chat",
            "subject": None,
            "listener": LOOPBACK_ANY_PORT,
            "endpoint": f"tcp://127.0.0.1:{backend}",
        }
        ended = gateway.wait_for_event("session_ended")
        began = gateway.wait_for_event("session_began", session=ended["session"])
        assert expected.items() <= ended.items()
        assert expected.items() <= began.items()
        with urllib.request.urlopen(f"http://{gateway.admin_address}/sessions/ended") as response:
            (listed,) = json.load(response)["sessions"]
        assert expected.items() <= listed.items()


def test_begins_can_be_left_out() -> None:
    with tcp_echo() as backend, GatewayProcess(config(backend, sessions=False)) as gateway:
        converse(gateway)
        gateway.wait_for_event("session_ended")
        assert "session_began" not in [event["event"] for event in gateway.events]


def test_a_refusal_names_the_client_and_the_proxy_beside_it() -> None:
    with tcp_echo() as backend, GatewayProcess(config(backend)) as gateway:
        with pytest.raises(ConnectionError):
            RawClient(gateway.url("/echo"), headers={"Origin": "https://elsewhere.example", "X-Forwarded-For": CLIENT})
        refused = gateway.wait_for_event("refused", reason="origin_not_allowed")
        assert refused["address"] == CLIENT
        assert refused["peer"].startswith("127.0.0.1:")


def test_an_unreachable_backend_is_told_with_the_client() -> None:
    with tcp_echo() as backend:
        document = config(backend)
    with GatewayProcess(document) as gateway:
        with pytest.raises(ConnectionError):
            RawClient(gateway.url("/echo"), headers={"Origin": ORIGIN, "X-Forwarded-For": CLIENT})
        assert gateway.wait_for_event("backend_unreachable")["address"] == CLIENT


def test_debug_has_a_line_for_each_request() -> None:
    with tcp_echo() as backend, GatewayProcess(config(backend, level="debug")) as gateway:
        converse(gateway)
        request = gateway.wait_for_event("request")
        assert (request["method"], request["path"], request["address"]) == ("GET", "/echo", CLIENT)
