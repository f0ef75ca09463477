"""Dials every endpoint of a route now and then, so that a dead one is known before a client needs it.

Invariant: while a route's checks run, no endpoint's verdict is older than interval and timeout together.
"""

import random
from collections.abc import Iterable

import structlog
import trio

from gateway.config import Health
from gateway.transport.balancing import EndpointState
from gateway.transport.connector import Connector

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class HealthChecks:
    """Checks the endpoints of all routes that have `health`, each at once and then at its route's interval.

    What goes down and what comes back is logged once; the verdicts are with the connectors' endpoints.
    """

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()

    def start(self, nursery: trio.Nursery, connectors: Iterable[Connector]) -> None:
        """Begins, with tasks of `nursery`; they run until it is cancelled."""
        self._nursery = nursery
        self.replace(connectors)

    def replace(self, connectors: Iterable[Connector]) -> None:
        """Checks these from now on, as after a reload, and no others."""
        assert self._nursery is not None, "start comes first"
        self._scope.cancel()
        self._scope = trio.CancelScope()
        self._nursery.start_soon(_watch, self._scope, tuple(connectors))


async def _watch(scope: trio.CancelScope, connectors: Iterable[Connector]) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            for connector in connectors:
                if connector.backend.health is not None:
                    for state in connector.endpoints:
                        nursery.start_soon(_watch_endpoint, connector, state, connector.backend.health)


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
