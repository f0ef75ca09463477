"""The log names the client: its address behind trusted proxies, where it came in, and whom it spoke with."""

import json
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from gateway.protocol.records import RecordType, encode_record
from tests.support.backends import tcp_echo
from tests.support.gateway import LOOPBACK_ANY_PORT, GatewayProcess, route
from tests.support.network import free_port
from tests.support.peers.raw_client import RawClient
from tests.support.process import ServiceProcess

CLIENT: Final = "203.0.113.7"
ORIGIN: Final = "https://app.example.com"
BINARY: Final = 2
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


def test_debug_tells_the_way_of_a_connection_step_by_step() -> None:
    """From the name that is looked up to the end, each step once; none of it above `debug` but begin and end."""
    with tcp_echo() as backend:
        document = config(backend, level="debug")
        document["routes"][0]["backend"]["endpoints"] = [f"tcp://localhost:{backend}"]
        document["routes"][0]["backend"]["health"] = {"interval": "60s"}
        with GatewayProcess(document) as gateway:
            gateway.wait_for_event("checked")
            converse(gateway)
            gateway.wait_for_event("session_ended")
            with urllib.request.urlopen(f"http://{gateway.admin_address}/readyz"):
                pass
            asked = gateway.wait_for_event("admin_request", path="/readyz")
            way = ("request", "dialed", "session_began", "upgraded", "session_ended", "admin_request")
            told = [event["event"] for event in gateway.events if event["event"] in way]
            looked_up = gateway.wait_for_event("looked_up")
            dialed = gateway.wait_for_event("dialed")
            upgraded = gateway.wait_for_event("upgraded")
    assert [name for name in told if name != "admin_request"] == list(way[:-1])
    assert (asked["method"], asked["status"]) == ("GET", 200)
    assert (looked_up["name"], "127.0.0.1" in looked_up["addresses"]) == ("localhost", True)
    assert (dialed["route"], dialed["endpoint"]) == ("echo", f"tcp://localhost:{backend}")
    assert (upgraded["route"], upgraded["address"]) == ("echo", CLIENT)
    assert min(dialed["milliseconds"], upgraded["milliseconds"]) >= 0


def test_debug_tells_when_a_session_is_parked() -> None:
    with tcp_echo() as backend, GatewayProcess(config(backend, level="debug")) as gateway:
        headers = {"Origin": ORIGIN, "Sec-WebSocket-Protocol": "kakitome.v1"}
        with RawClient(gateway.url("/echo"), headers=headers) as client:
            client.send(BINARY, encode_record(RecordType.OPEN, 0, 0, b"{}"))
            client.receive()
        parked = gateway.wait_for_event("session_parked")
        began = gateway.wait_for_event("session_began")
        assert (parked["session"], parked["in_flight"]) == (began["session"], {"upstream": 0, "downstream": 0})


def test_the_console_is_for_people_in_a_real_run(tmp_path: Path) -> None:
    port = free_port()
    with tcp_echo() as backend:
        document = config(backend, format="console")
        document["listeners"] = [{"bind": f"127.0.0.1:{port}"}]
        document["admin"] = {"bind": LOOPBACK_ANY_PORT}
        (tmp_path / "kakitome.yaml").write_text(yaml.safe_dump(document))
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(tmp_path / "kakitome.yaml")]
        with ServiceProcess(command, name="gateway", started=" ready ") as service:
            headers = {"Origin": ORIGIN, "X-Forwarded-For": CLIENT, "Sec-WebSocket-Protocol": "chat"}
            with RawClient(f"ws://127.0.0.1:{port}/echo", headers=headers) as client:
                client.send(BINARY, b"x")
                client.receive()
                client.send(CLOSE, (1000).to_bytes(2))
                client.receive_close()
            line = service.wait_for_line("session_ended").string
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} info    session_ended  session=\w{32} route=echo address=", line)
    assert f"address={CLIENT} path=/echo" in line
    assert "upstream.messages=1" in line
    assert not re.search(r"None|\{|\}|subject", line)
