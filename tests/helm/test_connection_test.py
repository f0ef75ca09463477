"""The pod that `helm test` runs: its very command, against real gateways."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.demo.__main__ import main as demo
from tests.helm.chart import render
from tests.support.backends import tcp_echo
from tests.support.certificates import Certificates
from tests.support.gateway import LOOPBACK_ANY_PORT, GatewayProcess, route
from tests.support.network import free_port
from tests.support.process import START_SECONDS
from tests.support.tools import REPOSITORY


def run_pod(gateway: GatewayProcess, url: str, *, timeout: int = int(START_SECONDS), **values: Any) -> tuple[int, str]:
    """Runs the pod's command with the cluster's addresses replaced; gives exit status and output."""
    pod = render({"helmTest": {"timeoutSeconds": timeout}, **values}).objects["Pod/-test"]["spec"]["containers"][0]
    addresses = {
        "--config=/etc/kakitome/kakitome.yaml": f"--config={gateway.config_file}",
        "--admin=http://kakitome-admin:9090": f"--admin=http://{gateway.admin_address}",
        "--url=ws://kakitome:80": f"--url={url.rstrip('/')}",
        "--url=wss://kakitome:443": f"--url={url.rstrip('/')}",
    }
    command, *options = pod["command"]
    assert command == "python"
    arguments = [addresses.get(argument, argument) for argument in pod["args"]]
    result = subprocess.run(
        [sys.executable, *options, *arguments],
        capture_output=True,
        text=True,
        timeout=2 * START_SECONDS,
        check=False,
        cwd=REPOSITORY,
    )
    assert not result.stderr
    return result.returncode, result.stdout


ACCEPTED = ("any", "below", "named", "wild", "sandboxed")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One that takes every kind of route, for ws and for wss with a certificate that nobody trusts."""
    folder = tmp_path_factory.mktemp("certificates")
    certificates = Certificates.issue(folder)
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    with tcp_echo() as port:
        echo = f"tcp://127.0.0.1:{port}"
        routes = [
            route("any", "/any", echo),
            route("below", "/below/*", echo, origins=["same-origin"], require_origin=True),
            route("named", "/", echo, match={"host": "chat.example.com"}, origins=["https://app.example.com"]),
            route("wild", "/", echo, match={"host": "*.example.com"}, origins=["https://*.example.com"]),
            route("sandboxed", "/null", echo, origins=["null"], require_origin=True, subprotocols=["v1", "v2"]),
            {"name": "pages", "files": str(folder)},
        ]
        listeners = [{"bind": LOOPBACK_ANY_PORT}, {"bind": LOOPBACK_ANY_PORT, "tls": tls}]
        with GatewayProcess({"routes": routes, "listeners": listeners}, covered=False) as gateway:
            yield gateway


@pytest.mark.parametrize(
    ("scheme", "values"),
    [("ws", {}), ("wss", {"config": {"listeners": []}, "tls": {"enabled": True, "existingSecret": "web-tls"}})],
)
def test_every_kind_of_route_is_shaken_hands_with(gateway: GatewayProcess, scheme: str, values: dict[str, Any]) -> None:
    before = gateway.metrics().value("kakitome_handshakes_total", outcome="upgraded")
    status, output = run_pod(gateway, gateway.url(listener=["ws", "wss"].index(scheme)), **values)
    outcomes = [line.partition(":")[0] for line in output.splitlines()]
    assert (status, outcomes) == (0, ["ok     readiness", *(f"ok     route {name}" for name in ACCEPTED)]), output
    assert output.count(f"{scheme}://127.0.0.1:") == len(ACCEPTED)
    assert gateway.metrics().value("kakitome_handshakes_total", outcome="upgraded") == before + len(ACCEPTED)


def test_what_does_not_work_fails_the_test_and_says_why() -> None:
    backend = {"endpoints": [f"tcp://127.0.0.1:{free_port()}"], "health": {"interval": "100ms", "timeout": "1s"}}
    with tcp_echo() as port:
        routes = [{"name": "dead", "backend": backend}, route("any", "/any", f"tcp://127.0.0.1:{port}")]
        with GatewayProcess({"routes": routes}, covered=False) as gateway:
            status, output = run_pod(gateway, gateway.url(), timeout=2)
    readiness, dead, alive = output.splitlines()
    assert status == 1
    assert readiness.startswith("ok     readiness"), "one dead backend must not take the others from their users"
    assert dead.startswith("FAILED route dead")
    assert "502" in dead
    assert alive.startswith("ok     route any")


def test_the_demonstrations_routes_lead_to_its_backends() -> None:
    routes = render().objects["ConfigMap"]["data"]["kakitome.yaml"]
    ports = {str(option.name): option.default for option in demo.params if str(option.name).endswith("_port")}
    assert len(ports) == 4
    for name, port in ports.items():
        assert f"tcp://127.0.0.1:{port}\n" in routes
        assert f"name: {name.removesuffix('_port')}\n" in routes
