"""How late the event loop is: the one number that tells that the gateway, and not a peer, is slow."""

from typing import Final

import trio

from gateway.telemetry.metrics import Histogram

INTERVAL_SECONDS: Final = 0.25
"""Seldom enough to cost nothing, often enough to meet most stalls of a few hundred milliseconds."""


async def sample_lag(lag_seconds: Histogram, *, interval_seconds: float = INTERVAL_SECONDS) -> None:
    """Observes, until cancelled, how much later than asked each of a row of sleeps ended."""
    while True:
        due = trio.current_time() + interval_seconds
        await trio.sleep_until(due)
        lag_seconds.observe(max(0.0, trio.current_time() - due))
