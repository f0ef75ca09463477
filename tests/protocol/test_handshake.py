"""The opening handshake: what the RFC demands of either side, and the two sides talking to each other."""

import base64
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request as HttpRequest
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from gateway.errors import HandshakeRefused
from gateway.protocol.authority import Authority
from gateway.protocol.handshake import (
    MAX_INTERIM_RESPONSES,
    MAX_REJECTION_BODY_BYTES,
    ClientHandshake,
    ExtensionOffer,
    HandshakeFailed,
    HandshakeRejected,
    Request,
    RequestReader,
    Upgrade,
    WebSocketUrl,
    accept_key,
    accept_response,
    check_upgrade,
    http_response,
    refusal_response,
)

RFC_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
DEFLATE = ExtensionOffer(name="permessage-deflate", parameters=(("client_max_window_bits", None),))

Fields = dict[str, str | tuple[str, ...] | None]

HANDSHAKE: Fields = {
    "host": "server.example.com",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": RFC_KEY,
    "sec-websocket-version": "13",
}


def request(changes: Fields | None = None, *, method: str = "GET", version: str = "1.1") -> Request:
    """The handshake of RFC 6455 section 1.3 with some headers changed; None removes one, a tuple repeats it."""
    fields = HANDSHAKE | (changes or {})
    headers = []
    for name, values in fields.items():
        if values is not None:
            headers += [(name, value) for value in ((values,) if isinstance(values, str) else values)]
    return Request.parse(method=method, target="/chat", http_version=version, headers=tuple(headers))


def refused(sent: Request) -> HandshakeRefused:
    """The refusal that a handshake earns."""
    with pytest.raises(HandshakeRefused) as caught:
        check_upgrade(sent)
    return caught.value


# --- server side --------------------------------------------------------------------------------------------------


def test_the_accept_key_of_the_rfc() -> None:
    assert accept_key(RFC_KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_the_smallest_handshake() -> None:
    assert check_upgrade(request()) == Upgrade(key=RFC_KEY, subprotocols=(), extensions=())


def test_the_handshake_with_all_it_may_have() -> None:
    upgrade = check_upgrade(
        request(
            {
                "upgrade": "h2c, WebSocket",
                "connection": ("keep-alive", "foo, UPGRADE"),
                "sec-websocket-protocol": ("chat, superchat", "mqtt"),
                "sec-websocket-extensions": ("permessage-deflate; client_max_window_bits", "x-other"),
            }
        )
    )
    assert upgrade.subprotocols == ("chat", "superchat", "mqtt")
    assert upgrade.extensions == (DEFLATE, ExtensionOffer(name="x-other"))


@pytest.mark.parametrize("version", ["1.2", "1.9"])
def test_later_versions_of_http_1_may_upgrade(version: str) -> None:
    assert check_upgrade(request(version=version)).key == RFC_KEY


@pytest.mark.parametrize(
    ("changes", "status", "reason", "complaint"),
    [
        ({"upgrade": None}, 426, "no_upgrade", "no Upgrade: websocket"),
        ({"upgrade": "h2c"}, 426, "no_upgrade", "no Upgrade: websocket"),
        ({"upgrade": "websocket/13"}, 426, "no_upgrade", "no Upgrade: websocket"),
        ({"connection": None}, 400, "malformed", "Connection: Upgrade"),
        ({"connection": "keep-alive"}, 400, "malformed", "Connection: Upgrade"),
        ({"connection": "upgraded"}, 400, "malformed", "Connection: Upgrade"),
        ({"sec-websocket-version": None}, 426, "version", "not none"),
        ({"sec-websocket-version": "8"}, 426, "version", "must be 13, not '8'"),
        ({"sec-websocket-version": "013"}, 426, "version", "'013'"),
        ({"sec-websocket-version": "13, 8"}, 426, "version", "'13, 8'"),
        ({"sec-websocket-version": ("13", "13")}, 426, "version", "'13, 13'"),
        ({"sec-websocket-version": ""}, 426, "version", "''"),
        ({"sec-websocket-key": None}, 400, "malformed", "one Sec-WebSocket-Key, not 0"),
        ({"sec-websocket-key": (RFC_KEY, RFC_KEY)}, 400, "malformed", "one Sec-WebSocket-Key, not 2"),
        ({"sec-websocket-key": ""}, 400, "malformed", "16 bytes"),
        ({"sec-websocket-key": RFC_KEY[:-2]}, 400, "malformed", "16 bytes"),
        ({"sec-websocket-key": RFC_KEY[:-1]}, 400, "malformed", "16 bytes"),
        ({"sec-websocket-key": RFC_KEY + "="}, 400, "malformed", "16 bytes"),
        ({"sec-websocket-key": RFC_KEY + "\n"}, 400, "malformed", "16 bytes"),
        ({"sec-websocket-key": "-" + RFC_KEY[1:]}, 400, "malformed", "16 bytes"),
        ({"sec-websocket-key": base64.b64encode(bytes(15)).decode()}, 400, "malformed", "16 bytes"),
        ({"sec-websocket-key": base64.b64encode(bytes(17)).decode()}, 400, "malformed", "16 bytes"),
        ({"sec-websocket-key": base64.b64encode(bytes(18)).decode()}, 400, "malformed", "16 bytes"),
        ({"sec-websocket-protocol": ""}, 400, "subprotocol", "Sec-WebSocket-Protocol"),
        ({"sec-websocket-protocol": "a b"}, 400, "subprotocol", "Sec-WebSocket-Protocol"),
        ({"sec-websocket-protocol": ("a", "a")}, 400, "subprotocol", "more than once"),
        ({"sec-websocket-extensions": "a; b=("}, 400, "extension", "Sec-WebSocket-Extensions"),
    ],
)
def test_handshakes_that_are_refused(changes: Fields, status: int, reason: str, complaint: str) -> None:
    error = refused(request(changes))
    assert (error.status, error.reason) == (status, reason)
    assert complaint in str(error)


def test_http_1_0_cannot_upgrade() -> None:
    error = refused(request(version="1.0"))
    assert (error.status, error.reason) == (400, "malformed")
    assert "HTTP/1.1" in str(error)


def test_a_handshake_is_a_get() -> None:
    error = refused(request(method="HEAD"))
    assert (error.status, error.reason, error.headers) == (405, "method", (("Allow", "GET"),))


@pytest.mark.parametrize("changes", [{"upgrade": None}, {"sec-websocket-version": "8"}])
def test_426_says_what_to_upgrade_to(changes: Fields) -> None:
    response = refusal_response(refused(request(changes)))
    assert response.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"\r\nUpgrade: websocket\r\n" in response
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in response
    assert b"\r\nConnection: Upgrade, close\r\n" in response


def test_the_101_of_the_rfc() -> None:
    upgrade = check_upgrade(request({"sec-websocket-protocol": "chat, superchat"}))
    assert accept_response(upgrade, subprotocol="chat") == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"\r\n"
    )


