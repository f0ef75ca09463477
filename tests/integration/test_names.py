"""Backends by name, with a real resolver and a DNS server of our own that can keep silent."""

import socket
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.dns import DnsServer, dns_server
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient
from tests.support.process import ServiceProcess
from tests.support.tools import need

ADDRESS = "127.0.0.77"
CLIENTS = 60
"""More than trio's shared threads, of which there are 40."""

IN_NAMESPACE = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


class Namespaced(GatewayProcess):
    """A gateway with an /etc/resolv.conf of its own."""

    resolv_conf: Path

    def _service(self) -> ServiceProcess:
        service = super()._service()
        service.argv = [*UNSHARE, "sh", "-c", IN_NAMESPACE, str(self.resolv_conf), *service.argv]
        return service


UNSHARE = ["unshare", "--mount", "--map-root-user"]


@pytest.fixture
def gateway_class(tmp_path: Path) -> type[Namespaced]:
    need("unshare", "apt-get install util-linux")
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"nameserver {ADDRESS}\n")
    # What may be forbidden, as in many containers: then there is nothing to see here.
    tried = subprocess.run(
        [*UNSHARE, "sh", "-c", IN_NAMESPACE, str(resolv_conf), "true"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"no mount namespace can be made here: {tried.stderr.strip()}")
    Namespaced.resolv_conf = resolv_conf
    return Namespaced


@pytest.fixture
def dns() -> Iterator[DnsServer]:
    with ExitStack() as stack:
        try:
            server = stack.enter_context(dns_server(ADDRESS, {}))
        except PermissionError as error:
            pytest.skip(f"port 53 cannot be bound here: {error.strerror}; run as root")
        yield server


def listening_at(*hosts: str, port: int = 0) -> list[socket.socket]:
    """Sockets at one port of these hosts; the kernel takes what connects."""
    first = socket.create_server((hosts[0], port), backlog=100)
    port = first.getsockname()[1]
    return [first, *(socket.create_server((host, port), backlog=100) for host in hosts[1:])]


def taken(sock: socket.socket) -> int:
    """How many connections came since the last call."""
    sock.setblocking(False)
    count = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def in_threads(count: int, work: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_a_name_of_which_dns_says_nothing_holds_up_no_other_route(
    gateway_class: type[Namespaced], dns: DnsServer, tmp_path: Path
) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "index.html").write_text("here")
    dns.names["alive.test"] = ("127.0.0.1",)
    with ExitStack() as stack:
        (backend,) = map(stack.enter_context, listening_at("127.0.0.1"))
        routes = [
            route("mute", "/mute", "tcp://mute.test:9", backend={"connect_timeout": "60s"}),
            # Looked up when it is asked for: its lookup must find a thread.
            route("alive", "/alive", f"tcp://alive.test:{backend.getsockname()[1]}", backend={"resolve": "1ms"}),
            {"name": "pages", "match": {"path": "/*"}, "files": str(tmp_path / "pages")},
        ]
        gateway = stack.enter_context(gateway_class({"routes": routes}, covered=False))

        def wait_in_vain() -> None:
            with pytest.raises((OSError, TimeoutError)):
                RawClient(gateway.url("/mute"))

        waiting = in_threads(CLIENTS, wait_in_vain)
        for _ in range(3):
            with RawClient(gateway.url("/alive")) as client:
                assert client.status == 101
        with urllib.request.urlopen(gateway.http_url("/"), timeout=20) as response:
            assert response.read() == b"here"
        assert gateway.ask_admin("/readyz").status == 200
        assert any(thread.is_alive() for thread in waiting), "they wait while all others go on"
        # One lookup for all: for both families, and again after the resolver's own five seconds.
        assert 0 < dns.asked["mute.test"] < CLIENTS
        assert "kakitome_backend_up{" in gateway.ask_admin("/metrics").body


def test_all_addresses_of_a_name_share_the_connections_and_a_change_in_dns_is_followed(
    gateway_class: type[Namespaced], dns: DnsServer
) -> None:
    dns.names["chat.test"] = ("127.0.0.1", "127.0.0.2")
    with ExitStack() as stack:
        one, two, three = map(stack.enter_context, listening_at("127.0.0.1", "127.0.0.2", "127.0.0.3"))
        port = one.getsockname()[1]
        name = f"tcp://chat.test:{port}"
        routes = [route("chat", "/chat", name, backend={"resolve": "200ms"})]
        gateway = stack.enter_context(gateway_class({"routes": routes}, covered=False))
        for _ in range(10):
            stack.enter_context(RawClient(gateway.url("/chat")))
        assert (taken(one), taken(two)) == (5, 5)
        assert gateway.metrics().value("kakitome_backend_dials_total", endpoint=name, outcome="connected") == 10
        dns.names["chat.test"] = ("127.0.0.3",)
        for _ in range(200):
            with RawClient(gateway.url("/chat")):
                pass
            if taken(three):
                break
        taken(one), taken(two)
        for _ in range(5):
            with RawClient(gateway.url("/chat")):
                pass
        assert (taken(one), taken(two)) == (0, 0)
        assert taken(three) == 5
        dns.names.clear()
        gateway.wait_for_event("name_not_resolved", endpoint=name)
        with RawClient(gateway.url("/chat")) as client:
            assert client.status == 101, "what was known is good enough"
