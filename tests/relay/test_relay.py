"""Every row of "How it ends" (docs/life-of-a-connection.md), between real sockets: who is told what, and counted."""

import socket
from collections.abc import Sequence
from contextlib import suppress

import pytest

from gateway.protocol.frames import FIRST, LAST, Opcode
from gateway.protocol.framings import Framing, LengthPrefixedFraming, LinesFraming
from gateway.protocol.pieces import Buffer, Piece
from gateway.protocol.records import LossReport
from gateway.relay.closing import State
from gateway.relay.evidence import Evidence
from gateway.relay.settings import RelaySettings
from gateway.telemetry.metrics import ClosedBy, UnknownReason
from tests.relay.harness import NewScene, Scene

# --- the client ends ----------------------------------------------------------------------------------------------


def test_a_clients_close_half_closes_the_backend_and_its_last_words_come_before_the_echo(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.text("last")
    scene.browser.close(1001, "leaving")
    scene.until(lambda: scene.service.ended)
    assert (bytes(scene.service.got), scene.browser.ws.close_received) == (b"last", None)
    scene.service.sock.sendall(b"last words")
    scene.service.hang_up()
    scene.until(lambda: scene.browser.ended)
    assert scene.browser.messages == [b"last words"]
    assert scene.browser.close_code == 1001
    scene.browser.hang_up()
    scene.until(lambda: bool(scene.endings))
    assert (scene.ending.by, scene.ending.code, scene.ending.reason) == (ClosedBy.CLIENT, 1001, "leaving")


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, "the service has not ended, and said nothing for 4 s"), (None, "")]
)
def test_the_echo_waits_for_an_answer_to_the_end_and_tells_of_a_backend_that_ignores_it(
    new_scene: NewScene, code: int | None, reason: str
) -> None:
    scene = new_scene()
    scene.browser.close(code)
    scene.until(lambda: scene.service.ended)
    for word in (b"one", b"two", b"three"):
        scene.pass_time(0.5)
        scene.pass_time(3.4)
        assert scene.browser.close_code is None
        scene.service.sock.sendall(word)
        scene.until(lambda word=word: scene.browser.messages[-1:] == [word])  # type: ignore[misc]
    scene.pass_time(0.5)  # what it has said is noticed
    scene.pass_time(4.0)
    assert (scene.browser.close_code, scene.browser.close_reason) == (code or 1005, reason)
    scene.service.sock.sendall(b"too late")
    scene.settle()
    scene.pass_time(10.0)
    assert scene.ending.code == (code or 1005)
    assert scene.down.report().never_forwarded == (4, 4)


def test_last_words_do_not_wait_for_a_window_that_no_pong_opens_any_more(new_scene: NewScene) -> None:
    scene = new_scene(framing=LinesFraming(1000), window_messages=4)
    lines = [str(number) for number in range(50)]
    scene.browser.close(1001, "leaving")
    scene.until(lambda: scene.service.ended)
    scene.service.sock.sendall("".join(f"{line}\n" for line in lines).encode())
    scene.service.hang_up()
    scene.until(lambda: scene.browser.close_code is not None)
    assert (scene.browser.messages, scene.browser.close_code) == (lines, 1001)


def test_what_the_client_had_no_window_for_comes_when_it_closes(new_scene: NewScene) -> None:
    scene = new_scene(framing=LinesFraming(1000), window_messages=4)
    scene.browser.answers_pings = False
    lines = [str(number) for number in range(50)]
    scene.service.sock.sendall("".join(f"{line}\n" for line in lines).encode())
    scene.service.hang_up()
    scene.until(lambda: len(scene.browser.messages) == 4)
    scene.browser.close(1001, "leaving")
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.messages == lines


