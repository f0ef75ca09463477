"""The opening handshake of RFC 6455 section 4, both sides, on top of `http` and `negotiation`.

Invariant: an `Upgrade` and an `Accepted` have passed every check of the RFC; what the peer offered is structured and
valid but not yet agreed to: origins, subprotocols and extensions are chosen by the caller.

    server                                         client
    RequestReader.feed -> Request                  ClientHandshake.request -> bytes
    check_upgrade(request) -> Upgrade              ClientHandshake.feed -> Accepted
    accept_response(upgrade, ...) -> bytes         (HandshakeFailed, HandshakeRejected)
    refusal_response(HandshakeRefused) -> bytes
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NoReturn, Self
from urllib.parse import quote

import h11

from gateway.errors import Blame, HandshakeRefused, KakitomeError
from gateway.protocol.authority import Authority, parse_authority
from gateway.protocol.http import (
    METHODS,
    Headers,
    Refusal,
    Request,
    RequestReader,
    http_response,
    list_tokens,
    malformed,
    refusal_response,
    request_timed_out,
    response_head,
    shown,
)
from gateway.protocol.negotiation import ExtensionOffer, format_extensions, parse_extensions, parse_subprotocols
from gateway.protocol.pieces import Buffer

__all__ = [
    "METHODS",
    "Accepted",
    "ClientHandshake",
    "ExtensionOffer",
    "HandshakeFailed",
    "HandshakeRejected",
    "Headers",
    "Refusal",
    "Request",
    "RequestReader",
    "Upgrade",
    "WebSocketUrl",
    "accept_key",
    "accept_response",
    "check_upgrade",
    "format_extensions",
    "http_response",
    "parse_extensions",
    "parse_subprotocols",
    "refusal_response",
    "request_timed_out",
    "response_head",
]

VERSION: Final = "13"
MAX_REJECTION_BODY_BYTES: Final = 4096
"""Enough of an error page to tell what happened."""

_TLS_ALERT: Final = 0x15
"""How a server answers that expected TLS and got a request: a record of type alert (RFC 8446 section 5.1)."""

_SPEAKS_TLS: Final = re.compile(rb"https|\btls\b|\bssl\b", re.IGNORECASE)

MAX_INTERIM_RESPONSES: Final = 8
"""100 Continue and 103 Early Hints may precede the answer; a server that sends no end of them is not waited for."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_URL: Final = re.compile(r"(?P<scheme>wss?)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?", re.IGNORECASE)
_OWN_HEADERS: Final = frozenset(
    {
        "connection",
        "content-length",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)


# --- server side --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """A valid WebSocket handshake request: what must be answered, and what may be chosen from."""

    key: str
    subprotocols: tuple[str, ...]
    """As offered, in the client's order of preference; unique."""
    extensions: tuple[ExtensionOffer, ...]


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept that proves a Sec-WebSocket-Key was understood (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()).decode("ascii")


def check_upgrade(request: Request) -> Upgrade:
    """The handshake in `request`, if it has all that RFC 6455 section 4.2.1 demands.

    Raises HandshakeRefused: 426 for what is no handshake of version 13, 405 for HEAD, 400 for a broken handshake. Its
    text is meant for whoever set up the client or the proxy before us.
    """
    if not request.asks_for_websocket:
        raise _upgrade_required(
            "this address speaks WebSocket, and the request has no Upgrade: websocket; a proxy on the way must speak "
            "HTTP/1.1 and pass Upgrade and Connection on",
            Refusal.NO_UPGRADE,
        )
    if request.method != "GET":
        raise HandshakeRefused(
            f"a WebSocket handshake is a GET, not {shown(request.method)}",
            status=HTTPStatus.METHOD_NOT_ALLOWED,
            reason=Refusal.METHOD,
            headers=(("Allow", "GET"),),
        )
    if request.http_version == "1.0":
        raise malformed("a WebSocket handshake needs HTTP/1.1; a proxy on the way speaks HTTP/1.0")
    if "upgrade" not in request.tokens("connection"):
        raise malformed("a WebSocket handshake has Connection: Upgrade; a proxy on the way may have removed it")
    versions = request.get_all("sec-websocket-version")
    if versions != (VERSION,):
        offered = shown(", ".join(versions)) if versions else "none"
        raise _upgrade_required(f"Sec-WebSocket-Version must be {VERSION}, not {offered}", Refusal.VERSION)
    keys = request.get_all("sec-websocket-key")
    if len(keys) != 1:
        raise malformed(f"a WebSocket handshake has one Sec-WebSocket-Key, not {len(keys)}")
    if not _KEY.fullmatch(keys[0]):
        raise malformed(f"Sec-WebSocket-Key must be 16 bytes in base64, not {shown(keys[0])}")
    try:
        subprotocols = parse_subprotocols(request.get_all("sec-websocket-protocol"))
    except ValueError as error:
        raise HandshakeRefused(
            f"Sec-WebSocket-Protocol cannot be read: {error}", status=400, reason=Refusal.SUBPROTOCOL
        ) from None
    try:
        extensions = parse_extensions(request.get_all("sec-websocket-extensions"))
    except ValueError as error:
        raise HandshakeRefused(
            f"Sec-WebSocket-Extensions cannot be read: {error}", status=400, reason=Refusal.EXTENSION
        ) from None
    return Upgrade(key=keys[0], subprotocols=subprotocols, extensions=extensions)


def _upgrade_required(message: str, reason: Refusal) -> HandshakeRefused:
    # RFC 9110 section 15.5.22: 426 must come with Upgrade; RFC 6455 section 4.4: and with the versions we speak.
    return HandshakeRefused(
        message,
        status=HTTPStatus.UPGRADE_REQUIRED,
        reason=reason,
        headers=(("Upgrade", "websocket"), ("Sec-WebSocket-Version", VERSION)),
    )


def accept_response(
    upgrade: Upgrade,
    *,
    subprotocol: str | None = None,
    extensions: Sequence[ExtensionOffer] = (),
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """The 101 that opens the connection. Raises ValueError for a choice that the client did not offer."""
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_key(upgrade.key)),
    ]
    if subprotocol is not None:
        if subprotocol not in upgrade.subprotocols:
            raise ValueError(f"the client did not offer the subprotocol {shown(subprotocol)}")
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    if extensions:
        offered = {offer.name for offer in upgrade.extensions}
        for extension in extensions:
            if extension.name not in offered:
                raise ValueError(f"the client did not offer the extension {shown(extension.name)}")
        fields.append(("Sec-WebSocket-Extensions", format_extensions(extensions)))
    return response_head(HTTPStatus.SWITCHING_PROTOCOLS, [*fields, *headers])


