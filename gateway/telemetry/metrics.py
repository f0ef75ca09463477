"""The counters that the data path increments, all of them and so long: plain integers on slotted objects.

Invariant: counting takes no lock, no label lookup and no allocation. An object is fetched once (per route, per
direction) and its attributes are incremented; whatever they are exported as is declared in
`gateway.telemetry.exposition`. All label values come from the enums here, or from the configuration.

Every `now` is in seconds on the clock that was given to `Metrics`, which must be the one that stamps the messages.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from mypy_extensions import i64

from gateway.policy.admission import AdmissionRefusal
from gateway.policy.origin import OriginRefusal
from gateway.policy.principal import AccessRefusal
from gateway.protocol.http import Refusal

RUNG_NAMES: Final = ("accepted", "written", "reached", "consumed")
"""The ladder (docs/delivery.md); a rung's number is its place here, counted from 1 as in an ACK record."""

Bounds: TypeAlias = tuple[float, ...]
"""Upper bounds of a histogram's counts, ascending."""

DELIVERY_BOUNDS: Final[Bounds] = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
)  # fmt: skip
"""Seconds. From a loopback round trip up to the default `grace`, after which no message can settle any more."""

HANDSHAKE_BOUNDS: Final[Bounds] = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds. The last bound is the default handshake deadline."""

EVENT_LOOP_LAG_BOUNDS: Final[Bounds] = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds. A turn of the pump is meant to stay below 5 ms; beyond one second deadlines begin to be missed."""

_NANOSECONDS: Final = 1_000_000_000


class UnknownReason(StrEnum):
    """Why messages ended without evidence: what happened to the side that should have given it."""

    CLOSED = "closed"
    """It closed in good order before it gave evidence."""
    RESET = "reset"
    """Its connection was reset or broke."""
    VANISHED = "vanished"
    """It left a ping unanswered, ended its stream without a Close, or its host answered nothing any more."""
    GRACE_EXPIRED = "grace_expired"
    """It did not come back within `grace`."""
    EVICTED = "evicted"
    """Its parked session was ended early, for memory."""
    DRAIN = "drain"
    """The gateway shut down."""
    FAULT = "fault"
    """The session ended by a fault: of a peer that broke the protocol or a limit, be it that of time, or of ours."""


class PauseCause(StrEnum):
    """Why a direction is not read from."""

    WINDOW = "window"
    """As many messages or bytes as the delivery window allows are unsettled."""
    BUFFER = "buffer"
    """The write buffer to the next hop is at its high mark."""
    RECEIVER = "receiver"
    """The next hop's application does not read: its host closed the TCP window."""
    REDIAL = "redial"
    """The backend's connection broke and is being dialled again."""
    PARKED = "parked"
    """The client is away and its session waits for it."""
    RATE = "rate"
    """The client sends faster than `limits` allow."""


class HandshakeOutcome(StrEnum):
    """How a connection's way to the upgrade ended."""

    UPGRADED = "upgraded"
    REFUSED = "refused"
    """Answered with a 4xx or 503; `refusals_total` has the reason."""
    UNREACHABLE = "unreachable"
    """502 or 504: no endpoint of the backend took the connection."""
    TIMED_OUT = "timed_out"
    """TLS handshake or request head was not complete in time."""
    TLS_FAILED = "tls_failed"
    ABANDONED = "abandoned"
    """The client went away before the answer."""
    FAILED = "failed"
    """A fault of ours; the log has it."""


class ClosedBy(StrEnum):
    """Who ended a connection."""

    CLIENT = "client"
    BACKEND = "backend"
    GATEWAY = "gateway"


class SessionState(StrEnum):
    """Whether a session has a client connection."""

    ATTACHED = "attached"
    PARKED = "parked"


class LogoutOutcome(StrEnum):
    """What became of a logout token."""

    ACCEPTED = "accepted"
    NOT_KEPT = "not_kept"
    """Accepted, but the state file could not be written: a restart forgets it."""
    REPLAYED = "replayed"
    REFUSED = "refused"
    UNAVAILABLE = "unavailable"
    """The issuer's keys could not be had: whoever logged out is still in."""


