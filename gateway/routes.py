"""The configured routes made ready to serve: an immutable table, of which a reload makes a new one.

Invariant: connections keep the table they were opened under; a new table takes over what outlives a reload (counters,
connectors of endpoints that stay), so that load and health are not forgotten by changing a comment.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.access.authorisers import Authorisers
from gateway.access.choosing import EndpointChooser
from gateway.access.gatekeeper import Gatekeeper
from gateway.access.logout import LogoutJudge
from gateway.config import Backend, Config, Match, Route
from gateway.errors import HandshakeRefused, StartupError
from gateway.policy.forwarded import TrustedProxies
from gateway.policy.hosts import OwnHosts
from gateway.policy.origin import OriginPolicy
from gateway.policy.routing import Router
from gateway.protocol.framings import Framing, LengthPrefixedFraming, LinesFraming, StreamFraming
from gateway.protocol.handshake import METHODS, Upgrade
from gateway.protocol.records import SUBPROTOCOL
from gateway.relay.settings import RelaySettings
from gateway.telemetry.metrics import BackendReading, Metrics, RouteMetrics, ServiceRefusal
from gateway.transport.chosen import ChosenConnectors
from gateway.transport.connector import Connector
from gateway.transport.files import Folder
from gateway.transport.resolving import Resolver

DEFAULT_MESSAGE_BYTES: Final = 1024 * 1024
"""Where messages are gathered, here or by those who speak records, and nobody says how large they may be."""

LARGEST_GATHERED_BYTES: Final = 64 * 1024 * 1024
"""What stands for an absent `message_bytes` where a framing must gather whole messages."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RouteService:
    """One route and what serves it."""

    config: Route
    origins: OriginPolicy
    metrics: RouteMetrics
    settings: RelaySettings
    connector: Connector | None
    """None for a route that serves files or hears of logouts."""
    chooser: EndpointChooser | None
    """None: all clients are led to the same endpoints."""
    chosen: ChosenConnectors | None
    """Where there is a chooser: who dials what it chose."""
    folder: Folder | None
    gatekeeper: Gatekeeper | None
    """None: nobody is asked who they are."""
    logout: LogoutJudge | None
    """Of a route that hears of logouts."""

    @property
    def match(self) -> Match:
        """What the router looks at."""
        return self.config.match

    @property
    def backend(self) -> Backend:
        """The backend's configuration, of a route that has one."""
        assert self.config.backend is not None
        return self.config.backend

    def choose_subprotocol(self, upgrade: Upgrade) -> str | None:
        """The first of the route's subprotocols that the client offers."""
        if not upgrade.subprotocols:
            return None
        return next((name for name in self.config.subprotocols if name in upgrade.subprotocols), None)

    def unspoken_subprotocols(self, upgrade: Upgrade) -> tuple[str, ...]:
        """What the client offers, where it will be told none of it; empty where one is chosen, or none is offered.

        A browser ends such a connection as soon as it stands, and says nothing that a page could show.
        """
        if not upgrade.subprotocols or (self.config.delivery.track and SUBPROTOCOL in upgrade.subprotocols):
            return ()
        return () if self.choose_subprotocol(upgrade) is not None else upgrade.subprotocols

    @property
    def message_bytes(self) -> int | None:
        """The largest message that is taken, before compression is thought of; None: there is no limit."""
        limit, framing = self.config.limits.message_bytes, self.backend.framing
        if limit == "auto":
            return None if framing == "stream" else DEFAULT_MESSAGE_BYTES
        if limit is None and framing in ("lines", "length_prefixed"):
            return LARGEST_GATHERED_BYTES
        return limit

    @property
    def framing_overhead_bytes(self) -> int:
        """What the framing adds to each message upstream; not for records."""
        match self.backend.framing:
            case "lines":
                return LinesFraming.overhead_bytes
            case "length_prefixed":
                return LengthPrefixedFraming.overhead_bytes
            case _:
                return StreamFraming.overhead_bytes

    def new_framing(self) -> Framing:
        """The framing of one connection to the backend, of a backend that does not speak records."""
        limit = self.message_bytes or LARGEST_GATHERED_BYTES
        match self.backend.framing:
            case "stream":
                return StreamFraming(text=self.backend.text)
            case "lines":
                return LinesFraming(limit)
            case "length_prefixed":
                return LengthPrefixedFraming(limit)
            case "records":
                raise ValueError("records are no framing of plain messages")


