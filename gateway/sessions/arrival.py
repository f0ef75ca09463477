"""A request that has been checked and admitted, and the answer that makes it a WebSocket connection.

Invariant: what stands here is decided: nothing of it is looked up again, whatever a reload changes meanwhile.
"""

from dataclasses import dataclass
from typing import Final

from gateway.access.gatekeeper import Entry
from gateway.config import Route
from gateway.config.checks import MAX_INFLATED_BYTES
from gateway.policy.admission import Ticket
from gateway.policy.destinations import Destination
from gateway.policy.forwarded import ClientView
from gateway.policy.principal import Principal
from gateway.protocol.deflate import DeflateParameters, negotiate
from gateway.protocol.handshake import ExtensionOffer, Request, Upgrade, accept_response
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.records import SUBPROTOCOL
from gateway.routes import RouteService
from gateway.sessions.identity import Binding
from gateway.sessions.permission import Permission
from gateway.transport.connector import Connector
from gateway.transport.listener import Established

MAX_INFLATED_RECORD_BYTES: Final = 2 * 1024 * 1024
"""Twice the largest record, so that the record's own limit is the one that is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request that has been checked and admitted."""

    service: RouteService
    established: Established
    request: Request
    upgrade: Upgrade
    leftover: bytes
    """What the client sent behind its request."""
    view: ClientView
    origin: str | None
    entry: Entry | None
    """Who was let in; None where nobody is asked."""
    ticket: Ticket
    handshake_seconds: float
    """For a records client: how long it may take to send OPEN."""
    destination: Destination | None = None
    """Where it is led to, once it is known; None where all are led to the same endpoints."""
    entries: tuple[tuple[int, bytes], ...] = ()
    """What a backend is told of the client in a PROXY protocol header, beside the addresses."""

    @property
    def speaks_records(self) -> bool:
        """The client offers `kakitome.v1`, and delivery is tracked on this route."""
        return speaks_records(self.upgrade, self.service.config)

    @property
    def principal(self) -> Principal | None:
        """Who it is, as far as that is known."""
        return None if self.entry is None else self.entry.principal

    @property
    def binding(self) -> Binding:
        """What a session of this client's is bound to."""
        principal, tls = self.principal, self.established.tls
        return Binding(
            route=self.service.config.name,
            origin=self.origin,
            subject=None if principal is None else principal.identity,
            certificate=None if tls is None else tls.client_identity,
            destination=None if self.destination is None else str(self.destination),
        )

    @property
    def connector(self) -> Connector:
        """Who dials its backend."""
        chosen, connector = self.service.chosen, self.service.connector
        if chosen is not None:
            assert self.destination is not None
            return chosen.towards(self.destination)
        assert connector is not None
        return connector

    @property
    def permission(self) -> Permission:
        """What it is let in under."""
        entry, gatekeeper = self.entry, self.service.gatekeeper
        takes_another = entry is not None and gatekeeper is not None and gatekeeper.takes_open
        return Permission(
            address=self.view.address,
            principal=self.principal,
            evidence=entry.evidence if entry is not None and takes_another else None,
        )


def speaks_records(upgrade: Upgrade, route: Route) -> bool:
    """Whether the client offers `kakitome.v1`, and delivery is tracked on this route."""
    return SUBPROTOCOL in upgrade.subprotocols and route.delivery.track


async def upgrade(arrival: Arrival, subprotocol: str | None) -> WebSocketConnection:
    """Answers 101. Raises OSError."""
    deflate, extensions = _negotiate_deflate(arrival.service, arrival.upgrade)
    response = accept_response(
        arrival.upgrade, subprotocol=subprotocol, extensions=extensions, headers=arrival.established.headers
    )
    await arrival.established.channel.send_short(response)
    # A record adds its header to a message, and is bounded by its own limit.
    speaks_records = subprotocol == SUBPROTOCOL
    message_bytes = None if speaks_records else arrival.service.message_bytes
    if deflate is not None and message_bytes is None:
        message_bytes = MAX_INFLATED_RECORD_BYTES if speaks_records else MAX_INFLATED_BYTES
    return WebSocketConnection(
        client=False,
        message_bytes=message_bytes,
        deflate=deflate,
        inflation_ratio=arrival.service.config.compression.inflation_ratio,
    )


def _negotiate_deflate(
    service: RouteService, upgrade: Upgrade
) -> tuple[DeflateParameters | None, tuple[ExtensionOffer, ...]]:
    if service.config.compression.enabled:
        agreed = negotiate(upgrade.extensions)
        if agreed is not None:
            return agreed[0], (agreed[1],)
    return None, ()
