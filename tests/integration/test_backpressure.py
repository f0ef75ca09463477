"""Floods cost bounded memory, stall nobody else, and stall only their own direction.

Each of a hundred connections is offered a gibibyte; the offer ends when nothing has been taken for a while. The bound
is what a connection may hold by design: the look-ahead or a read (128 KiB), the write buffer above its mark (64 KiB and
one read), and what the interpreter needs for them.
"""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from queue import Queue

from tests.support import procfs
from tests.support.backends import serve, tcp_echo
from tests.support.gateway import GatewayProcess, route
from tests.support.peers.raw_client import RawClient
from tests.support.peers.wire import frame

CONNECTIONS = 100
OFFERED_BYTES = 1 << 30
BOUND_BYTES = CONNECTIONS * 512 * 1024
STALLED_SECONDS = 1.0
"""Nothing taken for so long: the gateway has stopped reading."""
CHUNK = bytes(64 * 1024)

BINARY, PING, PONG = 2, 9, 10


def offer(sock: socket.socket, data: bytes, total: int = OFFERED_BYTES) -> int:
    """Writes `data` over and over until `total` bytes are taken or nothing is any more; returns how many were."""
    sock.settimeout(STALLED_SECONDS)
    taken = 0
    try:
        while taken < total:
            position = taken % len(data)
            taken += sock.send(data[position:] if position else data)
    except TimeoutError:
        pass
    return taken


class Silent:
    """A backend that reads nothing, and says what the test tells it to."""

    def __init__(self) -> None:
        self.connections: Queue[socket.socket] = Queue()
        self._over = threading.Event()

    @contextmanager
    def run(self) -> Iterator[int]:
        def keep(connection: socket.socket) -> None:
            self.connections.put(connection)
            self._over.wait()

        with serve(keep) as port:
            try:
                yield port
            finally:
                self._over.set()


@contextmanager
def gateway_before(port: int) -> Iterator[GatewayProcess]:
    """A gateway with the route /flood to that port and the route /echo to an echo service."""
    with tcp_echo() as echo:
        routes = [
            route("flood", "/flood", f"tcp://127.0.0.1:{port}", limits={"connections_per_address": None}),
            route("echo", "/echo", f"tcp://127.0.0.1:{echo}"),
        ]
        # Not measured for coverage: the tracer's own memory and speed are not what is tested.
        with GatewayProcess({"routes": routes}, covered=False) as gateway:
            yield gateway


def assert_echo_is_served(gateway: GatewayProcess) -> None:
    with RawClient(gateway.url("/echo")) as client:
        client.send(BINARY, b"still served?")
        assert client.receive_message() == b"still served?"


@contextmanager
def memory_bounded(gateway: GatewayProcess) -> Iterator[None]:
    """Fails if the gateway's resident memory ever grew by more than the bound inside the block."""
    assert_echo_is_served(gateway)
    before = gateway.resident_bytes()
    procfs.reset_peak(gateway.pid)
    yield
    grown = procfs.peak_resident_bytes(gateway.pid) - before
    assert grown < BOUND_BYTES, f"{grown / CONNECTIONS / 1024:.0f} KiB for each of {CONNECTIONS} connections"


def test_a_hundred_clients_flooding_a_backend_that_does_not_read_cost_bounded_memory() -> None:
    with Silent().run() as port, gateway_before(port) as gateway, memory_bounded(gateway), ExitStack() as stack:
        clients = [stack.enter_context(RawClient(gateway.url("/flood"))) for _ in range(CONNECTIONS)]
        pool = stack.enter_context(ThreadPoolExecutor(CONNECTIONS))
        flood = pool.map(lambda client: offer(client.sock, frame(BINARY, CHUNK)), clients)
        assert_echo_is_served(gateway)
        assert max(flood) < OFFERED_BYTES // 16, "the gateway stopped reading long before the offer's end"
        assert_echo_is_served(gateway)
        metrics = gateway.metrics()
        assert metrics.value("kakitome_paused_seconds_total", route="flood", direction="upstream") > 0


