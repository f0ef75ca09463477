"""Hosts that are ours: by the operator's word, or because no DNS answer can make them somebody else's."""

import pytest

from gateway.errors import HandshakeRefused
from gateway.policy.hosts import OwnHosts
from gateway.policy.origin import OriginPolicy

NEEDS_NO_WORD = [
    "127.0.0.1",
    "127.0.0.1:8080",
    "[::1]:8080",
    "192.168.1.7",
    "localhost",
    "LOCALHOST.:80",
    "a.localhost",
]
STRANGERS = [
    "evil.example",
    "evil.example:8080",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "evillocalhost",
    "gateway",
    "",
    "a b",
    "evil.example@127.0.0.1",
    "0x7f.1",
]


@pytest.mark.parametrize("host", NEEDS_NO_WORD)
def test_an_address_and_localhost_are_ours(host: str) -> None:
    assert OwnHosts().has(host)
    assert OwnHosts(["gateway.example"]).answers_to(host)


@pytest.mark.parametrize("host", STRANGERS)
def test_a_name_is_ours_only_where_it_is_written(host: str) -> None:
    assert not OwnHosts().has(host)
    assert OwnHosts().answers_to(host), "where nobody has said, same-origin alone does not hold"
    assert not OwnHosts(["gateway.example", "*.example.org"]).answers_to(host)


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("gateway.example", True),
        ("GATEWAY.example.:443", True),
        ("a.gateway.example", False),
        ("a.example.org", True),
        ("a.b.example.org", True),
        ("example.org", False),
        ("evilexample.org", False),
    ],
)
def test_patterns(host: str, ours: bool) -> None:
    for hosts in (OwnHosts(["gateway.example", "*.example.org"]), OwnHosts((), ["gateway.example", "*.example.org"])):
        assert hosts.has(host) is ours
    assert OwnHosts(["gateway.example", "*.example.org"], ["evil.example"]).answers_to("evil.example") is False


def test_a_page_whose_own_name_leads_here_is_not_of_the_same_origin() -> None:
    policy = OriginPolicy(["same-origin"], hosts=OwnHosts((), ["gateway.example"]))
    for host in ("gateway.example", "127.0.0.1:8080", "localhost"):
        assert policy.check([f"http://{host}"], scheme="http", host=host) == f"http://{host}"
    with pytest.raises(
        HandshakeRefused, match=r"name 'evil\.example' in `hosts`, in the route's match\.host"
    ) as caught:
        policy.check(["http://evil.example:8080"], scheme="http", host="evil.example:8080")
    assert caught.value.status == 403
    # A page that is named may come, whatever the host.
    named = OriginPolicy(["same-origin", "http://evil.example"], hosts=OwnHosts())
    assert named.check(["http://evil.example"], scheme="http", host="evil.example") == "http://evil.example"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("gateway:9090", True),  # what Prometheus asks in docker-compose.yml
        ("127.0.0.1:9090", True),
        ("gateway.example", True),
        ("evil.example", False),
        ("kakitome-admin.relay.svc:9090", False),
        ("", False),
        ("a b", False),
    ],
)
def test_names_without_a_dot_are_of_this_network(host: str, local: bool) -> None:
    assert OwnHosts(["gateway.example"]).has_or_is_local(host) is local
