"""Start, reload, drain and exit of the process, as an operator or an orchestrator sees them."""

import errno
import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.backends import tcp_echo
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient
from tests.support.process import START_SECONDS, ServiceProcess
from tests.support.tools import REPOSITORY, need

BINARY, CLOSE, PING = 2, 8, 9


@pytest.fixture
def echo() -> Iterator[int]:
    with tcp_echo() as port:
        yield port


def exchange(client: RawClient, payload: bytes) -> bytes:
    client.send(BINARY, payload)
    return client.receive_message()


# --- drain ---------------------------------------------------------------------------------------------------------


def test_sigterm_closes_every_connection_with_1012_and_exits_0_within_the_window(echo: int) -> None:
    config = {"routes": [route("echo", "/", f"tcp://127.0.0.1:{echo}")], "timeouts": {"drain": "3s"}}
    with GatewayProcess(config) as gateway, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(gateway.url("/"))) for _ in range(10)]
        assert [exchange(client, b"here") for client in clients] == [b"here"] * 10
        gateway.service.send_signal(signal.SIGTERM)
        for client in clients:
            assert client.receive_close()[0] == 1012
            client.send(CLOSE, b"\x03\xf4")
        assert gateway.service.wait(10) == 0
        at = {event["event"]: datetime.fromisoformat(event["timestamp"]) for event in gateway.events}
        assert at["stopped"] - at["draining"] < timedelta(seconds=3.5)


def test_closes_are_spread_over_the_drain_window(echo: int) -> None:
    config = {"routes": [route("echo", "/", f"tcp://127.0.0.1:{echo}")], "timeouts": {"drain": "4s"}}
    with GatewayProcess(config) as gateway, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(gateway.url("/"))) for _ in range(20)]
        gateway.service.send_signal(signal.SIGTERM)
        selector = stack.enter_context(selectors.DefaultSelector())
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
        begun = time.monotonic()
        closed_at: list[float] = []
        while len(closed_at) < len(clients):
            for key, _ in selector.select(10):
                selector.unregister(key.fileobj)
                assert key.data.receive_close()[0] == 1012
                key.data.send(CLOSE, b"\x03\xf4")
                closed_at.append(time.monotonic() - begun)
        gaps = [later - earlier for earlier, later in itertools.pairwise(closed_at)]
        assert closed_at[-1] - closed_at[0] > 1.5, "spread over much of the window"
        assert max(gaps) < 1.0, "and not in two heaps"
        assert gateway.service.wait(10) == 0


def test_a_few_sessions_do_not_hold_a_drain_for_the_window(echo: int) -> None:
    config = {"routes": [route("echo", "/", f"tcp://127.0.0.1:{echo}")], "timeouts": {"drain": "60s"}}
    with GatewayProcess(config) as gateway, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(gateway.url("/"))) for _ in range(3)]
        gateway.service.send_signal(signal.SIGTERM)
        for client in reversed(clients):
            assert client.receive_close()[0] == 1012
            client.send(CLOSE, b"\x03\xf4")
        assert gateway.service.wait(10) == 0


def test_while_draining_readyz_says_so_and_new_connections_are_not_taken(echo: int) -> None:
    config = {"routes": [route("echo", "/", f"tcp://127.0.0.1:{echo}")], "timeouts": {"drain": "3s"}}
    with GatewayProcess(config) as gateway, ExitStack() as stack:
        clients = [stack.enter_context(RawClient(gateway.url("/"))) for _ in range(20)]
        assert gateway.ask_admin("/readyz").status == 200
        gateway.service.send_signal(signal.SIGTERM)
        gateway.wait_for_event("draining")
        ready = gateway.ask_admin("/readyz")
        assert ready.status == 503
        assert "draining" in ready.body
        assert gateway.ask_admin("/healthz").status == 200
        with pytest.raises(OSError, match=r"refused|reset|503"):
            RawClient(gateway.url("/"))
        for client in clients:
            assert client.receive_close()[0] == 1012
            client.send(CLOSE, b"\x03\xf4")
        assert gateway.service.wait(10) == 0