def own_hosts(config: Config) -> OwnHosts:
    """The hosts by which clients know the gateway."""
    return OwnHosts(config.hosts, [route.match.host for route in config.routes if route.match.host is not None])


class RouteTable:
    """All routes of one configuration."""

    def __init__(
        self, config: Config, metrics: Metrics, authorisers: Authorisers, *, previous: "RouteTable | None" = None
    ) -> None:
        """Raises StartupError for certificate and key files that cannot be used."""
        authorisers.begin()
        self.config: Final = config
        self.resolver: Final[Resolver] = Resolver() if previous is None else previous.resolver
        """Of all routes together: equal names are looked up once."""
        self.trusted: Final = TrustedProxies.parse(map(str, config.trusted_proxies), kind=config.forwarded)
        self.hosts: Final = own_hosts(config)
        self.services: Final = tuple(self._service(route, metrics, authorisers, previous) for route in config.routes)
        self._router: Final = Router(self.services)

    def _service(
        self, route: Route, metrics: Metrics, authorisers: Authorisers, previous: "RouteTable | None"
    ) -> RouteService:
        before = None if previous is None else previous.named(route.name)
        connector = None
        if route.backend is not None:
            connector = Connector(
                route.backend,
                route=route.name,
                previous=None if before is None else before.connector,
                resolver=self.resolver,
            )
        choice = None if route.backend is None else route.backend.endpoint_from
        counters = metrics.route(route.name)
        counters.connections_limit = route.limits.connections
        counters.hears_logouts = route.logout is not None
        gatekeeper, judge = None, None
        try:
            if route.authentication is not None:
                gatekeeper = Gatekeeper(route.authentication, authorisers, counters)
            if route.logout is not None:
                judge = LogoutJudge(route.logout, authorisers)
        except ValueError as fault:
            raise StartupError(str(fault)) from None
        return RouteService(
            config=route,
            origins=OriginPolicy(route.origins, route.require_origin, self.hosts),
            metrics=counters,
            settings=RelaySettings(
                keepalive_seconds=route.timeouts.keepalive,
                keepalive_timeout_seconds=route.timeouts.keepalive_timeout,
                idle_seconds=route.timeouts.idle,
                close_seconds=route.timeouts.close,
                close_total_seconds=route.timeouts.close_total,
                unheard_seconds=route.timeouts.unheard,
                messages_per_second=route.limits.messages_per_second,
                frames_per_second=route.limits.frames_per_second,
                bytes_per_second=route.limits.bytes_per_second,
                closes_on_excess=route.limits.excess == "close",
                fence=route.delivery.fence,
                grace_seconds=route.delivery.grace,
            ),
            connector=connector,
            chooser=None if choice is None else EndpointChooser(choice, route=route.name),
            chosen=None if choice is None or connector is None else ChosenConnectors(connector),
            gatekeeper=gatekeeper,
            logout=judge,
            folder=None if route.files is None else Folder(route.files, match_path=route.match.path, csp=route.csp),
        )

    def named(self, name: str) -> RouteService | None:
        """The route of that name."""
        return next((service for service in self.services if service.config.name == name), None)

    def find(self, host: str, path: str) -> RouteService:
        """The route for a request. Raises HandshakeRefused (404).

        To a route of files, `/docs` is the folder that `/docs/*` is in: the way there is told, unless `/docs` is a
        route of its own or another service's.
        """
        service = self._router.match(host, path)
        if service is None or (service.folder is not None and service.match.path != path):
            below = self._router.match(host, f"{path}/")
            if below is not None and below.folder is not None and below.folder.is_root(path):
                return below
        if service is None:
            raise HandshakeRefused(
                "nothing is served at this host and path", status=404, reason=ServiceRefusal.NO_ROUTE
            )
        return service

    @property
    def methods(self) -> tuple[str, ...]:
        """Those of requests that some route takes."""
        return METHODS if all(service.logout is None for service in self.services) else (*METHODS, "POST")

    def connectors(self) -> Iterator[Connector]:
        """Those of all routes that have a backend."""
        return (service.connector for service in self.services if service.connector is not None)

    def backend_readings(self) -> Iterator[BackendReading]:
        """Every endpoint of every route, for the metrics."""
        for connector in self.connectors():
            yield from connector.readings()

    def routes_without_backend(self) -> list[str]:
        """The routes none of whose endpoints answers."""
        return [connector.route for connector in self.connectors() if not connector.up]
