"""Destinations: what is compared with the list is what is dialled, however it is spelt."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.destinations import Network, find_destination


@dataclass(frozen=True)
class Allowed:
    """An entry of the list."""

    hosts: Sequence[str] = ()
    networks: Sequence[Network] = ()
    ports: Sequence[tuple[int, int]] = ((5900, 5999),)


LIST = (
    Allowed(hosts=("console.example.com", "*.vm.example.com")),
    Allowed(networks=(ip_network("10.1.0.0/16"), ip_network("2001:db8::/32"))),
    Allowed(hosts=("*.tenants.example",), networks=(ip_network("10.2.0.0/16"),), ports=((22, 22),)),
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("console.example.com:5900", "console.example.com:5900"),
        ("CONSOLE.example.com.:5999", "console.example.com:5999"),
        ("a.b.vm.example.com:5901", "a.b.vm.example.com:5901"),
        ("10.1.2.3:5900", "10.1.2.3:5900"),
        ("[::ffff:10.1.2.3]:5900", "10.1.2.3:5900"),
        ("[2001:DB8:0::7]:5900", "[2001:db8::7]:5900"),
        ("one.tenants.example:22", "one.tenants.example:22"),
        ("console.example.com:05900", "console.example.com:5900"),
    ],
)
def test_what_is_allowed_has_one_form(text: str, canonical: str) -> None:
    assert str(find_destination(text, LIST)) == canonical


OUTSIDE = [
    "127.0.0.1:5900",
    "127.1:5900",
    "2130706433:5900",
    "0x7f000001:5900",
    "0x7f.0.0.1:5900",
    "0177.0.0.1:5900",
    "010.1.2.3:5900",  # 8.1.2.3 to inet_aton, 10.1.2.3 to others
    "10.1.515:5900",
    "10.1.2.3.:5900.",
    "0.0.0.0:5900",
    ":5900",
    "[::1]:5900",
    "[::]:5900",
    "[::ffff:127.0.0.1]:5900",
    "[::ffff:7f00:1]:5900",
    "[::10.1.2.3]:5900",  # an IPv4-compatible address is another host
    "[64:ff9b::10.1.2.3]:5900",  # and so is one that is translated
    "[2001:db8::7%eth0]:5900",
    "::1:5900",
    "localhost:5900",
    "LOCALHOST.:5900",
    "example.com:5900",
    "vm.example.com:5900",
    "evilvm.example.com:5900",
    "console.example.com.evil.net:5900",
    "console.example.com@127.0.0.1:5900",
    "user:secret@console.example.com:5900",
    "console.example.com:5900@127.0.0.1:5900",
    "console.example.com#@127.0.0.1:5900",
    "console.example.com/:5900",
    "console.example.com?:5900",
    "console.example.com\\@127.0.0.1:5900",
    "tcp://console.example.com:5900",
    "unix:///run/vnc.sock",
    "unix_domain_socket:/run/vnc.sock",
    "console.example.com",
    "console.example.com:",
    "console.example.com:0",
    "console.example.com:22",
    "console.example.com:70000",
    "console.example.com:+5900",
    "console.example.com:5900:22",
    "console.example.com:٥٩٠٠",
    "console.example.com:5900 ",
    " console.example.com:5900",
    "console.example.com\t:5900",
    "console.example.com\n:5900",
    "console.example.com\0:5900",
    "console.example.com\0.evil.net:5900",
    "console%2eexample.com:5900",
    "console。example。com:5900",
    "ｃonsole.example.com:5900",
    "cοnsole.example.com:5900",  # a Greek omicron
    "１０.１.２.３:5900",
    "console..example.com:5900",
    ".vm.example.com:5900",
    "*.vm.example.com:5900",
    "10.1.2.3:22",
    "10.1.2.3/16:5900",
    "10.2.0.1:22",  # only its tenants' names lead there
    "10.3.0.1:5900",
    "[2001:db9::7]:5900",
    "one.tenants.example:5900",
    "a" * 400 + ".vm.example.com:5900",
    "",
]


@pytest.mark.parametrize("text", OUTSIDE)
def test_what_is_outside_is_refused_in_every_spelling(text: str) -> None:
    with pytest.raises(ValueError, match="the endpoint"):
        find_destination(text, LIST)


def test_there_are_more_than_thirty_of_them() -> None:
    assert len(set(OUTSIDE)) >= 60


def test_a_name_beside_networks_leads_nowhere_else() -> None:
    destination = find_destination("one.tenants.example:22", LIST)
    assert destination.permits("10.2.255.1")
    assert destination.permits("::ffff:10.2.0.1")
    for address in ("10.1.0.1", "127.0.0.1", "::1", "169.254.169.254", "fe80::1%eth0"):
        assert not destination.permits(address)
    assert find_destination("console.example.com:5900", LIST).permits("127.0.0.1")


@given(st.ip_addresses())
def test_an_address_is_allowed_exactly_where_a_network_has_it(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    text = f"[{address}]:5900" if address.version == 6 else f"{address}:5900"
    mapped = getattr(address, "ipv4_mapped", None) or address
    networks = LIST[1].networks
    try:
        found = find_destination(text, LIST)
    except ValueError:
        assert not any(mapped in network for network in networks if network.version == mapped.version)
    else:
        assert ipaddress.ip_address(found.host) == mapped
        assert any(mapped in network for network in networks if network.version == mapped.version)
