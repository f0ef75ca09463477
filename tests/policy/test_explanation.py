"""Why a page gets no WebSocket, told over HTTP: to whom, in which words, and never in place of the real check."""

import pytest

from gateway.errors import HandshakeRefused
from gateway.policy.explanation import explain, readable
from gateway.policy.origin import OriginPolicy
from gateway.protocol.handshake import Request, RequestReader

UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"


def request(*headers: str, upgrade: bool = False) -> Request:
    """A GET of a page, as it comes over the wire."""
    lines = "".join(f"{header}\r\n" for header in headers)
    reader = RequestReader()
    read = reader.feed(
        f"GET /chat HTTP/1.1\r\nHost: gateway.example\r\n{UPGRADE if upgrade else ''}{lines}\r\n".encode()
    )
    assert isinstance(read, Request)
    return read


def told(rules: list[str], *headers: str, upgrade: bool = False) -> str | None:
    """What the page is told, or None."""
    try:
        explain(request(*headers, upgrade=upgrade), OriginPolicy(rules), scheme="https", host="gateway.example")
    except HandshakeRefused as refusal:
        return str(refusal)
    return None


def test_it_is_counted_as_no_upgrade_because_the_handshake_was_counted_for_its_origin() -> None:
    with pytest.raises(HandshakeRefused) as caught:
        explain(request("Origin: null"), OriginPolicy(["same-origin"]), scheme="https", host="gateway.example")
    assert (caught.value.status, caught.value.reason) == (403, "no_upgrade")


def test_a_page_that_would_be_refused_is_told_what_to_add() -> None:
    words = told(["https://app.example"], "Origin: https://other.example")
    assert words is not None
    assert words.startswith("this gateway refuses pages of https://other.example; add it to routes[].origins")


def test_a_page_of_the_same_host_sends_no_origin_and_is_known_by_its_referer() -> None:
    words = told(["https://app.example"], "Referer: https://gateway.example/app/page?secret=1")
    assert words is not None
    assert words.startswith("this gateway refuses pages of https://gateway.example; add it")
    assert "secret" not in words


@pytest.mark.parametrize("headers", [(), ("Origin: https://app.example",), ("Referer: https://app.example/x",)])
def test_who_would_be_let_in_is_told_nothing(headers: tuple[str, ...]) -> None:
    assert told(["https://app.example"], *headers) is None


@pytest.mark.parametrize("referer", ["", "about:client", "//", "https://[", "no url"])
def test_a_referer_that_names_no_page_is_none(referer: str) -> None:
    assert told(["https://app.example"], f"Referer: {referer}") is None


def test_a_handshake_is_left_to_the_check_that_counts() -> None:
    assert told(["https://app.example"], "Origin: https://other.example", upgrade=True) is None


@pytest.mark.parametrize("upgrade", [True, False])
def test_only_the_refusal_of_what_is_no_handshake_can_be_read_by_other_pages(upgrade: bool) -> None:
    with pytest.raises(HandshakeRefused) as caught, readable(request(upgrade=upgrade)):
        raise HandshakeRefused("no", status=404, reason="other", headers=(("Retry-After", "1"),))
    names = [name for name, _ in caught.value.headers]
    assert names == (["Retry-After"] if upgrade else ["Retry-After", "Access-Control-Allow-Origin"])
