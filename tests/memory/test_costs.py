"""What is charged for pieces is about what they take, measured with the allocator's own figures."""

import tracemalloc

import pytest

from gateway.memory.costs import cost_of
from gateway.protocol.pieces import FIRST, LAST, Piece

COUNT = 40_000


@pytest.mark.parametrize("size", [0, 1, 2, 16, 100, 1000])
def test_the_charge_is_within_its_factor(size: int) -> None:
    payload = b"x" * size
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        pieces: list[Piece] = []
        for index in range(COUNT):
            pieces.append((2, bytes(bytearray(payload)), FIRST | LAST | (index & 1)))  # noqa: PERF401 - as it grows
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken * 2 / 3 <= cost_of(pieces) <= taken * 3 / 2


def test_nothing_costs_nothing() -> None:
    assert cost_of([]) == 0
