"""What our own kernel says of a backend: bytes acknowledged, and whether its application reads."""

import socket
import ssl
from contextlib import suppress

import pytest

from gateway.protocol.records import Rung
from gateway.relay.evidence import Evidence
from tests.relay.sockets import tcp_pair, tls_pair, unix_pair


def fill(sock: socket.socket) -> None:
    """Sends until the far host's buffer and our own are full."""
    with suppress(BlockingIOError, ssl.SSLWantWriteError):
        while True:
            sock.send(bytes(16_000))


def test_bytes_sent_before_are_not_counted() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        ours.send(b"a PROXY header")
        evidence = Evidence(ours)
        theirs.recv(100)
        assert evidence.settles_at is Rung.REACHED
        assert evidence.reached_offset(0) == 0
        ours.send(b"12345")
        theirs.recv(100)
        assert evidence.reached_offset(5) == 5


def test_an_acknowledged_end_of_stream_is_no_byte_of_ours() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        evidence = Evidence(ours)
        ours.send(b"12345")
        ours.shutdown(1)
        assert theirs.recv(100) == b"12345"
        assert theirs.recv(100) == b""
        assert evidence.reached_offset(5) == 5


def test_a_unix_socket_proves_only_what_was_written() -> None:
    ours, theirs = unix_pair()
    with ours, theirs:
        evidence = Evidence(ours)
        assert evidence.settles_at is Rung.WRITTEN
        assert evidence.reached_offset(5) is None
        assert not evidence.is_receiver_slow()


def test_under_tls_all_or_nothing_is_known() -> None:
    ours, theirs = tls_pair()
    with ours, theirs:
        evidence = Evidence(ours)
        assert evidence.settles_at is Rung.REACHED
        ours.send(b"12345")
        assert theirs.recv(100) == b"12345"
        assert evidence.reached_offset(5) == 5
        fill(ours)
        assert evidence.reached_offset(1_000_000) is None


def test_a_receiver_that_does_not_read_is_told_from_one_that_does() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        evidence = Evidence(ours)
        ours.send(b"12345")
        theirs.recv(100)
        assert not evidence.is_receiver_slow()
        fill(ours)
        for _ in range(10_000):
            if evidence.is_receiver_slow():
                break
        else:
            pytest.fail("the closed window was not seen")