def test_a_client_that_does_not_answer_the_close_is_cut_when_the_window_is_over(echo: int) -> None:
    config = {"routes": [route("echo", "/", f"tcp://127.0.0.1:{echo}")], "timeouts": {"drain": "1s"}}
    with GatewayProcess(config) as gateway, RawClient(gateway.url("/")):
        begun = time.monotonic()
        assert gateway.terminate() == 0
        assert time.monotonic() - begun < 3


def test_a_client_that_does_not_answer_the_fence_is_told_within_the_window_all_the_same(echo: int) -> None:
    config = {"routes": [route("echo", "/", f"tcp://127.0.0.1:{echo}")], "timeouts": {"drain": "2s"}}
    with GatewayProcess(config) as gateway, RawClient(gateway.url("/")) as client:
        client.send(BINARY, b"unsettled")
        frames = [client.receive()]  # its answer is under way to the client, as far as the gateway knows
        gateway.service.send_signal(signal.SIGTERM)
        while frames[-1].opcode != CLOSE:
            frames.append(client.receive())
        assert PING in [frame.opcode for frame in frames]
        assert frames[-1].payload[:2] == b"\x03\xf4"
        assert gateway.service.wait(10) == 0


def test_a_second_signal_exits_at_once(echo: int) -> None:
    config = {"routes": [route("echo", "/", f"tcp://127.0.0.1:{echo}")], "timeouts": {"drain": "60s"}}
    with GatewayProcess(config) as gateway, ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(RawClient(gateway.url("/")))
        gateway.service.send_signal(signal.SIGTERM)
        gateway.wait_for_event("draining")
        gateway.service.send_signal(signal.SIGTERM)
        assert gateway.service.wait(5) != 0


