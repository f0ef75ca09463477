"""When a session tries again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.faults import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionTimeout,
    HandshakeFailed,
    HandshakeRejected,
    NotRecords,
    Untrusted,
)
from gateway.client.reconnection import MAX_RETRY_AFTER_SECONDS, BackOff, is_passing, retry_after_seconds


def rejected(status: int, **headers: str) -> HandshakeRejected:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return HandshakeRejected(status=status, phrase="", headers=named, body=b"")


def test_delays_are_drawn_from_steps_that_double_up_to_the_longest() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    back_off = BackOff(initial=0.25, maximum=2.0, uniform=uniform)
    assert [back_off.next_delay() for _ in range(6)] == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert {low for low, _ in asked} == {0.0}
    back_off.succeeded()
    assert back_off.next_delay() == 0.25


def test_what_the_server_asks_for_comes_on_top() -> None:
    back_off = BackOff(initial=1.0, maximum=1.0, uniform=lambda low, high: 0.5)
    assert back_off.next_delay(at_least=7.0) == 7.5


@given(failures=st.integers(1, 3000))
def test_a_delay_is_never_longer_than_the_longest(failures: int) -> None:
    back_off = BackOff(initial=0.25, maximum=30.0)
    delay = 0.0
    for _ in range(failures):
        delay = back_off.next_delay()
    assert 0.0 <= delay <= 30.0


@pytest.mark.parametrize(
    "failure",
    [
        *(ConnectionClosed(code, "") for code in (1001, 1005, 1006, 1011, 1012, 1013, 1014)),
        *(rejected(status) for status in (408, 425, 429, 500, 502, 503, 504)),
        ConnectionFailed("nobody listens"),
        ConnectionTimeout("no answer"),
    ],
    ids=str,
)
def test_what_passes_is_tried_again(failure: Exception) -> None:
    assert is_passing(failure)


@pytest.mark.parametrize(
    "failure",
    [
        *(ConnectionClosed(code, "") for code in (1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 4001, 4999)),
        *(rejected(status) for status in (301, 400, 401, 403, 404, 405, 414, 426, 431)),
        HandshakeFailed("no HTTP"),
        NotRecords("does not speak it"),
        Untrusted("unknown authority"),
        ValueError("a bug"),
    ],
    ids=str,
)
def test_what_would_fail_again_is_not(failure: Exception) -> None:
    assert not is_passing(failure)


@pytest.mark.parametrize(
    ("failure", "seconds"),
    [
        (rejected(503, retry_after="7"), 7.0),
        (rejected(503, retry_after="0"), 0.0),
        (rejected(503, retry_after="999999999999"), MAX_RETRY_AFTER_SECONDS),
        (rejected(503, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), 0.0),
        (rejected(503, retry_after="-1"), 0.0),
        (rejected(503, retry_after="²"), 0.0),
        (rejected(503), 0.0),
        (ConnectionFailed("x"), 0.0),
    ],
)
def test_retry_after_is_heeded_within_reason(failure: Exception, seconds: float) -> None:
    assert retry_after_seconds(failure) == seconds
