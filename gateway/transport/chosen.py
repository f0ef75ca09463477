"""Connectors for endpoints that clients choose: one for each that was asked for lately.

Invariant: however many endpoints are chosen, so many are remembered at the most, and the metrics have one line for all
of them: which there are is the clients' business, and a metric's labels are not.
"""

from collections import OrderedDict
from typing import Final

from gateway.config import Endpoint, TcpAddress
from gateway.policy.destinations import Destination
from gateway.transport.connector import Connector

MOST_REMEMBERED: Final = 4096
"""With what is known of their names and their health; one that is forgotten is asked for anew."""


class ChosenConnectors:
    """Of one route, below its own connector, which has no endpoint."""

    def __init__(self, base: Connector) -> None:
        self._base: Final = base
        self._known: Final[OrderedDict[Destination, Connector]] = OrderedDict()

    def towards(self, destination: Destination) -> Connector:
        """The connector that dials this destination and no other."""
        connector = self._known.get(destination)
        if connector is None:
            connector = self._known[destination] = self._base.towards(
                endpoint_of(destination, tls=self._base.tls is not None), permits=destination.permits
            )
            if len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(destination)
        return connector


def endpoint_of(destination: Destination, *, tls: bool) -> Endpoint:
    """The destination as if it stood in `endpoints`."""
    address = TcpAddress(host=destination.host, port=destination.port)
    return Endpoint(scheme="tls" if tls else "tcp", address=address)