class ResumeOutcome(StrEnum):
    """What became of a token that a client presented."""

    RESUMED = "resumed"
    ADOPTED = "adopted"
    """The session was begun at another gateway, or before a restart; its records backend knew it."""
    UNKNOWN = "unknown"
    """No such session: a fresh one was given."""
    EXPIRED = "expired"
    """The session had ended: a fresh one was given, with the old one's loss report."""
    REFUSED = "refused"
    """The token belongs to another subject or origin."""


class ReloadOutcome(StrEnum):
    """What became of a configuration that was loaded while running."""

    APPLIED = "applied"
    REJECTED = "rejected"
    """It had faults and changed nothing."""


class DialOutcome(StrEnum):
    """How an attempt to connect to one endpoint ended."""

    CONNECTED = "connected"
    REFUSED = "refused"
    """The host answered that nothing listens there."""
    TIMED_OUT = "timed_out"
    TLS_FAILED = "tls_failed"
    REJECTED = "rejected"
    """A records backend answered OPEN with CLOSE; it had counted as connected before."""
    OUTPACED = "outpaced"
    """It had not answered when another endpoint, dialled at least 250 ms later, had."""
    FAILED = "failed"
    """Any other error: name not resolved, no route to the host."""


class AcceptError(StrEnum):
    """Why a listener could not accept."""

    DESCRIPTORS = "descriptors"
    """No file descriptor was left, in the process or in the system."""
    MEMORY = "memory"
    OTHER = "other"


class ServiceRefusal(StrEnum):
    """Why a request that is well-formed and allowed was refused all the same."""

    NO_ROUTE = "no_route"
    HOST = "host_not_known"
    """A Host that is none of `hosts`."""
    FORWARDED = "forwarded"
    """Forwarded and X-Forwarded-* that contradict each other."""
    FILES = "files"
    """A WebSocket to a path that serves files."""
    ADMIN_TOKEN = "authentication"
    """The admin listener's own."""
    DRAINING = "draining"
    OVERLOAD = "overload"
    EXHAUSTED = "exhausted"
    """No descriptor, port or memory was left for the connection to the backend."""
    BACKEND = "backend"
    """A records backend answered OPEN with CLOSE; it had counted as connected before."""


OTHER_REFUSAL: Final = "other"

NO_METHOD: Final = "none"
"""The method where there was no credential, or none that belongs to a method."""

AUTHENTICATION_METHODS: Final = ("jwt", "introspection", "forward", "mtls", "ticket", "token", NO_METHOD)

AUTHENTICATION_OUTCOMES: Final = ("accepted", "anonymous", *map(str, AccessRefusal))

REFUSAL_REASONS: Final = frozenset(
    (*map(str, (*Refusal, *OriginRefusal, *AdmissionRefusal, *AccessRefusal, *ServiceRefusal)), OTHER_REFUSAL)
)
"""Every `HandshakeRefused.reason` that is a label of its own; anything else is counted as `other`."""

CLOSE_CODES: Final = tuple(str(code) for code in range(1000, 1016))
CLOSE_CODE_LABELS: Final = (*CLOSE_CODES, "3xxx", "4xxx", "other")
"""The registered codes (RFC 6455 section 7.4.1 and its registry), the two open ranges as one label each, the rest."""

STATUS_CLASSES: Final = ("2xx", "3xx", "4xx", "5xx")


def close_code_label(code: int) -> str:
    """The label for a close code: one of `CLOSE_CODE_LABELS`, whatever a peer may have sent."""
    if 1000 <= code <= 1015:
        return str(code)
    if 3000 <= code <= 3999:
        return "3xxx"
    if 4000 <= code <= 4999:
        return "4xxx"
    return "other"


EXEMPLAR_SECONDS: Final = 1.0
"""How long an exemplar stays at the least: more often than that nobody scrapes."""


@dataclass(frozen=True, slots=True)
class Exemplar:
    """One observation by name: whose it was."""

    value: float
    session: str
    """Its session's id, as in the log and in the admin API."""
    at: float
    """When, on the clock of `Metrics`."""


