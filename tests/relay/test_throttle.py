"""How fast a client may send: each count has a bucket, and what is too much waits or ends the connection."""

import pytest

from gateway.relay.pump import Pump
from gateway.relay.settings import RelaySettings
from gateway.relay.throttle import Throttle, is_limited


class Tried:
    """A throttle at a clock, and when it said that more may be read."""

    def __init__(self, **limits: float | bool) -> None:
        self.now = 1000.0
        self.pump = Pump(clock=lambda: self.now)
        self.read_on: list[float] = []
        self.faults: list[Exception] = []
        settings = RelaySettings(**limits)  # type: ignore[arg-type]
        self.throttle = Throttle(settings, self.pump, self.due, self.faults.append, now=self.now)

    def due(self, now: float) -> None:
        self.read_on.append(now - 1000.0)

    def is_shut(self) -> bool:
        return self.throttle.is_shut

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.pump.ring()


@pytest.mark.parametrize("key", ["messages_per_second", "frames_per_second", "bytes_per_second"])
def test_without_a_limit_there_is_nothing_to_throttle(key: str) -> None:
    assert not is_limited(RelaySettings())
    assert is_limited(RelaySettings(**{key: 1.0}))  # type: ignore[arg-type]


def test_who_keeps_to_the_limits_never_waits() -> None:
    tried = Tried(messages_per_second=5, frames_per_second=10, bytes_per_second=1000)
    for second in range(1, 20):
        assert tried.throttle.count_messages(5, tried.now) is None
        assert tried.throttle.count_frames(10 * second, 1000, tried.now) is None
        assert not tried.throttle.is_shut
        tried.pass_time(1.0)
    assert tried.read_on == []


@pytest.mark.parametrize(("frames", "size", "messages"), [(30, 1, 1), (1, 300, 1), (1, 1, 30)])
def test_who_sends_three_seconds_worth_waits_for_two(frames: int, size: int, messages: int) -> None:
    tried = Tried(messages_per_second=10, frames_per_second=10, bytes_per_second=100)
    tried.throttle.count_frames(frames, size, tried.now)
    tried.throttle.count_messages(messages, tried.now)
    tried.pass_time(1.99)
    assert tried.is_shut()
    assert tried.read_on == []
    tried.pass_time(0.02)
    assert not tried.is_shut()
    assert tried.read_on == [pytest.approx(2.01)]


def test_the_longest_wait_counts() -> None:
    tried = Tried(messages_per_second=10, bytes_per_second=100)
    tried.throttle.count_frames(1, 200, tried.now)
    tried.throttle.count_messages(60, tried.now)
    tried.pass_time(1.01)
    assert tried.throttle.is_shut
    tried.pass_time(4.0)
    assert tried.read_on == [pytest.approx(5.01)]


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"messages_per_second": 5}, "more than 5 messages per second"),
        ({"frames_per_second": 5}, "more than 5 frames per second"),
        ({"bytes_per_second": 2.5}, "more than 2.5 bytes per second"),
    ],
)
def test_where_it_is_to_close_the_fault_says_what_was_too_much(limits: dict[str, float], problem: str) -> None:
    tried = Tried(closes_on_excess=True, **limits)
    fault = tried.throttle.count_frames(6, 6, tried.now) or tried.throttle.count_messages(6, tried.now)
    assert fault is not None
    assert (str(fault), fault.close_code) == (problem, 1008)
    assert not tried.throttle.is_shut


def test_a_connection_that_ends_waits_for_nothing() -> None:
    tried = Tried(frames_per_second=1)
    tried.throttle.count_frames(10, 1, tried.now)
    tried.throttle.stop()
    assert not tried.throttle.is_shut
    tried.throttle.count_frames(1000, 1, tried.now)
    tried.pass_time(100.0)
    assert (tried.throttle.is_shut, tried.read_on) == (False, [])


def test_a_fault_of_what_is_called_is_its_owners() -> None:
    tried = Tried(frames_per_second=1)
    error = RuntimeError("of the relay's")
    tried.throttle.on_fault(error)
    assert tried.faults == [error]
