"""What passes between real sockets: messages each way, the evidence of them, and who has to wait."""

from collections.abc import Callable
from contextlib import suppress

import pytest

from gateway.protocol.frames import FIRST, LAST, Opcode
from gateway.protocol.framings import LengthPrefixedFraming, LinesFraming
from gateway.protocol.records import Rung
from gateway.relay.endpoint import HIGH_MARK_BYTES
from gateway.relay.lane import LOOK_AHEAD_BYTES
from gateway.relay.pace import LOOK_SECONDS, TICK_SECONDS
from gateway.relay.settings import RelaySettings
from gateway.telemetry.metrics import PauseCause
from tests.relay.harness import NewScene, Scene
from tests.support.peers.pumped import Browser

# --- passing on ---------------------------------------------------------------------------------------------------


def test_messages_go_up_as_bytes_and_bytes_come_down_as_messages(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.text("どやさ")
    scene.browser.binary(b"\x00\xff")
    scene.until(lambda: scene.service.got == "どやさ".encode() + b"\x00\xff")
    scene.service.sock.sendall(b"PONG")
    scene.until(lambda: scene.browser.messages == [b"PONG"])
    assert (scene.up.messages, scene.up.bytes) == (2, 11)
    assert (scene.metrics.downstream.messages, scene.metrics.downstream.bytes) == (1, 4)


def test_a_fragment_goes_up_before_its_message_has_ended(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.send((int(Opcode.BINARY), b"half", FIRST))
    scene.until(lambda: scene.service.got == b"half")
    assert scene.up.messages == 0
    scene.browser.send((int(Opcode.BINARY), b"whole", LAST))
    scene.until(lambda: scene.service.got == b"halfwhole")
    assert scene.up.messages == 1


def test_a_ping_is_answered_without_the_backend(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.ping(b"are you there")
    scene.until(lambda: scene.browser.pongs == [b"are you there"])
    assert scene.service.got == b""


def state_of(owner: object) -> dict[str, str]:
    """Whatever its attributes hold, as text; but for the scene, which has a clock."""
    names = {name for kind in type(owner).__mro__ for name in kind.__dict__.get("__slots__", ())}
    names |= {name for kind in type(owner).__mro__ for name in kind.__dict__.get("__mypyc_attrs__", ())}
    values = {name: getattr(owner, name, None) for name in names | set(getattr(owner, "__dict__", ()))}
    return {name: repr(value) for name, value in values.items() if not isinstance(value, Scene)}


def test_a_report_is_a_question_that_changes_nothing(new_scene: NewScene) -> None:
    """Whoever asks learns what was known at the last look, though there may be more to look at, and moves nothing."""
    scene = new_scene(window_messages=4)
    scene.service.sock.sendall(b"down")
    scene.until(lambda: scene.browser.messages == [b"down"])
    scene.service.reads = False
    scene.flood(lambda: scene.browser.binary(bytes(5_000)))
    relay = scene.relay
    owners = (relay, scene.up, scene.down, scene.up.ledger, scene.down.ledger, relay.closing, scene.metrics.upstream)
    before = [state_of(owner) for owner in owners]
    assert all(len(state) > 3 for state in before)
    first = relay.report()
    assert first is not None
    assert first.upstream.unknown is not None
    scene.now += 10.0
    assert [relay.report() for _ in range(3)] == [first] * 3
    assert [state_of(owner) for owner in owners] == before


# --- evidence -----------------------------------------------------------------------------------------------------


def test_upstream_settles_when_the_backends_host_has_acknowledged(new_scene: NewScene) -> None:
    scene = new_scene()
    for number in range(100):
        scene.browser.text(f"message {number}")
    scene.until(lambda: scene.up.messages == 100)
    assert scene.up.ledger is not None
    scene.pass_time(LOOK_SECONDS + TICK_SECONDS)
    assert scene.up.ledger.settled == 100
    assert scene.metrics.upstream.settled[Rung.REACHED] == 100
    assert scene.metrics.upstream.delivery[Rung.REACHED].count == 100


def test_a_backend_that_never_reads_has_reached_but_its_host_takes_no_more(new_scene: NewScene) -> None:
    scene = new_scene(track=True)
    scene.service.reads = False
    assert scene.up.ledger is not None
    scene.flood(lambda: scene.browser.binary(bytes(5_000)))
    scene.pass_time(LOOK_SECONDS + TICK_SECONDS)
    ledger = scene.up.ledger
    assert 0 < ledger.settled < ledger.accepted
    assert ledger.in_flight_bytes > 0
    paused = scene.metrics.upstream.paused_seconds
    assert paused[PauseCause.RECEIVER].running + paused[PauseCause.BUFFER].running == 1


def test_a_fence_proves_what_reached_the_client(new_scene: NewScene) -> None:
    scene = new_scene()
    assert scene.down.ledger is not None
    scene.browser.reads = False
    scene.service.sock.sendall(b"first")
    scene.settle()
    assert (scene.down.ledger.accepted, scene.down.ledger.settled) == (1, 0)
    scene.browser.reads = True
    scene.until(lambda: scene.metrics.downstream.settled[Rung.REACHED] == 1)
    assert scene.browser.pings == 1


def test_fences_are_spaced_and_none_is_sent_when_nothing_is_unsettled(new_scene: NewScene) -> None:
    scene = new_scene()
    assert scene.down.ledger is not None
    for number in range(20):
        scene.service.sock.sendall(b"%d" % number)
        scene.until(lambda number=number: len(scene.browser.messages) == number + 1)  # type: ignore[misc]
    assert scene.browser.pings == 1
    scene.pass_time(2 * LOOK_SECONDS + TICK_SECONDS)
    assert scene.browser.pings == 2
    assert scene.down.ledger.settled == 20
    scene.pass_time(5.0)
    assert scene.browser.pings == 2


def test_a_half_used_window_raises_a_fence_at_once(new_scene: NewScene) -> None:
    scene = new_scene(window_messages=8, framing=LinesFraming(1000))
    assert scene.down.ledger is not None
    scene.service.sock.sendall(b"first\n")
    scene.until(lambda: scene.browser.pings == 1)
    scene.service.sock.sendall(b"1\n2\n3\n4\n")
    scene.until(lambda: scene.browser.pings == 2)
    scene.until(lambda: scene.down.ledger.settled == 5)  # type: ignore[union-attr]


def test_the_kernel_is_asked_at_once_when_there_is_no_room_upstream_and_not_before(new_scene: NewScene) -> None:
    scene = new_scene(window_messages=8)
    assert scene.up.ledger is not None
    for number in range(1, 9):
        scene.browser.text(str(number))
        scene.until(lambda number=number: len(scene.service.got) == number)  # type: ignore[misc]
        assert scene.up.ledger.settled == 0
    scene.browser.text("9")
    scene.until(lambda: scene.service.got == b"123456789")
    assert scene.up.ledger.settled == 8


def held_by_the_window(scene: Scene) -> None:
    """What the browser sends waits for room upstream, the service reads again, and other sessions are due to look."""
    assert scene.up.ledger is not None
    scene.service.reads = False
    scene.flood(lambda: scene.browser.binary(bytes(5_000)))
    for _ in range(200):
        scene.pump.pace.reserve(scene.now)
    scene.pass_time(LOOK_SECONDS + TICK_SECONDS)
    accepted = scene.up.ledger.accepted
    scene.service.reads = True
    scene.settle()
    assert scene.up.held
    assert scene.up.ledger.accepted == accepted


def test_what_waits_for_room_upstream_is_looked_after_at_any_pace(new_scene: NewScene) -> None:
    scene = new_scene(window_bytes=20_000)
    held_by_the_window(scene)
    got = len(scene.service.got)
    scene.pass_time(LOOK_SECONDS + TICK_SECONDS)
    assert len(scene.service.got) > got


def test_what_waits_for_room_upstream_is_looked_after_when_the_backend_speaks(new_scene: NewScene) -> None:
    scene = new_scene(window_bytes=20_000)
    held_by_the_window(scene)
    got = len(scene.service.got)
    scene.service.sock.sendall(b"an answer")
    scene.until(lambda: len(scene.service.got) > got)


def test_an_unsolicited_pong_proves_nothing(new_scene: NewScene) -> None:
    scene = new_scene()
    assert scene.down.ledger is not None
    scene.browser.answers_pings = False
    scene.service.sock.sendall(b"data")
    scene.until(lambda: scene.browser.pings == 1)
    scene.browser.send((int(Opcode.PONG), b"0123456789abcdef", FIRST | LAST))
    scene.settle()
    assert scene.down.ledger.settled == 0


def test_a_full_window_asks_for_evidence_at_once_and_stops_the_backend(new_scene: NewScene) -> None:
    scene = new_scene(window_messages=4, framing=LinesFraming(1000))
    assert scene.down.ledger is not None
    scene.browser.answers_pings = False
    scene.service.sock.sendall(b"".join(b"%d\n" % number for number in range(10)))
    scene.settle()
    assert scene.browser.messages == ["0", "1", "2", "3"]
    assert scene.down.ledger.in_flight_messages == 4
    assert scene.metrics.downstream.paused_seconds[PauseCause.WINDOW].running == 1
    assert not scene.backend.endpoint.is_reading


def test_without_tracking_nothing_is_recorded_and_no_fence_is_sent(new_scene: NewScene) -> None:
    scene = new_scene(track=False)
    scene.browser.text("up")
    scene.until(lambda: scene.service.got == b"up")
    scene.service.sock.sendall(b"down")
    scene.until(lambda: scene.browser.messages == [b"down"])
    assert scene.browser.pings == 0
    assert scene.metrics.upstream.messages == 1


# --- backpressure -------------------------------------------------------------------------------------------------


def test_a_paused_client_is_heard_within_the_look_ahead_and_the_other_way_goes_on(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.service.reads = False
    sent = 0
    while not scene.up.held:
        scene.browser.binary(bytes(16_000))
        sent += 16_000
        scene.step()
    scene.browser.ping(b"still there?")
    scene.until(lambda: scene.browser.pongs == [b"still there?"])
    scene.service.sock.sendall(b"the other way")
    scene.until(lambda: scene.browser.messages == [b"the other way"])
    scene.service.reads = True
    scene.until(lambda: len(scene.service.got) == sent)
    assert scene.metrics.upstream.paused_seconds[PauseCause.BUFFER].running == 0


def test_what_is_buffered_for_a_backend_that_does_not_read_is_bounded(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.service.reads = False
    scene.flood(lambda: scene.browser.binary(bytes(60_000)))
    read_bytes = len(scene.pump.buffer.view)
    assert scene.up.held_bytes < LOOK_AHEAD_BYTES + read_bytes
    assert scene.backend.endpoint.buffered < HIGH_MARK_BYTES + read_bytes
    assert not scene.client.endpoint.is_reading


def test_what_is_buffered_for_a_client_that_does_not_read_is_bounded(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.reads = False
    scene.flood(lambda: scene.service.sock.send(bytes(60_000)))
    assert scene.client.endpoint.buffered < HIGH_MARK_BYTES + len(scene.pump.buffer.view) + 1000
    assert not scene.backend.endpoint.is_reading
    scene.browser.text("the other way")
    scene.until(lambda: scene.service.got == b"the other way")


def test_a_service_that_answers_before_it_reads_on_does_not_end_in_a_circle_of_waiting(new_scene: NewScene) -> None:
    scene = new_scene(window_messages=2, framing=LengthPrefixedFraming(100_000))
    scene.service.reads = False
    message = b"\x00\x00\xea\x60" + bytes(60_000)
    scene.service.sock.sendall(message * 2)
    scene.until(lambda: len(scene.browser.messages) == 2)
    scene.browser.answers_pings = False
    scene.flood(lambda: scene.browser.binary(bytes(60_000)))
    assert not scene.client.endpoint.is_reading
    answered = 0

    def answer() -> bool:
        nonlocal answered
        if answered < 20:
            with suppress(BlockingIOError):
                answered += scene.service.sock.send(message) == len(message)
        return len(scene.browser.messages) >= 10

    scene.until(answer)


# --- how fast it goes ---------------------------------------------------------------------------------------------


def test_settling_thousands_of_messages_of_one_read_without_fences_is_a_loop(new_scene: NewScene) -> None:
    scene = new_scene(window_messages=1, framing=LinesFraming(1000), settings=RelaySettings(fence=False))
    count = 5000
    scene.service.sock.sendall(b"x\n" * count)
    scene.until(lambda: len(scene.browser.messages) == count)
    assert scene.metrics.downstream.settled[Rung.WRITTEN] == count


def test_too_many_messages_a_second_wait_and_none_is_lost(new_scene: NewScene) -> None:
    scene = new_scene(settings=RelaySettings(messages_per_second=5))
    scene.browser.send(*[(int(Opcode.TEXT), b"%03d" % number, FIRST | LAST) for number in range(100)])
    upstream = scene.metrics.upstream
    scene.until(lambda: upstream.messages == 100)
    assert scene.client.is_throttled
    assert upstream.paused_seconds[PauseCause.RATE].running == 1
    scene.browser.text("behind")
    scene.settle()
    assert upstream.messages == 100
    scene.pass_time(18.9)
    assert upstream.messages == 100
    scene.pass_time(0.3)
    scene.until(lambda: upstream.messages == 101)
    assert bytes(scene.service.got) == b"".join(b"%03d" % number for number in range(100)) + b"behind"
    scene.pass_time(2.0)
    assert upstream.paused_seconds[PauseCause.RATE].running == 0
    assert scene.relay.is_open


@pytest.mark.parametrize(
    "send",
    [
        lambda browser: browser.ping(b""),
        lambda browser: browser.send((int(Opcode.PONG), b"", FIRST | LAST)),
        lambda browser: browser.sock.sendall(masked_fragment()),
    ],
    ids=["pings", "pongs", "empty fragments"],
)
def test_frames_that_are_no_messages_count(new_scene: NewScene, send: Callable[[Browser], None]) -> None:
    scene = new_scene(settings=RelaySettings(frames_per_second=10))
    scene.browser.send((int(Opcode.BINARY), b"begins", FIRST))
    scene.settle()
    for _ in range(20):
        send(scene.browser)
    scene.until(lambda: scene.client.is_throttled)
    scene.pass_time(3.0)
    assert not scene.client.is_throttled
    assert scene.relay.is_open


def masked_fragment() -> bytes:
    """A continuation frame without payload that ends nothing."""
    return b"\x00\x80\0\0\0\0"


def test_bytes_are_counted_and_a_close_behind_them_is_heard_in_its_turn(new_scene: NewScene) -> None:
    scene = new_scene(settings=RelaySettings(bytes_per_second=1000))
    scene.browser.binary(bytes(3000))
    scene.until(lambda: scene.client.is_throttled)
    scene.browser.close(1000)
    scene.settle()
    assert scene.relay.is_open
    scene.pass_time(2.1)
    scene.until(lambda: not scene.relay.is_open)
    assert len(scene.service.got) == 3000


def test_who_is_throttled_is_not_timed_out_and_still_answered(new_scene: NewScene) -> None:
    scene = new_scene(settings=RelaySettings(bytes_per_second=100, keepalive_seconds=20, keepalive_timeout_seconds=20))
    scene.browser.binary(bytes(6000))
    scene.until(lambda: scene.client.is_throttled)
    scene.service.sock.sendall(b"goes on")
    scene.until(lambda: scene.browser.messages == [b"goes on"])
    for _ in range(50):
        scene.pass_time(1.0)
        assert scene.relay.is_open
    assert scene.client.is_throttled


def test_an_end_of_ours_does_not_wait_for_who_is_throttled(new_scene: NewScene) -> None:
    scene = new_scene(settings=RelaySettings(messages_per_second=1))
    for _ in range(100):
        scene.browser.text("x")
    scene.until(lambda: scene.client.is_throttled)
    scene.service.hang_up()
    scene.until(lambda: scene.browser.close_code is not None)
    scene.browser.close()
    scene.until(lambda: len(scene.endings) == 1)


def test_too_many_messages_a_second_are_1008_where_that_is_wanted(new_scene: NewScene) -> None:
    scene = new_scene(settings=RelaySettings(messages_per_second=5, closes_on_excess=True))
    for _ in range(5):
        scene.browser.text("x")
    scene.settle()
    scene.pass_time(1.0)
    assert scene.relay.is_open
    for _ in range(6):
        scene.browser.text("x")
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.close_code == 1008
    assert scene.browser.close_reason == "more than 5 messages per second"