class Histogram:
    """Counts observations by size: `counts[i]` of those up to `bounds[i]`, the last of those beyond all bounds."""

    __slots__ = ("_above", "_counts", "_index", "_newest", "_upto", "bounds", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        # Most values fall where the one before fell: `_newest` counts those above _above and up to _upto, which are
        # not in `_counts[_index]` yet.
        self._above = -math.inf
        self._upto = bounds[0]
        self._newest: i64 = 0
        self.total = 0.0
        """The sum of all observed values."""
        self._index = 0
        self._counts = [0] * (len(bounds) + 1)
        self.bounds: Final = tuple(bounds)
        self.exemplars: list[Exemplar | None] | None = None
        """A late one of each of `counts`, as far as one was named; None: none is kept, and none is to be named."""

    @property
    def counts(self) -> Sequence[int]:
        """How many values fell between each two bounds."""
        self._counts[self._index] += self._newest
        self._newest = 0
        return self._counts

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)

    def observe(self, value: float, count: int = 1) -> None:
        """Count `value` (the histogram's unit) `count` times."""
        if not self._above < value <= self._upto:
            self._turn_to(value)
        self._newest += count
        self.total += value * count

    def keep_exemplars(self, keep: bool) -> None:
        """From now on there are `exemplars`, or none."""
        if not keep:
            self.exemplars = None
        elif self.exemplars is None:
            self.exemplars = [None] * (len(self.bounds) + 1)

    def name(self, value: float, session: str, now: float) -> None:
        """Says whose an observed `value` was; to be called only where there are `exemplars`."""
        exemplars, index = self.exemplars, 0
        assert exemplars is not None
        while index < len(self.bounds) and value > self.bounds[index]:
            index += 1
        before = exemplars[index]
        if before is None or now - before.at >= EXEMPLAR_SECONDS:
            exemplars[index] = Exemplar(value, session, now)

    def _turn_to(self, value: float) -> None:
        """From now on `_newest` counts where `value` falls."""
        self._counts[self._index] += self._newest
        self._newest = 0
        bounds, index = self.bounds, self._index
        while index < len(bounds) and value > bounds[index]:
            index += 1
        while index and value <= bounds[index - 1]:
            index -= 1
        self._index = index
        self._above = bounds[index - 1] if index else -math.inf
        self._upto = bounds[index] if index < len(bounds) else math.inf


class PausedTime:
    """Seconds that connections spent paused, moving also while they still are.

    The sum over running pauses is `running * now - (sum of their beginnings)`, so it needs no list of them. Kept in
    integer nanoseconds: a float's rounding could make the sum fall, which Prometheus takes for a restart.
    """

    __slots__ = ("_offset", "running")

    def __init__(self) -> None:
        self.running = 0
        """How many connections are paused for this cause at this moment."""
        self._offset = 0

    def begin(self, now: float) -> None:
        """One connection is paused as of `now`; each begin needs its `end`, also when the connection is torn down."""
        self.running += 1
        self._offset -= int(now * _NANOSECONDS)

    def end(self, now: float) -> None:
        """One of the pauses that began is over."""
        self.running -= 1
        self._offset += int(now * _NANOSECONDS)

    def seconds(self, now: float) -> float:
        """All paused seconds up to `now`, of ended pauses and of running ones."""
        return (self._offset + self.running * int(now * _NANOSECONDS)) / _NANOSECONDS


class DirectionMetrics:
    """What one route's messages did in one direction; lists are indexed by the rung's number, 1 to 4."""

    # Not a dataclass: mypyc would compile it as an ordinary class, and two of its fields are counted at every read.
    __slots__ = (
        "bytes",
        "delivery",
        "duplicates",
        "messages",
        "never_forwarded",
        "paused_seconds",
        "rejected",
        "replayed",
        "settled",
        "unknown",
    )

    def __init__(self) -> None:
        self.messages: i64 = 0
        """Messages accepted."""
        self.bytes: i64 = 0
        """Payload bytes forwarded, as they pass: also those of a message that has not ended."""
        self.settled = [0] * (len(RUNG_NAMES) + 1)
        """Messages settled, at the rung they settled at."""
        self.unknown = dict.fromkeys(UnknownReason, 0)
        self.never_forwarded = 0
        self.rejected = 0
        self.replayed = 0
        self.duplicates = 0
        self.paused_seconds = {cause: PausedTime() for cause in PauseCause}
        self.delivery = tuple(Histogram(DELIVERY_BOUNDS) for _ in range(len(RUNG_NAMES) + 1))
        """Seconds from accepted to settled, by the rung that settled it: `delivery[rung].observe(age, count)`."""


