"""The opening handshake, both sides, and the policies that read its headers: named outcomes only, however it is cut."""

from dataclasses import dataclass
from typing import Final

import h11

from gateway.errors import HandshakeRefused
from gateway.policy.forwarded import TrustedProxies
from gateway.policy.origin import NULL, Origin, OriginPolicy
from gateway.protocol.handshake import (
    Accepted,
    ClientHandshake,
    ExtensionOffer,
    HandshakeFailed,
    HandshakeRejected,
    Request,
    RequestReader,
    accept_key,
    accept_response,
    check_upgrade,
    parse_extensions,
    refusal_response,
)
from tests.fuzz.target import MAX_INPUT_BYTES, Target, split

_POLICY: Final = OriginPolicy(["*"])
_PROXIES: Final = TrustedProxies.parse(["10.0.0.0/8"])
_STATUSES: Final = {400, 403, 405, 413, 414, 426, 431, 501, 505}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """All that a reader made of its input."""

    requests: tuple[Request, ...]
    refusal: str | None
    leftover: bytes


def check_server(data: bytes) -> None:
    """Input: a byte that says how to cut, then what a client sends."""
    cut, wire = data[:1] or b"\0", data[1:]
    heard = _read([wire])
    assert _read(split(wire, cut[0])) == heard
    for request in heard.requests:
        assert request.method in ("GET", "HEAD")
        assert request.path.startswith("/")
        assert not request.path.startswith("//")
        assert {".", ".."}.isdisjoint(request.path.split("/"))
        _upgrade(request)
        _decide(request)


def _read(reads: list[bytes]) -> _Heard:
    # Limits that an input of the fuzzer's reaches.
    reader = RequestReader(max_request_line_bytes=128, max_head_bytes=1024)
    requests = []
    try:
        for read in reads:
            request = reader.feed(read)
            while request is not None:
                requests.append(request)
                request = reader.start_next()
    except HandshakeRefused as error:
        return _Heard(requests=tuple(requests), refusal=_answered(error), leftover=reader.leftover)
    return _Heard(requests=tuple(requests), refusal=None, leftover=reader.leftover)


def _answered(error: HandshakeRefused) -> str:
    """The refusal, which makes a response that another implementation can read."""
    assert error.status in _STATUSES
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    client.receive_data(refusal_response(error))
    response = client.next_event()
    assert isinstance(response, h11.Response)
    assert response.status_code == error.status
    assert isinstance(client.next_event(), h11.Data)
    return f"{error.status} {error.reason} {error}"


def _upgrade(request: Request) -> None:
    try:
        upgrade = check_upgrade(request)
    except HandshakeRefused as error:
        _answered(error)
        return
    subprotocol = upgrade.subprotocols[-1] if upgrade.subprotocols else None
    response = accept_response(upgrade, subprotocol=subprotocol, extensions=upgrade.extensions)
    assert accept_key(upgrade.key).encode() in response
    assert response.count(b"\r\n\r\n") == 1
    assert response.endswith(b"\r\n\r\n")
    assert len(set(upgrade.subprotocols)) == len(upgrade.subprotocols)
    written = [line.partition(b": ")[2] for line in response.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Ext")]
    assert parse_extensions([value.decode() for value in written]) == upgrade.extensions


def _decide(request: Request) -> None:
    view = _PROXIES.view(
        peer_address="10.0.0.1", peer_port=1, scheme="http", host=request.host, headers=request.headers
    )
    assert view.warning is None or view.address == "10.0.0.1"
    try:
        origin = _POLICY.check(request.get_all("origin"), scheme=view.scheme, host=view.host)
    except HandshakeRefused as error:
        _answered(error)
        return
    assert origin in (None, NULL) or str(Origin.parse(origin)) == origin


def check_client(data: bytes) -> None:
    """Input: a byte that says how to cut, then what a server answers."""
    cut, wire = data[:1] or b"\0", data[1:]
    assert _outcome([wire]) == _outcome(split(wire, cut[0]))


def _outcome(reads: list[bytes]) -> object:
    client = ClientHandshake(
        "ws://example.com/", subprotocols=["chat"], extensions=[ExtensionOffer(name="permessage-deflate")]
    )
    # The seeds answer the key of RFC 6455 section 1.3; what a client sends is as random as it must be.
    client._key = "dGhlIHNhbXBsZSBub25jZQ=="
    accepted: Accepted | None = None
    tail = b""
    try:
        for read in reads:
            if accepted is not None:
                tail += read
            elif read:
                accepted = client.feed(read)
        if accepted is None:
            client.receive_eof()
    except HandshakeRejected as error:
        return error.status, error.headers, error.body, str(error)
    except HandshakeFailed as error:
        return type(error)
    assert accepted.subprotocol in (None, "chat")
    assert {extension.name for extension in accepted.extensions} <= {"permessage-deflate"}
    return accepted, client.leftover + tail


_HANDSHAKE: Final = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
_FIELDS: Final = (
    b"Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: mqtt\r\n",
    b'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits; server_max_window_bits="1\\0", x; z=1\r\n',
    b"Origin: https://Example.com:443\r\n",
    b"Origin: null\r\n",
    b'Forwarded: for="[2001:db8::1]:80";proto=https;host="a.example:1", for=10.0.0.2;by=_x;ext="\\""\r\n',
    b"X-Forwarded-For: 192.0.2.1, 10.0.0.2:80\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b.example\r\n",
)
_GETS: Final = (
    b"GET /a%20b/%E6%9B%B8?%zz HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
    b"\r\nHEAD /file HTTP/1.0\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
)
_ACCEPT: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
)
_CUTS: Final = (b"\0", b"\x40", b"\x90")

SERVER: Final = Target(
    name="handshake",
    check=check_server,
    seeds=tuple(
        cut + wire
        for cut in _CUTS
        for wire in (
            *(_HANDSHAKE + field + b"\r\n" for field in (b"", *_FIELDS)),
            _HANDSHAKE + b"".join(_FIELDS[:3]) + b"\r\n\x81\x80abcd",
            b"".join(_GETS),
            *_GETS,
        )
    ),
    tokens=(
        b"\r\n",
        b"\r\n\r\n",
        b"%2e",
        b"%2F",
        b"%00",
        b"..",
        b"//",
        b'"',
        b"\\",
        b", ",
        b"; ",
        b"xn--",
        b"HTTP/1.0",
        b"Origin: ",
        b"Host: ",
        b"Content-Length: 1\r\n",
    ),
    # The requests of one input are kept, and a request is its head as so many strings.
    peak_bytes=1 << 20 | MAX_INPUT_BYTES * 256,
)

CLIENT: Final = Target(
    name="client_handshake",
    check=check_client,
    seeds=tuple(
        cut + wire
        for cut in _CUTS
        for wire in (
            _ACCEPT + b"\r\n\x81\x02hi",
            _ACCEPT + b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate; a=1\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + _ACCEPT + b"\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: wss://b.example/\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nno way",
            b"HTTP/1.1 502 \r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        )
    ),
    tokens=(
        b"\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 101 ",
        b"HTTP/1.1 100 \r\n\r\n",
        b"0\r\n\r\n",
        b"Content-Length: 9999\r\n",
    ),
    peak_bytes=1 << 20,
)
