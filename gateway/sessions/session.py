"""One conversation between a client and a backend: who takes part, and what is told when it ends."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from gateway.policy.admission import Ticket
from gateway.protocol.records import LossReport
from gateway.relay.ending import Ending
from gateway.relay.relay import Relay
from gateway.telemetry.metrics import RouteMetrics

log = structlog.get_logger("session")


@dataclass(frozen=True, slots=True, kw_only=True)
class Participants:
    """Who speaks with whom; what a log line and the admin API say of a session."""

    route: str
    address: str
    """The client's, as the trusted proxies say."""
    path: str
    origin: str | None
    subprotocol: str | None
    endpoint: str
    """The backend's, as configured."""
    secure: bool


def new_session_id() -> str:
    """128 random bits, as 32 hexadecimal digits."""
    return secrets.token_hex(16)
