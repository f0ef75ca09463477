"""Dials every endpoint of a route now and then, so that a dead one is known before a client needs it.

Invariant: while a route's checks run, no endpoint's verdict is older than interval and timeout together.
"""

import random

import structlog
import trio

from gateway.config import Health
from gateway.transport.balancing import EndpointState
from gateway.transport.connector import Connector

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def watch_health(connector: Connector, health: Health) -> None:
    """Checks each endpoint at once and then at its interval, until cancelled; logs what goes down and comes back."""
    async with trio.open_nursery() as nursery:
        for state in connector.endpoints:
            nursery.start_soon(_watch_endpoint, connector, state, health)


async def _watch_endpoint(connector: Connector, state: EndpointState, health: Health) -> None:
    while True:
        began = trio.current_time()
        problem = await connector.probe(state, timeout_seconds=health.timeout)
        if state.record_check(passed=problem is None):
            if problem is None:
                _log.info("backend_up", route=connector.route, endpoint=state.name)
            else:
                _log.warning("backend_down", route=connector.route, endpoint=state.name, problem=problem)
        # Shorter by up to a fifth, at random: gateways that were started together do not go on knocking together.
        await trio.sleep_until(began + health.interval * random.uniform(0.8, 1.0))
