"""Request heads: limits however cut, strictness, targets, responses that cannot be split; long, as tricks are many."""

from dataclasses import dataclass
from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import HandshakeRefused
from gateway.protocol import http
from gateway.protocol.http import (
    MAX_HEAD_BYTES,
    MAX_REQUEST_LINE_BYTES,
    Refusal,
    Request,
    RequestReader,
    http_response,
    refusal_response,
    request_timed_out,
    response_head,
)

GET = b"GET /chat?room=1 HTTP/1.1\r\nHost: example.com\r\nOrigin: https://example.com\r\n\r\n"


def head(*lines: str, request_line: str = "GET / HTTP/1.1", host: str | None = "example.com") -> bytes:
    """A request head with these header lines."""
    hosts = [] if host is None else [f"Host: {host}"]
    return "".join(f"{line}\r\n" for line in (request_line, *hosts, *lines, "")).encode("latin-1")


def read(data: bytes) -> Request:
    """The request in `data`, which must be complete."""
    request = RequestReader().feed(data)
    assert request is not None
    return request


def refusal(data: bytes) -> HandshakeRefused:
    """The refusal that `data` earns."""
    with pytest.raises(HandshakeRefused) as caught:
        RequestReader().feed(data)
    return caught.value


# --- requests -----------------------------------------------------------------------------------------------------


def test_a_request_is_taken_apart() -> None:
    assert read(GET) == Request(
        method="GET",
        target="/chat?room=1",
        path="/chat",
        raw_path="/chat",
        query="room=1",
        http_version="1.1",
        headers=(("host", "example.com"), ("origin", "https://example.com")),
    )


def test_header_values_keep_every_byte() -> None:
    assert read(head("X-Name: caf\xe9\xff")).get("x-name") == "caf\xe9\xff"


def test_fields_are_found_by_lower_case_name() -> None:
    request = read(head("Accept: a", "ACCEPT: b, c", "Connection: Keep-Alive, ,UPGRADE ,", "Connection: x"))
    assert request.get("accept") == "a, b, c"
    assert request.get_all("accept") == ("a", "b, c")
    assert request.tokens("connection") == ("keep-alive", "upgrade", "x")
    assert request.get("origin") is None
    assert request.get_all("origin") == ()
    assert request.host == "example.com"


def test_an_empty_line_before_the_request_is_ignored_once() -> None:
    assert read(b"\r\n" + GET).path == "/chat"
    assert refusal(b"\r\n\r\n" + GET).status == 400


@pytest.mark.parametrize(
    ("request_line", "lines", "keep_alive"),
    [
        ("GET / HTTP/1.1", (), True),
        ("GET / HTTP/1.1", ("Connection: close",), False),
        ("GET / HTTP/1.1", ("Connection: foo, CLOSE",), False),
        ("GET / HTTP/1.0", (), False),
        ("GET / HTTP/1.0", ("Connection: keep-alive",), False),
        ("GET / HTTP/1.2", (), True),
    ],
)
def test_whether_the_connection_may_be_kept_alive(request_line: str, lines: tuple[str, ...], keep_alive: bool) -> None:
    assert read(head(*lines, request_line=request_line)).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("upgrade", "asks"),
    [("websocket", True), ("h2c, WebSocket", True), ("h2c", False), ("websocket/13", False), ("", False)],
)
def test_a_request_that_asks_for_websocket(upgrade: str, asks: bool) -> None:
    assert read(head(f"Upgrade: {upgrade}", "Connection: Upgrade")).asks_for_websocket is asks


def test_http_1_0_needs_no_host() -> None:
    assert read(head(request_line="GET / HTTP/1.0", host=None)).host == ""


@pytest.mark.parametrize("length", ["0", "00", "0, 0"])
def test_an_empty_body_is_no_body(length: str) -> None:
    assert read(head(f"Content-Length: {length}")).path == "/"


