"""Clients behind proxies: what a trusted proxy says is believed, and nothing that stood there before it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import HandshakeRefused
from gateway.policy.forwarded import ClientView, Kind, TrustedProxies

PROXY = "10.0.0.1"
INNER = TrustedProxies.parse(["10.0.0.0/8", "2001:db8:ffff::/48", "192.0.2.200"])


def view(
    *headers: tuple[str, str],
    peer: str | None = PROXY,
    trusted: TrustedProxies = INNER,
    scheme: str = "http",
    host: str = "gateway.example",
    kind: Kind | None = None,
) -> ClientView:
    """The client behind these headers; the kind that is believed is the one that is there, if there is one only."""
    if kind is None:
        kind = "forwarded" if any(name == "forwarded" for name, _ in headers) else "x-forwarded"
    believing = replace(trusted, kind=kind)
    return believing.view(peer_address=peer, peer_port=55555, scheme=scheme, host=host, headers=headers)


def address(*headers: tuple[str, str], peer: str | None = PROXY) -> str | None:
    """The client's address, of headers that give no reason to warn."""
    seen = view(*headers, peer=peer)
    assert seen.warning is None
    return seen.address


# --- X-Forwarded-Port -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "host"),
    [
        ((("x-forwarded-port", "8443"),), "gateway.example:8443"),
        ((("x-forwarded-host", "app.example"), ("x-forwarded-port", "8443")), "app.example:8443"),
        ((("x-forwarded-host", "[2001:db8::1]"), ("x-forwarded-port", "8443")), "[2001:db8::1]:8443"),
        # What the browser asked for goes before the port of the proxy's own listener.
        ((("x-forwarded-host", "app.example:9443"), ("x-forwarded-port", "8443")), "app.example:9443"),
        # As long as the list of clients: each proxy's own; else only the newest is certain to be a trusted one's.
        ((("x-forwarded-for", "203.0.113.9, 10.0.0.2"), ("x-forwarded-port", "8443, 80")), "gateway.example:8443"),
        ((("x-forwarded-for", "203.0.113.9"), ("x-forwarded-port", "6666, 8443")), "gateway.example:8443"),
        # Where Forwarded is believed, X-Forwarded-Port is the kind that is handed through.
        ((("forwarded", "host=app.example"), ("x-forwarded-port", "6666")), "app.example"),
        ((("forwarded", "for=203.0.113.9"), ("x-forwarded-port", "8443")), "gateway.example"),
    ],
)
def test_a_told_port_completes_a_host_that_has_none(headers: tuple[tuple[str, str], ...], host: str) -> None:
    seen = view(*headers)
    assert (seen.host, seen.warning) == (host, None)


def test_a_port_of_somebody_untrusted_is_nothing() -> None:
    assert view(("x-forwarded-port", "8443"), peer="203.0.113.9").host == "gateway.example"


def test_a_told_port_without_a_host_to_complete_is_nothing() -> None:
    assert view(("x-forwarded-port", "8443"), host="").host == ""


@pytest.mark.parametrize("port", ["0", "65536", "https", "-1", "8443x", "\u0663"])
def test_a_port_that_is_none_is_warned_of(port: str) -> None:
    seen = view(("x-forwarded-port", port))
    assert seen.host == "gateway.example"
    assert "which is no number from 1 to 65535" in (seen.warning or "")


# --- whom to trust ------------------------------------------------------------------------------------------------


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    headers = (("forwarded", "for=198.51.100.1;proto=https;host=evil.com"), ("x-forwarded-for", "198.51.100.1"))
    assert view(*headers, trusted=TrustedProxies()) == ClientView(
        address=PROXY, port=55555, scheme="http", host="gateway.example"
    )


def test_a_peer_that_is_not_trusted_is_the_client() -> None:
    assert view(("x-forwarded-for", "10.0.0.2"), peer="203.0.113.9").address == "203.0.113.9"


def test_a_trusted_peer_that_says_nothing_is_the_client() -> None:
    assert view() == ClientView(address=PROXY, port=55555, scheme="http", host="gateway.example")


@pytest.mark.parametrize("scheme", ["ws", "http", "wss", "https"])
def test_the_scheme_is_that_of_a_page(scheme: str) -> None:
    assert view(scheme=scheme).scheme == ("https" if scheme in ("wss", "https") else "http")


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("192.0.2.200", True),
        ("192.0.2.201", False),
        ("::ffff:10.0.0.1", True),
        ("2001:db8:ffff:1::1", True),
        ("2001:db8:fffe::1", False),
        ("fe80::1%eth0", False),
        (None, False),
    ],
)
def test_which_peers_are_trusted(peer: str | None, trusted: bool) -> None:
    assert (view(("x-forwarded-for", "203.0.113.9"), peer=peer).address == "203.0.113.9") is trusted