def pid_namespace() -> list[str]:
    """Runs what follows as process 1 of a namespace; skips the test where that is forbidden, as in a chroot."""
    argv = [need("unshare", "apt-get install util-linux"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.geteuid() != 0:
        argv[1:1] = ["--user", "--map-root-user"]
    tried = subprocess.run([*argv, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"a PID namespace is not allowed here ({tried.stderr.strip()}): be root, and outside of a chroot")
    return argv


@contextmanager
def reader_of(fifo: Path, service: ServiceProcess) -> Iterator[None]:
    """Waits until the service has opened the FIFO, and keeps it from its end; fails when the service is gone."""
    descriptor: int | None = None
    deadline = time.monotonic() + START_SECONDS
    while descriptor is None:
        try:
            # Without O_NONBLOCK this would wait for a reader for ever, though none will come.
            descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            assert service.process.poll() is None, service.report()
            assert time.monotonic() < deadline, service.report()
            time.sleep(0.01)  # there is nothing to wait on: that somebody reads is only told to who opens
    try:
        yield
    finally:
        os.close(descriptor)


def test_sigterm_reaches_it_as_pid_1(echo: int, tmp_path: Path) -> None:
    """In a container the gateway is process 1, for which the kernel has no default signal actions."""
    config = tmp_path / "kakitome.yaml"
    config.write_text(
        f"""
listeners: [{{bind: "127.0.0.1:0"}}]
admin: null
routes: [{{name: echo, backend: {{endpoints: ["tcp://127.0.0.1:{echo}"]}}}}]
timeouts: {{drain: 1s}}
"""
    )
    argv = [*pid_namespace(), sys.executable, "-m", "gateway", "serve", "--config", str(config)]
    with ServiceProcess(argv, started=r'"event": ?"ready"', environment={"PYTHONPATH": str(REPOSITORY)}) as service:
        ready = json.loads(next(line for line in service.lines if '"ready"' in line))
        assert ready["pid"] == 1
        (child,) = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert service.wait() == 0


def test_sigterm_ends_it_as_pid_1_while_it_still_starts(tmp_path: Path) -> None:
    config = tmp_path / "kakitome.yaml"
    os.mkfifo(config)
    argv = [*pid_namespace(), sys.executable, "-m", "gateway", "serve", "--config", str(config)]
    with ServiceProcess(argv, environment={"PYTHONPATH": str(REPOSITORY)}) as service, reader_of(config, service):
        # The gateway is now waiting for its configuration.
        (child,) = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        assert service.wait() == 128 + signal.SIGTERM


# --- reload --------------------------------------------------------------------------------------------------------


def test_sighup_changes_routes_for_new_connections_and_keeps_the_old_ones(echo: int) -> None:
    endpoint = f"tcp://127.0.0.1:{echo}"
    with GatewayProcess({"routes": [route("old", "/old", endpoint)]}) as gateway:
        with RawClient(gateway.url("/old")) as old:
            gateway.write_config({**gateway.config, "routes": [route("new", "/new", endpoint)]})
            gateway.hang_up()
            gateway.wait_for_event("config_applied", routes=["new"])
            assert exchange(old, b"still here") == b"still here"
            with RawClient(gateway.url("/new")) as new:
                assert exchange(new, b"new here") == b"new here"
            with pytest.raises(ConnectionError, match="404"):
                RawClient(gateway.url("/old"))
        assert gateway.metrics().value("kakitome_config_reloads_total", outcome="applied") >= 1


def test_a_bad_file_changes_nothing_and_is_reported(echo: int) -> None:
    with GatewayProcess({"routes": [route("echo", "/", f"tcp://127.0.0.1:{echo}")]}) as gateway:
        gateway.write_config_text("routes: [{name: echo, bakend: {}}]")
        gateway.hang_up()
        rejected = gateway.wait_for_event("config_rejected")
        assert any("bakend" in problem for problem in rejected["problems"])
        with RawClient(gateway.url("/")) as client:
            assert exchange(client, b"as before") == b"as before"
        metrics = gateway.metrics()
        assert metrics.value("kakitome_config_reloads_total", outcome="rejected") >= 1
        assert metrics.value("kakitome_config_last_reload_successful") == 0
        gateway.write_config(gateway.config)
        gateway.wait_for_event("config_applied")
        assert gateway.metrics().value("kakitome_config_last_reload_successful") == 1


# --- what the operator can mend ------------------------------------------------------------------------------------


def serve_and_fail(*arguments: str) -> tuple[int, str]:
    argv = [sys.executable, "-m", "gateway", "serve", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, cwd=REPOSITORY, check=False)
    return done.returncode, done.stderr


def write_config(folder: Path, listener: str) -> Path:
    file = folder / "kakitome.yaml"
    routes = 'routes: [{name: echo, backend: {endpoints: ["tcp://127.0.0.1:9"]}}]'
    file.write_text(f"listeners: [{{{listener}}}]\nadmin: null\n{routes}\n")
    return file


def test_a_port_in_use_is_one_line_that_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = serve_and_fail("--config", str(write_config(tmp_path, f'bind: "127.0.0.1:{port}"')))
    assert status == 1
    assert str(port) in said
    assert "Traceback" not in said


def test_a_missing_certificate_is_one_line_that_names_it(tmp_path: Path) -> None:
    listener = 'bind: "127.0.0.1:0", tls: {certificate: no.crt, key: no.key}'
    status, said = serve_and_fail("--config", str(write_config(tmp_path, listener)))
    assert status in {1, 2}
    assert "no.crt" in said
    assert "Traceback" not in said


def test_a_missing_config_is_one_line_that_names_it(tmp_path: Path) -> None:
    status, said = serve_and_fail("--config", str(tmp_path / "nowhere.yaml"))
    assert status in {1, 2}
    assert "nowhere.yaml" in said
    assert "Traceback" not in said
