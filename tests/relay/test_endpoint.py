"""Endpoints over real sockets: order, bounds, half-close, resets, and the ways of TLS."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from gateway.memory.account import Account
from gateway.protocol.pieces import Buffer
from gateway.relay.endpoint import (
    FIRST_READ_BYTES,
    HIGH_MARK_BYTES,
    LEAST_READ_BYTES,
    TRICKLE_BYTES,
    TRICKLE_SECONDS,
    TURN_PIECES,
    Endpoint,
    Output,
)
from gateway.relay.pump import BUFFER_BYTES, Pump
from gateway.relay.tls_endpoint import endpoint_for
from tests.relay.endpoints import Owner, Pair, Scene, endpoint_on
from tests.relay.harness import open_tab
from tests.relay.sockets import tcp_pair, tls_pair, unix_pair

PAIRS = pytest.mark.parametrize("pair", [tcp_pair, unix_pair, tls_pair])


@pytest.fixture
def scene(pair: Pair) -> Iterator[Scene]:
    with endpoint_on(pair) as scene:
        yield scene


def receive(peer: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (chunk := peer.recv(65536)):
        data += chunk
    return bytes(data)


@PAIRS
def test_bytes_are_read_only_between_resume_and_pause(scene: Scene) -> None:
    scene.peer.sendall(b"early")
    assert not scene.endpoint.is_reading
    scene.endpoint.resume()
    scene.turns(lambda: scene.owner.data == b"early")
    scene.endpoint.pause()
    scene.peer.sendall(b"more")
    assert scene.pump.turn() == 0
    scene.endpoint.resume()
    scene.turns(lambda: scene.owner.data == b"earlymore")
    assert scene.endpoint.bytes_read == 9


@PAIRS
def test_writes_go_out_in_order_and_what_is_not_taken_is_kept_and_told(scene: Scene) -> None:
    sent = bytearray()
    while not scene.endpoint.is_full:
        block = bytes([len(sent) // 4000 % 251]) * 4000
        scene.endpoint.write(block)
        sent += block
    assert HIGH_MARK_BYTES <= scene.endpoint.buffered < HIGH_MARK_BYTES + 4000
    assert scene.endpoint.bytes_taken + scene.endpoint.buffered == len(sent)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(receive(scene.peer, len(sent))))
    reader.start()
    scene.turns(lambda: "drained" in scene.owner.news and not scene.endpoint.buffered)
    reader.join()
    assert got[0] == sent
    assert (set(scene.owner.news), scene.endpoint.is_full) == ({"drained"}, False)
    assert scene.endpoint.bytes_taken == len(sent)


@PAIRS
def test_finish_flushes_then_ends_our_direction_and_the_other_goes_on(scene: Scene) -> None:
    scene.endpoint.write(b"last words")
    scene.endpoint.finish()
    scene.endpoint.finish()
    assert scene.endpoint.output is Output.FINISHED
    scene.endpoint.write(b"ignored")
    assert receive(scene.peer, 100) == b"last words"
    scene.endpoint.resume()
    if isinstance(scene.peer, ssl.SSLSocket):
        scene.peer.settimeout(None)
        raw = scene.peer.unwrap()  # answers our close_notify
        raw.close()
    else:
        scene.peer.sendall(b"an answer")
        scene.turns(lambda: scene.owner.data == b"an answer")
        scene.peer.shutdown(socket.SHUT_WR)
    scene.turns(lambda: scene.owner.news == ["eof"])


@PAIRS
def test_finish_behind_a_full_buffer_tells_when_it_is_out(scene: Scene) -> None:
    total = 0
    while not scene.endpoint.is_full:
        scene.endpoint.write(b"x" * 100_000)
        total += 100_000
    scene.endpoint.finish()
    assert scene.endpoint.output is Output.FINISHING
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(receive(scene.peer, total + 1)))
    reader.start()
    scene.turns(lambda: scene.endpoint.output is Output.FINISHED)
    reader.join()
    assert len(got[0]) == total
    assert scene.owner.news[-1] == "drained"


@PAIRS
def test_the_peers_end_is_told_once_behind_its_bytes(scene: Scene) -> None:
    scene.peer.sendall(b"bye")
    if isinstance(scene.peer, ssl.SSLSocket):
        scene.peer.setblocking(False)
        with pytest.raises(ssl.SSLWantReadError):
            scene.peer.unwrap()
    else:
        scene.peer.shutdown(socket.SHUT_WR)
    scene.endpoint.resume()
    scene.turns(lambda: scene.owner.news == ["eof"])
    assert scene.owner.data == b"bye"
    scene.pump.turn()
    assert scene.owner.news == ["eof"]


@pytest.mark.parametrize("pair", [tcp_pair])
def test_a_reset_is_told_when_reading(scene: Scene) -> None:
    scene.endpoint.resume()
    scene.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    scene.peer.close()
    scene.turns(lambda: scene.owner.news == ["broken"])
    assert scene.endpoint.output is Output.BROKEN


@pytest.mark.parametrize("pair", [tcp_pair])
def test_a_reset_while_paused_does_not_spin_and_is_found_by_the_next_read(scene: Scene) -> None:
    scene.endpoint.resume()
    scene.pump.turn()
    scene.endpoint.pause()
    scene.peer.sendall(b"unread")
    scene.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    scene.peer.close()
    assert sum(scene.pump.turn() for _ in range(100)) <= 1
    scene.endpoint.resume()
    scene.turns(lambda: scene.owner.news == ["broken"])


@pytest.mark.parametrize("pair", [tcp_pair])
def test_a_reset_while_bytes_are_unsent_is_told_also_when_paused(scene: Scene) -> None:
    while not scene.endpoint.is_full:
        scene.endpoint.write(b"x" * 100_000)
    scene.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    scene.peer.close()
    scene.turns(lambda: scene.owner.news == ["broken"])


@pytest.mark.parametrize("pair", [tcp_pair])
def test_a_write_that_fails_is_told_at_the_turns_end_not_from_within(scene: Scene) -> None:
    scene.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    scene.peer.close()
    while scene.endpoint.output is Output.OPEN:
        scene.endpoint.write(b"into the void")
    assert scene.owner.news == []
    scene.pump.turn()
    assert scene.owner.news == ["broken"]


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
@pytest.mark.parametrize("buffered", [False, True], ids=["at_once", "buffered"])
def test_the_last_words_of_a_peer_that_refuses_more_are_read_before_it_is_told(scene: Scene, buffered: bool) -> None:
    scene.endpoint.resume()
    if buffered:
        while not scene.endpoint.is_full:
            scene.endpoint.write(b"x" * 100_000)
    else:
        scene.endpoint.write(b"never read")
    words = bytes(range(256)) * 200
    scene.peer.sendall(words)
    scene.peer.close()  # over unread bytes: what follows is refused
    while scene.endpoint.output is Output.OPEN:
        scene.endpoint.write(b"refused")
        if buffered:
            scene.pump.turn()
    scene.turns(lambda: bool(scene.owner.news))
    assert (scene.owner.data == words, scene.owner.news) == (True, ["broken"])


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair])
def test_last_words_wait_for_an_owner_that_reads_nothing_at_present(scene: Scene) -> None:
    scene.endpoint.write(b"never read")
    scene.peer.sendall(b"last words")
    scene.peer.close()
    while scene.endpoint.output is Output.OPEN:
        scene.endpoint.write(b"refused")
    for _ in range(10):
        scene.pump.turn()
    assert (bytes(scene.owner.data), scene.owner.news) == (b"", [])
    scene.endpoint.resume()
    scene.turns(lambda: bool(scene.owner.news))
    assert (bytes(scene.owner.data), scene.owner.news) == (b"last words", ["broken"])


@pytest.mark.parametrize("pair", [tcp_pair])
def test_what_is_written_behind_a_failure_counts_as_never_taken_and_holds_its_writer_up(scene: Scene) -> None:
    scene.endpoint.write(b"never read")
    scene.peer.sendall(b"last words")
    scene.peer.close()
    while scene.endpoint.output is Output.OPEN:
        scene.endpoint.write(b"refused")
    taken, begin = scene.endpoint.bytes_taken, scene.endpoint.buffered
    scene.endpoint.write(bytes(HIGH_MARK_BYTES))
    assert (scene.endpoint.bytes_taken, scene.endpoint.buffered - begin) == (taken, HIGH_MARK_BYTES)
    assert scene.endpoint.is_full


@pytest.mark.parametrize("pair", [tcp_pair])
def test_reset_makes_the_peer_see_a_reset_not_an_end(scene: Scene) -> None:
    scene.endpoint.reset()
    scene.endpoint.reset()
    with pytest.raises(ConnectionResetError):
        scene.peer.recv(1)


@PAIRS
def test_a_fault_of_the_owners_is_its_own(scene: Scene) -> None:
    scene.owner.raises = True
    scene.endpoint.resume()
    scene.peer.sendall(b"x")
    scene.turns(lambda: scene.owner.news == ["fault"])


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair, tls_pair])
def test_what_the_peer_does_not_take_is_charged_until_it_is_taken_or_lost(pair: Pair) -> None:
    account = Account(limit_bytes=64 << 20, holder_bytes=64 << 20)
    tab = account.open("127.0.0.1")
    pump, owner = Pump(clock=lambda: 0.0), Owner()
    ours, theirs = pair()
    endpoint = endpoint_for(ours, pump, owner, tab)
    block = bytes(1 << 20)
    for _ in range(16):
        endpoint.write(block)
    assert endpoint.buffered <= account.used <= endpoint.buffered + len(block) + 16 * 248
    theirs.setblocking(False)
    while endpoint.buffered > 4 << 20:
        with suppress(BlockingIOError, ssl.SSLWantReadError):
            theirs.recv(1 << 20)
        pump.turn()
        assert endpoint.buffered <= account.used <= endpoint.buffered + len(block) + 16 * 248
    endpoint.close()
    assert account.used == 0
    theirs.close()


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair, tls_pair])
def test_a_holder_without_room_is_not_read_until_it_has_room_again(pair: Pair) -> None:
    account = Account(limit_bytes=1 << 20, holder_bytes=1 << 16)
    tab = account.open("127.0.0.1", 1 << 16)
    now = 0.0
    pump, owner = Pump(clock=lambda: now), Owner()
    ours, theirs = pair()
    endpoint = endpoint_for(ours, pump, owner, tab)
    endpoint.resume()
    theirs.sendall(b"hello")
    for _ in range(1000):
        pump.turn()
    assert (bytes(owner.data), endpoint.is_heard, account.waiting) == (b"", False, 1)
    tab.release(1 << 16)
    for waiter in account.attend():
        waiter.room_again(now)
    deadline = time.monotonic() + 20
    while bytes(owner.data) != b"hello" and time.monotonic() < deadline:
        pump.turn()
    assert (bytes(owner.data), endpoint.is_heard, account.waiting) == (b"hello", True, 0)
    endpoint.close()
    theirs.close()


@pytest.mark.parametrize("pair", [tcp_pair, unix_pair, tls_pair])
def test_a_little_is_read_even_so_of_who_may_make_room(pair: Pair) -> None:
    account = Account(limit_bytes=1 << 20, holder_bytes=1 << 16)
    tab = account.open("127.0.0.1", 1 << 16)
    now = 0.0
    pump, owner = Pump(clock=lambda: now), Owner()
    ours, theirs = pair()
    endpoint = endpoint_for(ours, pump, owner, tab)
    endpoint.trickles = True
    endpoint.resume()
    theirs.sendall(bytes(3 * TRICKLE_BYTES))
    for turn in range(3):
        for _ in range(1000):
            pump.turn()
        assert len(owner.data) <= turn * TRICKLE_BYTES
        deadline = time.monotonic() + 20
        read = len(owner.data)
        while len(owner.data) == read and time.monotonic() < deadline:
            now += TRICKLE_SECONDS
            pump.ring()
        assert len(owner.data) > read
    endpoint.close()
    assert account.waiting == 0
    theirs.close()


class Weighing(Owner):
    """Its messages have so many bytes; what each read brought is kept."""

    endpoint: Endpoint
    message_bytes = 1 << 20
    reads: list[int]

    def on_data(self, data: Buffer, now: float) -> None:
        self.reads.append(len(data))
        self.endpoint.weigh(len(data), len(data) // self.message_bytes)


def test_a_read_is_small_at_first_grows_while_it_is_full_and_is_a_turns_worth() -> None:
    pump, owner = Pump(clock=lambda: 0.0), Weighing()
    owner.reads = []
    ours, theirs = tcp_pair()
    owner.endpoint = endpoint = endpoint_for(ours, pump, owner, open_tab())

    def send() -> None:
        with suppress(OSError):  # the test has seen enough, and closes
            theirs.sendall(bytes(8 * 2**20))

    sender = threading.Thread(target=send)
    sender.start()

    def read(total: int) -> list[int]:
        """What is read from now on, until it is so much."""
        first = len(owner.reads)
        while sum(owner.reads[first:]) < total:
            pump.turn()
        return owner.reads[first:]

    endpoint.resume()
    large = read(4 * 2**20)
    assert large[0] <= FIRST_READ_BYTES
    assert all(size <= 2 * max(*large[:index], FIRST_READ_BYTES) for index, size in enumerate(large) if index > 1)
    assert endpoint.most_bytes == BUFFER_BYTES
    owner.message_bytes = 16
    read(BUFFER_BYTES)
    small = read(2**20)
    assert max(small) <= 2 * 16 * TURN_PIECES
    owner.message_bytes = 1
    read(BUFFER_BYTES)
    assert max(read(2**20)) <= 2 * LEAST_READ_BYTES
    endpoint.close()
    theirs.close()
    sender.join()
    pump.close()
