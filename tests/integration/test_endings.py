"""How connections end, row by row of the design's table: what the client sees, and what the backend sees."""

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import Queue
from typing import Any

import pytest

from tests.support.backends import serve
from tests.support.gateway import GatewayProcess, route
from tests.support.network import free_port
from tests.support.peers.raw_client import RawClient

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
PATIENCE_SECONDS = 20


class Backend:
    """A backend whose one connection the test holds in its hand."""

    def __init__(self) -> None:
        self._accepted: Queue[socket.socket] = Queue()
        self._over = threading.Event()

    @contextmanager
    def run(self) -> Iterator[int]:
        def keep(connection: socket.socket) -> None:
            connection.settimeout(PATIENCE_SECONDS)
            self._accepted.put(connection)
            self._over.wait()

        with serve(keep) as port:
            try:
                yield port
            finally:
                self._over.set()

    def connection(self) -> socket.socket:
        return self._accepted.get(timeout=PATIENCE_SECONDS)


def read_to_end(sock: socket.socket) -> bytes:
    """Everything the gateway still sent before it ended its side."""
    parts = []
    while data := sock.recv(65536):
        parts.append(data)
    return b"".join(parts)


def reset(sock: socket.socket) -> None:
    """Closes with a TCP reset, as a crashed process does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


Open = Callable[..., tuple[RawClient, socket.socket, GatewayProcess]]


@pytest.fixture
def open_connection() -> Iterator[Open]:
    """Opens one relayed connection through a route with the given settings."""

    with ExitStack() as stack:

        def open_connection(
            framing: str = "stream", **settings: Any
        ) -> tuple[RawClient, socket.socket, GatewayProcess]:
            backend = Backend()
            port = stack.enter_context(backend.run())
            routes = [route("it", "/", f"tcp://127.0.0.1:{port}", framing=framing, **settings)]
            gateway = stack.enter_context(GatewayProcess({"routes": routes}))
            client = stack.enter_context(RawClient(gateway.url("/")))
            return client, backend.connection(), gateway

        yield open_connection


# --- the client ends -----------------------------------------------------------------------------------------------


def test_a_clients_close_is_echoed_once_the_backend_has_said_its_last(open_connection: Open) -> None:
    client, backend, gateway = open_connection()
    client.send(BINARY, b"last words")
    client.send(CLOSE, struct.pack("!H", 4000) + b"enough")
    assert read_to_end(backend) == b"last words", "everything is flushed, then the stream is half-closed"
    backend.sendall(b"goodbye")
    backend.close()
    assert client.receive().payload == b"goodbye"
    assert client.receive_close()[0] == 4000
    ended = gateway.wait_for_event("session_ended")
    assert (ended["by"], ended["code"]) == ("client", 4000)


def test_a_close_without_a_code_is_answered_without_one(open_connection: Open) -> None:
    client, backend, _ = open_connection()
    client.send(CLOSE)
    assert read_to_end(backend) == b""
    backend.close()
    assert client.receive_close() == (1005, "")


def test_a_vanished_client_is_the_end_of_the_backends_stream(open_connection: Open) -> None:
    client, backend, gateway = open_connection()
    client.send(BINARY, b"half a ")
    assert backend.recv(100) == b"half a "
    reset(client.sock)
    assert read_to_end(backend) == b""
    backend.close()
    assert gateway.wait_for_event("session_ended")["code"] == 1006


# --- the backend ends ----------------------------------------------------------------------------------------------


def test_everything_the_backend_sent_arrives_before_its_end_closes_with_1000(open_connection: Open) -> None:
    client, backend, _ = open_connection()
    sent = bytes(range(256)) * 4096

    def say_and_end() -> None:
        backend.sendall(sent)
        backend.close()

    threading.Thread(target=say_and_end, daemon=True).start()
    received = b""
    while (frame := client.receive()).opcode != CLOSE:
        received += frame.payload if frame.opcode == BINARY else b""
    assert received == sent
    assert frame.payload[:2] == struct.pack("!H", 1000)


def test_a_backend_that_resets_closes_with_1014(open_connection: Open) -> None:
    client, backend, gateway = open_connection()
    reset(backend)
    assert client.receive_close()[0] == 1014
    assert gateway.wait_for_event("session_ended")["by"] == "backend"


def test_a_backend_that_ends_inside_a_message_closes_with_1014(open_connection: Open) -> None:
    client, backend, _ = open_connection("length_prefixed")
    backend.sendall(struct.pack("!I", 100) + b"only this")
    backend.close()
    code, reason = client.receive_close()
    assert code == 1014
    assert reason


def test_a_line_beyond_the_limit_closes_with_1014(open_connection: Open) -> None:
    client, backend, _ = open_connection("lines", limits={"message_bytes": 1024})
    backend.sendall(bytes(2048))
    assert client.receive_close()[0] == 1014


@pytest.mark.parametrize(("endpoint", "status"), [("tcp://127.0.0.1:{port}", 502), ("unix:///nowhere.sock", 502)])
def test_an_unreachable_backend_is_http_502_before_the_upgrade(endpoint: str, status: int) -> None:
    routes = [route("it", "/", endpoint.format(port=free_port()))]
    with GatewayProcess({"routes": routes}) as gateway:
        with pytest.raises(ConnectionError, match=str(status)):
            RawClient(gateway.url("/"))
        outcomes = gateway.metrics()
        assert outcomes.value("kakitome_handshakes_total", route="it", outcome="unreachable") == 1


def test_a_backend_that_takes_no_connection_in_time_is_http_504() -> None:
    # A full accept queue: the kernel leaves further connections unanswered.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as busy, socket.socket() as first, socket.socket() as second:
        address = busy.getsockname()
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(address)
        backend = {"connect_timeout": "300ms"}
        routes = [route("it", "/", f"tcp://127.0.0.1:{address[1]}", backend=backend)]
        with (
            GatewayProcess({"routes": routes}) as gateway,
            pytest.raises(ConnectionError, match="504"),
        ):
            RawClient(gateway.url("/"))


# --- the client breaks a rule --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "settings", "code", "says"),
    [
        ([(3, b"")], {}, 1002, "opcode"),
        ([(TEXT, b"\xff")], {}, 1007, "UTF-8"),
        ([(BINARY, bytes(1025))], {"limits": {"message_bytes": 1024}}, 1009, "1024"),
        ([(TEXT, b"two\nlines")], {"framing": "lines"}, 1008, "line"),
        ([(BINARY, b"x")] * 200, {"limits": {"messages_per_second": 10, "excess": "close"}}, 1008, "10"),
    ],
    ids=["bad opcode", "bad UTF-8", "too big", "newline in a line", "too fast"],
)
def test_a_broken_rule_closes_with_its_code_and_a_reason_that_says_what(
    open_connection: Open, frames: list[tuple[int, bytes]], settings: dict[str, Any], code: int, says: str
) -> None:
    client, backend, _ = open_connection(**settings)
    for opcode, payload in frames:
        client.send(opcode, payload)
    closed, reason = client.receive_close()
    assert closed == code
    assert says in reason
    read_to_end(backend)


def test_an_unanswered_keepalive_closes_with_1011(open_connection: Open) -> None:
    client, backend, gateway = open_connection(timeouts={"keepalive": "200ms", "keepalive_timeout": "200ms"})
    while (frame := client.receive()).opcode == PING:
        pass
    assert frame.opcode == CLOSE
    assert frame.payload.startswith(struct.pack("!H", 1011) + b"keepalive timeout")
    assert read_to_end(backend) == b""
    assert gateway.wait_for_event("session_ended")["by"] == "gateway"


def test_an_answered_keepalive_keeps_the_connection(open_connection: Open) -> None:
    client, _, gateway = open_connection(timeouts={"keepalive": "100ms", "keepalive_timeout": "5s"})
    for _ in range(5):
        frame = client.receive()
        assert frame.opcode == PING
        client.send(PONG, frame.payload)
    assert gateway.metrics().value("kakitome_connections", route="it") == 1


def test_an_idle_connection_is_closed_when_the_route_says_so(open_connection: Open) -> None:
    client, backend, _ = open_connection(timeouts={"idle": "200ms"})
    code, reason = client.receive_close()
    assert code == 1000
    assert "idle" in reason
    assert read_to_end(backend) == b""