@pytest.mark.parametrize(
    ("data", "status", "reason", "complaint"),
    [
        (b"\x16\x03\x01\x02\x00\x01", 400, "malformed", "TLS"),
        (b"\x00", 400, "malformed", "not HTTP"),
        (b" GET / HTTP/1.1\r\n\r\n", 400, "malformed", "not HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\n", 505, "version", "HTTP/2.0"),
        (b"GET / HTTP/0.9\r\n\r\n", 505, "version", "HTTP/0.9"),
        (b"GET /\r\n\r\n", 400, "malformed", "request line"),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed", "request line"),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed", "request line"),
        (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "malformed", "request line"),
        (b"GET / http/1.1\r\nHost: a\r\n\r\n", 400, "malformed", "request line"),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "malformed", "CRLF"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\nOrigin: b\r\n\r\n", 400, "malformed", "CRLF"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400, "malformed", "folded"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n", 400, "malformed", "header line"),
        (head(host=None), 400, "malformed", "Host"),
        (head(request_line="GET / HTTP/1.2", host=None), 400, "malformed", "Host"),
        (head("Host: example.com"), 400, "malformed", "Host"),
        (head(host=""), 400, "malformed", "Host"),
        (head(host="user@example.com"), 400, "malformed", "Host"),
        (head(host="example.com/x"), 400, "malformed", "Host"),
        (head(host="a, b"), 400, "malformed", "Host"),
        (head(host="b\xfccher.example"), 400, "malformed", "Host"),
        (head("X Y: a"), 400, "malformed", "header line"),
        (head("X : a"), 400, "malformed", "header line"),
        (head("X: a\x00b"), 400, "malformed", "header line"),
        (head("no colon"), 400, "malformed", "header line"),
        (head(request_line="POST / HTTP/1.1"), 405, "method", "GET and HEAD"),
        (head("Content-Length: 3", request_line="POST / HTTP/1.1"), 405, "method", "'POST'"),
        (head(request_line="CONNECT example.com:443 HTTP/1.1"), 405, "method", "'CONNECT'"),
        (head(request_line="get / HTTP/1.1"), 405, "method", "'get'"),
        (head("Content-Length: 1"), 413, "body", "no body"),
        (head("Content-Length: 0", "Content-Length: 1"), 400, "malformed", "Content-Length"),
        (head("Content-Length: -1"), 400, "malformed", "Content-Length"),
        (head("Content-Length: 0x0"), 400, "malformed", "Content-Length"),
        (head("Transfer-Encoding: chunked"), 413, "body", "no body"),
        (head("Transfer-Encoding: Chunked", "Content-Length: 0"), 413, "body", "no body"),
        (head("Transfer-Encoding: gzip"), 501, "body", "Transfer-Encoding"),
        (head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 501, "body", "Transfer-Encoding"),
    ],
)
def test_heads_that_are_refused(data: bytes, status: int, reason: str, complaint: str) -> None:
    error = refusal(data)
    assert (error.status, error.reason) == (status, reason)
    assert complaint in str(error)


