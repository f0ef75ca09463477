"""The configuration as frozen models: what every key means, may be and is by default.

Invariant: a model says all about its own fields; what several keys must agree on is in `checks`. The docstring under
a field is its description in the JSON Schema and in docs/configuration.md, so it is written for operators.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from gateway.config.access import Authentication, Logout
from gateway.config.addresses import TcpAddress
from gateway.config.choice import EndpointFrom, ProxyEntry
from gateway.config.fields import (
    Account,
    Bind,
    Count,
    Duration,
    Endpoint,
    FileMode,
    HeadSize,
    LocalPath,
    Rate,
    Secret,
    Size,
    SizeOrAuto,
    Token,
    TrustedPeer,
)
from gateway.config.section import Section
from gateway.policy.origin import parse_rule
from gateway.policy.routing import parse_host_pattern, parse_path_pattern

FramingName = Literal["stream", "lines", "length_prefixed", "records"]
BalanceName = Literal["round_robin", "least_connections", "session_hash"]
RECORDS_CHECK_SECONDS: Final = 5.0
"""Their specification lets a connection end before OPEN."""

ForwardedKind = Literal["x-forwarded", "forwarded"]
ReadinessName = Literal["serving", "any_route"]
TlsVersion = Literal["1.2", "1.3"]


# --- listeners ----------------------------------------------------------------------------------------------------


class CertificatePair(Section):
    """A certificate chain and its private key."""

    certificate: LocalPath
    """PEM file: the certificate, then the intermediate ones."""
    key: LocalPath
    """PEM file: the private key, without a passphrase."""


class ListenerTls(Section):
    """TLS of a listener. Certificate files are read again when they change; live connections are not touched."""

    certificate: LocalPath | None = None
    """PEM file: the certificate, then the intermediate ones. Goes with `key`; the default one beside `certificates`."""
    key: LocalPath | None = None
    """PEM file: the private key of `certificate`, without a passphrase."""
    certificates: tuple[CertificatePair, ...] = ()
    """More certificates, chosen by the name the client asks for (SNI); where none matches, the default one is shown."""
    minimum_version: Annotated[TlsVersion, BeforeValidator(lambda value: str(value))] = "1.2"
    """The oldest TLS version accepted."""
    client_ca: LocalPath | None = None
    """PEM file of certificate authorities: clients must show a certificate that one of them signed."""
    client_crl: LocalPath | None = None
    """PEM file of revocation lists, one of each authority that signs clients' certificates: whoever is on it is refused
    from the next handshake on. A list that is past its `nextUpdate` refuses everybody: renew it in time."""
    hsts: Duration | None = None
    """Browsers are told (Strict-Transport-Security) to use TLS only with this host for so long, as `365d`."""

    def pairs(self) -> Iterator[CertificatePair]:
        """All certificates, the default one first."""
        if self.certificate is not None and self.key is not None:
            yield CertificatePair(certificate=self.certificate, key=self.key)
        yield from self.certificates


class Listener(Section):
    """An address that clients connect to."""

    bind: Bind
    """`host:port`, `[v6]:port`, `unix:PATH`, or `systemd:NAME`: a socket that systemd has bound, by its unit's
    `FileDescriptorName`."""
    mode: FileMode | None = None
    """`unix:PATH` only: the permissions of the socket's file, in quotes: whoever may write may connect; absent: as the
    umask leaves them."""
    owner: Account | None = None
    """`unix:PATH` only: the user that the socket's file is given to; only root may."""
    group: Account | None = None
    """`unix:PATH` only: the group that the socket's file is given to; the gateway's user must be in it, or be root."""
    tls: ListenerTls | None = None
    """Present: this listener speaks `wss` and `https`; absent: `ws` and `http`."""
    proxy_protocol: bool = False
    """Every connection must begin with a PROXY protocol header (v1 or v2), which names the client's address, and come
    from one of `trusted_proxies`."""


# --- routes -------------------------------------------------------------------------------------------------------


def _origin_rule(value: str) -> str:
    parse_rule(value)
    return value


