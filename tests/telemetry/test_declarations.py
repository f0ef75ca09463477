"""Each metric is exported from its counter, with the labels it declares."""

import ast
from collections.abc import Callable, Iterator
from operator import setitem
from pathlib import Path

import pytest

import gateway
from gateway import __version__
from gateway.telemetry.declarations import DECLARATIONS, Kind
from gateway.telemetry.metrics import (
    REFUSAL_REASONS,
    AcceptError,
    BackendReading,
    CertificateReading,
    ClosedBy,
    DialOutcome,
    DirectionMetrics,
    HandshakeOutcome,
    Histogram,
    InFlightReading,
    LogoutOutcome,
    MemoryReading,
    Metrics,
    PauseCause,
    ReloadOutcome,
    ResumeOutcome,
    RouteMetrics,
    SessionState,
    UnknownReason,
)

NOW = 5000.0
IN_FLIGHT = {"in_flight_messages", "in_flight_bytes", "oldest_in_flight_seconds"}
"""Read from the same ledgers: what moves one moves all."""
Happening = Callable[[Metrics, RouteMetrics], object]


def _have_in_flight(metrics: Metrics, route: RouteMetrics) -> None:
    def readings() -> Iterator[InFlightReading]:
        def reading(direction: DirectionMetrics, messages: int, age: float) -> InFlightReading:
            accepted_at = NOW - age
            return InFlightReading(
                direction=direction, messages=messages, bytes=messages * 100, oldest_accepted_at=accepted_at
            )

        yield reading(route.upstream, 2, 2)
        yield reading(route.upstream, 4, 7)
        yield reading(route.upstream, 1, 1)
        yield reading(route.downstream, 3, 30)

    metrics.in_flight = readings


def _pause(cause: PauseCause) -> Happening:
    def happens(metrics: Metrics, route: RouteMetrics) -> None:
        paused = route.upstream.paused_seconds[cause]
        paused.begin(NOW - 10)
        paused.end(NOW - 5)
        paused.begin(NOW - 2)

    return happens


def _hear_logouts(_: Metrics, route: RouteMetrics) -> None:
    route.hears_logouts = True
    route.logouts[LogoutOutcome.REPLAYED] = 7


def _have_backends(metrics: Metrics, route: RouteMetrics) -> None:
    def reading(endpoint: str, connected: int, *, up: bool) -> BackendReading:
        return BackendReading(route="chat", endpoint=endpoint, up=up, dials={DialOutcome.CONNECTED: connected})

    # The first endpoint twice, as while a reload's old backend still has connections.
    metrics.backends = lambda: (
        reading("tcp://a:1", 4, up=False),
        reading("tcp://b:1", 0, up=False),
        reading("tcp://a:1", 3, up=True),
    )


def _have_certificates(metrics: Metrics, route: RouteMetrics) -> None:
    metrics.certificates = lambda: (
        CertificateReading(certificate="tls.crt", expires_at=2e9),
        CertificateReading(certificate="tls.crt", expires_at=1.9e9),
        CertificateReading(certificate="other.crt", expires_at=1.5e9),
    )