@pytest.mark.parametrize("byte", [b"\x00", b"\x0b", b"\x0c", b"\r"])
def test_spaces_before_what_no_header_has_are_not_left_to_a_pattern_that_takes_their_square(
    byte: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(h11, "Connection", None)
    error = refusal(b"GET / HTTP/1.1\r\nHost: a\r\nX:" + b" " * 1000 + byte + b"\r\n\r\n")
    assert (error.status, str(error)) == (400, "malformed request head: illegal header line")


@pytest.mark.parametrize("byte", [b"\x00", b"\x0b", b"\x0c", b"\r"])
def test_what_is_refused_before_h11_sees_it_is_what_h11_refuses(byte: bytes) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\nX: a" + byte + b"b\r\n\r\n")
    with pytest.raises(h11.RemoteProtocolError, match="illegal header line"):
        connection.next_event()


LINES = st.sampled_from(
    [
        b"Host: example.com",
        b"host:example.com:80",
        b"Host: a b",
        b"X:",
        b"X: \t a \t b \t ",
        b"X : a",
        b": a",
        b"no colon",
        b"X: \xff\x80",
        b"X: \x01",
        b"X: a\x00",
        b"X: a\rb",
        b"X\xe9: a",
        b"Content-Length: 0",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Connection: Upgrade, close",
        b"Origin: https://example.com",
        b"!#$%&'*+-.^_`|~09aZ: a",
    ]
) | st.binary(max_size=12)


@given(
    st.sampled_from(
        [
            b"GET / HTTP/1.1",
            b"GET /a?b=c%20d HTTP/1.1",
            b"GET /a/../b HTTP/1.1",
            b"GET //a HTTP/1.1",
            b"GET http://b/c HTTP/1.1",
            b"GET * HTTP/1.1",
            b"GET  / HTTP/1.1",
            b"GET / HTTP/1.0",
            b"GET / HTTP/2.0",
            b"GET /\xe9 HTTP/1.1",
            b"GET /\t HTTP/1.1",
            b"HEAD / HTTP/1.1",
            b"get / HTTP/1.1",
            b"GET /",
        ]
    ),
    st.lists(LINES, max_size=5),
    st.booleans(),
)
def test_the_usual_head_is_read_as_h11_reads_it(request_line: bytes, lines: list[bytes], takes_bodies: bool) -> None:
    data = b"\r\n".join([request_line, b"Host: a", *lines, b"", b""])

    def said(usual: bool) -> object:
        with pytest.MonkeyPatch.context() as patched:
            if not usual:
                patched.setattr(http, "_parse_usual", lambda head: None)
            try:
                return RequestReader(takes_bodies=takes_bodies, methods=("GET", "HEAD", "POST")).feed(data)
            except HandshakeRefused as error:
                return error.status, error.reason, str(error)

    assert said(usual=True) == said(usual=False)


def test_the_head_of_a_browser_is_not_left_to_h11(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(h11, "Connection", None)
    request = read(
        head(
            "Connection: keep-alive, Upgrade",
            "Upgrade: websocket",
            "Cookie: a=b; c=\xe9",
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            request_line="GET /chat?room=1 HTTP/1.1",
        )
    )
    assert request.headers[3] == ("cookie", "a=b; c=\xe9")
    assert request.asks_for_websocket


def test_a_method_that_is_not_served_names_those_that_are() -> None:
    assert refusal(head(request_line="DELETE / HTTP/1.1")).headers == (("Allow", "GET, HEAD"),)


def test_what_the_client_sent_is_not_repeated_at_length() -> None:
    error = refusal(head("Bad Header " + "x" * 8000))
    assert len(str(error)) < 200
    error = refusal(head(host="x" * 8000))
    assert len(str(error)) < 400


# --- targets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/?", "/", ""),
        ("/a?b=%zz&c=/../d?e", "/a", "b=%zz&c=/../d?e"),
        ("/%E6%9B%B8%e7%95%99", "/書留", ""),
        ("/a%20b+c", "/a b+c", ""),
        ("/%2541", "/%41", ""),
        ("/a//b/", "/a//b/", ""),
        ("/...", "/...", ""),
        ("/.hidden/..a/b..", "/.hidden/..a/b..", ""),
        ("/%3Fnot-a-query", "/?not-a-query", ""),
        ("/a;b=c,d|e{f}", "/a;b=c,d|e{f}", ""),
    ],
)
def test_targets_are_decoded(target: str, path: str, query: str) -> None:
    request = read(head(request_line=f"GET {target} HTTP/1.1"))
    assert (request.target, request.path, request.query) == (target, path, query)
    assert request.raw_path == target.partition("?")[0]


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("*", "begins with /"),
        ("ftp://example.com/", "another scheme than http and https"),
        ("http:///", "names no host: the host is empty"),
        ("http://user@example.com/", "names no host: user information"),
        ("http://example.com:99999/", "names no host: the port is a number up to 65535"),
        ("http://example.com/#f", "has a fragment"),
        ("http://example.com/../x", "dot segment"),
        ("http:/example.com/", "begins with /"),
        ("example.com:443", "begins with /"),
        ("?a", "begins with /"),
        ("//example.com/", "names a host"),
        ("/a#b", "fragment"),
        ("/%", "hexadecimal"),
        ("/%4", "hexadecimal"),
        ("/%4g", "hexadecimal"),
        ("/%%41", "hexadecimal"),
        ("/a%2Fb", "encoded slash"),
        ("/a%2fb", "encoded slash"),
        ("/a%5Cb", "encoded slash or backslash"),
        ("/%00", "control"),
        ("/a%0d%0ab", "control"),
        ("/%7F", "control"),
        ("/%ff", "UTF-8"),
        ("/%c0%ae%c0%ae/", "UTF-8"),
        ("/%ed%a0%80", "UTF-8"),
        ("/..", "dot segment"),
        ("/.", "dot segment"),
        ("/a/../b", "dot segment"),
        ("/a/./b", "dot segment"),
        ("/a/%2e%2E/b", "dot segment"),
        ("/a/.%2e", "dot segment"),
        ("/a\\..\\b", "dot segment"),
    ],
)
def test_targets_that_are_refused(target: str, complaint: str) -> None:
    error = refusal(head(request_line=f"GET {target} HTTP/1.1"))
    assert error.status == 400
    assert complaint in str(error)