class Match(Section):
    """Which requests a route takes: the most specific route wins."""

    path: Annotated[str, AfterValidator(parse_path_pattern)] = "/*"
    """An exact path, or a prefix that ends in `/*`. An exact path wins over a prefix, a longer prefix over another."""
    host: Annotated[str, AfterValidator(parse_host_pattern)] | None = None
    """The host the client asked for, without a port; `*.example.com` takes every name below it; absent: any host."""


class Health(Section):
    """Connects to endpoints and hangs up: so clients need not find out which are down, and which are back. An endpoint
    to which a dial failed is asked again after 1 s, 2 s, 4 s and so on up to 30 s, until it answers."""

    interval: Duration | None = None
    """Endpoints are also checked without cause, so often; `null`: every 5 s with framing `records`, else not at all,
    for there are services that take a connection without a word for an attack (TigerVNC refuses its sender)."""
    timeout: Duration = 2.0
    """An endpoint that has not taken the connection by then is down."""


class BackendTls(Section):
    """How `tls://` endpoints are verified, and what is shown to them."""

    ca: LocalPath | None = None
    """PEM file of certificate authorities; absent: those of the system."""
    server_name: str | None = None
    """The name asked for (SNI) and verified; absent: the endpoint's host."""
    certificate: LocalPath | None = None
    """PEM file: the gateway's own certificate, for backends that ask for one."""
    key: LocalPath | None = None
    """PEM file: the private key of `certificate`."""


class Backend(Section):
    """The TCP service behind a route."""

    endpoints: Annotated[tuple[Endpoint, ...], Field(min_length=1)] = ()
    """Where it listens: `tcp://host:port`, `tls://host:port`, `unix:///path`. A failed dial goes on to the next one,
    and so does one that takes longer than 250 ms, without being given up. All addresses of a name count as endpoints,
    each with a health and a load of its own. A backend has this or `endpoint_from`."""
    endpoint_from: EndpointFrom | None = None
    """Which endpoint it is, depends on the client."""
    resolve: Duration = 30.0
    """How long what a name led to is believed; then it is looked up again."""
    framing: FramingName = "stream"
    """How messages stand in its byte stream: `stream` concatenates them, `lines` ends each with a newline,
    `length_prefixed` puts a 4-byte length before each, `records` speaks Kakitome's record protocol."""
    text: bool = False
    """`stream` only: what the backend sends goes to the client as text messages, cut between characters; false: as
    binary ones."""
    balance: BalanceName | None = None
    """How an endpoint is chosen: in turn, the one with the fewest connections, or by a hash of the session; absent:
    `session_hash` with `records`, so that all gateways look for a session at the same endpoint, else
    `least_connections`."""
    connect_timeout: Duration = 5.0
    """For all endpoints tried together, TLS included."""
    health: Health | None = Health()
    """`null` switches health checks off: no connection is ever made but for a client."""
    tls: BackendTls | None = None
    """For `tls://` endpoints."""
    proxy_protocol: Literal["v2"] | None = None
    """`v2` sends a PROXY protocol header first: the client's address, its TLS and the host it asked for."""
    proxy_protocol_entries: tuple[ProxyEntry, ...] = ()
    """What of who the client is stands in that header, too."""
    headers: tuple[Token, ...] = ()
    """`records` only: request headers that are passed on in OPEN."""

    @property
    def balancing(self) -> BalanceName:
        """`balance`, or what it is where it is absent."""
        return self.balance or ("session_hash" if self.framing == "records" else "least_connections")

    @property
    def check_interval(self) -> float | None:
        """Seconds from one health check of an endpoint to the next; None: it is checked only after a failed dial."""
        if self.health is None:
            return None
        return self.health.interval or (RECORDS_CHECK_SECONDS if self.framing == "records" else None)


class Delivery(Section):
    """How far delivery is tracked, and how long a session outlives its connection."""

    window_messages: Count = 1024
    """Messages in flight in one direction of a session; with so many unsettled, its sender is paused."""
    window_bytes: Size = 4 * 2**20
    """Bytes in flight in one direction of a session."""
    grace: Duration | None = 120.0
    """How long a dropped session may be resumed; `null`: not at all."""
    fence: bool = True
    """Plain WebSocket clients are sent a ping after their messages; its pong proves that their stack has those."""
    track: bool = True
    """`false` switches the tracking of deliveries off: no receipts, no loss report."""


