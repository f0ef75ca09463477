"""What a session asks of the server that it lives in, and what it leaves there."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from gateway.access.gatekeeper import Gatekeeper
from gateway.memory.account import Account
from gateway.protocol.records import SessionReport
from gateway.relay.pump import Pump
from gateway.routes import RouteService
from gateway.sessions.identity import Binding


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSession:
    """What is remembered of a session that is over."""

    token: str | None
    binding: Binding
    report: SessionReport | None
    summary: Mapping[str, object]
    """As in the log line."""


class SessionHost(ABC):
    """Where sessions live: it drives their data path, runs their tasks, and is told what becomes of them."""

    pump: Pump
    account: Account
    """What they hold is charged here."""
    logs_begin: bool
    """Whether a session's begin is worth a line in the log."""

    @abstractmethod
    def start_soon(self, task: Callable[[], Awaitable[None]]) -> None:
        """Runs an async function without arguments as a task that outlives the connection it was begun for."""

    def gatekeeper(self, service: RouteService) -> Gatekeeper | None:
        """Who judges another credential on that route: as it is configured by now."""
        return service.gatekeeper

    @abstractmethod
    def session_parked(self, session_id: str, now: float) -> None:
        """Its client is away. May end other sessions."""

    @abstractmethod
    def session_returned(self, session_id: str) -> None:
        """Its client is back."""

    @abstractmethod
    def session_ended(self, session_id: str, ended: EndedSession, *, is_elsewhere: bool) -> None:
        """It is over; one that goes on at another gateway is not to be remembered by its token."""