@given(st.text(alphabet="/.%2eEfF5cC0aA\\?", max_size=20))
def test_no_accepted_path_climbs_or_hides_a_separator(tail: str) -> None:
    try:
        request = Request.parse(method="GET", target=f"/{tail}")
    except HandshakeRefused:
        return
    assert request.path.startswith("/")
    assert not request.path.startswith("//")
    assert {".", ".."}.isdisjoint(request.path.replace("\\", "/").split("/"))
    assert request.path.count("/") == request.raw_path.count("/")


# --- limits -------------------------------------------------------------------------------------------------------


def test_the_longest_request_line_and_one_byte_more() -> None:
    path = "/" + "a" * (MAX_REQUEST_LINE_BYTES - len("GET / HTTP/1.1"))
    assert read(head(request_line=f"GET {path} HTTP/1.1")).path == path
    error = refusal(head(request_line=f"GET {path}a HTTP/1.1"))
    assert (error.status, error.reason) == (414, Refusal.TARGET_TOO_LONG)


def test_the_longest_head_and_one_byte_more() -> None:
    filler = MAX_HEAD_BYTES - len(head("X: "))
    assert read(head("X: " + "a" * filler)).path == "/"
    error = refusal(head("X: " + "a" * (filler + 1)))
    assert (error.status, error.reason) == (431, Refusal.HEAD_TOO_LARGE)


def test_an_endless_request_line_is_cut_at_the_limit() -> None:
    reader = RequestReader()
    assert reader.feed(b"G" * (MAX_REQUEST_LINE_BYTES + 1)) is None
    with pytest.raises(HandshakeRefused) as caught:
        reader.feed(b"G")
    assert caught.value.status == 414


def test_an_endless_head_is_cut_at_the_limit() -> None:
    reader = RequestReader()
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    assert reader.feed(start + b"X" * (MAX_HEAD_BYTES - len(start) - 1)) is None
    with pytest.raises(HandshakeRefused) as caught:
        reader.feed(b"X")
    assert caught.value.status == 431


def test_the_limits_can_be_set() -> None:
    with pytest.raises(HandshakeRefused, match="longer than 20 bytes"):
        RequestReader(max_request_line_bytes=20).feed(b"GET /0123456789 HTTP/1.1\r\n")
    with pytest.raises(HandshakeRefused, match="longer than 30 bytes"):
        RequestReader(max_head_bytes=30).feed(GET)


# --- absolute-form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "host", "path", "query"),
    [
        # RFC 9112 section 3.2.2: "a server MUST accept the absolute-form in requests".
        ("http://www.example.org/pub/WWW/", "www.example.org", "/pub/WWW/", ""),
        ("https://app.example:8443/chat?a=b", "app.example:8443", "/chat", "a=b"),
        ("ws://app.example/chat", "app.example", "/chat", ""),
        ("WSS://[2001:db8::1]:9/", "[2001:db8::1]:9", "/", ""),
        ("http://app.example", "app.example", "/", ""),
        ("http://app.example?a=b", "app.example", "/", "a=b"),
    ],
)
def test_the_authority_of_an_absolute_target_replaces_the_host(target: str, host: str, path: str, query: str) -> None:
    request = read(head("Origin: https://app.example", request_line=f"GET {target} HTTP/1.1", host="other.example"))
    assert (request.host, request.path, request.query) == (host, path, query)
    assert request.get_all("host") == (host,)
    assert request.target == (f"{path}?{query}" if query else path)
    assert request.get("origin") == "https://app.example"