CASES: list[tuple[str, Happening, tuple[str, ...], float]] = [
    ("connections", lambda _, route: setattr(route, "connections", 7), ("chat",), 7),
    ("connections_limit", lambda _, route: setattr(route, "connections_limit", 7), ("chat",), 7),
    *(
        ("handshakes_total", lambda _, route, key=key: setitem(route.handshakes, key, 7), ("chat", key.value), 7)
        for key in HandshakeOutcome
    ),
    (
        "handshakes_total",
        lambda metrics, _: setitem(metrics.unrouted.handshakes, HandshakeOutcome.REFUSED, 7),
        ("", "refused"),
        7,
    ),
    ("handshake_seconds", lambda _, route: route.handshake_seconds.observe(0.1, 7), ("chat",), 7),
    ("messages_total", lambda _, route: setattr(route.upstream, "messages", 7), ("chat", "upstream"), 7),
    ("messages_total", lambda _, route: setattr(route.downstream, "messages", 7), ("chat", "downstream"), 7),
    ("bytes_total", lambda _, route: setattr(route.upstream, "bytes", 7), ("chat", "upstream"), 7),
    (
        "settled_messages_total",
        lambda _, route: setitem(route.upstream.settled, 2, 7),
        ("chat", "upstream", "written"),
        7,
    ),
    (
        "settled_messages_total",
        lambda _, route: setitem(route.upstream.settled, 3, 7),
        ("chat", "upstream", "reached"),
        7,
    ),
    (
        "settled_messages_total",
        lambda _, route: setitem(route.upstream.settled, 4, 7),
        ("chat", "upstream", "consumed"),
        7,
    ),
    (
        "delivery_seconds",
        lambda _, route: route.downstream.delivery[4].observe(0.1, 7),
        ("chat", "downstream", "consumed"),
        7,
    ),
    ("in_flight_messages", _have_in_flight, ("chat", "upstream"), 7),
    ("in_flight_messages", _have_in_flight, ("chat", "downstream"), 3),
    ("in_flight_bytes", _have_in_flight, ("chat", "upstream"), 700),
    ("oldest_in_flight_seconds", _have_in_flight, ("chat", "upstream"), 7),
    ("oldest_in_flight_seconds", _have_in_flight, ("chat", "downstream"), 30),
    *(
        (
            "unknown_messages_total",
            lambda _, route, key=key: setitem(route.upstream.unknown, key, 7),
            ("chat", "upstream", key.value),
            7,
        )
        for key in UnknownReason
    ),
    (
        "never_forwarded_messages_total",
        lambda _, route: setattr(route.upstream, "never_forwarded", 7),
        ("chat", "upstream"),
        7,
    ),
    ("rejected_messages_total", lambda _, route: setattr(route.upstream, "rejected", 7), ("chat", "upstream"), 7),
    *(
        ("sessions", lambda _, route, key=key: setitem(route.sessions, key, 7), ("chat", key.value), 7)
        for key in SessionState
    ),
    *(
        ("resumes_total", lambda _, route, key=key: setitem(route.resumes, key, 7), ("chat", key.value), 7)
        for key in ResumeOutcome
    ),
    ("replayed_messages_total", lambda _, route: setattr(route.upstream, "replayed", 7), ("chat", "upstream"), 7),
    ("duplicate_messages_total", lambda _, route: setattr(route.upstream, "duplicates", 7), ("chat", "upstream"), 7),
    *(("paused_seconds_total", _pause(key), ("chat", "upstream", key.value), 7) for key in PauseCause),
    ("backend_dials_total", _have_backends, ("chat", "tcp://a:1", "connected"), 7),
    ("backend_up", _have_backends, ("chat", "tcp://a:1"), 1),
    ("closes_total", lambda _, route: route.count_close(ClosedBy.BACKEND, 1000), ("chat", "backend", "1000"), 1),
    ("closes_total", lambda _, route: route.count_close(ClosedBy.CLIENT, 4321), ("chat", "client", "4xxx"), 1),
    ("refusals_total", lambda _, route: route.count_refusal("origin_missing"), ("chat", "origin_missing"), 1),
    ("refusals_total", lambda metrics, _: metrics.unrouted.count_refusal("no_route"), ("", "no_route"), 1),
    (
        "authentications_total",
        lambda _, route: route.count_authentication("jwt", "accepted"),
        ("chat", "jwt", "accepted"),
        1,
    ),
    (
        "logouts_total",
        _hear_logouts,
        ("chat", "replayed"),
        7,
    ),
    ("file_responses_total", lambda _, route: route.count_file_response(304), ("chat", "3xx"), 1),
    *(
        ("accept_errors_total", lambda metrics, _, key=key: setitem(metrics.accept_errors, key, 7), (key.value,), 7)
        for key in AcceptError
    ),
    *(
        ("config_reloads_total", lambda metrics, _, key=key: setitem(metrics.config_reloads, key, 7), (key.value,), 7)
        for key in ReloadOutcome
    ),
    *(
        (
            f"memory_{name}",
            lambda metrics, _, key=key: setattr(metrics, "memory", lambda: MemoryReading(**{key: 7})),
            (),
            7,
        )
        for name, key in (
            ("used_bytes", "used"),
            ("limit_bytes", "limit"),
            ("holder_limit_bytes", "holder_limit"),
            ("holder_allowance_bytes", "allowance"),
            ("largest_holder_bytes", "largest_holder"),
            ("holders", "holders"),
            ("waiting_connections", "waiting"),
        )
    ),
    ("tasks", lambda metrics, _: setattr(metrics, "tasks", lambda: 7), (), 7),
    ("tls_certificate_expiry_timestamp_seconds", _have_certificates, ("tls.crt",), 1.9e9),
    ("tls_certificate_expiry_timestamp_seconds", _have_certificates, ("other.crt",), 1.5e9),
    ("event_loop_lag_seconds", lambda metrics, _: metrics.event_loop_lag_seconds.observe(0.1, 7), (), 7),
]


