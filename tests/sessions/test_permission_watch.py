"""When a permission's end is noticed, whatever the clocks do."""

from typing import Any, cast

import pytest

from gateway.relay.pump import Pump
from gateway.sessions.permission import LONGEST_WAIT_SECONDS, PermissionWatch


class Clocks:
    """A pump that keeps the newest deadline, and the time of day apart from it."""

    def __init__(self) -> None:
        self.unix = 1_000_000.0
        self.deadline: float | None = None
        self.heard: list[str] = []
        self.watch = PermissionWatch(
            cast("Pump", self),
            on_due=lambda now: self.heard.append("due"),
            on_over=lambda now: self.heard.append("over"),
            unix_time=lambda: self.unix,
        )

    def wake_at(self, sleeper: Any, deadline: float) -> None:
        self.deadline = deadline

    def forget(self, sleeper: Any) -> None:
        self.deadline = None

    def clock(self) -> float:
        return 0.0


@pytest.mark.parametrize(("life", "before"), [(3600.0, 60.0), (100.0, 25.0), (4.0, 1.0), (0.8, 0.0)])
def test_another_one_is_asked_for_before_the_end(life: float, before: float) -> None:
    clocks = Clocks()
    began = clocks.unix
    clocks.watch.begin(began + life, now=0.0)
    while clocks.heard != (["due"] if before else ["over"]):
        assert clocks.deadline is not None
        clocks.unix = began + clocks.deadline
        clocks.watch.on_timer(clocks.deadline)
    assert clocks.unix == pytest.approx(began + life - before)


def test_a_machine_that_slept_notices_soon() -> None:
    clocks = Clocks()
    clocks.watch.begin(clocks.unix + 86_400, now=0.0)
    assert clocks.deadline == LONGEST_WAIT_SECONDS
    clocks.unix += 90_000
    clocks.watch.on_timer(LONGEST_WAIT_SECONDS)
    assert clocks.heard == ["over"]
    assert clocks.watch.seconds_left is None


def test_a_clock_that_is_set_back_ends_nothing_early() -> None:
    clocks = Clocks()
    clocks.watch.begin(clocks.unix + 100, now=0.0)
    clocks.unix -= 1000
    clocks.watch.on_timer(75.0)
    assert clocks.heard == []
    assert clocks.watch.seconds_left == 1100


def test_no_end_and_nobody_there_are_not_watched() -> None:
    clocks = Clocks()
    clocks.watch.begin(None, now=0.0)
    assert clocks.deadline is None
    clocks.watch.begin(clocks.unix + 100, now=0.0)
    clocks.watch.stop()
    assert clocks.deadline is None
    clocks.watch.on_timer(500.0)
    assert clocks.heard == []
