"""Hosts and ports: one canonical form, and nothing that could be read in two ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.authority import Authority, parse_authority


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.com", "example.com", None),
        ("EXAMPLE.Com", "example.com", None),
        ("example.com.", "example.com", None),
        ("example.com.:8080", "example.com", 8080),
        ("example.com:", "example.com", None),
        ("example.com:0443", "example.com", 443),
        ("example.com:65535", "example.com", 65535),
        ("localhost", "localhost", None),
        ("a_b.svc-1.cluster.local:80", "a_b.svc-1.cluster.local", 80),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
        ("127.0.0.1:9000", "127.0.0.1", 9000),
        ("127.0.0.1.", "127.0.0.1", None),
        ("1.2.3.4.example", "1.2.3.4.example", None),
        ("[::1]", "::1", None),
        ("[2001:DB8:0:0::1]:443", "2001:db8::1", 443),
        ("a" * 63 + ".example", "a" * 63 + ".example", None),
    ],
)
def test_the_canonical_form(text: str, host: str, port: int | None) -> None:
    assert parse_authority(text) == Authority(host=host, port=port)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        (".", "empty"),
        (":80", "empty"),
        ("user@example.com", "user information"),
        ("user:password@example.com:80", "user information"),
        ("a..b", "letters, digits and hyphens"),
        (".example.com", "letters, digits and hyphens"),
        ("example.com..", "letters, digits and hyphens"),
        ("exa mple.com", "letters, digits and hyphens"),
        ("example.com/", "letters, digits and hyphens"),
        ("example.com%2eevil.com", "letters, digits and hyphens"),
        ("*.example.com", "letters, digits and hyphens"),
        ("example.com,evil.com", "letters, digits and hyphens"),
        ("example.com\n", "letters, digits and hyphens"),
        ("a" * 64 + ".example", "letters, digits and hyphens"),
        (".".join(["a" * 63] * 4), "longer than 253"),
        ("bücher.example", "ASCII"),
        ("example。com", "ASCII"),
        ("127.1", "IPv4"),
        ("2130706433", "IPv4"),
        ("0x7f.0.0.1", "IPv4"),
        ("127.0.0.0x1", "IPv4"),
        ("256.0.0.1", "IPv4"),
        ("127.0.0.01", "IPv4"),
        ("::1", "brackets"),
        ("2001:db8::1:443", "brackets"),
        ("[::1", "brackets"),
        ("[::1]443", "brackets"),
        ("[::1]x:443", "brackets"),
        ("[127.0.0.1]", "no IPv6 address"),
        ("[]", "no IPv6 address"),
        ("[fe80::1%eth0]", "zone"),
        ("example.com:80a", "port"),
        ("example.com:-1", "port"),
        ("example.com:+80", "port"),
        ("example.com:65536", "port"),
        ("example.com:000080", "port"),
        ("example.com:８０", "port"),
        ("example.com:80:80", "brackets"),
    ],
)
def test_what_is_no_authority(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_authority(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),
        ("書留.example", "xn--rovz33a.example"),
        ("example。com", "example.com"),
        ("ｅｘａｍｐｌｅ.com", "example.com"),
        ("１２７.0.0.1", "127.0.0.1"),
        ("аpple.com", "xn--pple-43d.com"),
    ],
)
def test_international_names_become_a_labels(text: str, host: str) -> None:
    assert parse_authority(text, international=True).host == host


@pytest.mark.parametrize("text", ["i❤.ws", "a\u200db.example", "bü cher.example", "ü" * 64 + ".example"])
def test_international_names_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="international"):
        parse_authority(text, international=True)


def test_the_text_of_an_authority_can_be_parsed_again() -> None:
    assert str(Authority(host="::1", port=80)) == "[::1]:80"
    assert str(Authority(host="::1", port=None)) == "[::1]"
    assert str(Authority(host="example.com", port=80)) == "example.com:80"


@given(st.text(max_size=40) | st.text(alphabet="aA1.:[]-@%xXü*/", max_size=30), st.booleans())
def test_any_text_is_an_authority_in_canonical_form_or_a_value_error(text: str, international: bool) -> None:
    try:
        authority = parse_authority(text, international=international)
    except ValueError:
        return
    assert authority.host.isascii()
    assert authority.host == authority.host.lower()
    assert parse_authority(str(authority)) == authority
