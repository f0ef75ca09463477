"""NOTES.txt: what somebody reads who has just installed the chart."""

from typing import Any

import pytest

from tests.helm.chart import render

ROUTES = [
    {"name": "chat", "match": {"path": "/chat", "host": "chat.example.com"}, "files": "/srv"},
    {"name": "rest", "files": "/srv"},
]


def notes(**values: Any) -> str:
    return render(values).notes


def test_it_names_the_release_and_what_to_do_next() -> None:
    text = notes()
    assert "Kakitome 0.1.0 is installed as kakitome in namespace relay." in text
    assert "  ws://kakitome.relay:80\n" in text
    assert "port-forward service/kakitome 8080:80" in text
    assert "port-forward service/kakitome-admin 9090:9090" in text
    assert "helm test kakitome --namespace relay" in text


def test_the_demonstration_says_that_it_is_one() -> None:
    assert "this is the demonstration" in notes()
    assert "this is the demonstration" not in notes(config={"routes": ROUTES})


def test_routes_are_listed() -> None:
    text = notes(config={"routes": ROUTES})
    assert "  chat: chat.example.com/chat\n" in text
    assert "  rest: /*\n" in text


def test_the_ways_in_are_listed() -> None:
    ingress = {"enabled": True, "hosts": [{"host": "a.example.com"}, {}]}
    text = notes(ingress=ingress, httpRoute={"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["b"]})
    assert "  ws://a.example.com\n" in text
    assert "  ws://ADDRESS-OF-THE-INGRESS\n" in text
    assert "  b, through the Gateway public\n" in text
    assert "port-forward service/kakitome 8080" not in text
    assert "wss://a.example.com" in notes(ingress=ingress | {"tls": [{"secretName": "a"}]})


def test_without_admin_service_a_pod_is_forwarded_to() -> None:
    assert "port-forward deployment/kakitome 9090:9090" in notes(adminService={"enabled": False})


@pytest.mark.parametrize(
    ("values", "is_told"),
    [
        ({}, False),
        ({"trusted_proxies": ["10.0.0.0/8"]}, False),
        ({"trusted_proxies": []}, True),
    ],
)
def test_proxies_that_are_not_trusted_are_spoken_of(values: dict[str, Any], is_told: bool) -> None:
    ingress = {"enabled": bool(values), "hosts": [{"host": "a"}]}
    assert ("config.trusted_proxies is empty" in notes(config={"routes": ROUTES, **values}, ingress=ingress)) is is_told


def test_an_open_admin_listener_is_spoken_of() -> None:
    assert "admin.existingSecret asks for a token" in notes()
    assert "admin.existingSecret asks for a token" not in notes(admin={"existingSecret": "secrets"})


def test_no_line_is_blank_twice_or_ends_in_a_space() -> None:
    for text in (notes(), notes(config={"routes": ROUTES}), notes(helmTest={"enabled": False})):
        assert "\n\n\n" not in text
        assert not [line for line in text.splitlines() if line != line.rstrip()]
