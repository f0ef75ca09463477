"""Large messages through a `stream` route, which gathers nothing: what drivers send as one message arrives."""

import json
import os
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from gateway.config.checks import MAX_INFLATED_BYTES
from tests.integration.conftest import Edge, OpenEdge
from tests.support.backends import serve
from tests.support.gateway import GatewayProcess, route
from tests.support.services import mosquitto_broker, postgresql_server
from tests.support.tools import need, need_npm

PATIENCE_SECONDS = 60


def run(script: str, edge: Edge, path: str, size: int, *, module: str) -> dict[str, Any]:
    """What a JavaScript beside this file prints, which is told where the gateway is."""
    modules = need_npm(module).parent
    environment = os.environ | {"NODE_EXTRA_CA_CERTS": str(edge.certificates.authority_file)}
    url = f"{edge.scheme}://localhost:{edge.port}{path}"
    argv = [need("node", "apt-get install nodejs"), str(Path(__file__).with_name(script)), str(modules), url, str(size)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS, env=environment)
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def test_mqtt_js_publishes_and_receives_five_megabytes_at_qos_2(open_edge: OpenEdge, tmp_path: Path) -> None:
    need_npm("mqtt")
    with ExitStack() as stack:
        port = stack.enter_context(mosquitto_broker(tmp_path))
        routes = [route("mqtt", "/mqtt", f"tcp://127.0.0.1:{port}", subprotocols=["mqtt"])]
        edge = stack.enter_context(open_edge(routes))
        assert run("large_mqtt.mjs", edge, "/mqtt", 5_000_000, module="mqtt") == {"same": True, "connects": 1}


def test_a_postgresql_driver_sends_and_gets_back_a_parameter_of_three_megabytes(open_edge: OpenEdge) -> None:
    need_npm("pg")
    with ExitStack() as stack:
        port = stack.enter_context(postgresql_server())
        routes = [route("pg", "/pg", f"tcp://127.0.0.1:{port}", subprotocols=["binary"])]
        edge = stack.enter_context(open_edge(routes))
        assert run("large_pg.mjs", edge, "/pg", 3_000_000, module="pg") == {"same": True, "length": 3_000_000}


def compressible(size: int) -> bytes:
    """About fifty times as large as it is compressed: more than the ratio's limit is refused before its size is."""
    block = os.urandom(2_000) + bytes(98_000)
    return (block * (size // len(block) + 1))[:size]


def test_what_a_plain_client_compresses_is_bounded_on_a_stream_too() -> None:
    got = 0

    def count(connection: socket.socket) -> None:
        nonlocal got
        while data := connection.recv(1 << 20):
            got += len(data)

    with ExitStack() as stack:
        port = stack.enter_context(serve(count))
        routes = [route("sink", "/", f"tcp://127.0.0.1:{port}", compression={"enabled": True})]
        gateway = stack.enter_context(GatewayProcess({"listeners": [{"bind": "127.0.0.1:0"}], "routes": routes}))
        client = stack.enter_context(connect(gateway.url("/"), compression="deflate"))
        client.send(compressible(5_000_000))
        client.send(compressible(MAX_INFLATED_BYTES + 1))
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(PATIENCE_SECONDS)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, str(MAX_INFLATED_BYTES) in closed.value.rcvd.reason) == (1009, True)
    assert 5_000_000 <= got <= 5_000_000 + MAX_INFLATED_BYTES
