"""Every metric, declared once (long as the list is): its name, unit, help, labels, how it is read from the counters.

Invariant: `DECLARATIONS` is the only place that knows what is exported. What Prometheus scrapes and docs/metrics.md are
both made from it, and every label value is from a closed set or from the configuration.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Final

from gateway import __version__
from gateway.protocol.build import CODEC, DATA_PATH
from gateway.telemetry.metrics import (
    RUNG_NAMES,
    BackendReading,
    DialOutcome,
    DirectionMetrics,
    Histogram,
    InFlightReading,
    MemoryReading,
    Metrics,
    RouteMetrics,
)

PREFIX: Final = "kakitome_"


class Kind(StrEnum):
    """What a metric's numbers mean to Prometheus."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


Reading = tuple[tuple[str, ...], float | Histogram]
"""Label values, in the order of the declaration's labels, and the value; a Histogram only for that kind."""

Reader = Callable[[Metrics], Iterable[Reading]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One metric as users see it, and where its readings come from."""

    name: str
    kind: Kind
    unit: str
    """What is counted or measured, in the plural: `messages`, `bytes`, `seconds`; empty for a bare 1 or 0."""
    help: str
    labels: tuple[str, ...]
    read: Reader


# --- readers: from the counters to (labels, value) ----------------------------------------------------------------


def _directions(route: RouteMetrics) -> tuple[tuple[str, DirectionMetrics], ...]:
    return (("upstream", route.upstream), ("downstream", route.downstream))


def _by_route(read: Callable[[RouteMetrics], float | Histogram]) -> Reader:
    return lambda metrics: (((route.name,), read(route)) for route in metrics.told_routes)


def _by_route_and(key: Callable[[RouteMetrics], Mapping[str, float]]) -> Reader:
    return lambda metrics: (
        ((route.name, str(label)), count) for route in metrics.told_routes for label, count in key(route).items()
    )


def _by_route_or_none(read: Callable[[RouteMetrics], Mapping[str, float]]) -> Reader:
    """As `_by_route_and`, and for requests that no route matched."""
    return lambda metrics: (
        ((route.name, str(label)), count)
        for route in (metrics.unrouted, *metrics.told_routes)
        for label, count in read(route).items()
    )


def _by_direction(read: Callable[[DirectionMetrics], float]) -> Reader:
    return lambda metrics: (
        ((route.name, name), read(direction)) for route in metrics.told_routes for name, direction in _directions(route)
    )


def _settled(metrics: Metrics) -> Iterator[Reading]:
    for route in metrics.told_routes:
        for name, direction in _directions(route):
            for rung, rung_name in enumerate(RUNG_NAMES, start=1):
                yield (route.name, name, rung_name), direction.settled[rung]


def _delivery(metrics: Metrics) -> Iterator[Reading]:
    """Rungs that nothing settled at on a route are left out: three of four, at 18 series each."""
    for route in metrics.told_routes:
        for name, direction in _directions(route):
            for rung, rung_name in enumerate(RUNG_NAMES, start=1):
                if direction.delivery[rung].count:
                    yield (route.name, name, rung_name), direction.delivery[rung]


def _unknown(metrics: Metrics) -> Iterator[Reading]:
    for route in metrics.told_routes:
        for name, direction in _directions(route):
            for reason, count in direction.unknown.items():
                yield (route.name, name, reason.value), count


def _paused(metrics: Metrics) -> Iterator[Reading]:
    now = metrics.clock()
    for route in metrics.told_routes:
        for name, direction in _directions(route):
            for cause, paused in direction.paused_seconds.items():
                yield (route.name, name, cause.value), paused.seconds(now)


def _in_flight(read: Callable[[InFlightReading], float]) -> Reader:
    """The sum over live ledgers that hold something: one pass, and idle sessions cost nothing here."""

    def readings(metrics: Metrics) -> Iterator[Reading]:
        sums: dict[int, float] = {}
        for reading in metrics.in_flight():
            key = id(reading.direction)
            sums[key] = sums.get(key, 0) + read(reading)
        for route in metrics.told_routes:
            for name, direction in _directions(route):
                yield (route.name, name), sums.get(id(direction), 0)

    return readings


def _oldest_in_flight(metrics: Metrics) -> Iterator[Reading]:
    now = metrics.clock()
    oldest: dict[int, float] = {}
    for reading in metrics.in_flight():
        key = id(reading.direction)
        oldest[key] = min(oldest.get(key, now), reading.oldest_accepted_at)
    for route in metrics.told_routes:
        for name, direction in _directions(route):
            yield (route.name, name), now - oldest.get(id(direction), now)


def _connections_limit(metrics: Metrics) -> Iterator[Reading]:
    for route in metrics.told_routes:
        if route.connections_limit is not None:
            yield (route.name,), route.connections_limit


def _closes(metrics: Metrics) -> Iterator[Reading]:
    for route in metrics.told_routes:
        for (by, code), count in route.closes.items():
            yield (route.name, by.value, code), count


def _authentications(metrics: Metrics) -> Iterator[Reading]:
    for route in metrics.told_routes:
        for (method, outcome), count in route.authentications.items():
            yield (route.name, method, outcome), count


def _logouts(metrics: Metrics) -> Iterator[Reading]:
    for route in metrics.told_routes:
        if route.hears_logouts:
            for outcome, count in route.logouts.items():
                yield (route.name, outcome.value), count


def _backends_by_endpoint(metrics: Metrics) -> Iterable[list[BackendReading]]:
    """An endpoint may be read twice, while a reload's old backend still has connections: its readings are one.

    So are those of all endpoints of a route where they are not to be told apart.
    """
    found: dict[tuple[str, str], list[BackendReading]] = {}
    for reading in metrics.backends():
        endpoint = reading.endpoint if metrics.detail.per_endpoint else ""
        found.setdefault((reading.route, endpoint), []).append(reading)
    return found.values()


def _dials(metrics: Metrics) -> Iterator[Reading]:
    for readings in _backends_by_endpoint(metrics):
        first = readings[0]
        for outcome in DialOutcome:
            count = sum(reading.dials.get(outcome, 0) for reading in readings)
            yield (first.route, _endpoint(metrics, first), outcome.value), count


def _backend_up(metrics: Metrics) -> Iterator[Reading]:
    for readings in _backends_by_endpoint(metrics):
        known = {reading.up for reading in readings}
        if True in known or None not in known:
            yield (readings[0].route, _endpoint(metrics, readings[0])), int(True in known)


def _endpoint(metrics: Metrics, reading: BackendReading) -> str:
    return reading.endpoint if metrics.detail.per_endpoint else ""


def _certificate_expiry(metrics: Metrics) -> Iterator[Reading]:
    """A certificate that serves several listeners is read once for each: the earliest expiry counts."""
    earliest: dict[str, float] = {}
    for reading in metrics.certificates():
        expires_at = earliest.get(reading.certificate, reading.expires_at)
        earliest[reading.certificate] = min(expires_at, reading.expires_at)
    for certificate, expires_at in earliest.items():
        yield (certificate,), expires_at


def _memory(read: Callable[[MemoryReading], int]) -> Reader:
    return lambda metrics: (((), read(metrics.memory())),)


def _build_info(metrics: Metrics) -> Iterator[Reading]:
    yield (__version__, CODEC, DATA_PATH, platform.python_version()), 1


# --- the table ----------------------------------------------------------------------------------------------------

_ROUTE: Final = ("route",)
_DIRECTION: Final = ("route", "direction")

DECLARATIONS: Final = (
    Declaration(
        name="connections",
        kind=Kind.GAUGE,
        unit="connections",
        labels=_ROUTE,
        help="Upgraded client connections at this moment.",
        read=_by_route(attrgetter("connections")),
    ),
    Declaration(
        name="connections_limit",
        kind=Kind.GAUGE,
        unit="connections",
        labels=_ROUTE,
        help="The route's limits.connections; absent where there is none.",
        read=_connections_limit,
    ),
    Declaration(
        name="handshakes_total",
        kind=Kind.COUNTER,
        unit="handshakes",
        labels=("route", "outcome"),
        help="Connections by how their way to the upgrade ended; the route is empty where none was matched.",
        read=_by_route_or_none(attrgetter("handshakes")),
    ),
    Declaration(
        name="handshake_seconds",
        kind=Kind.HISTOGRAM,
        unit="seconds",
        labels=_ROUTE,
        help="From a connection's acceptance to the 101, with TLS handshake and the dialling of the backend.",
        read=_by_route(attrgetter("handshake_seconds")),
    ),
    Declaration(
        name="messages_total",
        kind=Kind.COUNTER,
        unit="messages",
        labels=_DIRECTION,
        help="Messages accepted: the gateway held the whole message.",
        read=_by_direction(attrgetter("messages")),
    ),
    Declaration(
        name="bytes_total",
        kind=Kind.COUNTER,
        unit="bytes",
        labels=_DIRECTION,
        help="Payload bytes forwarded, counted as they pass, also of messages that have not ended.",
        read=_by_direction(attrgetter("bytes")),
    ),
    Declaration(
        name="settled_messages_total",
        kind=Kind.COUNTER,
        unit="messages",
        labels=(*_DIRECTION, "rung"),
        help="Messages settled, by the rung that was evidenced: the highest the far side can give evidence for.",
        read=_settled,
    ),
    Declaration(
        name="delivery_seconds",
        kind=Kind.HISTOGRAM,
        unit="seconds",
        labels=(*_DIRECTION, "rung"),
        help="From a message's acceptance to its settling at the rung; absent for rungs nothing settled at.",
        read=_delivery,
    ),
    Declaration(
        name="in_flight_messages",
        kind=Kind.GAUGE,
        unit="messages",
        labels=_DIRECTION,
        help="Messages accepted and not settled at this moment.",
        read=_in_flight(attrgetter("messages")),
    ),
    Declaration(
        name="in_flight_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        labels=_DIRECTION,
        help="Payload bytes of the messages in flight at this moment.",
        read=_in_flight(attrgetter("bytes")),
    ),
    Declaration(
        name="oldest_in_flight_seconds",
        kind=Kind.GAUGE,
        unit="seconds",
        labels=_DIRECTION,
        help="Age of the oldest message in flight in any session; 0 when nothing is.",
        read=_oldest_in_flight,
    ),
    Declaration(
        name="unknown_messages_total",
        kind=Kind.COUNTER,
        unit="messages",
        labels=(*_DIRECTION, "reason"),
        help="Messages sent whose session ended without evidence that they arrived, by what befell their receiver.",
        read=_unknown,
    ),
    Declaration(
        name="never_forwarded_messages_total",
        kind=Kind.COUNTER,
        unit="messages",
        labels=_DIRECTION,
        help="Messages accepted of which nothing had been sent on when their session ended.",
        read=_by_direction(attrgetter("never_forwarded")),
    ),
    Declaration(
        name="rejected_messages_total",
        kind=Kind.COUNTER,
        unit="messages",
        labels=_DIRECTION,
        help="Messages that the receiver refused with a REJECT record.",
        read=_by_direction(attrgetter("rejected")),
    ),
    Declaration(
        name="sessions",
        kind=Kind.GAUGE,
        unit="sessions",
        labels=("route", "state"),
        help="Sessions at this moment: attached to a client connection, or parked until the client returns.",
        read=_by_route_and(attrgetter("sessions")),
    ),
    Declaration(
        name="resumes_total",
        kind=Kind.COUNTER,
        unit="resumes",
        labels=("route", "outcome"),
        help="Session tokens presented, by what became of them.",
        read=_by_route_and(attrgetter("resumes")),
    ),
    Declaration(
        name="replayed_messages_total",
        kind=Kind.COUNTER,
        unit="messages",
        labels=_DIRECTION,
        help="Messages sent again after a hop was made anew.",
        read=_by_direction(attrgetter("replayed")),
    ),
    Declaration(
        name="duplicate_messages_total",
        kind=Kind.COUNTER,
        unit="messages",
        labels=_DIRECTION,
        help="Messages that arrived again and were dropped, because they had been accepted before.",
        read=_by_direction(attrgetter("duplicates")),
    ),
    Declaration(
        name="paused_seconds_total",
        kind=Kind.COUNTER,
        unit="seconds",
        labels=(*_DIRECTION, "cause"),
        help="Connection-seconds in which the direction was not read from, by cause; pauses that last are counted.",
        read=_paused,
    ),
    Declaration(
        name="backend_dials_total",
        kind=Kind.COUNTER,
        unit="dials",
        labels=("route", "endpoint", "outcome"),
        help="Attempts to connect to an endpoint, health checks not among them; `outpaced`: another answered first;"
        " `rejected`: connected, as which it has counted, and then a CLOSE in answer to OPEN.",
        read=_dials,
    ),
    Declaration(
        name="backend_up",
        kind=Kind.GAUGE,
        unit="",
        labels=("route", "endpoint"),
        help="1 when the endpoint answers, at any of its addresses, by the last dial or health check of each; absent "
        "until something is known.",
        read=_backend_up,
    ),
    Declaration(
        name="closes_total",
        kind=Kind.COUNTER,
        unit="connections",
        labels=("route", "by", "code"),
        help="Connections ended, by who ended them and the close code; 3xxx and 4xxx stand for their whole range.",
        read=_closes,
    ),
    Declaration(
        name="authentications_total",
        kind=Kind.COUNTER,
        unit="requests",
        labels=("route", "method", "outcome"),
        help="Clients that were asked who they are, by the method that decided and what came of it.",
        read=_authentications,
    ),
    Declaration(
        name="logouts_total",
        kind=Kind.COUNTER,
        unit="requests",
        labels=("route", "outcome"),
        help="Logout tokens that an OpenID provider sent to a route with logout, by what came of them.",
        read=_logouts,
    ),
    Declaration(
        name="refusals_total",
        kind=Kind.COUNTER,
        unit="requests",
        labels=("route", "reason"),
        help="Requests answered with an HTTP error instead of an upgrade; the route is empty where none was matched.",
        read=_by_route_or_none(attrgetter("refusals")),
    ),
    Declaration(
        name="file_responses_total",
        kind=Kind.COUNTER,
        unit="responses",
        labels=("route", "status"),
        help="Answers of routes that serve files, by class of status.",
        read=_by_route_and(attrgetter("file_responses")),
    ),
    Declaration(
        name="accept_errors_total",
        kind=Kind.COUNTER,
        unit="errors",
        labels=("reason",),
        help="Times that a listener could not accept a connection and paused before it tried again.",
        read=lambda metrics: (((reason.value,), count) for reason, count in metrics.accept_errors.items()),
    ),
    Declaration(
        name="memory_used_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        labels=(),
        help="What is held for clients and backends, at what it takes in memory with the objects around it.",
        read=_memory(attrgetter("used")),
    ),
    Declaration(
        name="memory_limit_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        labels=(),
        help="The budget for what is held; beyond three quarters of it the largest holders wait.",
        read=_memory(attrgetter("limit")),
    ),
    Declaration(
        name="memory_holder_limit_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        labels=(),
        help="The budget of one holder, a subject or an address.",
        read=_memory(attrgetter("holder_limit")),
    ),
    Declaration(
        name="memory_holder_allowance_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        labels=(),
        help="What one holder may have at this moment and still be read: its budget, or less where memory is short.",
        read=_memory(attrgetter("allowance")),
    ),
    Declaration(
        name="memory_largest_holder_bytes",
        kind=Kind.GAUGE,
        unit="bytes",
        labels=(),
        help="What is held for the holder that has most; /memory of the admin API names it.",
        read=_memory(attrgetter("largest_holder")),
    ),
    Declaration(
        name="memory_holders",
        kind=Kind.GAUGE,
        unit="holders",
        labels=(),
        help="Holders that have a session or a connection at this moment.",
        read=_memory(attrgetter("holders")),
    ),
    Declaration(
        name="memory_waiting_connections",
        kind=Kind.GAUGE,
        unit="connections",
        labels=(),
        help="Connections that are not read because their holder has its allowance in use.",
        read=_memory(attrgetter("waiting")),
    ),
    Declaration(
        name="tasks",
        kind=Kind.GAUGE,
        unit="tasks",
        labels=(),
        help="Tasks of the event loop at this moment: some for each connection and session, a few for the process.",
        read=lambda metrics: (((), metrics.tasks()),),
    ),
    Declaration(
        name="config_reloads_total",
        kind=Kind.COUNTER,
        unit="reloads",
        labels=("outcome",),
        help="Configurations loaded while running; a rejected one had faults and changed nothing.",
        read=lambda metrics: (((outcome.value,), count) for outcome, count in metrics.config_reloads.items()),
    ),
    Declaration(
        name="config_last_reload_successful",
        kind=Kind.GAUGE,
        unit="",
        labels=(),
        help="1 when the configuration as last read is in use; 0 when it was rejected and an older one still is.",
        read=lambda metrics: (((), int(metrics.config_last_reload_successful)),),
    ),
    Declaration(
        name="tls_certificate_expiry_timestamp_seconds",
        kind=Kind.GAUGE,
        unit="seconds",
        labels=("certificate",),
        help="When the certificate in use ends, in seconds since the epoch; the label is its file as configured.",
        read=_certificate_expiry,
    ),
    Declaration(
        name="event_loop_lag_seconds",
        kind=Kind.HISTOGRAM,
        unit="seconds",
        labels=(),
        help="How much later than asked a sleeping task was woken, sampled four times a second.",
        read=lambda metrics: (((), metrics.event_loop_lag_seconds),),
    ),
    Declaration(
        name="build_info",
        kind=Kind.GAUGE,
        unit="",
        labels=("version", "codec", "data_path", "python"),
        help="1; the labels say which version runs, with the compiled or the pure frame codec, the compiled or the "
        "interpreted data path, on which Python.",
        read=_build_info,
    ),
)