def test_a_client_that_takes_last_words_slowly_is_told_that_there_were_more(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.reads = False
    scene.flood(lambda: scene.service.sock.send(bytes(60_000)))
    scene.browser.close(1000)
    scene.until(lambda: scene.service.ended)
    scene.pass_time(0.5)
    scene.pass_time(14.0)
    # Its host may be waiting for room: it has as long as others whose window is shut.
    is_echoing = [scene.relay.closing.state is State.ECHOING]
    assert is_echoing[-1]
    while is_echoing[-1] and len(is_echoing) < 20:
        # Its kernel may have acknowledged a last little late, which counts as a sign of life.
        scene.pass_time(1.0)
        is_echoing.append(scene.relay.closing.state is State.ECHOING)
    scene.browser.reads = True
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.close_reason == "the service has not ended, and said more than was taken"


def test_a_client_that_vanishes_ends_as_1006_with_everything_it_sent_forwarded(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.text("last")
    scene.browser.hang_up()
    scene.until(lambda: scene.service.ended)
    assert scene.service.got == b"last"
    scene.service.hang_up()
    scene.until(lambda: bool(scene.endings))
    assert (scene.ending.by, scene.ending.code) == (ClosedBy.CLIENT, 1006)


def test_a_client_that_resets_ends_as_1006(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.reset()
    scene.until(lambda: scene.service.ended)
    scene.service.hang_up()
    scene.until(lambda: bool(scene.endings))
    assert scene.ending.unknown is UnknownReason.RESET


# --- the backend ends ---------------------------------------------------------------------------------------------


def test_a_backends_clean_end_is_flushed_and_closed_with_1000(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.service.sock.sendall(b"bye")
    scene.service.hang_up()
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.messages == [b"bye"]
    assert scene.browser.close_code == 1000
    scene.browser.close()
    scene.until(lambda: scene.browser.ended)
    scene.browser.hang_up()
    scene.until(lambda: bool(scene.endings))
    assert (scene.ending.by, scene.ending.code) == (ClosedBy.BACKEND, 1000)


def test_a_backends_end_waits_for_a_client_whose_window_is_full(new_scene: NewScene) -> None:
    scene = new_scene(window_messages=2, framing=LinesFraming(1000))
    scene.browser.reads = False
    scene.service.sock.sendall(b"1\n2\n3\n4\n5\nunterminated")
    scene.settle()
    scene.service.hang_up()
    scene.settle()
    scene.browser.reads = True
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.messages == ["1", "2", "3", "4", "5", "unterminated"]
    assert scene.browser.close_code == 1000


def test_what_goes_out_while_the_last_stock_is_taken_is_not_told_as_never_forwarded(
    new_scene: NewScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = new_scene(window_messages=1)
    monkeypatch.setattr(Evidence, "reached_offset", lambda self, written: 0)
    scene.browser.text("one")
    scene.browser.text("two")
    scene.until(lambda: bool(scene.up.held))
    monkeypatch.setattr(Evidence, "reached_offset", lambda self, written: min(written, len("one")))
    scene.relay.backend_ended(scene.now)
    assert scene.up.ledger is not None
    assert scene.up.ledger.report() == LossReport(settled=1, unknown=(2, 2), never_forwarded=None)


def test_a_backends_reset_is_1014(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.service.sock.sendall(b"bye")
    scene.until(lambda: scene.browser.messages == [b"bye"])
    scene.service.reset()
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.close_code == 1014
    assert scene.relay.ending is not None
    assert scene.relay.ending.by is ClosedBy.BACKEND
    assert scene.relay.ending.unknown is UnknownReason.RESET


def test_a_backend_that_breaks_its_framing_is_1014(new_scene: NewScene) -> None:
    scene = new_scene(framing=LengthPrefixedFraming(1000))
    scene.service.sock.sendall(b"\x00\x00\x00\x02ok\xff\xff\xff\xff")
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.messages == [b"ok"]
    assert scene.browser.close_code == 1014
    scene.until(lambda: scene.service.ended)


# --- what is still on its way when it ends ------------------------------------------------------------------------


def test_a_backend_that_answers_and_closes_over_unread_bytes_is_heard(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.service.reads = False
    scene.browser.binary(bytes(30_000))
    scene.until(lambda: scene.up.bytes == 30_000)
    scene.service.sock.sendall(b"no, thank you")
    scene.service.hang_up()
    scene.browser.binary(bytes(30_000))
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.messages == [b"no, thank you"]
    assert scene.browser.close_code == 1014


def test_a_client_that_says_something_and_goes_over_unread_bytes_is_heard(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.reads = False
    scene.service.sock.sendall(bytes(30_000))
    scene.until(lambda: scene.down.bytes == 30_000)
    scene.browser.text("last words")
    scene.browser.hang_up()
    scene.service.sock.sendall(bytes(30_000))
    scene.until(lambda: scene.service.ended)
    assert scene.service.got == b"last words"


TAIL_BYTES = 400_000


def closed_behind_a_tail(scene: Scene) -> None:
    """The browser has sent what the service does not read, and a Close."""
    scene.service.reads = False
    scene.service.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)  # it grows with no reader's speed
    for _ in range(TAIL_BYTES // 50_000):
        scene.browser.binary(bytes(50_000))
        scene.step()
    scene.browser.close(1000)
    scene.settle()
    assert scene.relay.ending is not None


def read_slowly(scene: Scene, sock: socket.socket, size: int, *, step: int, seconds: float) -> int:
    """Lets so much be read, time passing with each step; how much came before the connection ended."""
    got = 0
    while got < size:
        try:
            chunk = sock.recv(step)
        except BlockingIOError:
            scene.step()  # a window opens in the kernel's time
            continue
        if not chunk:
            break
        got += len(chunk)
        scene.pass_time(seconds)
    return got


def test_the_tail_before_a_clients_close_is_delivered_however_slowly_it_is_read_and_then_the_close_is_answered(
    new_scene: NewScene,
) -> None:
    scene = new_scene()
    closed_behind_a_tail(scene)
    assert read_slowly(scene, scene.service.sock, TAIL_BYTES, step=10_000, seconds=1.0) == TAIL_BYTES
    assert scene.service.sock.recv(1) == b""
    scene.pass_time(1.0)
    assert scene.browser.close_code == 1000


def test_a_client_is_not_told_1000_when_its_tail_is_stuck_and_the_tail_is_unknown(new_scene: NewScene) -> None:
    scene = new_scene()
    closed_behind_a_tail(scene)
    begun = scene.now
    while scene.browser.close_code is None and scene.now < begun + 30.0:
        scene.pass_time(0.5)
    assert (scene.browser.close_code, scene.browser.close_reason) == (
        1014,
        "the service did not take everything that was sent",
    )
    assert scene.up.ledger is not None
    report = scene.up.ledger.report()
    assert report.unknown is not None


def test_a_tail_that_moves_for_ever_is_cut_when_the_total_is_over(new_scene: NewScene) -> None:
    scene = new_scene(settings=RelaySettings(close_total_seconds=20.0))
    closed_behind_a_tail(scene)
    with pytest.raises(ConnectionResetError):
        read_slowly(scene, scene.service.sock, TAIL_BYTES, step=10_000, seconds=1.0)
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.close_code == 1014


def test_a_client_that_reads_slowly_gets_a_backends_last_words_to_the_end_and_the_close(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.reads = False
    words = bytes(400_000)
    left = len(words)
    while left:
        with suppress(BlockingIOError):
            left -= scene.service.sock.send(words[:left])
        scene.step()
    scene.service.hang_up()
    scene.settle()
    while scene.browser.close_code is None:
        scene.browser.got += scene.browser.sock.recv(20_000)
        scene.pass_time(1.0)
    assert sum(len(message) for message in scene.browser.messages) == len(words)
    assert scene.browser.close_code == 1000


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_bad_frame_is_1002_and_what_was_good_before_it_is_forwarded(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.text("good")
    scene.browser.sock.sendall(b"\xf1\x80\x00\x00\x00\x00")
    scene.until(lambda: scene.browser.ended)
    assert scene.browser.close_code == 1002
    assert scene.browser.close_reason
    scene.until(lambda: scene.service.ended)
    assert scene.service.got == b"good"


def test_a_message_too_big_is_1009_and_says_how_much(new_scene: NewScene) -> None:
    scene = new_scene(message_bytes=100)
    scene.browser.binary(bytes(101))
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.close_code == 1009
    assert "100" in scene.browser.close_reason


def test_a_message_that_the_framing_cannot_carry_is_1008_and_those_before_it_are_forwarded(new_scene: NewScene) -> None:
    scene = new_scene(framing=LinesFraming(1000))
    scene.browser.sock.sendall(
        scene.browser.ws.send([(int(Opcode.TEXT), text, FIRST | LAST) for text in (b"one", b"two", b"a\nb", b"three")])
    )
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.close_code == 1008
    assert "line feed" in scene.browser.close_reason
    scene.until(lambda: scene.service.ended)
    assert scene.service.got == b"one\ntwo\n"
    assert scene.up.messages == 2


# --- time ---------------------------------------------------------------------------------------------------------


def test_a_silent_client_is_pinged_and_one_that_answers_lives_on(new_scene: NewScene) -> None:
    scene = new_scene()
    for _ in range(5):
        scene.pass_time(20.0)
        scene.pass_time(19.0)
    assert scene.browser.pings >= 5
    assert scene.relay.is_open


def test_an_unanswered_keepalive_is_1011(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.answers_pings = False
    scene.pass_time(20.0)
    assert scene.browser.pings == 1
    scene.pass_time(19.0)
    assert scene.relay.is_open
    scene.pass_time(1.0)
    assert scene.browser.close_code == 1011
    assert scene.browser.close_reason.startswith("keepalive timeout")


def test_a_client_that_we_paused_is_not_timed_out(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.service.reads = False
    scene.flood(lambda: scene.browser.binary(bytes(60_000)))
    scene.browser.answers_pings = False
    for _ in range(20):
        scene.pass_time(20.0)
    assert scene.relay.is_open


def test_an_idle_connection_is_closed_and_messages_keep_it(new_scene: NewScene) -> None:
    scene = new_scene(settings=RelaySettings(idle_seconds=60.0))
    scene.pass_time(59.0)
    scene.browser.text("awake")
    scene.settle()
    scene.pass_time(59.0)
    assert scene.relay.is_open
    scene.pass_time(1.0)
    assert scene.browser.close_code == 1000
    assert scene.browser.close_reason == "idle for 60 s"
    assert scene.service.ended


def test_a_side_that_does_not_end_is_cut(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.service.hang_up()
    scene.until(lambda: scene.browser.close_code == 1000)
    scene.pass_time(4.0)
    assert scene.endings == []
    scene.pass_time(2.0)
    assert scene.ending.code == 1000


# --- faults of ours -----------------------------------------------------------------------------------------------


class BrokenFraming(Framing):
    """A bug of ours."""

    overhead_bytes = 0

    def __init__(self) -> None:
        self.error = None

    @property
    def held_bytes(self) -> int:
        return 0

    def encode(self, pieces: Sequence[Piece]) -> bytes:
        raise KeyError("a secret detail")

    def receive_data(self, data: Buffer) -> list[Piece]:
        return []

    def receive_eof(self) -> list[Piece]:
        return []


def test_a_fault_of_ours_is_1011_without_detail(new_scene: NewScene) -> None:
    scene = new_scene(framing=BrokenFraming())
    scene.browser.text("x")
    scene.until(lambda: scene.browser.close_code is not None)
    assert (scene.browser.close_code, scene.browser.close_reason) == (1011, "")
