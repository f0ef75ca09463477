"""A plain client, alone: what it is sent, what its pongs prove, and how it ends."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import RejectBody, Rung
from gateway.relay.plain_client import PlainClient
from gateway.relay.settings import RelaySettings
from gateway.telemetry.metrics import UnknownReason
from tests.relay.junction import Stage, message

WHOLE = FIRST | LAST


class Tried:
    """The side, its stage, and a WebSocket client that acts only when told to."""

    def __init__(self, settings: RelaySettings | None = None, **options: Any) -> None:
        self.stage = Stage(settings, **options)
        self.ws = WebSocketConnection(client=True)
        self.side = PlainClient(self.stage.sock, self.stage.place, WebSocketConnection(client=False))
        self.heard: list[Piece] = []

    def start(self, early: bytes = b"") -> None:
        self.side.start(early, self.stage.now)

    def say(self, *pieces: Piece) -> None:
        self.stage.peer.sock.sendall(self.ws.send(pieces))

    def until_heard(self, count: int) -> list[Piece]:
        """Waits for so many pieces, and gives all that have come."""

        def enough() -> bool:
            data, self.stage.peer.got = bytes(self.stage.peer.got), bytearray()
            self.heard += self.ws.receive_data(data)
            return len(self.heard) >= count

        self.stage.until(enough)
        return self.heard

    def until_told(self, *expected: tuple[Any, ...]) -> None:
        self.stage.until(lambda: self.stage.junction.told == list(expected))


Make = Callable[..., Tried]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Tried] = []

    def begin(*arguments: Any, early: bytes = b"", **options: Any) -> Tried:
        made.append(Tried(*arguments, **options))
        made[-1].start(early)
        return made[-1]

    yield begin
    for tried in made:
        tried.side.close()
        tried.stage.close()


def test_what_came_behind_the_handshake_is_taken_first(make: Make) -> None:
    early = WebSocketConnection(client=True).send([message(b"early")])
    tried = make(early=early)
    tried.say(message(b"late"))
    tried.until_told(("data", Opcode.BINARY, b"early", WHOLE), ("data", Opcode.BINARY, b"late", WHOLE))


def test_what_is_delivered_is_entered_and_a_pong_proves_that_it_was_reached(make: Make) -> None:
    tried = make()
    tried.side.deliver([message(b"one"), message(b"two")], tried.stage.now, fence=True)
    one, two, ping = tried.until_heard(3)
    assert (one[1], two[1], ping[0]) == (b"one", b"two", Opcode.PING)
    ledger = tried.stage.outgoing.ledger
    assert ledger is not None
    assert (ledger.accepted, ledger.settled) == (2, 0)
    tried.say((int(Opcode.PONG), b"not that one", WHOLE))
    tried.say((int(Opcode.PONG), ping[1], WHOLE))
    tried.until_told(("settled", Rung.REACHED, 2))


def test_no_fence_splits_a_message(make: Make) -> None:
    tried = make()
    tried.side.deliver([message(b"half", flags=FIRST)], tried.stage.now, fence=True)
    assert tried.side.is_mid_message
    assert not tried.side.fence(tried.stage.now)
    tried.side.deliver([message(b"whole", flags=LAST)], tried.stage.now, fence=True)
    assert [piece[0] for piece in tried.until_heard(3)] == [Opcode.BINARY, Opcode.BINARY, Opcode.PING]


def test_without_fences_what_the_kernel_took_is_the_only_evidence(make: Make) -> None:
    tried = make(RelaySettings(fence=False), settles_at=Rung.WRITTEN)
    tried.side.deliver([message(b"one")], tried.stage.now, fence=True)
    assert [piece[1] for piece in tried.until_heard(1)] == [b"one"]
    assert tried.side.written == tried.side.endpoint.bytes_taken
    assert not tried.side.fence(tried.stage.now)


def test_a_ping_is_answered_and_one_that_a_full_buffer_held_up_when_there_is_room(make: Make) -> None:
    tried = make()
    tried.say((int(Opcode.PING), b"first", WHOLE))
    assert tried.until_heard(1) == [(Opcode.PONG, b"first", WHOLE)]
    tried.stage.peer.reads = False
    tried.side.deliver([message(bytes(8 << 20))], tried.stage.now, fence=False)  # no kernel has room for so much
    read = tried.side.endpoint.bytes_read
    for payload in (b"older", b"newest"):
        tried.say((int(Opcode.PING), payload, WHOLE))
    tried.stage.until(lambda: tried.side.endpoint.bytes_read - read == 2 * 6 + len(b"oldernewest"))
    tried.stage.peer.reads = True
    tried.stage.until(lambda: tried.until_heard(2)[-1] == (Opcode.PONG, b"newest", WHOLE))
    assert (Opcode.PONG, b"older", WHOLE) not in tried.heard


def test_a_close_is_told_behind_the_messages_and_answered_when_the_relay_says_so(make: Make) -> None:
    tried = make()
    tried.stage.peer.sock.sendall(tried.ws.send([message(b"last")]) + tried.ws.close(1001, "bye"))
    tried.until_told(("data", Opcode.BINARY, b"last", WHOLE), ("closed", 1001, "bye"))
    tried.side.send_close(1001, "", None, tried.stage.now)
    tried.side.finish()
    tried.stage.until(lambda: tried.stage.peer.ended)
    assert tried.side.is_closing


def test_the_answer_to_our_close_proves_that_everything_before_it_was_reached(make: Make) -> None:
    tried = make()
    tried.side.deliver([message(b"x")], tried.stage.now, fence=False)
    tried.side.send_close(1000, "", None, tried.stage.now)
    tried.until_heard(2)
    tried.stage.peer.sock.sendall(tried.ws.close(1000))
    tried.until_told(("settled", Rung.REACHED, 1), ("closed", 1000, ""))


@pytest.mark.parametrize(("resets", "unknown"), [(False, UnknownReason.VANISHED), (True, UnknownReason.RESET)])
def test_a_client_that_goes_without_a_word_is_lost(make: Make, resets: bool, unknown: UnknownReason) -> None:
    tried = make()
    if resets:
        tried.stage.peer.reset()
    else:
        tried.stage.peer.hang_up()
    tried.until_told(("lost", unknown))


def test_a_bad_frame_is_a_fault(make: Make) -> None:
    tried = make()
    tried.stage.peer.sock.sendall(b"\xf1\x80\0\0\0\0")
    tried.stage.until(lambda: bool(tried.stage.junction.told))
    assert tried.stage.junction.told[0][:2] == ("failed", "ProtocolViolation")


def test_a_plain_client_is_told_nothing_of_its_own_messages(make: Make) -> None:
    tried = make()
    tried.side.upstream_advanced(tried.stage.now)
    tried.side.upstream_rejected(1, RejectBody(code=4000, reason="no"), tried.stage.now)
    tried.stage.settle()
    assert not tried.stage.peer.got
    assert tried.side.receipts == frozenset()