def test_peers_on_a_unix_socket_are_trusted_where_configured() -> None:
    header = ("forwarded", "for=203.0.113.9;proto=https")
    seen = view(header, peer=None, trusted=TrustedProxies.parse(["unix"]))
    assert (seen.address, seen.scheme) == ("203.0.113.9", "https")
    assert view(header, peer=None).address is None
    assert view(header, trusted=TrustedProxies.parse(["unix"])).address == PROXY


@pytest.mark.parametrize("text", ["", "example.com", "10.0.0.1/8", "10.0.0.0/33", "Unix"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=f'"{text}" is no network'):
        TrustedProxies.parse([text])


# --- Forwarded ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "address", "port"),
    [
        # RFC 7239 sections 4 and 6.3, the examples.
        ('for="_gazonk"', None, None),
        ('For="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17", 4711),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60", None),
        ("for=192.0.2.43, for=198.51.100.17", "198.51.100.17", None),
        ('for=192.0.2.43,for="[2001:db8:cafe::17]",for=unknown', None, None),
        ("for=_hidden, for=_SEVKISEK", None, None),
        ('for="192.0.2.43:47011"', "192.0.2.43", 47011),
        ('for="192.0.2.43:_obf"', "192.0.2.43", None),
        ('for="[2001:DB8:0::1]"', "2001:db8::1", None),
        ('for="unknown:80"', None, None),
        ('for="[::ffff:192.0.2.1]"', "192.0.2.1", None),
        ("FOR=1.2.3.4", "1.2.3.4", None),
        ('for="\\1.2.3.4"', "1.2.3.4", None),
        (" , for=1.2.3.4 ; proto=https ; , ", "1.2.3.4", None),
        ('by="a,b;c";for=1.2.3.4', "1.2.3.4", None),
        ('for=1.2.3.4;ext="\\""', "1.2.3.4", None),
    ],
)
def test_forwarded_names_the_client(value: str, address: str | None, port: int | None) -> None:
    seen = view(("forwarded", value))
    assert (seen.address, seen.port, seen.warning) == (address, port, None)


def test_the_right_most_untrusted_hop_is_the_client() -> None:
    outer = "for=6.6.6.6;host=evil.com, for=203.0.113.9;proto=https;host=Public.Example"
    assert view(("forwarded", f"{outer}, for=10.0.0.3;host=inner, for=10.0.0.2")) == ClientView(
        address="203.0.113.9", port=None, scheme="https", host="Public.Example"
    )


def test_header_lines_are_one_list() -> None:
    assert address(("forwarded", "for=6.6.6.6"), ("forwarded", "for=203.0.113.9, for=10.0.0.2")) == "203.0.113.9"


def test_the_walk_ends_at_a_hop_that_hides() -> None:
    assert address(("forwarded", "for=6.6.6.6, for=unknown, for=10.0.0.2")) is None


def test_the_oldest_hop_is_the_client_where_all_are_trusted() -> None:
    assert address(("forwarded", "for=10.0.0.4, for=10.0.0.3")) == "10.0.0.4"


def test_a_hop_that_names_no_client_leaves_the_hop_before() -> None:
    seen = view(("forwarded", "for=6.6.6.6, proto=https;host=public.example, for=10.0.0.2"))
    assert (seen.address, seen.scheme, seen.host) == ("10.0.0.2", "https", "public.example")
    assert address(("forwarded", "proto=https")) == PROXY


def test_what_the_outermost_proxy_leaves_out_an_inner_one_may_say() -> None:
    seen = view(("forwarded", "for=203.0.113.9;proto=https, for=10.0.0.2;proto=http;host=public.example"))
    assert (seen.scheme, seen.host) == ("https", "public.example")


@pytest.mark.parametrize(
    "value",
    [
        "for",
        "for=",
        "=1.2.3.4",
        "for =1.2.3.4",
        "for= 1.2.3.4",
        "for=1.2.3.4 proto=http",
        "for=1.2.3.4:80",
        "for=[2001:db8::1]",
        'for="2001:db8::1"',
        'for="[2001:db8::1"',
        'for="[2001:db8::1%eth0]"',
        'for="[1.2.3.4]"',
        'for="1.2.3.4',
        'for="1.2.3.4"x',
        'for=""',
        "for=1.2.3",
        "for=1.2.3.256",
        "for=example.com",
        'for="1.2.3.4:99999"',
        'for="1.2.3.4:"',
        "for=1.2.3.4;for=5.6.7.8",
        "for=1.2.3.4;proto=gopher",
        'for=1.2.3.4;host="a b"',
        'for=1.2.3.4;host=""',
        'for=1.2.3.4;host="user@a"',
        "garbage",
        "caf\xe9=1",
    ],
)
def test_what_cannot_be_read_leaves_the_peer_and_a_warning(value: str) -> None:
    seen = view(("forwarded", value))
    assert (seen.address, seen.port, seen.scheme, seen.host) == (PROXY, 55555, "http", "gateway.example")
    assert seen.warning is not None
    assert seen.warning.startswith(f"the trusted proxy {PROXY} sent ")


def test_a_warning_names_a_unix_peer_and_repeats_little() -> None:
    seen = view(("forwarded", "x" * 10_000), peer=None, trusted=TrustedProxies.parse(["unix"]))
    assert seen.warning is not None
    assert seen.warning.startswith("the trusted proxy unix sent ")
    assert len(seen.warning) < 300


@pytest.mark.parametrize(
    "spoofed", ['for="', "garbage", "for=1.2.3.4;host=;", 'for="[::1', 'for=10.0.0.9;proto="', "for=example.com"]
)
def test_garbage_of_the_clients_own_does_not_hide_it(spoofed: str) -> None:
    assert address(("forwarded", spoofed), ("forwarded", "for=203.0.113.9")) == "203.0.113.9"
    assert address(("x-forwarded-for", f"{spoofed}, 203.0.113.9")) == "203.0.113.9"


def test_garbage_that_a_trusted_hop_has_passed_on_is_reached_and_told() -> None:
    assert view(("forwarded", "garbage"), ("forwarded", "for=10.0.0.2")).warning is not None
    assert view(("x-forwarded-for", "garbage, 10.0.0.2")).warning is not None


# --- X-Forwarded-* ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "address", "port"),
    [
        ("203.0.113.9", "203.0.113.9", None),
        ("6.6.6.6, 203.0.113.9", "203.0.113.9", None),
        ("6.6.6.6,203.0.113.9 , 10.0.0.2,", "203.0.113.9", None),
        ("203.0.113.9:1234", "203.0.113.9", 1234),
        ("2001:db8::1", "2001:db8::1", None),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("[2001:db8::1]:1234", "2001:db8::1", 1234),
        ("2001:db8:ffff::1", "2001:db8:ffff::1", None),
        ("::ffff:203.0.113.9", "203.0.113.9", None),
        ("unknown", None, None),
        ("6.6.6.6, unknown, 10.0.0.2", None, None),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3", None),
        ("", PROXY, 55555),
    ],
)
def test_x_forwarded_for_names_the_client(value: str, address: str | None, port: int | None) -> None:
    seen = view(("x-forwarded-for", value))
    assert (seen.address, seen.port, seen.warning) == (address, port, None)


