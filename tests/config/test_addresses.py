"""Binds and endpoints: what is read, what is refused with which hint, and the round trip."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.addresses import (
    BindAddress,
    Endpoint,
    SystemdSocket,
    TcpAddress,
    UnixAddress,
    parse_bind,
    parse_endpoint,
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:8080", TcpAddress(host="0.0.0.0", port=8080)),
        ("localhost:0", TcpAddress(host="localhost", port=0)),
        ("[::1]:8443", TcpAddress(host="::1", port=8443)),
        ("[0:0::1]:1", TcpAddress(host="::1", port=1)),
        ("unix:/run/k.sock", UnixAddress(path=Path("/run/k.sock"))),
        ("systemd:ws", SystemdSocket(name="ws")),
        ("unix:k.sock", UnixAddress(path=Path("/etc/kakitome/k.sock"))),
    ],
)
def test_binds_are_read(text: str, address: BindAddress) -> None:
    assert parse_bind(text, base=Path("/etc/kakitome")) == address


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("8080", "is only a port; write 127.0.0.1:8080 for this host, 0.0.0.0:8080 for all"),
        ("systemd:", "names no socket; write systemd:NAME"),
        ("systemd:a b", "names no socket"),
        (":8080", "names no host; 0.0.0.0 is every IPv4 address"),
        ("*:8080", "names no host"),
        ("localhost", "has no port"),
        ("localhost:", "has no port"),
        ("localhost:http", "has no port"),
        ("localhost:٨٠", "has no port"),
        ("localhost:65536", "ports go from 0 to 65535"),
        ("::1:80", "must have its IPv6 address in brackets"),
        ("[::g]:80", "no IPv6 address between its brackets"),
        ("bad host:80", 'no valid host: "bad host"'),
        ("http://localhost:80", "is a URL; write host:port"),
        ("unix:", "names no path"),
        ("unix:/" + "a" * 107, "longer than the 107 bytes"),
    ],
)
def test_what_is_no_bind_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint.replace("[", r"\[")):
        parse_bind(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("tcp://chat-0:9000", Endpoint(scheme="tcp", address=TcpAddress(host="chat-0", port=9000))),
        ("tcp://chat_0.internal.:9/", Endpoint(scheme="tcp", address=TcpAddress(host="chat_0.internal.", port=9))),
        ("tls://[fd00::1]:9443", Endpoint(scheme="tls", address=TcpAddress(host="fd00::1", port=9443))),
        ("unix:///run/chat.sock", Endpoint(scheme="unix", address=UnixAddress(path=Path("/run/chat.sock")))),
    ],
)
def test_endpoints_are_read(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text) == endpoint
    assert endpoint.tls == text.startswith("tls:")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("chat-0:9000", "must begin with tcp://, tls:// or unix://"),
        ("http://chat-0:9000", "must begin with tcp://, tls:// or unix://"),
        ("tcp:chat-0:9000", "must begin with tcp://, tls:// or unix://"),
        ("tcp://chat-0", "has no port"),
        ("tcp://chat-0:0", "ports go from 1 to 65535"),
        ("tcp://user@chat-0:1", "no valid host"),
        ("tcp://-chat:1", "no valid host"),
        ("tcp://chat-0:1/path", "has no port"),
        ("unix://run/chat.sock", "must have an absolute path"),
    ],
)
def test_what_is_no_endpoint_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_endpoint(text)


hosts = st.one_of(st.just("chat-0.example"), st.ip_addresses().map(str))
addresses = st.builds(TcpAddress, host=hosts, port=st.integers(min_value=1, max_value=65535))
sockets = st.from_regex(r"/[a-z:/.]{1,40}", fullmatch=True).map(lambda path: UnixAddress(path=Path(path)))


@given(st.one_of(addresses, sockets))
def test_a_bind_survives_being_written_and_read(address: BindAddress) -> None:
    assert parse_bind(str(address)) == address


@given(
    st.one_of(
        st.builds(Endpoint, scheme=st.sampled_from(["tcp", "tls"]), address=addresses),
        st.builds(Endpoint, scheme=st.just("unix"), address=sockets),
    )
)
def test_an_endpoint_survives_being_written_and_read(endpoint: Endpoint) -> None:
    assert parse_endpoint(str(endpoint)) == endpoint


@given(st.text())
def test_any_text_is_read_or_refused_but_never_breaks_the_parsers(text: str) -> None:
    for parse in (parse_bind, parse_endpoint):
        with suppress(ValueError):
            assert str(parse(text))
