"""The models: defaults, immutability, and that every field is described."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import (
    Backend,
    CertificatePair,
    Config,
    Endpoint,
    Health,
    Listener,
    ListenerTls,
    Match,
    Route,
    TcpAddress,
)
from gateway.config.addresses import parse_endpoint
from gateway.config.model import FramingName
from gateway.config.section import Section, section_in

ENDPOINT = Endpoint(scheme="tcp", address=TcpAddress(host="127.0.0.1", port=9000))
CONFIG = Config(
    listeners=(Listener(bind=TcpAddress(host="127.0.0.1", port=0)),),
    routes=(Route(name="chat", backend=Backend(endpoints=(ENDPOINT,))),),
)


def sections(model: type[Section] = Config) -> Iterator[type[Section]]:
    yield model
    for field in model.model_fields.values():
        inner = section_in(field.annotation)
        if inner is not None:
            yield from sections(inner)


@pytest.mark.parametrize("section", dict.fromkeys(sections()), ids=lambda section: section.__name__)
def test_every_section_and_every_key_is_described(section: type[Section]) -> None:
    assert section.__doc__
    for name, field in section.model_fields.items():
        described = field.description or (section_in(field.annotation) or object).__doc__
        assert described, f"{section.__name__}.{name} has no description"


@pytest.mark.parametrize(
    ("framing", "health", "interval"),
    [
        ("stream", Health(), None),
        ("lines", Health(), None),
        ("records", Health(), 5.0),
        ("stream", Health(interval=3.0), 3.0),
        ("records", Health(interval=3.0), 3.0),
        ("records", None, None),
    ],
)
def test_only_backends_that_expect_it_are_checked_unasked(
    framing: FramingName, health: Health | None, interval: float | None
) -> None:
    backend = Backend(endpoints=(parse_endpoint("tcp://a:1"),), framing=framing, health=health)
    assert backend.check_interval == interval


def test_how_an_endpoint_is_chosen_follows_from_the_framing_unless_it_is_said() -> None:
    endpoints = (parse_endpoint("tcp://a:1"),)
    assert Backend(endpoints=endpoints).balancing == "least_connections"
    assert Backend(endpoints=endpoints, framing="records").balancing == "session_hash"
    assert Backend(endpoints=endpoints, framing="records", balance="round_robin").balancing == "round_robin"


def test_the_defaults_are_those_of_the_design() -> None:
    route = CONFIG.model_dump(mode="json")["routes"][0]
    assert route["match"] == {"path": "/*", "host": None}
    assert route["origins"] == ["same-origin"]
    assert route["backend"]["framing"] == "stream"
    assert route["backend"]["connect_timeout"] == "5s"
    assert route["backend"]["health"] == {"interval": None, "timeout": "2s"}
    assert route["backend"]["balance"] is None
    assert route["backend"]["resolve"] == "30s"
    assert route["delivery"] == {
        "window_messages": 1024,
        "window_bytes": "4MiB",
        "grace": "2m",
        "fence": True,
        "track": True,
    }
    assert route["limits"] == {
        "message_bytes": "auto",
        "connections": 10000,
        "connections_per_address": 100,
        "messages_per_second": None,
        "frames_per_second": None,
        "bytes_per_second": None,
        "excess": "pause",
    }
    assert route["timeouts"] == {
        "keepalive": "20s",
        "keepalive_timeout": "20s",
        "idle": None,
        "close": "5s",
        "close_total": "1m",
        "unheard": "30s",
    }
    assert route["compression"] == {"enabled": False, "inflation_ratio": 200.0}
    assert CONFIG.model_dump(mode="json")["timeouts"] == {"handshake": "10s", "drain": "30s"}
    assert CONFIG.model_dump(mode="json")["requests"] == {"head_bytes": "16KiB", "line_bytes": "8KiB"}
    assert CONFIG.model_dump(mode="json")["admin"] == {
        "bind": "127.0.0.1:9090",
        "readiness": "serving",
        "mode": None,
        "owner": None,
        "group": None,
        "token": None,
        "tokens": [],
        "open_to_network": False,
    }
    assert CONFIG.model_dump(mode="json")["log"] == {"format": "json", "level": "info", "sessions": True}


def test_a_config_written_out_is_read_back_the_same() -> None:
    assert Config.model_validate(CONFIG.model_dump(mode="json")) == CONFIG


def test_hosts_are_kept_in_their_canonical_form() -> None:
    assert Match(host="Chat.Example.COM.").host == "chat.example.com"
    assert Match(host="*.Bücher.example").host == "*.xn--bcher-kva.example"


def test_the_single_certificate_comes_before_the_others() -> None:
    others = (CertificatePair(certificate=Path("b.crt"), key=Path("b.key")),)
    tls = ListenerTls(certificate=Path("a.crt"), key=Path("a.key"), certificates=others)
    assert list(tls.pairs()) == [CertificatePair(certificate=Path("a.crt"), key=Path("a.key")), *others]
    assert list(ListenerTls(certificates=others).pairs()) == list(others)