@pytest.mark.parametrize("value", ["example.com", "1.2.3", "1.2.3.4:99999", "[::1", "fe80::1%eth0", '"1.2.3.4"', "_"])
def test_an_x_forwarded_for_that_cannot_be_read(value: str) -> None:
    seen = view(("x-forwarded-for", value))
    assert seen.address == PROXY
    assert seen.warning is not None


def test_x_forwarded_lines_are_one_list() -> None:
    assert address(("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "203.0.113.9")) == "203.0.113.9"


@pytest.mark.parametrize(
    ("addresses", "schemes", "scheme"),
    [
        # One value: the newest proxy overwrites it.
        ("203.0.113.9", "https", "https"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.2", "https", "https"),
        # As many as addresses: every proxy appends.
        ("203.0.113.9, 10.0.0.2", "https, http", "https"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.2", "http, https, http", "https"),
        # Another number: all but the newest may be the client's own.
        ("203.0.113.9", "https, http", "http"),
        ("", "WSS", "https"),
    ],
)
def test_the_scheme_of_the_clients_hop(addresses: str, schemes: str, scheme: str) -> None:
    seen = view(("x-forwarded-for", addresses), ("x-forwarded-proto", schemes))
    assert (seen.scheme, seen.warning) == (scheme, None)


def test_the_host_of_the_clients_hop() -> None:
    headers = (("x-forwarded-for", "203.0.113.9, 10.0.0.2"), ("x-forwarded-host", "public.example:8443, inner"))
    assert view(*headers).host == "public.example:8443"
    assert view(("x-forwarded-host", "public.example")).host == "public.example"


@pytest.mark.parametrize(
    "header", [("x-forwarded-proto", "gopher"), ("x-forwarded-host", "a b"), ("x-forwarded-host", "a@b")]
)
def test_a_scheme_or_host_that_cannot_be_read_leaves_the_peer(header: tuple[str, str]) -> None:
    seen = view(("x-forwarded-for", "203.0.113.9"), header)
    assert (seen.address, seen.scheme, seen.host) == (PROXY, "http", "gateway.example")
    assert seen.warning is not None


# --- both kinds ---------------------------------------------------------------------------------------------------


BOTH = (
    ("x-forwarded-for", "203.0.113.9:1"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-host", "PUBLIC.example"),
    ("forwarded", 'for="203.0.113.9:2";host=public.example.'),
)


def test_one_kind_is_believed_and_the_other_may_agree() -> None:
    assert view(*BOTH, kind="forwarded") == ClientView(
        address="203.0.113.9", port=2, scheme="http", host="public.example."
    )
    assert view(*BOTH, kind="x-forwarded") == ClientView(
        address="203.0.113.9", port=1, scheme="https", host="PUBLIC.example"
    )


@pytest.mark.parametrize(
    ("forwarded", "customary", "what"),
    [
        ("for=6.6.6.6", ("x-forwarded-for", "203.0.113.9"), "client"),
        ("for=_hidden", ("x-forwarded-for", "203.0.113.9"), "client"),
        ("for=203.0.113.9", ("x-forwarded-for", "unknown"), "client"),
        ("proto=https", ("x-forwarded-proto", "http"), "scheme"),
        ("host=evil.com", ("x-forwarded-host", "public.example"), "host"),
    ],
)
@pytest.mark.parametrize("kind", ["forwarded", "x-forwarded"])
def test_a_request_whose_headers_contradict_each_other_is_refused(
    forwarded: str, customary: tuple[str, str], what: str, kind: Kind
) -> None:
    with pytest.raises(HandshakeRefused, match=f"another {what}") as caught:
        view(("forwarded", forwarded), customary, kind=kind)
    assert caught.value.status == 400


@pytest.mark.parametrize("kind", ["forwarded", "x-forwarded"])
def test_the_other_kind_alone_is_not_believed_and_is_told(kind: Kind) -> None:
    others: dict[Kind, tuple[str, str]] = {
        "x-forwarded": ("forwarded", "for=6.6.6.6;host=evil.com;proto=https"),
        "forwarded": ("x-forwarded-for", "6.6.6.6"),
    }
    seen = view(others[kind], kind=kind)
    assert (seen.address, seen.scheme, seen.host) == (PROXY, "http", "gateway.example")
    assert "which is not believed" in (seen.warning or "")


def test_garbage_of_the_other_kind_harms_nobody() -> None:
    seen = view(("x-forwarded-for", "203.0.113.9"), ("forwarded", "garbage"), kind="x-forwarded")
    assert (seen.address, seen.warning) == ("203.0.113.9", None)


# --- properties ---------------------------------------------------------------------------------------------------

ADDRESSES = st.ip_addresses(v=4).map(str).filter(lambda text: not text.startswith("10.") and text != "192.0.2.200")
FORGED = st.lists(
    st.tuples(st.just("forwarded"), st.text(alphabet='for=1.203,;"\\ []host', max_size=30))
    | st.tuples(st.just("forwarded"), ADDRESSES.map("for={};host=evil.com;proto=https".format)),
    max_size=3,
)


@given(FORGED, ADDRESSES, st.lists(st.integers(1, 254).map("10.0.0.{}".format), max_size=3))
def test_whatever_a_client_forges_it_is_seen_as_its_proxy_saw_it(
    forged: list[tuple[str, str]], client: str, inner: list[str]
) -> None:
    honest = [("forwarded", f"for={hop};host=public.example") for hop in (client, *inner)]
    assert view(*forged, *honest) == ClientView(address=client, port=None, scheme="http", host="public.example")


@given(st.lists(st.text(alphabet='1.2:[]_unkow,"% ', max_size=20), max_size=3), ADDRESSES)
def test_whatever_a_client_forges_in_x_forwarded_for(forged: list[str], client: str) -> None:
    headers = [("x-forwarded-for", value) for value in (*forged, client)]
    assert address(*headers) == client


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]),
            st.text(max_size=30) | st.text(alphabet='for=1.2;,"[]:proth', max_size=30),
        ),
        max_size=5,
    ),
    st.sampled_from(["forwarded", "x-forwarded"]),
)
def test_any_headers_give_a_client_or_a_refusal(headers: list[tuple[str, str]], kind: Kind) -> None:
    try:
        seen = view(*headers, kind=kind)
    except HandshakeRefused:
        kinds = {name == "forwarded" for name, _ in headers}
        assert kinds == {True, False}, "one kind alone contradicts nothing"
        return
    assert seen.scheme in ("http", "https")
    assert seen.host
    if seen.warning is not None:
        assert (seen.address, seen.host) == (PROXY, "gateway.example")
