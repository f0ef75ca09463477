"""How a relay leaves its plain client when the gateway stops: whole messages, a last fence, and a Close in any case."""

import struct

import pytest

from gateway.protocol.framings import LengthPrefixedFraming
from gateway.relay.timers import NEVER
from gateway.telemetry.metrics import ClosedBy
from tests.relay.harness import NewScene, Scene

CLOSE_SECONDS = 5.0
"""Of the settings, if a test has none of its own."""

LARGE = bytes(50_000)
"""More than the framing gathers: it is passed on in pieces, as they come."""


def framed(payload: bytes) -> bytes:
    return struct.pack("!I", len(payload)) + payload


def start_message(scene: Scene, payload: bytes, *, sent: int) -> bytes:
    """Lets the service send a part of a message; what is left of it."""
    data = framed(payload)
    scene.service.sock.sendall(data[: 4 + sent])
    scene.settle()
    return data[4 + sent :]


def test_a_drain_settles_what_is_out_then_closes_with_1012_and_forwards_until_the_clients_close(
    new_scene: NewScene,
) -> None:
    scene = new_scene()
    scene.browser.reads = False
    scene.service.sock.sendall(b"on the way")
    scene.settle()
    scene.relay.drain(scene.now, until=NEVER)
    scene.settle()
    scene.browser.text("crossing")
    scene.browser.reads = True
    scene.until(lambda: scene.browser.close_code is not None)
    assert scene.browser.messages == [b"on the way"]
    assert scene.browser.close_code == 1012
    assert scene.down.ledger is not None
    assert scene.down.ledger.in_flight_messages == 0
    scene.browser.close(1012)
    scene.until(lambda: scene.service.ended)
    assert scene.service.got == b"crossing"
    scene.service.hang_up()
    scene.browser.hang_up()
    scene.until(lambda: bool(scene.endings))
    assert (scene.ending.by, scene.ending.code) == (ClosedBy.GATEWAY, 1012)


def test_a_drain_does_not_wait_for_a_fence_for_ever(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.answers_pings = False
    scene.service.sock.sendall(b"on the way")
    scene.until(lambda: scene.browser.pings == 1)
    scene.relay.drain(scene.now, until=NEVER)
    scene.pass_time(2.5)
    assert scene.browser.close_code == 1012


@pytest.mark.parametrize("says_goodbye", [True, False], ids=["close", "vanished"])
def test_a_client_that_goes_before_the_fence_is_answered_ends_the_drain(
    new_scene: NewScene, says_goodbye: bool
) -> None:
    scene = new_scene()
    scene.browser.answers_pings = False
    scene.service.sock.sendall(b"on the way")
    scene.until(lambda: scene.browser.pings == 1)
    begun = scene.now
    scene.relay.drain(begun, until=NEVER)
    if says_goodbye:
        scene.browser.close(1001)
    scene.browser.hang_up()
    scene.until(lambda: scene.service.ended)
    scene.service.sock.sendall(b"last words")
    scene.service.hang_up()
    scene.until(lambda: bool(scene.endings))  # in no time: no deadline was needed
    assert (scene.ending.by, scene.ending.code) == (ClosedBy.GATEWAY, 1012)
    assert scene.now == begun


def test_a_message_that_has_begun_is_finished_and_no_new_one_begun(new_scene: NewScene) -> None:
    scene = new_scene(framing=LengthPrefixedFraming(1 << 20))
    rest = start_message(scene, LARGE, sent=40)
    scene.relay.drain(scene.now, until=NEVER)
    scene.settle()
    assert scene.browser.close_code is None
    scene.service.sock.sendall(rest + framed(b"a new one"))
    scene.until(lambda: scene.browser.close_code == 1012)
    assert scene.browser.messages == [LARGE]
    assert scene.down.ledger is not None
    assert scene.down.ledger.settled == 1


def test_a_message_that_comes_in_many_reads_is_finished(new_scene: NewScene) -> None:
    scene = new_scene(framing=LengthPrefixedFraming(1 << 20))
    rest = start_message(scene, LARGE, sent=1)
    scene.relay.drain(scene.now, until=NEVER)
    for start in range(0, len(rest), 5000):
        assert scene.browser.close_code is None
        scene.service.sock.sendall(rest[start : start + 5000])
        scene.settle()
    scene.until(lambda: scene.browser.close_code == 1012)
    assert scene.browser.messages == [LARGE]


def test_a_message_whose_rest_does_not_come_is_not_waited_for_for_ever(new_scene: NewScene) -> None:
    scene = new_scene(framing=LengthPrefixedFraming(1 << 20))
    start_message(scene, LARGE, sent=40)
    scene.relay.drain(scene.now, until=NEVER)
    scene.pass_time(CLOSE_SECONDS / 2)
    assert scene.browser.close_code == 1012
    assert scene.browser.messages == []


def test_a_message_that_is_held_whole_goes_out_and_one_that_is_not_does_not_begin(new_scene: NewScene) -> None:
    scene = new_scene(framing=LengthPrefixedFraming(1 << 20), window_messages=1)
    scene.browser.reads = False
    scene.service.sock.sendall(framed(b"first") + framed(b"second"))
    start_message(scene, LARGE, sent=40)
    assert scene.down.held
    scene.relay.drain(scene.now, until=NEVER)
    scene.browser.reads = True
    scene.until(lambda: scene.browser.close_code == 1012)
    assert scene.browser.messages == [b"first", b"second"]


def test_the_fence_is_waited_for_no_longer_than_half_of_what_is_left_of_the_window(new_scene: NewScene) -> None:
    scene = new_scene()
    scene.browser.answers_pings = False
    scene.service.sock.sendall(b"on the way")
    scene.until(lambda: scene.browser.pings == 1)
    scene.relay.drain(scene.now, until=scene.now + 1.0)
    scene.pass_time(0.4)
    assert scene.browser.close_code is None
    scene.pass_time(0.1)
    assert scene.browser.close_code == 1012


def test_a_client_that_takes_nothing_more_is_told_when_the_window_is_over(new_scene: NewScene) -> None:
    scene = new_scene(framing=LengthPrefixedFraming(1 << 20), window_messages=1)
    scene.browser.answers_pings = False
    scene.service.sock.sendall(framed(b"first") + framed(b"second"))
    scene.until(lambda: scene.browser.messages == [b"first"])
    scene.relay.drain(scene.now, until=scene.now + 1.0)
    scene.pass_time(1.0)
    assert scene.browser.close_code is None
    scene.relay.cut(scene.now)
    scene.until(lambda: scene.browser.ended)
    assert scene.browser.close_code == 1012