def test_an_absolute_target_does_not_excuse_the_host_header() -> None:
    for host in (None, "a b"):
        assert refusal(head(request_line="GET http://a.example/ HTTP/1.1", host=host)).status == 400


def test_an_absolute_target_of_http_1_0_names_the_host() -> None:
    request = read(head(request_line="GET http://a.example/x HTTP/1.0", host=None))
    assert (request.host, request.path) == ("a.example", "/x")


def test_a_proxy_header_that_is_not_expected_is_told() -> None:
    v1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n"
    v2 = b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
    for header in (v1, v2):
        assert "PROXY protocol header is not expected" in str(refusal(header))


# --- one connection -----------------------------------------------------------------------------------------------


def test_a_refusal_stays() -> None:
    reader = RequestReader()
    with pytest.raises(HandshakeRefused) as first:
        reader.feed(b"\x00")
    with pytest.raises(HandshakeRefused) as second:
        reader.feed(GET)
    assert second.value is first.value


def test_requests_of_a_connection_are_read_one_after_another() -> None:
    reader = RequestReader()
    first = reader.feed(GET + head(request_line="HEAD /b HTTP/1.1") + b"GET /c")
    assert first is not None
    assert first.path == "/chat"
    second = reader.start_next()
    assert second is not None
    assert (second.method, second.path) == ("HEAD", "/b")
    assert reader.start_next() is None
    assert reader.in_request
    third = reader.feed(b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert third is not None
    assert third.path == "/c"
    assert reader.start_next() is None
    assert not reader.in_request


def test_every_request_of_a_connection_has_the_limits_of_the_first() -> None:
    reader = RequestReader()
    filler = MAX_HEAD_BYTES - len(head("X: "))
    assert reader.feed(head("X: " + "a" * filler) + head("X: " + "a" * (filler + 1))) is not None
    with pytest.raises(HandshakeRefused) as caught:
        reader.start_next()
    assert caught.value.status == 431


def test_what_follows_an_upgrade_is_kept() -> None:
    reader = RequestReader()
    assert reader.leftover == b""
    assert reader.feed(GET[:10]) is None
    assert reader.leftover == b""
    assert reader.feed(GET[10:] + b"\x81\x00\r\n\r\n") is not None
    assert reader.leftover == b"\x81\x00\r\n\r\n"


def test_a_request_has_begun_with_its_first_byte() -> None:
    reader = RequestReader()
    seen = [reader.in_request]
    for data in (b"\r\n", b"G", GET[1:]):
        reader.feed(data)
        seen.append(reader.in_request)
    assert seen == [False, False, True, False]


def test_feeding_out_of_turn_is_a_bug_of_the_caller() -> None:
    reader = RequestReader()
    with pytest.raises(RuntimeError, match="no request"):
        reader.start_next()
    reader.feed(GET)
    with pytest.raises(RuntimeError, match="start_next"):
        reader.feed(GET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """All that a reader makes of its input."""

    requests: tuple[Request, ...]
    refusal: tuple[int, str, str] | None
    leftover: bytes
    in_request: bool


def outcome(chunks: list[bytes]) -> Outcome:
    """Feed the chunks, with every request answered at once."""
    reader = RequestReader(max_request_line_bytes=48, max_head_bytes=120)
    requests = []
    try:
        for chunk in chunks:
            request = reader.feed(chunk)
            while request is not None:
                requests.append(request)
                request = reader.start_next()
    except HandshakeRefused as error:
        return Outcome(
            requests=tuple(requests),
            refusal=(error.status, error.reason, str(error)),
            leftover=reader.leftover,
            in_request=reader.in_request,
        )
    return Outcome(requests=tuple(requests), refusal=None, leftover=reader.leftover, in_request=reader.in_request)


FRAGMENTS = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"HEAD /a?b HTTP/1.1\r\n",
        b"Host: example.com\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b"X: y\r\n",
        b"X: y\n",
        b"Content-Length: 1\r\n",
        b"a" * 40,
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x00",
    ]
)