def test_a_hundred_backends_flooding_clients_that_do_not_read_cost_bounded_memory() -> None:
    silent = Silent()
    with silent.run() as port, gateway_before(port) as gateway, memory_bounded(gateway), ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(RawClient(gateway.url("/flood"), receive_bytes=65536))
        backends = [silent.connections.get(timeout=20) for _ in range(CONNECTIONS)]
        pool = stack.enter_context(ThreadPoolExecutor(CONNECTIONS))
        flood = pool.map(lambda backend: offer(backend, CHUNK), backends)
        assert_echo_is_served(gateway)
        assert max(flood) < OFFERED_BYTES // 16, "the gateway stopped reading long before the offer's end"
        assert_echo_is_served(gateway)
        metrics = gateway.metrics()
        assert metrics.value("kakitome_paused_seconds_total", route="flood", direction="downstream") > 0


def test_one_message_without_an_end_costs_bounded_memory_too() -> None:
    """A single frame of a gibibyte, which a stream passes on as it comes, to a backend that takes it all."""
    received = Queue[int]()

    def swallow(connection: socket.socket) -> None:
        total = 0
        while data := connection.recv(1 << 20):
            total += len(data)
        received.put(total)

    with serve(swallow) as port:
        limits = {"message_bytes": None}
        routes = [route("huge", "/huge", f"tcp://127.0.0.1:{port}", limits=limits)]
        with GatewayProcess({"routes": routes}, covered=False) as gateway:
            with RawClient(gateway.url("/huge")) as client:
                before = gateway.resident_bytes()
                procfs.reset_peak(gateway.pid)
                head = frame(BINARY, CHUNK * 2)[:2] + OFFERED_BYTES.to_bytes(8) + bytes(4)
                client.sock.sendall(head)
                for _ in range(OFFERED_BYTES // len(CHUNK)):
                    client.sock.sendall(CHUNK)
                client.send(8, b"\x03\xe8")
                assert client.receive_close() == (1000, "")
            assert received.get(timeout=20) == OFFERED_BYTES
            assert procfs.peak_resident_bytes(gateway.pid) - before < 4 << 20


def stall_upstream(client: RawClient) -> None:
    """Sends until nothing more is taken, and then reads what the gateway had already answered."""
    offer(client.sock, frame(BINARY, CHUNK))
    client.sock.settimeout(20)


def test_a_client_whose_upstream_is_stalled_is_served_downstream() -> None:
    silent = Silent()
    with silent.run() as port, gateway_before(port) as gateway, RawClient(gateway.url("/flood")) as client:
        stall_upstream(client)
        backend = silent.connections.get(timeout=20)
        for number in range(100):
            backend.sendall(b"tick %d" % number)
            frame = client.receive()
            while frame.opcode == PING:
                # The pong cannot leave: the upstream is stalled. The gateway must not hold that against the client.
                frame = client.receive()
            assert frame.payload == b"tick %d" % number


def test_a_ping_behind_messages_that_the_backend_does_not_take_is_answered() -> None:
    """The messages fill the window of four, so they are held back; the ping stands within the look-ahead."""
    silent = Silent()
    with silent.run() as port:
        delivery = {"window_messages": 4, "window_bytes": "1MiB"}
        routes = [route("flood", "/flood", f"tcp://127.0.0.1:{port}", delivery=delivery)]
        with GatewayProcess({"routes": routes}) as gateway, RawClient(gateway.url("/flood")) as client:
            backend = silent.connections.get(timeout=20)
            backend.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            paused = 0.0
            for number in range(1000):
                client.send(BINARY, bytes(4096))
                client.send(PING, b"%d" % number)
                assert client.receive().payload == b"%d" % number
                paused = gateway.metrics().value("kakitome_paused_seconds_total", route="flood", direction="upstream")
                if paused:
                    break
            assert paused, "the upstream was stalled when the last ping was answered"


def test_a_client_that_does_not_read_still_reaches_the_backend_and_its_close_is_heard() -> None:
    silent = Silent()
    with silent.run() as port, gateway_before(port) as gateway:
        client = RawClient(gateway.url("/flood"), receive_bytes=65536)
        with client:
            backend = silent.connections.get(timeout=20)
            offer(backend, CHUNK)
            backend.settimeout(20)
            for number in range(100):
                client.send(BINARY, b"tick %d" % number)
                assert backend.recv(4096) == b"tick %d" % number
            client.send(8, b"\x03\xe8done")
            assert backend.recv(4096) == b"", "the Close became the end of the backend's stream"
        ended = gateway.wait_for_event("session_ended", route="flood")
        assert (ended["by"], ended["code"]) == ("client", 1000)
