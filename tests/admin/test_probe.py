"""The probe against real admin listeners, as a container's health check runs it."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from gateway.admin.app import AdminApp
from gateway.admin.probe import ask
from gateway.admin.server import AdminServer
from gateway.cli import main
from gateway.config import Address, Admin, TcpAddress, UnixAddress
from gateway.telemetry.metrics import Metrics

LOOPBACK = TcpAddress(host="127.0.0.1", port=0)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The lines of this process' own listener would be among what the command prints."""
    with capture_logs():
        yield


class FakeGateway:
    """A gateway with these problems."""

    def __init__(self, problems: Mapping[str, object]) -> None:
        self.metrics = Metrics()
        self._problems = problems

    def readiness(self) -> Mapping[str, object]:
        return self._problems


async def probe(*arguments: str, bind: Address = LOOPBACK, problems: Mapping[str, object] | None = None) -> Result:
    """What `kakitome probe` does beside an admin listener at `bind`."""
    async with trio.open_nursery() as nursery:
        server = AdminServer(Admin(bind=bind), AdminApp(FakeGateway(problems or {})))
        address = await nursery.start(server.serve)
        result = await trio.to_thread.run_sync(CliRunner().invoke, main, ["probe", "--admin", str(address), *arguments])
        nursery.cancel_scope.cancel()
    return result


@contextmanager
def peer(answer: bytes | None) -> Iterator[str]:
    """Address of a server that sends `answer` to whoever connects; with None it is silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        released = threading.Event()

        def serve() -> None:
            if answer is None:
                released.wait()
                return
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            released.set()
            thread.join()


async def test_a_gateway_that_lives_is_healthy_even_while_it_is_not_ready() -> None:
    result = await probe(problems={"draining": True})
    assert (result.exit_code, result.stdout, result.stderr) == (0, "ok\n", "")


async def test_ready_asks_whether_it_takes_connections() -> None:
    result = await probe("--ready")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"ready": True})


async def test_one_that_is_not_ready_fails_and_says_why() -> None:
    result = await probe("--ready", problems={"draining": True})
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"ready": False, "draining": True})


async def test_the_admin_listener_may_be_a_unix_socket(tmp_path: Path) -> None:
    result = await probe(bind=UnixAddress(path=tmp_path / "admin.sock"))
    assert (result.exit_code, result.stdout) == (0, "ok\n")


async def test_the_address_may_come_from_the_environment_and_be_ipv6() -> None:
    async with trio.open_nursery() as nursery:
        server = AdminServer(Admin(bind=TcpAddress(host="::1", port=0)), AdminApp(FakeGateway({})))
        address = await nursery.start(server.serve)
        environment = {"KAKITOME_ADMIN": str(address)}
        result = await trio.to_thread.run_sync(lambda: CliRunner().invoke(main, ["probe"], env=environment))
        nursery.cancel_scope.cancel()
    assert str(address).startswith("[::1]:")
    assert (result.exit_code, result.stdout) == (0, "ok\n")


@pytest.mark.parametrize("missing", ["127.0.0.1:1", "unix:nowhere.sock"])
def test_where_nobody_listens_it_fails_with_one_line(missing: str) -> None:
    result = CliRunner().invoke(main, ["probe", "--admin", missing])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"kakitome: {missing} does not answer: ")
    assert result.stderr.count("\n") == 1


def test_what_does_not_speak_http_fails_with_one_line() -> None:
    with peer(b"220 mail.example.com ESMTP\r\n") as address:
        result = CliRunner().invoke(main, ["probe", "--admin", address])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "BadStatusLine" in result.stderr


def test_one_that_hangs_is_given_up() -> None:
    with peer(None) as address, pytest.raises(TimeoutError):
        ask(address, "/healthz", timeout=0.05)


@pytest.mark.parametrize(
    "wrong", ["9090", "localhost", ":9090", "http://localhost:9090", "localhost:0", "localhost:65536", "a:b", "u@h:1"]
)
def test_what_is_no_address_is_refused_with_what_to_write(wrong: str) -> None:
    result = CliRunner().invoke(main, ["probe", "--admin", wrong])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "write host:port, [v6]:port or unix:PATH" in result.stderr