class Limits(Section):
    """What one route may take. `null` means no limit."""

    message_bytes: SizeOrAuto | None = "auto"
    """The largest message, in both directions, after decompression; larger ones end the connection with 1009. `auto` is
    1MiB. Where the backend's framing is `stream`, which gathers nothing, it is no limit, but 64MiB for plain clients
    that compress. `null` is no limit, and 64MiB where the framing is `lines` or `length_prefixed`, which gather."""
    connections: Count | None = 10_000
    """Connections at the same time; more are answered with HTTP 503. Parked sessions keep their backend's connection
    and count with them: where a new session would exceed the limit, one that is parked is ended for it."""
    connections_per_address: Count | None = 100
    """Connections at the same time of one client address (IPv6: of one /64)."""
    messages_per_second: Rate | None = None
    """Messages a second that one connection may send, on average over a second or so."""
    frames_per_second: Rate | None = None
    """The same of frames: besides messages these are fragments, empty ones too, pings and pongs, and the records with
    which a `kakitome.v1` client acknowledges."""
    bytes_per_second: Size | None = None
    """The same of bytes, those of the frames' headers included: as they come, compressed or not."""
    excess: Literal["pause", "close"] = "pause"
    """What becomes of a connection that sends more: it is not read until it has made up for it, so that its own kernel
    makes it wait, and nothing is lost; or it is closed with 1008."""


class RouteTimeouts(Section):
    """The patience with established connections. `null` switches one off."""

    keepalive: Duration | None = 20.0
    """A client that was silent for so long is sent a ping."""
    keepalive_timeout: Duration | None = 20.0
    """A ping unanswered for so long ends the connection with 1011; it counts from when the client's host has everything
    that was sent before the ping, and what that host acknowledges is a sign of life."""
    idle: Duration | None = None
    """A connection without a message in either direction for so long is closed."""
    close: Duration = 5.0
    """How long an ending connection may stand still: the peer's host answers nothing, or has everything and the peer
    does not end its side. Three times that where the host answers and acknowledges no more."""
    close_total: Duration = 60.0
    """How long each step of an end may last altogether, however steadily the last bytes are taken."""
    unheard: Duration | None = 30.0
    """While something that was sent is unacknowledged, a peer whose host has answered nothing at all for so long, no
    probe of its window either, is gone."""


class Compression(Section):
    """permessage-deflate (RFC 7692) with clients that offer it."""

    enabled: bool = False
    """Costs CPU time and some 300 kB of memory a connection. Do not compress secrets beside text that others choose."""
    inflation_ratio: Rate | None = 200.0
    """How many times what it was compressed to a client's messages may be, on average over its connection, whose first
    4MiB are not looked at; more end it with 1008. Text comes to some 20, a picture of one colour to 1000. `null` is no
    limit but that of `message_bytes`."""


