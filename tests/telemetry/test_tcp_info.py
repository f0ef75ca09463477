"""What the running kernel reports about real loopback connections, and what short structures are read as."""

import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.tcp_info import (
    TCP_CLOSE,
    TcpSample,
    acked_bytes,
    parse_acked_bytes,
    parse_sample,
    sample,
    unacked_output,
)

TCP_ESTABLISHED = 1

Connection = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["127.0.0.1", "::1"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A gateway's socket, which connected, and its backend's, which was accepted."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as listener:
        gateway = socket.create_connection(listener.getsockname()[:2])
        backend, _ = listener.accept()
    with gateway, backend:
        yield gateway, backend


def _sampled(sock: socket.socket) -> TcpSample:
    found = sample(sock)
    assert found is not None
    return found


def _have_all_acknowledged(gateway: socket.socket, backend: socket.socket) -> None:
    """Data that the backend sends carries the acknowledgement of all that it has received."""
    backend.sendall(b"!")
    assert gateway.recv(1) == b"!"


def _fill(gateway: socket.socket) -> int:
    """Send until the kernel takes no more; how many bytes it took."""
    gateway.setblocking(False)
    sent = 0
    while True:
        try:
            sent += gateway.send(bytes(65536))
        except BlockingIOError:
            return sent


def _wait_until(claim: Callable[[], bool]) -> None:
    """For what the kernel does in its own time and tells nobody about."""
    deadline = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_the_connecting_side_has_its_syn_acknowledged_as_one_byte(connection: Connection) -> None:
    gateway, backend = connection
    assert acked_bytes(gateway) == 1
    assert acked_bytes(backend) == 0
    assert _sampled(gateway).state == TCP_ESTABLISHED


def test_acknowledged_bytes_are_counted_from_the_baseline(connection: Connection) -> None:
    gateway, backend = connection
    baseline = acked_bytes(gateway)
    assert baseline is not None
    gateway.sendall(bytes(10_000))
    assert len(backend.recv(10_000, socket.MSG_WAITALL)) == 10_000
    _have_all_acknowledged(gateway, backend)
    assert acked_bytes(gateway) == baseline + 10_000
    assert unacked_output(gateway) == 0


def test_the_fin_is_acknowledged_as_one_more_byte(connection: Connection) -> None:
    gateway, backend = connection
    gateway.sendall(bytes(100))
    gateway.shutdown(socket.SHUT_WR)
    assert len(backend.recv(200, socket.MSG_WAITALL)) == 100
    _have_all_acknowledged(gateway, backend)
    assert acked_bytes(gateway) == 1 + 100 + 1
    assert unacked_output(gateway) == 0


def test_a_backend_that_never_reads_acknowledges_no_more_than_its_window(connection: Connection) -> None:
    gateway, _ = connection
    sent = _fill(gateway)
    before = _sampled(gateway)
    assert 1 < before.bytes_acked < 1 + sent
    assert before.notsent_bytes > 0
    _wait_until(lambda: 1 + sent == _sampled(gateway).bytes_acked + (unacked_output(gateway) or 0))
    _wait_until(lambda: _sampled(gateway).rwnd_limited_seconds > before.rwnd_limited_seconds)


def test_after_a_reset_the_count_stands_still_below_what_was_sent(connection: Connection) -> None:
    gateway, backend = connection
    sent = _fill(gateway)
    assert len(backend.recv(3000, socket.MSG_WAITALL)) == 3000
    # Closing with unread bytes makes the kernel send a reset.
    backend.close()
    gateway.setblocking(True)
    with pytest.raises(ConnectionResetError):
        gateway.recv(1)
    after = _sampled(gateway)
    assert after.state == TCP_CLOSE
    # Acknowledged is not consumed: the backend read 3,000 bytes only.
    assert 3000 < after.bytes_acked < sent
    unacked = unacked_output(gateway)
    assert unacked is not None
    assert unacked > 0
    again = _sampled(gateway)
    assert (again.state, again.bytes_acked) == (after.state, after.bytes_acked)


def test_under_tls_nothing_unacknowledged_means_that_all_was_reached(connection: Connection) -> None:
    gateway, backend = connection
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    gateway.settimeout(10)
    with (
        client.wrap_socket(gateway, server_hostname="localhost", do_handshake_on_connect=False) as gateway_tls,
        server.wrap_socket(backend, server_side=True, do_handshake_on_connect=False) as backend_tls,
    ):
        gateway_tls.setblocking(False)
        backend_tls.setblocking(False)
        _shake_hands(gateway_tls, backend_tls)
        gateway_tls.send(bytes(1000))
        gateway_tls.setblocking(True)
        backend_tls.setblocking(True)
        assert len(backend_tls.recv(1000)) == 1000
        backend_tls.send(b"!")
        assert gateway_tls.recv(1) == b"!"
        assert unacked_output(gateway_tls) == 0
        acked = acked_bytes(gateway_tls)
        assert acked is not None
        # The ciphertext, with its handshake, is longer than the plaintext.
        assert acked > 1 + 1000


def _shake_hands(*ends: ssl.SSLSocket) -> None:
    waiting = list(ends)
    while waiting:
        for end in tuple(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_unix_sockets_give_no_evidence(kind: socket.SocketKind) -> None:
    gateway, backend = socket.socketpair(socket.AF_UNIX, kind)
    with gateway, backend:
        gateway.send(b"unread")
        assert acked_bytes(gateway) is None
        assert sample(gateway) is None
        assert unacked_output(gateway) is None


@pytest.mark.parametrize("read", [acked_bytes, sample, unacked_output])
def test_a_closed_socket_is_an_error_and_not_missing_evidence(read: Callable[[socket.socket], object]) -> None:
    sock = socket.socket()
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        read(sock)


def _structure(
    *, state: int, probes: int, unacked: int, since_ack: int, acked: int, notsent: int, rwnd_limited: int
) -> bytes:
    """struct tcp_info as Linux 6 returns it, with these fields and all others 0xFF."""
    info = bytearray(b"\xff" * 248)
    fields = (
        (0, "=B", state),
        (3, "=B", probes),
        (24, "=I", unacked),
        (56, "=I", since_ack),
        (120, "=Q", acked),
        (144, "=I", notsent),
        (176, "=Q", rwnd_limited),
    )
    for offset, form, value in fields:
        struct.pack_into(form, info, offset, value)
    return bytes(info)


@given(
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, 2**31),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**40),
    st.integers(0, 248),
)
def test_a_structure_that_ends_before_a_field_does_not_give_it(
    state: int, probes: int, unacked: int, since_ack: int, acked: int, notsent: int, rwnd_limited: int, size: int
) -> None:
    info = _structure(
        state=state,
        probes=probes,
        unacked=unacked,
        since_ack=since_ack,
        acked=acked,
        notsent=notsent,
        rwnd_limited=rwnd_limited,
    )[:size]
    assert parse_acked_bytes(info) == (acked if size >= 128 else None)
    expected = TcpSample(
        state=state,
        bytes_acked=acked,
        unanswered=probes + unacked,
        since_ack_seconds=since_ack / 1000,
        notsent_bytes=notsent,
        rwnd_limited_seconds=rwnd_limited / 1_000_000,
    )
    assert parse_sample(info) == (expected if size >= 184 else None)


def test_a_kernel_that_returns_less_gives_no_evidence(monkeypatch: pytest.MonkeyPatch, connection: Connection) -> None:
    gateway, _ = connection

    class OldKernelSocket(socket.socket):
        def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:  # type: ignore[override]
            return super().getsockopt(level, option, min(size, 104))

    with OldKernelSocket(fileno=os.dup(gateway.fileno())) as old:
        assert acked_bytes(old) is None
        assert sample(old) is None
        assert unacked_output(old) == 0
