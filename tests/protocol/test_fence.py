"""Fences: one at a time, and only the answer to the one in flight proves anything."""

import pytest

from gateway.protocol.fence import FENCE_BYTES, Fence


def test_a_pong_proves_what_stood_before_its_ping() -> None:
    fence = Fence()
    assert not fence.in_flight
    payload = fence.raise_(7, now=3.5)
    assert (len(payload), fence.in_flight, fence.sent_at) == (FENCE_BYTES, True, 3.5)
    assert fence.answered(payload) == 7
    assert not fence.in_flight
    assert fence.sent_at == 3.5, "when the last one was sent stays known"


def test_a_pong_that_nobody_asked_for_proves_nothing() -> None:
    """RFC 6455 section 5.5.3 allows it."""
    fence = Fence()
    assert fence.answered(b"") is None
    payload = fence.raise_(7, now=0.0)
    for other in (b"", payload[:-1], payload + b"x", bytes(FENCE_BYTES), bytes([payload[0] ^ 1]) + payload[1:]):
        assert fence.answered(other) is None
    assert fence.in_flight
    assert fence.answered(payload) == 7


def test_an_answer_counts_once_and_an_old_one_never() -> None:
    fence = Fence()
    first = fence.raise_(1, now=0.0)
    assert fence.answered(first) == 1
    assert fence.answered(first) is None
    second = fence.raise_(1, now=1.0)
    assert second != first, "the same number has another nonce"
    assert fence.answered(first) is None
    assert fence.answered(second) == 1


def test_another_ping_of_the_same_fence_proves_as_much() -> None:
    fence = Fence()
    payload = fence.raise_(4, now=0.0)
    assert fence.again() == payload
    assert fence.answered(payload) == 4


def test_two_at_once_are_the_callers_bug() -> None:
    fence = Fence()
    fence.raise_(1, now=0.0)
    with pytest.raises(RuntimeError, match="in flight already"):
        fence.raise_(2, now=0.0)


def test_no_two_fences_share_a_nonce_however_many_are_drawn() -> None:
    drawn = []
    for fence in [Fence() for _ in range(3)]:
        for _ in range(700):
            payload = fence.raise_(1, now=0.0)
            drawn.append(payload)
            fence.answered(payload)
    assert len(set(drawn)) == len(drawn) == 2100