@dataclass(slots=True, eq=False)
class RouteMetrics:
    """What happened on one route since the process began; lives on when a reload changes or removes the route."""

    name: str
    upstream: DirectionMetrics = field(default_factory=DirectionMetrics)
    downstream: DirectionMetrics = field(default_factory=DirectionMetrics)
    connections: int = 0
    """Upgraded client connections at this moment."""
    connections_limit: int | None = None
    """The route's `limits.connections`; None: there is none, and nothing is exported."""
    handshakes: dict[HandshakeOutcome, int] = field(default_factory=lambda: dict.fromkeys(HandshakeOutcome, 0))
    handshake_seconds: Histogram = field(default_factory=lambda: Histogram(HANDSHAKE_BOUNDS))
    sessions: dict[SessionState, int] = field(default_factory=lambda: dict.fromkeys(SessionState, 0))
    resumes: dict[ResumeOutcome, int] = field(default_factory=lambda: dict.fromkeys(ResumeOutcome, 0))
    closes: dict[tuple[ClosedBy, str], int] = field(default_factory=dict)
    """By who closed and the code's label; filled by `count_close`."""
    refusals: dict[str, int] = field(default_factory=dict)
    """By reason, of `REFUSAL_REASONS`; filled by `count_refusal`."""
    authentications: dict[tuple[str, str], int] = field(default_factory=dict)
    """By method (`AUTHENTICATION_METHODS`) and outcome (`AUTHENTICATION_OUTCOMES`); by `count_authentication`."""
    logouts: dict[LogoutOutcome, int] = field(default_factory=lambda: dict.fromkeys(LogoutOutcome, 0))
    """Of a route that hears of logouts."""
    hears_logouts: bool = False
    file_responses: dict[str, int] = field(default_factory=dict)
    """By status class, of `STATUS_CLASSES`; filled by `count_file_response`."""

    @property
    def histograms(self) -> tuple[Histogram, ...]:
        """All of them."""
        return (*self.upstream.delivery, *self.downstream.delivery, self.handshake_seconds)

    @property
    def is_used(self) -> bool:
        """Somebody has asked for it since the process began."""
        heard = self.handshakes.values(), self.refusals, self.file_responses, self.logouts.values()
        return any(map(any, heard))

    def count_close(self, by: ClosedBy, code: int) -> None:
        """A connection ended with `code`, any integer that a peer or we may have given."""
        key = (by, close_code_label(code))
        self.closes[key] = self.closes.get(key, 0) + 1

    def count_refusal(self, reason: str) -> None:
        """A request was refused; `reason` is the `refusal` of its `HandshakeRefused`."""
        key = reason if reason in REFUSAL_REASONS else OTHER_REFUSAL
        self.refusals[key] = self.refusals.get(key, 0) + 1

    def count_authentication(self, method: str, outcome: str) -> None:
        """Somebody was let in, or not, by `method`."""
        key = (method, outcome)
        self.authentications[key] = self.authentications.get(key, 0) + 1

    def count_file_response(self, status: int) -> None:
        """A route that serves files answered with `status`, 200 to 599."""
        key = f"{status // 100}xx"
        self.file_responses[key] = self.file_responses.get(key, 0) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlightReading:
    """What one session has in flight in one direction at the moment of a scrape."""

    direction: DirectionMetrics
    """The counters of its route and direction."""
    messages: int
    bytes: int
    oldest_accepted_at: float
    """When its oldest unsettled message was accepted, on the clock of `Metrics`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReading:
    """One endpoint of one route at the moment of a scrape."""

    route: str
    endpoint: str
    """As configured, `tcp://chat-0:9000`."""
    up: bool | None
    """It answers, at any of its addresses, by the last dial or check of each; None: that is not known yet."""
    dials: Mapping[DialOutcome, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateReading:
    """One certificate in use at the moment of a scrape."""

    certificate: str
    """The certificate's file, as configured."""
    expires_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReading:
    """The account of memory at the moment of a scrape; in bytes, but for the counts."""

    used: int = 0
    limit: int = 0
    holder_limit: int = 0
    allowance: int = 0
    """What one holder may have now and still be read."""
    largest_holder: int = 0
    holders: int = 0
    waiting: int = 0
    """Connections that are not read."""


