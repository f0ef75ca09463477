"""How much memory something allocates, as Python's allocators see it."""

import tracemalloc
from collections.abc import Callable
from typing import Final

ATTEMPTS: Final = 5


def peak_bytes(action: Callable[[], object], *, enough: int = 0) -> int:
    """The most bytes that `action` held at once: the least of some attempts; one of `enough` or less is the last.

    Other threads of a test process allocate too, a test runner's for one, and what they do can only add.
    """
    least: int | None = None
    for _ in range(ATTEMPTS):
        tracemalloc.start()
        try:
            action()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        least = peak if least is None else min(least, peak)
        if least <= enough:
            break
    assert least is not None
    return least