def test_the_101_with_extensions_and_headers() -> None:
    upgrade = Upgrade(key=RFC_KEY, subprotocols=(), extensions=(DEFLATE,))
    chosen = ExtensionOffer(name=DEFLATE.name, parameters=(("client_max_window_bits", "10"), ("x", None)))
    response = accept_response(upgrade, extensions=[chosen], headers=[("X-Session", "1")])
    assert b"\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=10; x\r\n" in response
    assert b"\r\nX-Session: 1\r\n" in response


def test_what_was_not_offered_cannot_be_chosen() -> None:
    upgrade = Upgrade(key=RFC_KEY, subprotocols=("chat",), extensions=())
    with pytest.raises(ValueError, match="subprotocol 'Chat'"):
        accept_response(upgrade, subprotocol="Chat")
    with pytest.raises(ValueError, match="extension 'permessage-deflate'"):
        accept_response(upgrade, extensions=[DEFLATE])


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "secure", "host", "port", "host_header", "target"),
    [
        ("ws://example.com", False, "example.com", 80, "example.com", "/"),
        ("wss://example.com/chat?a=b", True, "example.com", 443, "example.com", "/chat?a=b"),
        ("WS://Example.COM:80/", False, "example.com", 80, "example.com", "/"),
        ("ws://example.com:443?q", False, "example.com", 443, "example.com:443", "/?q"),
        ("wss://[::1]:9000/", True, "::1", 9000, "[::1]:9000", "/"),
        ("ws://bücher.example/書 留?q=ü ö", False, "xn--bcher-kva.example", 80, "xn--bcher-kva.example", None),
        ("ws://a/%41%2f?%zz", False, "a", 80, "a", "/%41%2f?%zz"),
    ],
)
def test_websocket_urls(text: str, secure: bool, host: str, port: int, host_header: str, target: str | None) -> None:
    url = WebSocketUrl.parse(text)
    assert (url.secure, url.host, url.port, url.host_header) == (secure, host, port, host_header)
    assert url.target == (target or "/%E6%9B%B8%20%E7%95%99?q=%C3%BC%20%C3%B6")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no WebSocket URL"),
        ("example.com", "no WebSocket URL"),
        ("http://example.com", "write ws://"),
        ("ws:/example.com", "no WebSocket URL"),
        ("ws://", "empty"),
        ("ws:///path", "empty"),
        ("ws://user:pass@example.com", "user information"),
        ("ws://example.com:port", "port"),
        ("ws://example.com/#a", "fragment"),
    ],
)
def test_what_is_no_websocket_url(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        WebSocketUrl.parse(text)


# --- client side --------------------------------------------------------------------------------------------------


def answer(client: ClientHandshake, *lines: str, status: str = "101 Switching Protocols", proper: bool = True) -> bytes:
    """A server's answer with these header lines; a `proper` one has all that a 101 needs."""
    key = re.search(rb"Sec-WebSocket-Key: (\S+)\r\n", client.request())
    assert key is not None
    good = ("Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept_key(key[1].decode())}")
    return "\r\n".join((f"HTTP/1.1 {status}", *(good if proper else ()), *lines, "", "")).encode("latin-1")


def rejected(client: ClientHandshake, data: bytes) -> HandshakeRejected:
    """The rejection in a server's answer."""
    with pytest.raises(HandshakeRejected) as caught:
        client.feed(data)
    return caught.value


def test_the_client_sends_what_the_rfc_demands() -> None:
    client = ClientHandshake(
        "wss://example.com:8443/chat?a",
        subprotocols=["kakitome.v1", "chat"],
        extensions=[DEFLATE],
        headers=[("Origin", "https://example.com"), ("Authorization", "Bearer x")],
    )
    sent = RequestReader().feed(client.request())
    assert sent is not None
    assert (sent.target, sent.host, sent.get("origin")) == ("/chat?a", "example.com:8443", "https://example.com")
    assert sent.get("authorization") == "Bearer x"
    upgrade = check_upgrade(sent)
    assert upgrade.subprotocols == ("kakitome.v1", "chat")
    assert upgrade.extensions == (DEFLATE,)


def test_every_handshake_has_its_own_key() -> None:
    first, second = (ClientHandshake("ws://a").request() for _ in range(2))
    assert first != second


def test_the_host_may_be_replaced() -> None:
    sent = RequestReader().feed(ClientHandshake("ws://127.0.0.1:9000", headers=[("host", "chat.example")]).request())
    assert sent is not None
    assert sent.host == "chat.example"


@pytest.mark.parametrize(
    ("headers", "complaint"),
    [
        ([("Sec-WebSocket-Key", "x")], "belongs to the handshake"),
        ([("UPGRADE", "x")], "belongs to the handshake"),
        ([("Content-Length", "1")], "belongs to the handshake"),
        ([("X", "a\r\nY: b")], "cannot be sent"),
        ([("X Y", "a")], "cannot be sent"),
        ([("X", "書")], "cannot be sent"),
        ([("Host", "a"), ("Host", "b")], "cannot be sent"),
    ],
)
def test_headers_that_cannot_be_sent(headers: list[tuple[str, str]], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ClientHandshake("ws://a", headers=headers)


@pytest.mark.parametrize("subprotocols", [["a", "a"], ["a b"], [""]])
def test_subprotocols_that_cannot_be_offered(subprotocols: list[str]) -> None:
    with pytest.raises(ValueError, match=r"more than once|comma|none"):
        ClientHandshake("ws://a", subprotocols=subprotocols)


def test_frames_that_came_with_the_101_are_kept() -> None:
    client = ClientHandshake("ws://a")
    assert client.leftover == b""
    accepted = client.feed(answer(client, "X-A: caf\xe9") + b"\x81\x02hi")
    assert accepted is not None
    assert ("x-a", "caf\xe9") in accepted.headers
    assert client.leftover == b"\x81\x02hi"
    with pytest.raises(RuntimeError, match="complete"):
        client.feed(b"")


def test_interim_responses_are_passed_over() -> None:
    client = ClientHandshake("ws://a")
    assert client.feed(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * MAX_INTERIM_RESPONSES) is None
    with pytest.raises(HandshakeFailed, match="interim"):
        client.feed(b"HTTP/1.1 100 Continue\r\n\r\n")


@pytest.mark.parametrize(
    ("lines", "proper", "complaint"),
    [
        ((), False, "Upgrade: websocket"),
        (("Upgrade: websocket", "Connection: Upgrade"), False, "does not answer our key"),
        (("Upgrade: websocket", "Connection: keep-alive"), False, "Connection: Upgrade"),
        (("Upgrade: h2c", "Connection: Upgrade"), False, "Upgrade: websocket"),
        (
            ("Upgrade: WebSocket", "Connection: UPGRADE", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            False,
            "does not answer our key",
        ),
        (("Upgrade: h2c",), True, "Upgrade: websocket"),
        (("Sec-WebSocket-Accept: x",), True, "does not answer our key"),
        (("Sec-WebSocket-Protocol: other",), True, "'other', which is not one of those offered"),
        (("Sec-WebSocket-Protocol: Chat",), True, "not one of those offered"),
        (("Sec-WebSocket-Protocol: chat, v1",), True, "not one of those offered"),
        (("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: chat"), True, "not one of those offered"),
        (("Sec-WebSocket-Extensions: x-other",), True, "'x-other', which was not offered"),
        (("Sec-WebSocket-Extensions: permessage-deflate, x-other",), True, "'x-other', which was not offered"),
        (("Sec-WebSocket-Extensions: ;",), True, "cannot be read"),
    ],
)
def test_a_101_that_breaks_a_rule_fails_the_connection(lines: tuple[str, ...], proper: bool, complaint: str) -> None:
    client = ClientHandshake("ws://a", subprotocols=["chat", "v1"], extensions=[DEFLATE])
    with pytest.raises(HandshakeFailed, match=complaint) as caught:
        client.feed(answer(client, *lines, proper=proper))
    assert not isinstance(caught.value, HandshakeRejected)


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH\r\n\r\n", b"\x16\x03\x01\x00\x02\x02\x46", b"HTTP/1.1 101\r\nX Y: a\r\n\r\n"]
)
def test_a_server_that_does_not_speak_http(data: bytes) -> None:
    with pytest.raises(HandshakeFailed, match="as HTTP"):
        ClientHandshake("ws://a").feed(data)


def test_a_server_that_answers_with_tls_is_told_as_such_however_its_answer_is_cut() -> None:
    alert = b"\x15\x03\x01\x00\x02\x02\x46"
    for cut in range(1, len(alert)):
        handshake = ClientHandshake("ws://a/chat?x=1")
        with pytest.raises(HandshakeFailed, match=r"speaks TLS there, not plain HTTP: try wss://a:80/chat\?x=1$"):
            handshake.feed(alert[:cut])


def test_a_head_without_end_fails_the_connection() -> None:
    client = ClientHandshake("ws://a")
    with pytest.raises(HandshakeFailed, match="too long"):
        client.feed(b"HTTP/1.1 101 Switching Protocols\r\nX: " + b"a" * 20_000)


def test_a_rejection_tells_status_and_reason() -> None:
    client = ClientHandshake("ws://a")
    refusal = HandshakeRefused("the Origin is not allowed", status=403, reason="origin_not_allowed")
    error = rejected(client, refusal_response(refusal))
    assert (error.status, error.phrase, error.body) == (403, "Forbidden", b"the Origin is not allowed\n")
    assert str(error) == "the server answered 403 Forbidden: 'the Origin is not allowed'"
    assert error.location is None


def test_a_page_of_html_is_kept_but_not_shown() -> None:
    error = rejected(
        ClientHandshake("ws://a"), http_response(502, b"<html>...</html>", [("Content-Type", "text/html")])
    )
    assert error.body == b"<html>...</html>"
    assert str(error) == "the server answered 502 Bad Gateway"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_reported_and_not_followed(status: int) -> None:
    error = rejected(ClientHandshake("ws://a"), http_response(status, b"", [("Location", "wss://b/")]))
    assert error.location == "wss://b/"
    assert "redirect to 'wss://b/', which is not followed" in str(error)


def test_the_body_of_a_rejection_is_awaited_up_to_its_limit() -> None:
    client = ClientHandshake("ws://a")
    assert client.feed(b"HTTP/1.1 500 Oops\r\nContent-Length: 1000000000\r\n\r\n") is None
    assert client.feed(b"x" * (MAX_REJECTION_BODY_BYTES - 1)) is None
    assert rejected(client, b"xyz").body == b"x" * (MAX_REJECTION_BODY_BYTES)


def test_a_chunked_rejection() -> None:
    head = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n"
    error = rejected(ClientHandshake("ws://a"), head + b"2\r\nno\r\n5\r\nt you\r\n0\r\n\r\n")
    assert error.body == b"not you"


@pytest.mark.parametrize("framing", [b"", b"Content-Length: 100\r\n"])
def test_a_rejection_that_ends_with_the_connection(framing: bytes) -> None:
    client = ClientHandshake("ws://a")
    assert client.feed(b"HTTP/1.1 403 Forbidden\r\n" + framing + b"\r\ngo") is None
    with pytest.raises(HandshakeRejected) as caught:
        client.receive_eof()
    assert caught.value.body == b"go"


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 101 Sw"])
def test_a_server_that_hangs_up(data: bytes) -> None:
    client = ClientHandshake("ws://a")
    assert client.feed(data) is None
    with pytest.raises(HandshakeFailed, match="before it had answered"):
        client.receive_eof()


def test_a_rejection_without_a_known_framing_of_its_body_is_still_told() -> None:
    client = ClientHandshake("ws://a")
    head = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert rejected(client, head + b"not a chunk\r\n").status == 403


# --- both sides ---------------------------------------------------------------------------------------------------

TOKENS = st.text(alphabet="!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=6)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces, none of them empty, that end at `cuts`."""
    edges = sorted({0, *(at % len(data) for at in cuts), len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    subprotocols=st.lists(TOKENS, unique=True, max_size=3),
    extensions=st.lists(st.builds(ExtensionOffer, name=TOKENS), max_size=3),
    port=st.integers(0, 65535),
    cuts=st.lists(st.integers(0, 10_000), max_size=8),
    choose=st.integers(0, 3),
    frames=st.binary(max_size=4),
)
def test_the_two_sides_agree_however_their_bytes_are_cut(
    subprotocols: list[str], extensions: list[ExtensionOffer], port: int, cuts: list[int], choose: int, frames: bytes
) -> None:
    url = WebSocketUrl(secure=False, authority=Authority(host="::1", port=port), target="/a%20b?c")
    client = ClientHandshake(url, subprotocols=subprotocols, extensions=extensions)
    reader = RequestReader()
    heads = [head for piece in cut(client.request(), cuts) if (head := reader.feed(piece)) is not None]
    assert [head.path for head in heads] == ["/a b"]
    upgrade = check_upgrade(heads[0])
    assert upgrade.subprotocols == tuple(subprotocols)
    assert upgrade.extensions == tuple(extensions)
    subprotocol = subprotocols[choose] if choose < len(subprotocols) else None
    response = accept_response(upgrade, subprotocol=subprotocol, extensions=extensions[:choose])
    *pieces, last = cut(response, cuts)
    assert [client.feed(piece) for piece in pieces] == [None] * len(pieces)
    accepted = client.feed(last + frames)
    assert accepted is not None
    assert (accepted.subprotocol, accepted.extensions) == (subprotocol, tuple(extensions[:choose]))
    assert client.leftover == frames


def test_the_client_of_another_implementation_agrees_with_our_answer() -> None:
    client = ClientProtocol(parse_uri("ws://example.com/chat"), subprotocols=[Subprotocol("chat")])
    client.send_request(client.connect())
    sent = RequestReader().feed(b"".join(client.data_to_send()))
    assert sent is not None
    client.receive_data(accept_response(check_upgrade(sent), subprotocol="chat"))
    assert client.handshake_exc is None
    assert client.state is State.OPEN
    assert client.subprotocol == "chat"


def test_the_server_of_another_implementation_agrees_with_our_request() -> None:
    client = ClientHandshake("ws://example.com/chat", subprotocols=["chat"], extensions=[DEFLATE])
    server = ServerProtocol(subprotocols=[Subprotocol("chat")], extensions=[ServerPerMessageDeflateFactory()])
    server.receive_data(client.request())
    (sent,) = server.events_received()
    assert isinstance(sent, HttpRequest)
    server.send_response(server.accept(sent))
    accepted = client.feed(b"".join(server.data_to_send()))
    assert accepted is not None
    assert accepted.subprotocol == "chat"
    assert [extension.name for extension in accepted.extensions] == ["permessage-deflate"]


@given(st.binary(max_size=100), st.sampled_from([b"", b"HTTP/1.1 101 \r\n", b"HTTP/1.1 403 No\r\n\r\n"]))
def test_no_arbitrary_answer_is_taken_for_consent(data: bytes, start: bytes) -> None:
    client = ClientHandshake("ws://a")

    def converse() -> None:
        assert client.feed(start + data) is None
        client.receive_eof()

    with pytest.raises(HandshakeFailed):
        converse()
