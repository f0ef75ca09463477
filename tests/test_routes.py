"""Routes ready to serve: which one a request is for, what each takes, and what outlives a reload."""

from pathlib import Path
from typing import Any

import pytest

from gateway.access.authorisers import Authorisers
from gateway.access.state import open_state
from gateway.errors import HandshakeRefused, StartupError
from gateway.protocol.framings import LengthPrefixedFraming, LinesFraming, StreamFraming
from gateway.protocol.handshake import Upgrade
from gateway.routes import DEFAULT_MESSAGE_BYTES, LARGEST_GATHERED_BYTES, RouteService, RouteTable
from gateway.telemetry.metrics import Metrics
from tests.access.doubles import ISSUER, ScriptedAsker
from tests.sessions.harness import config_of

RECORDS = "kakitome.v1"


def table(*routes: dict[str, Any], previous: RouteTable | None = None, metrics: Metrics | None = None) -> RouteTable:
    first, *others = routes
    config = config_of(first)
    if others:
        config = config_of(first, routes=[{"name": "test", "origins": ["*"], **first}, *others])
    authorisers = Authorisers(ScriptedAsker(), open_state(None, now=0))
    return RouteTable(config, metrics or Metrics(), authorisers, previous=previous)


def to(framing: str = "stream", *, port: int = 9000, **route: Any) -> dict[str, Any]:
    return {"backend": {"endpoints": [f"tcp://127.0.0.1:{port}"], "framing": framing, "health": None}, **route}


def service(*, framing: str = "stream", **route: Any) -> RouteService:
    (its,) = table(to(framing, **route)).services
    return its


def offering(*names: str) -> Upgrade:
    return Upgrade(key="AAAAAAAAAAAAAAAAAAAAAA==", subprotocols=names, extensions=())


@pytest.mark.parametrize(
    ("framing", "limit", "message_bytes"),
    [
        ("stream", "auto", None),
        ("lines", "auto", DEFAULT_MESSAGE_BYTES),
        ("length_prefixed", "auto", DEFAULT_MESSAGE_BYTES),
        ("records", "auto", DEFAULT_MESSAGE_BYTES),
        ("stream", None, None),
        ("lines", None, LARGEST_GATHERED_BYTES),
        ("length_prefixed", None, LARGEST_GATHERED_BYTES),
        ("records", None, None),
        ("stream", 5000, 5000),
        ("lines", 5000, 5000),
    ],
)
def test_a_message_is_bounded_where_it_must_be_gathered_or_where_it_is_said(
    framing: str, limit: str | int | None, message_bytes: int | None
) -> None:
    assert service(framing=framing, limits={"message_bytes": limit}).message_bytes == message_bytes


@pytest.mark.parametrize(
    ("framing", "kind"),
    [("stream", StreamFraming), ("lines", LinesFraming), ("length_prefixed", LengthPrefixedFraming)],
)
def test_each_connection_has_a_framing_of_its_own(framing: str, kind: type) -> None:
    its = service(framing=framing)
    one, other = its.new_framing(), its.new_framing()
    assert type(one) is type(other) is kind
    assert one is not other
    assert its.framing_overhead_bytes == kind.overhead_bytes


def test_records_are_no_framing_of_plain_messages() -> None:
    with pytest.raises(ValueError, match="records are no framing"):
        service(framing="records").new_framing()


def test_the_routes_first_subprotocol_that_is_offered_is_chosen() -> None:
    its = service(subprotocols=["mqtt", "binary"])
    assert its.choose_subprotocol(offering("binary", "mqtt")) == "mqtt"
    assert its.choose_subprotocol(offering("binary")) == "binary"
    assert its.choose_subprotocol(offering("vnc")) is None


@pytest.mark.parametrize(
    ("offered", "track", "unspoken"),
    [
        (("vnc", "rfb"), True, ("vnc", "rfb")),
        (("vnc", "binary"), True, ()),
        (("vnc", RECORDS), True, ()),
        (("vnc", RECORDS), False, ("vnc", RECORDS)),
        ((), True, ()),
    ],
)
def test_what_a_client_will_be_told_none_of(offered: tuple[str, ...], track: bool, unspoken: tuple[str, ...]) -> None:
    its = service(subprotocols=["binary"], delivery={"track": track})
    assert its.unspoken_subprotocols(offering(*offered)) == unspoken


def test_a_request_is_for_the_route_of_its_path() -> None:
    routes = table(to(match={"path": "/chat"}), {"name": "vnc", "origins": ["*"], "match": {"path": "/vnc/*"}, **to()})
    assert routes.find("any.example", "/chat").config.name == "test"
    assert routes.find("any.example", "/vnc/7").config.name == "vnc"
    assert routes.named("vnc") is routes.services[1]
    assert routes.named("none") is None
    for path in ("/", "/chat/", "/vnc"):
        with pytest.raises(HandshakeRefused, match="nothing is served") as caught:
            routes.find("any.example", path)
        assert (caught.value.status, caught.value.reason) == (404, "no_route")


def test_a_folder_is_found_without_its_slash_and_hides_no_route_of_that_name(tmp_path: Path) -> None:
    docs = {"name": "docs", "match": {"path": "/docs/*"}, "files": str(tmp_path)}
    assert table(to(match={"path": "/chat"}), docs).find("x", "/docs").config.name == "docs"
    assert table(to(match={"path": "/docs"}), docs).find("x", "/docs").config.name == "test"


def test_posts_are_taken_only_where_somebody_takes_them() -> None:
    assert "POST" not in table(to()).methods
    logout = {
        "name": "out",
        "match": {"path": "/logout"},
        "logout": {
            "issuers": [{"issuer": ISSUER, "keys_url": "https://login.example.com/keys"}],
            "audiences": ["chat"],
            "algorithms": ["ES256"],
        },
    }
    assert "POST" in table(to(match={"path": "/chat"}), logout).methods


def test_a_reload_keeps_load_and_counters_of_what_stays() -> None:
    metrics = Metrics()
    before = table(to(), metrics=metrics)
    (was,) = before.connectors()
    was.endpoints[0].active = 3
    after = table(to(limits={"connections": 7}), metrics=metrics, previous=before)
    (now,) = after.connectors()
    assert now.endpoints[0].active == 3
    assert after.services[0].metrics is before.services[0].metrics
    assert after.services[0].metrics.connections_limit == 7
    assert after.resolver is before.resolver


def test_a_route_none_of_whose_endpoints_answers_is_named() -> None:
    routes = table(to(), {"name": "vnc", "origins": ["*"], "match": {"path": "/vnc"}, **to(port=9001)})
    assert routes.routes_without_backend() == []
    next(routes.connectors()).endpoints[0].record_check(passed=False, now=0)
    assert routes.routes_without_backend() == ["test"]
    assert len(list(routes.backend_readings())) == 2


def test_a_file_of_keys_that_is_no_use_keeps_it_from_starting(tmp_path: Path) -> None:
    jwt = {
        "issuers": [{"issuer": ISSUER, "keys": str(tmp_path / "none.json")}],
        "audiences": ["kakitome"],
        "algorithms": ["ES256"],
    }
    with pytest.raises(StartupError, match=r"none\.json"):
        table(to(authentication={"methods": [{"jwt": jwt}]}))
