"""What every way to tell who somebody is has in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from gateway.policy.principal import Principal
from gateway.protocol.http import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateNames:
    """Who a client's certificate, verified by the listener, says it is of."""

    alternative_name: str | None
    """The first name of its subjectAltName: URI, then mail, then DNS; None if there is none."""
    subject: str
    """As in RFC 4514."""
    common_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that a request shows of whoever sent it."""

    route: str
    credential: str | None
    """What stood in one of the route's places for credentials."""
    request: Request
    """As it came, its credential still in it: for a service that judges it by itself. Never for a backend or a log."""
    scheme: str
    """`http` or `https`, as the client sees it."""
    host: str
    address: str | None
    """The client's; None on a Unix socket without a proxy that names it."""
    certificate: CertificateNames | None

    def __repr__(self) -> str:
        return f"Evidence(route={self.route!r}, ...)"


class Method(ABC):
    """One entry of `authentication.methods`."""

    name: ClassVar[str]
    """Its key, and its label in metrics."""

    @abstractmethod
    def applies(self, evidence: Evidence) -> bool:
        """Whether the credential of this method is there: then it decides."""

    @abstractmethod
    async def identify(self, evidence: Evidence, now: float) -> Principal:
        """Who it is; `now` is Unix time. Raises HandshakeRefused: 401, 403, or 503 where it cannot be known."""