def _backend_or_files(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [{"required": ["backend"]}, {"required": ["files"]}, {"required": ["logout"]}]


class Route(Section):
    """Which requests go where, who may make them, and what they may cost."""

    model_config = ConfigDict(json_schema_extra=_backend_or_files)

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    """Stands in logs, metrics and the admin API; unique."""
    match: Match = Match()
    """Which requests it takes; absent: all that no other route takes."""
    origins: Annotated[tuple[Annotated[str, AfterValidator(_origin_rule)], ...], Field(min_length=1)] = ("same-origin",)
    """Pages that may connect: `https://app.example.com`, `https://*.example.com`, `same-origin` (the page came from
    this very scheme and host), an application's own scheme (`app://.`, `capacitor://localhost`), `file://`, `"null"`
    (sandboxed pages, and files in most browsers) or `"*"` (any page)."""
    require_origin: bool = False
    """Clients that send no Origin, as programs other than browsers do, are refused too."""
    subprotocols: tuple[Token, ...] = ()
    """WebSocket subprotocols spoken here, in order of preference; the first that the client offers is chosen."""
    backend: Backend | None = None
    """The service that connections are relayed to. A route has this, `files` or `logout`."""
    files: LocalPath | None = None
    """A folder that is served over HTTP, without dotfiles; with a path of `/docs/*` a request for `/docs` is led to
    `/docs/`. A route has this, `backend` or `logout`."""
    csp: str | None = None
    """`files` only: the Content-Security-Policy, in place of a strict one that allows only the route's own files."""
    logout: Logout | None = None
    """An OpenID provider says here who has logged out. A route has this, `backend` or `files`."""
    authentication: Authentication | None = None
    """Who may use it; absent: everybody whose Origin is allowed."""
    delivery: Delivery = Delivery()
    limits: Limits = Limits()
    timeouts: RouteTimeouts = RouteTimeouts()
    compression: Compression = Compression()


# --- the whole ----------------------------------------------------------------------------------------------------


class Timeouts(Section):
    """Deadlines of the gateway as a whole."""

    handshake: Duration = 10.0
    """For the TLS handshake, and again for the request head, each as a whole; a slow drip does not stretch them."""
    drain: Duration = 30.0
    """From SIGTERM to the exit: connections are closed with 1012, spread over this time."""


class Requests(Section):
    """What a request may take before anybody knows what it is for."""

    head_bytes: HeadSize = 16 * 1024
    """The largest request head, cookies included; larger ones are answered with HTTP 431."""
    line_bytes: HeadSize = 8 * 1024
    """The longest request line, path and query included; longer ones are answered with HTTP 414."""


class Handshakes(Section):
    """Connections that are not admitted: from their acceptance to the upgrade, and kept alive for another request.
    Where there is no room, the oldest one that has sent nothing is closed for a newcomer."""

    waiting: Count | None = None
    """How many there may be; `null`: what a quarter of `memory` is enough for, or of the descriptors, 4096 at most."""
    waiting_per_address: Count | None = None
    """How many of one address (IPv6: of one /64); `null`: a quarter of `waiting`, 256 at most. Not counted are those of
    `trusted_proxies`, of Unix sockets, and of listeners with `proxy_protocol`."""
    per_second: Rate = 100.0
    """TLS handshakes and requests of one address in a second; more wait for their turn. All together have two fifths of
    the time, so that established connections keep theirs."""


class Sessions(Section):
    """Memory for sessions whose client is away, and for what is told of those that ended."""

    parked: Count = 10_000
    """Sessions that wait for their client at the same time; beyond it one is ended, of the subject or address that has
    most of them the one that waits longest."""
    parked_per_holder: Count | None = 1000
    """The same of one subject, or of one client address (IPv6: of one /64); beyond it its own longest waiting one is
    ended. A thousand are ten drops of all `connections_per_address`; raise it where more users share an address."""
    parked_bytes: Size | None = None
    """What all of them may hold together; `null`: what `memory` leaves them. Older than `memory`, and rarely of use."""
    ended: Annotated[int, Field(ge=0)] = 1000
    """Ended sessions whose loss report is kept, for the admin API and for a client that asks for its session."""


class AdminToken(Section):
    """Who may use the admin listener for what."""

    name: Annotated[str, Field(min_length=1)]
    """Its name in the log, where it acts."""
    token: Secret
    """Text, or `file:PATH`."""
    scopes: Annotated[tuple[Literal["read", "act"], ...], Field(min_length=1)] = ("read",)
    """`read`: metrics, memory, sessions, bars; `act`: end sessions, bar and lift, drain a route, set the log level."""


class Admin(Section):
    """The admin listener: `/healthz`, `/readyz`, `/metrics`, `/memory` and the sessions API."""

    bind: Bind = TcpAddress(host="127.0.0.1", port=9090)
    """As a listener's. Not for the public."""
    readiness: ReadinessName = "serving"
    """When `/readyz` says yes: `serving`, from the start to the drain, whatever backends do; `any_route`, only while at
    least one route serves files or has a backend that is not known to be down."""
    mode: FileMode | None = None
    """As a listener's."""
    owner: Account | None = None
    """As a listener's."""
    group: Account | None = None
    """As a listener's."""
    token: Secret | None = None
    """Bearer token that everything but `/healthz` and `/readyz` asks for; text, or `file:PATH`. It may not act."""
    tokens: tuple[AdminToken, ...] = ()
    """More of them, each with what it may. Without one that may `act`, nothing can be changed here."""
    open_to_network: bool = False
    """Without any token: whoever reaches `bind`, which is not of this machine alone, may read."""


LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]


