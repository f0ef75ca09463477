"""What goes on at each route's backend while nobody dials: health checks, lookups of names, watched certificate files.

Invariant: what is looked after is what is configured now; a reload ends the care of what was.
"""

import random
from collections.abc import Iterable

import trio

from gateway.transport.connector import Connector
from gateway.transport.health import SHORTEST_PACE, check


class Upkeep:
    """Looks after the connectors of all routes."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()

    def start(self, nursery: trio.Nursery, connectors: Iterable[Connector]) -> None:
        """Begins, with tasks of `nursery`; they run until it is cancelled."""
        self._nursery = nursery
        self.replace(connectors)

    def replace(self, connectors: Iterable[Connector]) -> None:
        """Looks after these from now on, as after a reload, and no others."""
        assert self._nursery is not None, "start comes first"
        self._scope.cancel()
        self._scope = trio.CancelScope()
        self._nursery.start_soon(_look_after, self._scope, tuple(connectors))


async def _look_after(scope: trio.CancelScope, connectors: Iterable[Connector]) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            for connector in connectors:
                nursery.start_soon(check, connector)
                if connector.addresses.names:
                    nursery.start_soon(_keep_resolved, connector)
                if connector.tls is not None:
                    nursery.start_soon(connector.tls.watch)


async def _keep_resolved(connector: Connector) -> None:
    while True:
        connector.addresses.refresh(older_than=trio.current_time())
        await trio.sleep(connector.backend.resolve * random.uniform(SHORTEST_PACE, 1.0))
