"""Sockets of systemd's: several gateways take clients from one, and a restart refuses nobody."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.support.backends import tcp_echo
from tests.support.gateway import LOOPBACK_ANY_PORT, route
from tests.support.network import free_port
from tests.support.peers.raw_client import RawClient
from tests.support.process import ServiceProcess
from tests.support.tools import GATEWAY_TREE, need

BINARY, CLOSE = 2, 8

AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.fixture
def configuration(tmp_path: Path) -> Iterator[Path]:
    with tcp_echo() as backend:
        file = tmp_path / "several.yaml"
        document = {
            "listeners": [{"bind": "systemd:ws"}],
            "admin": {"bind": LOOPBACK_ANY_PORT},
            "routes": [route("echo", "/echo", f"tcp://127.0.0.1:{backend}")],
            "timeouts": {"drain": "1s"},
        }
        file.write_text(yaml.safe_dump(document))
        yield file


@contextmanager
def instance(configuration: Path, listening: socket.socket, *, name: str = "ws") -> Iterator[ServiceProcess]:
    """As systemd starts it: the socket as descriptor 3, and told so."""
    command = [sys.executable, "-c", AS_SYSTEMD, str(listening.fileno()), name]
    command += [sys.executable, "-m", "gateway", "serve", "--config", str(configuration)]
    environment = {"PYTHONPATH": str(GATEWAY_TREE)}
    with ServiceProcess(
        command, name="gateway", started='"ready"', environment=environment, pass_descriptors=[listening.fileno()]
    ) as service:
        yield service


def converse(port: int) -> None:
    with RawClient(f"ws://127.0.0.1:{port}/echo") as client:
        client.send(BINARY, b"here?")
        assert client.receive().payload == b"here?"
        client.send(CLOSE, (1000).to_bytes(2))
        client.receive_close()


def test_it_listens_where_systemd_has_bound(configuration: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with instance(configuration, listening) as service:
            assert any(f'"listening","logger":"server","address":"127.0.0.1:{port}"' in line for line in service.lines)
            converse(port)


def test_who_comes_while_it_is_restarted_waits_and_is_served(configuration: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with instance(configuration, listening):
            converse(port)
        # Nobody is there, and nobody refuses.
        with socket.create_connection(("127.0.0.1", port)) as waiting, instance(configuration, listening):
            waiting.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n")
            assert waiting.recv(64).startswith(b"HTTP/1.1 426 ")


def test_while_one_drains_the_other_takes_all(configuration: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with instance(configuration, listening) as first, instance(configuration, listening) as second:
            converse(port)
            first.process.terminate()
            first.wait_for_line('"draining"')
            for _ in range(10):
                converse(port)
            first.wait(60)
            for _ in range(10):
                converse(port)
            assert sum('"session_ended"' in line for line in second.lines) >= 10


def test_without_systemd_it_says_what_it_expected(configuration: Path) -> None:
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(configuration)]
    service = ServiceProcess(command, name="gateway", environment={"PYTHONPATH": str(GATEWAY_TREE)})
    with service:
        assert service.wait(60) == 1
    assert "cannot listen on systemd:ws: systemd gave no socket of this name" in service.report()


def test_systemd_s_own_tool_starts_it_with_the_first_client(configuration: Path) -> None:
    activate = need("systemd-socket-activate", "apt-get install systemd")
    port = free_port()
    command = [activate, "--listen", f"127.0.0.1:{port}", "--fdname", "ws", sys.executable, "-m", "gateway", "serve"]
    environment = {"PYTHONPATH": str(GATEWAY_TREE), "PATH": os.environ["PATH"]}
    with ServiceProcess(
        [*command, "--config", str(configuration)], name="activation", started="Listening on", environment=environment
    ):
        converse(port)