class Log(Section):
    """The log, on standard error."""

    format: Literal["json", "console"] = "json"
    """One JSON object a line, or text for people, coloured on a terminal."""
    level: LogLevel = "info"
    """The least severe level that is written."""
    sessions: bool = True
    """A line `session_began` for each session, too; `session_ended` is always written."""


class MetricsDetail(Section):
    """How many series `/metrics` has. What a route costs is told in metrics.md."""

    per_endpoint: bool = True
    """`backend_up` and `backend_dials_total` by endpoint. `false`: a route's endpoints together, under an empty label;
    up when any of them answers."""
    buckets: Literal["all", "few"] = "all"
    """Of the histograms by route. `few`: up to 10 ms, 100 ms, 1 s and 10 s, which is enough for the alerts."""
    idle_routes: bool = True
    """Routes that nobody has asked for since the start, too. `false`: a route appears with its first request, whose
    counts `rate()` then does not see."""
    exemplars: bool = False
    """In OpenMetrics each bucket of the histograms by route names the session of one of its observations, so that one
    gets from a slow bucket to the log. Prometheus keeps them if it runs with `--enable-feature=exemplar-storage`."""


RESTART_KEYS: Final = ("listeners", "admin", "log.format", "state")
"""What a reload cannot change: bound addresses, what the log's lines are made of, an open file."""


class Config(Section):
    """Kakitome's configuration file."""

    listeners: Annotated[tuple[Listener, ...], Field(min_length=1)]
    """Where clients connect."""
    hosts: tuple[Annotated[str, AfterValidator(parse_host_pattern)], ...] = ()
    """The names that clients know this gateway by, `*.example.com` for all below it: a request for another name is
    answered with 403, addresses and `localhost` excepted. Absent: for every name; then `same-origin` holds for
    addresses, `localhost` and the hosts that routes match, and for no other, against DNS rebinding."""
    trusted_proxies: tuple[TrustedPeer, ...] = ()
    """Networks whose word on their clients is taken, by the headers that `forwarded` names or a PROXY protocol header;
    `unix`: whoever connects to a Unix socket of ours."""
    forwarded: ForwardedKind = "x-forwarded"
    """Which headers `trusted_proxies` set: `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`, or `Forwarded` (RFC 7239).
    The other kind is not believed, and a request in which it says something else is answered with 400: the proxy
    should remove it, for it came from the client."""
    routes: Annotated[tuple[Route, ...], Field(min_length=1)]
    """Which requests go where; their order does not matter."""
    timeouts: Timeouts = Timeouts()
    requests: Requests = Requests()
    handshakes: Handshakes = Handshakes()
    memory: SizeOrAuto = "auto"
    """What may be held for all clients and backends together: messages that wait, buffers, sessions. `auto`: three
    fifths of what the control group (or half of what the machine) has beyond 64 MiB."""
    memory_per_holder: Size | None = None
    """What may be held for one holder: a subject, where clients are authenticated, else an IPv4 address, or one /64 of
    IPv6. At that its connections are not read until it takes what waits for it; `null`: a quarter of `memory`."""
    sessions: Sessions = Sessions()
    """Parked and ended sessions."""
    state: LocalPath | None = None
    """A file for what must outlast a restart: which tickets were used, who is barred. Absent: it is kept in memory, and
    tickets from before a start are refused."""
    admin: Admin | None = Admin()
    """`null` switches the admin listener off."""
    log: Log = Log()
    metrics: MetricsDetail = MetricsDetail()
