"""What all clients share: keepalive, a far host that is watched, and the end of a connection that was left."""

import socket
from collections.abc import Iterator

import pytest

from gateway.protocol.build import DATA_PATH
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST
from gateway.relay.endpoint import Endpoint
from gateway.relay.keepalive import BLOCKED_SECONDS
from gateway.relay.plain_client import PlainClient
from gateway.relay.settings import RelaySettings
from gateway.relay.vitals import Vitals
from gateway.telemetry.metrics import UnknownReason
from tests.relay.junction import Stage, message

KEEPALIVE, TIMEOUT, UNHEARD = 20.0, 20.0, 30.0


class Tried:
    """A client's side that is ticked whenever it wants to be, and what looks at its socket find."""

    def __init__(self) -> None:
        settings = RelaySettings(
            keepalive_seconds=KEEPALIVE, keepalive_timeout_seconds=TIMEOUT, unheard_seconds=UNHEARD, close_seconds=5.0
        )
        self.stage = Stage(settings)
        self.side = PlainClient(self.stage.sock, self.stage.place, WebSocketConnection(client=False))
        self.side.start(b"", self.stage.now)
        self.ticks = 0
        self.closed = 0
        self.side.on_closed = self.note_closed

    def note_closed(self) -> None:
        self.closed += 1

    def pass_time(self, seconds: float) -> None:
        end = self.stage.now + seconds
        while not self.stage.junction.told:
            deadline = self.side.next_deadline(self.stage.now)
            if deadline > end:
                break
            assert deadline > self.stage.now or self.ticks < 10_000, "it spins"
            self.stage.now = max(self.stage.now, deadline)
            self.ticks += 1
            self.side.tick(self.stage.now)
        self.stage.now = end
        self.stage.pump.ring()

    @property
    def pings(self) -> int:
        self.stage.settle()
        return bytes(self.stage.peer.got).count(b"\x89\x10")


@pytest.fixture
def tried() -> Iterator[Tried]:
    tried = Tried()
    yield tried
    tried.side.close()
    tried.stage.close()


def test_a_silent_client_is_pinged_once_and_given_up_when_it_does_not_answer(tried: Tried) -> None:
    tried.pass_time(KEEPALIVE - 0.1)
    assert tried.pings == 0
    tried.pass_time(0.1)
    assert tried.pings == 1
    tried.pass_time(TIMEOUT - 0.1)
    assert tried.stage.junction.told == []
    tried.pass_time(0.2)
    assert tried.stage.junction.told[0][:2] == ("failed", "KeepaliveTimeout")
    assert tried.pings == 1


def test_a_client_in_the_midst_of_a_message_is_not_pinged_and_costs_little(tried: Tried) -> None:
    tried.side.deliver([message(b"half", flags=FIRST)], tried.stage.now, fence=False)
    tried.pass_time(KEEPALIVE + 100.0)
    assert tried.pings == 0
    assert tried.ticks <= 100.0 / BLOCKED_SECONDS + 10


def test_a_client_that_we_do_not_read_is_not_to_blame_for_its_silence(tried: Tried) -> None:
    tried.pass_time(KEEPALIVE)
    tried.side.pause()
    tried.pass_time(100 * TIMEOUT)
    assert tried.stage.junction.told == []


if (
    DATA_PATH == "interpreted"
):  # nothing can be put in place of what compiled code calls; test_far_host sees it for real

    def test_a_client_whose_host_answers_nothing_is_lost(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
        begin = tried.stage.now
        tried.side.deliver([message(b"x")], begin, fence=False)

        def look(_: Endpoint) -> Vitals:
            return Vitals(outstanding=1, is_unanswered=True, since_ack_seconds=tried.stage.now - begin)

        monkeypatch.setattr(Endpoint, "vitals", look)
        tried.pass_time(2 * UNHEARD)
        assert tried.stage.junction.told == [("lost", UnknownReason.VANISHED)]


def test_a_connection_that_was_left_gets_its_close_and_is_closed_in_time(tried: Tried) -> None:
    tried.side.leave(1012, "restarting", tried.stage.now)
    ws = WebSocketConnection(client=True)
    tried.stage.until(lambda: bool(tried.stage.peer.got))
    ws.receive_data(bytes(tried.stage.peer.got))
    assert ws.close_received is not None
    assert ws.close_received.code == 1012
    tried.pass_time(5.1)
    assert tried.side.is_gone
    assert tried.closed == 1
    assert tried.stage.junction.told == []


def test_a_connection_that_was_left_ends_when_the_client_has_answered(tried: Tried) -> None:
    tried.side.leave(1012, "restarting", tried.stage.now)
    tried.stage.peer.sock.sendall(WebSocketConnection(client=True).close(1012))
    tried.stage.until(lambda: tried.side.is_gone)
    assert tried.stage.junction.told == []


def stop_reading(tried: Tried, *, unread: bytes) -> None:
    """The junction has paused it; `unread` came since."""
    tried.side.pause()
    tried.stage.peer.sock.sendall(unread or b"\x81")
    tried.stage.settle()
    if not unread:
        tried.side.resume()
        tried.stage.settle()
        tried.side.pause()


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_client_that_goes_while_it_is_not_read_is_lost_at_once(tried: Tried, is_reset: bool) -> None:
    stop_reading(tried, unread=b"")
    if is_reset:
        tried.stage.peer.reset()
    else:
        tried.stage.peer.sock.shutdown(socket.SHUT_WR)
    tried.stage.until(lambda: bool(tried.stage.junction.told))
    assert tried.stage.junction.told == [("lost", UnknownReason.RESET if is_reset else UnknownReason.VANISHED)]


def test_a_client_that_is_not_read_is_pinged_all_the_same(tried: Tried) -> None:
    """Its answer is not seen, and of a socket that is gone its host says so."""
    stop_reading(tried, unread=b"\x82\x81" + bytes(4) + b"x")
    tried.pass_time(10 * KEEPALIVE)
    assert tried.stage.junction.told == []
    assert 8 <= tried.pings <= 10
    assert tried.ticks < 200
    ping = bytes(tried.stage.peer.got)[:18]
    assert bytes(tried.stage.peer.got) == ping * tried.pings, "whichever is answered answers the first"


def test_what_it_said_before_it_went_is_waited_for_as_long_as_the_backend_takes_more(tried: Tried) -> None:
    stop_reading(tried, unread=b"\x82\x81" + bytes(4) + b"x")
    tried.stage.peer.sock.shutdown(socket.SHUT_WR)
    turns = tried.stage.pump.turns
    tried.stage.settle()
    for _ in range(10):
        tried.stage.junction.progress += 1
        tried.pass_time(14.9)
        assert not tried.stage.junction.told
    assert tried.stage.pump.turn() == 0, "the end of its stream is not reported again and again"
    assert turns < tried.stage.pump.turns
    tried.pass_time(20.0)
    assert tried.stage.junction.told == [("lost", UnknownReason.VANISHED)]


def test_what_it_said_before_it_went_is_read_when_there_is_room(tried: Tried) -> None:
    stop_reading(tried, unread=b"\x82\x81" + bytes(4) + b"x")
    tried.stage.peer.sock.shutdown(socket.SHUT_WR)
    tried.stage.settle()
    tried.side.resume()
    tried.stage.settle()
    assert [entry[0] for entry in tried.stage.junction.told] == ["data", "lost"]
