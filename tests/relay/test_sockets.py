"""Reading and writing of sockets by descriptor: both forms behave alike, and like the kernel."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType

import pytest

from gateway.relay import _sockets_py
from gateway.telemetry import tcp_info
from tests.relay.sockets import tcp_pair, unix_pair

try:
    from gateway.relay import _sockets
except ImportError:
    _sockets = None  # type: ignore[assignment]

BUILD = "the compiled form is not there: build it with `make codec`"

BUFFER_BYTES = 64 * 1024


@pytest.fixture(
    params=[
        pytest.param(_sockets_py, id="pure"),
        pytest.param(_sockets, id="compiled", marks=pytest.mark.skipif(_sockets is None, reason=BUILD)),
    ]
)
def form(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the two forms in turn."""
    module: ModuleType = request.param
    return module


@pytest.fixture(params=[tcp_pair, unix_pair])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, peer = request.param()
    ours.setblocking(False)
    yield ours, peer
    ours.close()
    peer.close()


def fill(form: ModuleType, ours: socket.socket) -> int:
    """Writes until the kernel takes no more; how much it took."""
    taken = 0
    with suppress(BlockingIOError):
        while True:
            taken += form.send(ours.fileno(), bytes(100_000))
    return taken


@pytest.mark.parametrize("size", [1, 4096, 4097, BUFFER_BYTES])
def test_what_the_peer_sent_is_read_whole(
    form: ModuleType, pair: tuple[socket.socket, socket.socket], size: int
) -> None:
    ours, peer = pair
    payload = bytes(number % 251 for number in range(size))
    peer.sendall(payload)
    buffer = form.ReadBuffer(BUFFER_BYTES)
    got = bytearray()
    while len(got) < size:
        with suppress(BlockingIOError):
            got += buffer.receive(ours.fileno())
    assert bytes(got) == payload


def test_small_reads_outlive_the_next_one_and_large_ones_are_views(
    form: ModuleType, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, peer = pair
    buffer = form.ReadBuffer(BUFFER_BYTES)
    peer.sendall(b"first")
    first = buffer.receive(ours.fileno())
    peer.sendall(b"other")
    assert buffer.receive(ours.fileno()) == b"other"
    assert (first, type(first)) == (b"first", bytes)
    peer.sendall(bytes(4097))
    assert isinstance(buffer.receive(ours.fileno()), memoryview)
    assert len(buffer.view) == BUFFER_BYTES


def test_no_more_is_read_than_the_buffer_holds(form: ModuleType, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    peer.sendall(b"0123456789")
    buffer = form.ReadBuffer(4)
    assert bytes(buffer.receive(ours.fileno(), 1)) == b"0"
    assert [bytes(buffer.receive(ours.fileno(), most)) for most in (4, 5, 3)] == [b"1234", b"5678", b"9"]


def test_nothing_to_read_and_the_end_of_input_are_told_apart(
    form: ModuleType, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, peer = pair
    buffer = form.ReadBuffer(BUFFER_BYTES)
    with pytest.raises(BlockingIOError):
        buffer.receive(ours.fileno())
    peer.close()
    assert buffer.receive(ours.fileno()) == b""


def test_the_kernel_takes_what_it_has_room_for(form: ModuleType, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = pair
    taken = fill(form, ours)
    with pytest.raises(BlockingIOError):
        form.send(ours.fileno(), b"more")
    ours.close()
    assert sum(iter(lambda: len(peer.recv(1 << 20)), 0)) == taken


def test_a_peer_that_is_gone_is_an_error_and_no_signal(
    form: ModuleType, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, peer = pair
    peer.close()

    def send_often() -> None:
        for _ in range(1000):  # on TCP the first write only learns of it
            form.send(ours.fileno(), b"data")

    with pytest.raises(ConnectionError):
        send_often()


def test_what_the_far_host_acknowledged_is_told_for_tcp_alone(form: ModuleType) -> None:
    ours, peer = tcp_pair()
    with ours, peer:
        before = form.acked_bytes(ours)
        assert before == tcp_info.acked_bytes(ours)
        ours.sendall(bytes(10_000))
        assert len(peer.recv(10_000, socket.MSG_WAITALL)) == 10_000
        while tcp_info.unacked_output(ours):
            pass
        assert form.acked_bytes(ours) - before == 10_000
    with pytest.raises(OSError, match="Bad file descriptor"):
        form.acked_bytes(ours)
    ours, peer = unix_pair()
    with ours, peer:
        assert form.acked_bytes(ours) is None


def test_bad_arguments_are_refused(form: ModuleType, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    with pytest.raises(OSError, match="Bad file descriptor"):
        form.ReadBuffer(16).receive(-1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        form.send(-1, b"data")
    with pytest.raises(TypeError):
        form.send(ours.fileno(), "text")