def _nothing() -> Iterable[InFlightReading]:
    return ()


def _no_backends() -> Iterable[BackendReading]:
    return ()


def _no_certificates() -> Iterable[CertificateReading]:
    return ()


class Detail:
    """How much of it is exported; what is counted stays the same."""

    __slots__ = ("exemplars", "few_buckets", "idle_routes", "per_endpoint")

    def __init__(
        self,
        *,
        per_endpoint: bool = True,
        few_buckets: bool = False,
        idle_routes: bool = True,
        exemplars: bool = False,
    ) -> None:
        self.per_endpoint: Final = per_endpoint
        """Else a route's endpoints are told as one."""
        self.few_buckets: Final = few_buckets
        """Of histograms by route."""
        self.idle_routes: Final = idle_routes
        """Else routes that nobody has asked for since the process began are left out."""
        self.exemplars: Final = exemplars
        """Of histograms by route; kept from then on that they are wanted."""


class Metrics:
    """All counters of one gateway process; `gateway.telemetry.exposition` exports them.

    What is known elsewhere is asked for at scrape time through the providers, plain attributes that the server sets.
    They are called on the event loop's thread and may therefore walk live objects; they must not await.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock: Final = clock
        self.epoch: Final = time.time() - clock()
        """What makes the clock's seconds those since 1970, once and for all: a moment is told alike at each scrape."""
        self.event_loop_lag_seconds: Final = Histogram(EVENT_LOOP_LAG_BOUNDS)
        self.config_reloads: Final = dict.fromkeys(ReloadOutcome, 0)
        self.config_last_reload_successful = True
        """False from a rejected configuration to the next one that is applied; the one at the start held."""
        self.accept_errors: Final = dict.fromkeys(AcceptError, 0)
        self.unrouted: Final = RouteMetrics("")
        """Handshakes and refusals of requests that matched no route; exported with an empty route label."""
        self.in_flight: Callable[[], Iterable[InFlightReading]] = _nothing
        """Yields one reading for each ledger that has a message in flight; those with nothing are left out."""
        self.backends: Callable[[], Iterable[BackendReading]] = _no_backends
        self.certificates: Callable[[], Iterable[CertificateReading]] = _no_certificates
        self.memory: Callable[[], MemoryReading] = MemoryReading
        self.tasks: Callable[[], int] = int
        self._detail = Detail()
        self._routes: Final[dict[str, RouteMetrics]] = {}

    @property
    def detail(self) -> Detail:
        """How much of it is exported."""
        return self._detail

    @detail.setter
    def detail(self, detail: Detail) -> None:
        self._detail = detail
        for route in self._routes.values():
            for histogram in route.histograms:
                histogram.keep_exemplars(detail.exemplars)

    @property
    def routes(self) -> tuple[RouteMetrics, ...]:
        """The counters of all routes that were ever configured in this process."""
        return tuple(self._routes.values())

    @property
    def told_routes(self) -> tuple[RouteMetrics, ...]:
        """Those of them that are exported."""
        return tuple(route for route in self._routes.values() if self.detail.idle_routes or route.is_used)

    def route(self, name: str) -> RouteMetrics:
        """The counters of the route `name`: always the same object, so that they go on after a reload."""
        found = self._routes.get(name)
        if found is None:
            found = self._routes[name] = RouteMetrics(name)
            for histogram in found.histograms:
                histogram.keep_exemplars(self._detail.exemplars)
        return found