def _readings(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """All readings; of a histogram the count. Two of the same name and labels would break every scrape."""
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for declaration in DECLARATIONS:
        for labels, value in declaration.read(metrics):
            assert (declaration.name, labels) not in found
            assert len(labels) == len(declaration.labels)
            assert isinstance(value, Histogram) == (declaration.kind is Kind.HISTOGRAM)
            found[declaration.name, labels] = value.count if isinstance(value, Histogram) else value
    return found


@pytest.mark.parametrize(
    ("name", "happens", "labels", "value"), CASES, ids=[f"{name}{{{','.join(labels)}}}" for name, _, labels, _ in CASES]
)
def test_what_happens_on_a_route_moves_its_metric_and_no_other(
    name: str, happens: Happening, labels: tuple[str, ...], value: float
) -> None:
    metrics = Metrics(clock=lambda: NOW)
    metrics.route("quiet")
    route = metrics.route("chat")
    before = _readings(metrics)
    assert not before.get((name, labels))
    happens(metrics, route)
    after = _readings(metrics)
    assert after[name, labels] == value
    moved = {key for key, reading in after.items() if reading != before.get(key, 0)}
    together = {"backend_up", "backend_dials_total"} if name.startswith("backend_") else IN_FLIGHT
    assert {moved_name for moved_name, _ in moved} <= {name} | (together if name in together else set())


def test_every_metric_but_those_that_begin_at_1_has_a_case_here() -> None:
    begin_at_1 = {"build_info", "config_last_reload_successful"}
    assert {declaration.name for declaration in DECLARATIONS} == {name for name, *_ in CASES} | begin_at_1


def test_the_configuration_counts_as_loaded_until_one_is_rejected() -> None:
    metrics = Metrics()
    assert _readings(metrics)["config_last_reload_successful", ()] == 1
    metrics.config_last_reload_successful = False
    assert _readings(metrics)["config_last_reload_successful", ()] == 0


def test_build_info_names_version_what_is_compiled_and_python() -> None:
    readings = _readings(Metrics())
    ((labels, value),) = [(labels, value) for (name, labels), value in readings.items() if name == "build_info"]
    assert value == 1
    assert labels[0] == __version__
    assert labels[1] in {"compiled", "pure"}
    assert labels[2] in {"compiled", "interpreted"}


def test_an_endpoint_is_down_only_when_every_reading_of_it_is() -> None:
    metrics = Metrics()
    _have_backends(metrics, metrics.route("chat"))
    assert _readings(metrics)["backend_up", ("chat", "tcp://b:1")] == 0


def test_of_an_endpoint_of_which_nothing_is_known_nothing_is_said() -> None:
    metrics = Metrics()
    known = (None, True), (None, False), (None, None), (False, False)
    metrics.backends = lambda: [
        BackendReading(route="chat", endpoint=f"tcp://{number}:1", up=up, dials={})
        for number, pair in enumerate(known)
        for up in pair
    ]
    readings = _readings(metrics)
    said = [readings.get(("backend_up", ("chat", f"tcp://{number}:1"))) for number in range(len(known))]
    assert said == [1, None, None, 0]


def test_names_say_what_they_count() -> None:
    for declaration in DECLARATIONS:
        assert declaration.name.endswith("_total") == (declaration.kind is Kind.COUNTER)
        if declaration.unit in {"seconds", "bytes"}:
            assert f"_{declaration.unit}" in f"_{declaration.name}"
        assert declaration.help.endswith(".")
        # HELP lines need no escaping then, in which the two text formats differ.
        assert not set(declaration.help) & set('"\\\n')


def _refusals_in(source: str) -> Iterator[str]:
    """The `reason` of each `HandshakeRefused(...)` in `source` that is written there as a literal."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "HandshakeRefused":
            for keyword in node.keywords:
                if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)


def test_every_refusal_in_the_gateway_has_a_label_of_its_own() -> None:
    sources = Path(gateway.__file__).parent.rglob("*.py")
    used = {reason for path in sources for reason in _refusals_in(path.read_text())}
    assert used <= REFUSAL_REASONS
