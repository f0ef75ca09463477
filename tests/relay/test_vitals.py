"""What our kernel says of a far host: what it has acknowledged, and whether it is there."""

import socket
from collections.abc import Callable
from contextlib import suppress
from ssl import SSLWantWriteError

import pytest

from gateway.relay.vitals import LOOKS_IN_A_PATIENCE, Vitals, Watch, look_at
from tests.relay.sockets import tcp_pair, tls_pair, unix_pair

Pair = Callable[[], tuple[socket.socket, socket.socket]]
PATIENCE = 30.0


def fill(sock: socket.socket) -> int:
    """Sends until the far host's buffer and our own are full; how much was sent."""
    taken = 0
    with suppress(BlockingIOError, SSLWantWriteError):
        while True:
            taken += sock.send(bytes(16_000))
    return taken


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair, tls_pair])
def test_what_the_far_host_takes_is_seen(pair: Pair) -> None:
    ours, theirs = pair()
    with ours, theirs:
        taken = fill(ours)
        before = look_at(ours, taken=taken, buffered=100, has_ended=False)
        assert before.outstanding > 100
        got = 0
        theirs.settimeout(0.05)
        with suppress(TimeoutError):
            while got < taken:
                got += len(theirs.recv(1 << 20))
        after = look_at(ours, taken=taken, buffered=0, has_ended=False)
        for _ in range(10_000):
            if not after.outstanding:
                break
            after = look_at(ours, taken=taken, buffered=0, has_ended=False)
        assert (after.outstanding, after.acknowledged != before.acknowledged) == (0, True)


def test_a_closed_window_is_not_unanswered() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        taken = fill(ours)
        answered = (look_at(ours, taken=taken, buffered=0, has_ended=False) for _ in range(100_000))
        closed = next(vitals for vitals in answered if not vitals.is_unanswered)
        assert closed.outstanding


def test_the_end_of_our_stream_is_no_byte_that_is_outstanding() -> None:
    ours, theirs = tcp_pair()
    with ours, theirs:
        ours.shutdown(socket.SHUT_WR)
        assert not look_at(ours, taken=0, buffered=0, has_ended=True).outstanding


# --- who is gone --------------------------------------------------------------------------------------------------


class Host:
    """A far host at a clock, looked at when that is due."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watch = Watch(PATIENCE, now=self.now)
        self.heard_at = self.now

    def is_gone(self, *, outstanding: int = 1, is_unanswered: bool = True) -> bool:
        self.now = self.watch.next_look_at
        vitals = Vitals(
            outstanding=outstanding, is_unanswered=is_unanswered, since_ack_seconds=self.now - self.heard_at
        )
        return self.watch.is_gone(vitals, 100, self.now)


def test_a_host_that_answers_nothing_is_gone_when_the_patience_is_over() -> None:
    host = Host()
    begin = host.now
    while not host.is_gone():
        assert host.now - begin < PATIENCE
    assert host.now - begin == pytest.approx(PATIENCE)


def test_a_host_that_has_been_idle_for_long_has_the_whole_patience() -> None:
    host = Host()
    host.heard_at -= 3600.0
    assert [host.is_gone() for _ in range(LOOKS_IN_A_PATIENCE + 1)] == [False] * LOOKS_IN_A_PATIENCE + [True]


def test_whatever_acknowledges_is_a_sign_of_life() -> None:
    host = Host()
    for _ in range(20):
        assert not host.is_gone()
        host.heard_at = host.now + 1.0


def test_a_closed_window_whose_probes_are_answered_is_no_sign_of_death() -> None:
    host = Host()
    for look in range(50):  # between two probes nothing is unanswered, for two minutes at last
        assert not host.is_gone(is_unanswered=look % 10 == 0)


def test_a_look_is_needed_only_where_something_was_written_since_all_was_acknowledged() -> None:
    host = Host()
    assert not host.watch.is_needed(0)
    assert host.watch.is_needed(100)
    assert not host.is_gone(outstanding=0, is_unanswered=False)
    assert not host.watch.is_needed(100)
    assert host.watch.is_needed(101)