@given(st.lists(FRAGMENTS, max_size=12).map(b"".join), st.data())
@example(b"GET / HTTP/1.1\r\n" + b"a" * 104 + b"\n", None)
@example(b"a" * 48 + b"\r\n" + b"a" * 80, None)
@example(b"a" * 49 + b"\n" + b"\r\n", None)
def test_the_cuts_of_the_stream_change_nothing(stream: bytes, data: st.DataObject | None) -> None:
    whole = outcome([stream])
    assert outcome([stream[at : at + 1] for at in range(len(stream))]) == whole
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream))))) if data is not None else [50]
    edges = [0, *cuts, len(stream)]
    assert outcome([stream[start:end] for start, end in pairwise(edges)]) == whole


@given(st.binary(max_size=200))
def test_any_input_is_a_request_a_refusal_or_unfinished(stream: bytes) -> None:
    result = outcome([stream])
    assert result.refusal is None or 400 <= result.refusal[0] <= 505


# --- responses ----------------------------------------------------------------------------------------------------


def parsed(response: bytes, *, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body as another implementation reads them; the response must be complete."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response)
    event = client.next_event()
    assert isinstance(event, h11.Response)
    headers = {name.decode(): value.decode() for name, value in event.headers}
    body = b""
    while isinstance(part := client.next_event(), h11.Data):
        body += part.data
    assert isinstance(part, h11.EndOfMessage)
    assert client.trailing_data == (b"", False)
    return event.status_code, headers, body


def test_a_response_tells_its_length() -> None:
    response = http_response(200, b"hello", [("Content-Type", "text/plain")], keep_alive=True)
    assert parsed(response) == (200, {"content-type": "text/plain", "content-length": "5"}, b"hello")


def test_a_response_ends_the_connection_unless_told_otherwise() -> None:
    assert parsed(http_response(404, b"no"))[1]["connection"] == "close"


def test_the_answer_to_head_tells_the_length_of_what_it_leaves_out() -> None:
    response = http_response(200, b"hello", head_only=True)
    assert parsed(response, method="HEAD") == (200, {"content-length": "5", "connection": "close"}, b"")


@pytest.mark.parametrize("status", [204, 304])
def test_responses_that_never_have_a_body(status: int) -> None:
    assert parsed(http_response(status, b"ignored", keep_alive=True)) == (status, {}, b"")


def test_a_head_whose_body_is_sent_by_the_caller() -> None:
    response = response_head(200, [("ETag", '"x"')], content_length=3, keep_alive=True) + b"abc"
    assert parsed(response) == (200, {"etag": '"x"', "content-length": "3"}, b"abc")


def test_a_status_without_a_name() -> None:
    assert response_head(299, keep_alive=True) == b"HTTP/1.1 299 \r\n\r\n"


@pytest.mark.parametrize(
    "field", [("X", "a\r\nSet-Cookie: b"), ("X", "a\x00"), ("X\r\nY", "a"), ("X Y", "a"), ("X", "書留"), ("", "a")]
)
def test_a_header_cannot_split_the_response(field: tuple[str, str]) -> None:
    for status in (200, 101):
        with pytest.raises(ValueError, match="not a valid HTTP response"):
            response_head(status, [field])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Upgrade", "Sec-WebSocket-Accept", "X'Y", "content-length", "X:Y", "\u212a", ""]),
            st.text(st.sampled_from('aZ0 \t=,;"\r\n\x00\x7f\xe9\ud800'), max_size=6),
        ),
        max_size=3,
    )
)
def test_the_usual_101_is_what_h11_would_send(fields: list[tuple[str, str]]) -> None:
    def made() -> bytes | None:
        try:
            return response_head(101, fields)
        except ValueError:
            return None

    usual = made()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(http, "_is_plain", lambda field: False)
        assert usual == made()


def test_a_refusal_is_one_line_of_text() -> None:
    error = HandshakeRefused("no 書留", status=403, reason="origin_missing", headers=[("Allow", "GET")])
    status, headers, body = parsed(refusal_response(error))
    assert (status, body) == (403, "no 書留\n".encode())
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["connection"] == "close"
    assert headers["allow"] == "GET"
    assert parsed(refusal_response(error, head_only=True), method="HEAD")[2] == b""


def test_a_head_that_was_not_complete_in_time() -> None:
    error = request_timed_out(10.0)
    assert (error.status, error.reason) == (408, Refusal.TIMEOUT)
    assert "10 seconds" in str(error)
