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
from gateway.relay.backend_links import BackendLink, FramedBackend
from gateway.relay.client_links import PlainClient
from gateway.relay.direction import Direction
from gateway.relay.ending import Ending
from gateway.relay.evidence import Evidence
from gateway.relay.pump import Pump
from gateway.relay.records_backend import OpenedBackend, RecordsBackend
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
        self,
        pump: Pump,
        service: RouteService,
        client: Channel,
        ws: WebSocketConnection,
        opened: OpenedBackend | None,
        *,
        early: bytes,
    ) -> None:
        """Hands both sockets to the pump; `early` is what the client sent behind its handshake. Counts the connection.

        `opened` is what a records backend answered, None for the other framings. Not to be interrupted: from here on
        the sockets are the relay's.
        """
        backend_sock = self._dialed.channel.release()
        client_sock = client.release()
        delivery, metrics = service.config.delivery, service.metrics
        windows = {"window_messages": delivery.window_messages, "window_bytes": delivery.window_bytes}
        down = Direction(metrics.downstream, Ledger(Rung.REACHED, overhead_bytes=None, **windows))

        def new_relay(up: Direction) -> Relay:
            if not delivery.track:
                up.ledger = down.ledger = None
            return Relay(pump=pump, settings=service.settings, up=up, down=down, on_end=self.ended)

        backend: BackendLink
        if opened is None:
            evidence, framing = Evidence(backend_sock), service.new_framing()
            ledger = Ledger(evidence.settles_at, overhead_bytes=framing.overhead_bytes, **windows)
            self.relay = new_relay(Direction(metrics.upstream, ledger))
            backend = FramedBackend(backend_sock, self.relay, framing, evidence)
        else:
            ledger = Ledger(
                Rung.CONSUMED,
                overhead_bytes=None,
                window_messages=min(delivery.window_messages, opened.body.window_messages),
                window_bytes=min(delivery.window_bytes, opened.body.window_bytes),
            )
            self.relay = new_relay(Direction(metrics.upstream, ledger))
            backend = RecordsBackend(
                backend_sock, self.relay, opened, message_bytes=service.config.limits.message_bytes
            )
        metrics.connections += 1
        self.relay.start(PlainClient(client_sock, self.relay, ws), backend, early=early, now=pump.clock())

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