# --- client side --------------------------------------------------------------------------------------------------


class HandshakeFailed(KakitomeError):
    """The server did not answer our handshake as HTTP and RFC 6455 section 4.1 demand."""

    blame = Blame.BACKEND
    reason = "handshake_failed"


class HandshakeRejected(HandshakeFailed):
    """The server answered in good order, but not with an upgrade."""

    reason = "handshake_rejected"

    def __init__(self, *, status: int, phrase: str, headers: Headers, body: bytes, hint: str = "") -> None:
        self.status = status
        self.phrase = phrase
        """The server's own words for the status; may be empty."""
        self.headers = headers
        self.body = body
        """Its first bytes, at most `MAX_REJECTION_BODY_BYTES`."""
        text = f"the server answered {status} {phrase}".rstrip()
        if self.location is not None:
            text += f", a redirect to {shown(self.location)}, which is not followed"
        elif body and self._is_text:
            text += f": {shown(body.decode('utf-8', 'replace').strip().partition(chr(10))[0])}"
        super().__init__(f"{text}; {hint}" if hint else text)

    @property
    def location(self) -> str | None:
        """Where a redirect points to."""
        if not 300 <= self.status < 400:
            return None
        return next((value for name, value in self.headers if name == "location"), None)

    @property
    def _is_text(self) -> bool:
        return any(name == "content-type" and value.lower().startswith("text/plain") for name, value in self.headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketUrl:
    """Where a client connects to and what it asks for (RFC 6455 section 3)."""

    secure: bool
    authority: Authority
    target: str
    """Path and query, percent-encoded."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """The parts of a `ws://` or `wss://` URL. Raises ValueError, saying what is wrong."""
        parts = _URL.fullmatch(text.strip())
        if parts is None:
            if "#" in text:
                raise ValueError(f"{shown(text)} has a fragment (#), which means nothing in a WebSocket URL")
            raise ValueError(f"{shown(text)} is no WebSocket URL: write ws://host/path or wss://host/path")
        try:
            authority = parse_authority(parts["authority"], international=True)
        except ValueError as error:
            raise ValueError(f"{shown(text)} is no WebSocket URL: {error}") from None
        # What is percent-encoded already stays as it is; spaces and other letters are encoded as browsers do.
        path = quote(parts["path"] or "/", safe="/%:@!$&'()*+,;=~|^[]")
        query = quote(parts["query"] or "", safe="?/%:@!$&'()*+,;=~|^[]`{}\\")
        return cls(secure=parts["scheme"].lower() == "wss", authority=authority, target=path + query)

    @property
    def host(self) -> str:
        """The host to dial and, over TLS, to verify; without brackets."""
        return self.authority.host

    @property
    def port(self) -> int:
        """The port to dial."""
        return self.authority.port if self.authority.port is not None else (443 if self.secure else 80)

    @property
    def host_header(self) -> str:
        """Host and port as they stand in the request; a default port is left out (RFC 6455 section 4.1, item 4)."""
        default = self.port == (443 if self.secure else 80)
        return str(Authority(host=self.host, port=None if default else self.port))

    @property
    def other_scheme(self) -> str:
        """The same with TLS, or without it: what to try where the port turns out to speak the other."""
        return f"{'ws' if self.secure else 'wss'}://{Authority(host=self.host, port=self.port)}{self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The server's consent. Whether an extension's parameters answer our offer is for that extension to say."""

    subprotocol: str | None
    """One of those offered; None if the server chose none."""
    extensions: tuple[ExtensionOffer, ...]
    """Their names are among those offered."""
    headers: Headers


class ClientHandshake:
    """A client's handshake: send `request()`, then `feed` what comes until it is `Accepted`.

    `extensions` are our offers; `headers` are added to the request (Host replaces ours). Raises ValueError for what
    cannot be sent.
    """

    def __init__(
        self,
        url: str | WebSocketUrl,
        *,
        subprotocols: Sequence[str] = (),
        extensions: Sequence[ExtensionOffer] = (),
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.url = WebSocketUrl.parse(url) if isinstance(url, str) else url
        self._subprotocols = tuple(subprotocols)
        self._extensions = tuple(extensions)
        self._key = base64.b64encode(secrets.token_bytes(16)).decode("ascii")
        self._http = h11.Connection(h11.CLIENT)
        self._interim_responses = 0
        self._heard = False
        self._rejection: h11.Response | None = None
        self._body = bytearray()
        self._accepted: Accepted | None = None
        self._request = self._build(headers)

    def _build(self, headers: Sequence[tuple[str, str]]) -> bytes:
        for name, _ in headers:
            if name.lower() in _OWN_HEADERS:
                raise ValueError(f"the header {name} belongs to the handshake itself")
        if self._subprotocols:
            parse_subprotocols(self._subprotocols)
        own_host = any(name.lower() == "host" for name, _ in headers)
        fields = [] if own_host else [("Host", self.url.host_header)]
        fields += [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Version", VERSION),
        ]
        if self._subprotocols:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(self._subprotocols)))
        if self._extensions:
            fields.append(("Sec-WebSocket-Extensions", format_extensions(self._extensions)))
        try:
            event = h11.Request(method="GET", target=self.url.target, headers=[*fields, *headers])
            return self._http.send(event) + self._http.send(h11.EndOfMessage())
        except (h11.LocalProtocolError, UnicodeEncodeError) as error:
            raise ValueError(f"this request cannot be sent: {error}") from None

    def request(self) -> bytes:
        """The request head; the same bytes every time."""
        return self._request

    @property
    def leftover(self) -> bytes:
        """What the server sent after its 101: the first frames."""
        return self._http.trailing_data[0] if self._accepted is not None else b""

    def feed(self, data: Buffer) -> Accepted | None:
        """The server's consent, once it is complete; None while more is to come.

        Raises HandshakeRejected for an answer other than 101 and HandshakeFailed for one that breaks a rule.
        """
        if self._accepted is not None:
            raise RuntimeError("the handshake is complete: what follows are frames")
        if data:  # to h11 no data means the end
            if not self._heard and data[0] == _TLS_ALERT:
                raise HandshakeFailed(f"the server speaks TLS there, not plain HTTP: try {self.url.other_scheme}")
            self._heard = True
            self._http.receive_data(bytes(data))
        return self._advance()

    def receive_eof(self) -> NoReturn:
        """The server ended the connection before it accepted. Raises HandshakeRejected or HandshakeFailed."""
        if self._rejection is not None:
            raise self._rejected()
        raise HandshakeFailed("the server closed the connection before it had answered")

    def _advance(self) -> Accepted | None:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                if self._rejection is not None:
                    raise self._rejected() from None
                detail = str(error).partition(": bytearray(")[0]
                raise HandshakeFailed(f"the server does not answer as HTTP/1.1 demands: {detail}") from None
            match event:
                case h11.InformationalResponse(status_code=HTTPStatus.SWITCHING_PROTOCOLS):
                    self._accepted = self._check(event)
                    return self._accepted
                case h11.InformationalResponse():
                    self._interim_responses += 1
                    if self._interim_responses > MAX_INTERIM_RESPONSES:
                        raise HandshakeFailed(f"the server sent more than {MAX_INTERIM_RESPONSES} interim responses")
                case h11.Response():
                    self._rejection = event
                case h11.Data():
                    self._body += event.data
                    if len(self._body) >= MAX_REJECTION_BODY_BYTES:
                        raise self._rejected()
                case h11.EndOfMessage():
                    raise self._rejected()
                case _:
                    return None

    def _rejected(self) -> HandshakeRejected:
        assert self._rejection is not None
        return HandshakeRejected(
            status=self._rejection.status_code,
            phrase=self._rejection.reason.decode("latin-1"),
            headers=_text_headers(self._rejection.headers),
            body=bytes(self._body[:MAX_REJECTION_BODY_BYTES]),
            hint=self._hint(),
        )

    def _hint(self) -> str:
        """What a server that speaks TLS says to a plain request: nginx, Apache, Go and we, each in their words."""
        assert self._rejection is not None
        is_plain_at_tls = self._rejection.status_code == HTTPStatus.BAD_REQUEST and not self.url.secure
        return f"try {self.url.other_scheme}" if is_plain_at_tls and _SPEAKS_TLS.search(self._body) else ""

    def _check(self, response: h11.InformationalResponse) -> Accepted:
        """RFC 6455 section 4.1, the six conditions after "Once the client's opening handshake has been sent"."""
        headers = _text_headers(response.headers)
        if list_tokens(headers, "upgrade") != ("websocket",):
            raise HandshakeFailed("the server's 101 must have Upgrade: websocket")
        if "upgrade" not in list_tokens(headers, "connection"):
            raise HandshakeFailed("the server's 101 must have Connection: Upgrade")
        accepts = [value for name, value in headers if name == "sec-websocket-accept"]
        if accepts != [accept_key(self._key)]:
            raise HandshakeFailed("the server's Sec-WebSocket-Accept does not answer our key")
        subprotocols = [value for name, value in headers if name == "sec-websocket-protocol"]
        if len(subprotocols) > 1 or any(value not in self._subprotocols for value in subprotocols):
            raise HandshakeFailed(
                f"the server chose the subprotocol {shown(', '.join(subprotocols))}, which is not one of those offered"
            )
        try:
            extensions = parse_extensions([value for name, value in headers if name == "sec-websocket-extensions"])
        except ValueError as error:
            raise HandshakeFailed(f"the server's Sec-WebSocket-Extensions cannot be read: {error}") from None
        offered = {offer.name for offer in self._extensions}
        for extension in extensions:
            if extension.name not in offered:
                raise HandshakeFailed(f"the server uses the extension {shown(extension.name)}, which was not offered")
        return Accepted(subprotocol=subprotocols[0] if subprotocols else None, extensions=extensions, headers=headers)


def _text_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in headers)
