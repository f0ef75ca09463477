"""One conversation between a client and a backend: who takes part, and what is told when it ends.

Invariant: what a session holds beyond its sockets (its place in the limits, its endpoint's load) is given back exactly
once, when its relay has ended.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gateway.policy.admission import Ticket
from gateway.protocol.ledger import Ledger
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.records import LossReport, Rung
from gateway.relay.backend_links import FramedBackend
from gateway.relay.client_links import PlainClient
from gateway.relay.direction import Direction
from gateway.relay.ending import Ending
from gateway.relay.evidence import Evidence
from gateway.relay.pump import Pump
from gateway.relay.relay import Relay
from gateway.sessions.routes import RouteService
from gateway.telemetry.metrics import RouteMetrics
from gateway.transport.channel import Channel
from gateway.transport.connector import Dialed

log = structlog.get_logger("session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Participants:
    """Who speaks with whom; what a log line and the admin API say of a session."""

    route: str
    address: str | None
    """The client's, as the trusted proxies say; None where nobody tells."""
    path: str
    origin: str | None
    subprotocol: str | None
    endpoint: str
    """The backend's, as configured."""


def new_session_id() -> str:
    """128 random bits, as 32 hexadecimal digits."""
    return secrets.token_hex(16)


class Session:
    """A live session; `relay` is its data path."""

    __slots__ = ("_dialed", "_forget", "_ticket", "id", "metrics", "participants", "relay")

    def __init__(
        self,
        *,
        session_id: str,
        participants: Participants,
        metrics: RouteMetrics,
        ticket: Ticket,
        dialed: Dialed,
        forget: Callable[["Session"], None],
    ) -> None:
        """Takes over the ticket and the dialed connection's place; `forget` is called when the session has ended."""
        self.id = session_id
        self.participants = participants
        self.metrics = metrics
        self.relay: Relay
        self._ticket = ticket
        self._dialed = dialed
        self._forget = forget

    def begin(
        self, pump: Pump, service: RouteService, client: Channel, ws: WebSocketConnection, *, early: bytes
    ) -> None:
        """Hands both sockets to the pump; `early` is what the client sent behind its handshake. Counts the connection.

        Not to be interrupted: from here on the sockets are the relay's.
        """
        dialed = self._dialed
        from_backend = dialed.channel.take_leftover()
        backend_sock = dialed.channel.release()
        client_sock = client.release()
        evidence = Evidence(backend_sock)
        framing = service.new_framing()
        delivery = service.config.delivery
        metrics = service.metrics

        def ledger(settles_at: Rung, overhead_bytes: int | None) -> Ledger | None:
            if not delivery.track:
                return None
            return Ledger(
                settles_at,
                window_messages=delivery.window_messages,
                window_bytes=delivery.window_bytes,
                overhead_bytes=overhead_bytes,
            )

        self.relay = relay = Relay(
            pump=pump,
            settings=service.settings,
            up=Direction(metrics.upstream, ledger(evidence.settles_at, framing.overhead_bytes)),
            down=Direction(metrics.downstream, ledger(Rung.REACHED, None)),
            on_end=self.ended,
        )
        metrics.connections += 1
        relay.start(
            PlainClient(client_sock, relay, ws),
            FramedBackend(backend_sock, relay, framing, evidence),
            from_client=early,
            from_backend=from_backend,
            now=pump.clock(),
        )

    def ended(self, relay: Relay, ending: Ending) -> None:
        """The relay's last word: counts, tells, and gives back."""
        now = relay.pump.now
        self._ticket.release()
        self._dialed.close()
        metrics = self.metrics
        metrics.connections -= 1
        metrics.count_close(ending.by, ending.code)
        log.info(
            "session_ended",
            session=self.id,
            route=self.participants.route,
            by=ending.by,
            code=ending.code,
            reason=ending.reason,
            seconds=round(now - relay.opened_at, 3),
            upstream=_account(relay.up, ending),
            downstream=_account(relay.down, ending),
        )
        self._forget(self)


def _account(direction: Direction, ending: Ending) -> dict[str, object]:
    """One direction's totals for the log, its unsettled messages counted into the metrics on the way."""
    account: dict[str, object] = {"messages": direction.messages, "bytes": direction.bytes}
    if direction.ledger is not None:
        report = direction.ledger.report()
        direction.metrics.unknown[ending.unknown] += _width(report.unknown)
        direction.metrics.never_forwarded += _width(report.never_forwarded)
        account |= _told(report)
    return account


def _told(report: LossReport) -> dict[str, object]:
    return {
        "settled": report.settled,
        "unknown": report.unknown,
        "never_forwarded": report.never_forwarded,
    }


def _width(span: tuple[int, int] | None) -> int:
    return 0 if span is None else span[1] - span[0] + 1
