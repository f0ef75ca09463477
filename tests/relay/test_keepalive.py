"""When a client is pinged and when it is given up, by the clock and by what its host acknowledges."""

from gateway.protocol.fence import Fence
from gateway.relay.keepalive import BLOCKED_SECONDS, LEAST_PATIENCE_SECONDS, Keepalive
from gateway.relay.timers import NEVER
from gateway.relay.vitals import STEPS_OF_A_WINDOW, Vitals

INTERVAL, TIMEOUT = 20.0, 20.0


class Client:
    """A silent client at a clock: what it acknowledges is what a test says."""

    def __init__(self, timeout: float | None = TIMEOUT) -> None:
        self.keepalive = Keepalive(INTERVAL, timeout, now=0.0)
        self.fence = Fence()
        self.acknowledged = 1000
        self.outstanding = 0

    @property
    def vitals(self) -> Vitals:
        return Vitals(acknowledged=self.acknowledged, outstanding=self.outstanding)

    def ping(self, now: float) -> None:
        self.keepalive.pings(self.vitals, now)
        self.fence.raise_(0, now=now)

    def given_up_at(self, begin: float, *, until: float = 300.0) -> float | None:
        """When a look finds it late, looks being taken when they are due."""
        now = begin
        while now < until:
            now = max(now + 0.01, self.keepalive.next_deadline(self.fence))
            if self.keepalive.is_late(self.fence, self.vitals, now):
                return round(now, 1)
        return None


def test_a_silent_client_is_pinged_after_the_interval() -> None:
    client = Client()
    assert client.keepalive.next_deadline(client.fence) == INTERVAL
    client.keepalive.heard_at = 7.0
    assert client.keepalive.next_deadline(client.fence) == 7.0 + INTERVAL


def test_a_ping_that_cannot_be_sent_is_thought_of_again_later_and_not_at_once() -> None:
    client = Client()
    client.keepalive.wait(INTERVAL)
    assert client.keepalive.next_deadline(client.fence) == INTERVAL + BLOCKED_SECONDS


def test_a_client_that_has_acknowledged_the_ping_and_does_not_answer_is_given_up_in_time() -> None:
    client = Client()
    client.ping(20.0)
    client.acknowledged += 18  # the ping itself, before the first look
    assert client.given_up_at(20.0) == 40.0


def test_the_time_counts_from_when_everything_before_the_ping_was_acknowledged() -> None:
    client = Client()
    client.outstanding = 100_000
    client.ping(20.0)
    now = 20.0
    while client.outstanding:  # 2 kB a second
        now += 2.5
        client.outstanding -= 5000
        client.acknowledged += 5000
        assert not client.keepalive.is_late(client.fence, client.vitals, now)
    assert now == 70.0
    late = client.given_up_at(now)
    assert late is not None
    assert now + TIMEOUT - 2.5 <= late <= now + TIMEOUT


def test_a_client_that_acknowledges_in_steps_has_the_time_to_open_its_window() -> None:
    client = Client(timeout=2.0)
    client.outstanding = 500_000
    client.ping(20.0)
    now = 20.0
    for _ in range(10):
        for _ in range(48):  # 12 s without a byte
            now += 0.25
            assert not client.keepalive.is_late(client.fence, client.vitals, now)
        client.acknowledged += 95_000
    late = client.given_up_at(now)
    assert late is not None
    assert 0 <= late - now - LEAST_PATIENCE_SECONDS <= 0.5


def test_a_client_that_acknowledges_nothing_any_more_is_given_up() -> None:
    client = Client()
    client.outstanding = 500_000
    client.ping(20.0)
    assert client.given_up_at(20.0) == 20.0 + TIMEOUT * STEPS_OF_A_WINDOW


def test_without_a_timeout_nobody_is_given_up() -> None:
    client = Client(timeout=None)
    client.ping(20.0)
    assert client.keepalive.next_deadline(client.fence) == NEVER
    assert not client.keepalive.is_late(client.fence, client.vitals, 1e9)
