"""HTTP/1.1 as a gateway for WebSockets needs it: heads in, responses out; long, for usual heads have a short way.

Invariant: a `Request` that leaves the reader is a GET or HEAD in origin-form, without a body, from a client whose Host
is valid, and its path means the same to every reader: no dot segments, no encoded slash, no control characters. A
target in absolute-form has been taken apart: its authority stands in the place of Host. Other methods, and bodies with
POST, come through only where the reader was told to take them.

h11 parses, but for the heads that nearly all clients send, which leave nothing to interpret; what these are is so
narrow that h11 would read them in the same way, and all else is h11's to judge. What stands here are the limits, which
hold however the head was cut into reads, and the strictness that a proxy owes to those around it: what h11 would repair
(a bare LF, a folded line) another server may read in another way, so it is refused. Bodies are refused as well, but for
those of POST where something takes one; then their length is told before they begin: of two ways to say it (RFC 9112
section 6.3) only one is taken.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from typing import Final, Self, TypeAlias
from urllib.parse import unquote_to_bytes

import h11

from gateway.errors import HandshakeRefused
from gateway.protocol.authority import parse_authority
from gateway.protocol.pieces import Buffer

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""(lower-case name, value) in the order sent; values are decoded as Latin-1, so that no byte is lost."""

MAX_REQUEST_LINE_BYTES: Final = 8 * 1024
"""What nginx and Apache take by default; a longer URL would have been refused before it came here."""

MAX_HEAD_BYTES: Final = 16 * 1024
"""h11's own limit: room for a few 4 KiB cookies; it bounds what a client without any right can make us hold."""

METHODS: Final = ("GET", "HEAD")

_SHOWN_CHARACTERS: Final = 120

_AMBIGUOUS_LINE: Final = re.compile(rb"(?<!\r)\n|\n[ \t]")
"""A line that ends in a bare LF (RFC 9112 section 2.2) or that is folded (section 5.2)."""

_METHOD_START: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
TLS_HANDSHAKE: Final = 0x16
"""The first byte of a TLS connection: a record of type handshake (RFC 8446 section 5.1)."""

_PROXY_V1: Final = b"PROXY "
"""How a connection begins that names its client by the PROXY protocol; version 2 begins with two empty lines."""

NOT_HTTP: Final = "this is not HTTP: a request begins with its method"
PROXY_HEADER_UNEXPECTED: Final = "a PROXY protocol header is not expected at this port (proxy_protocol: true)"

_ABSOLUTE: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)(.*)", re.DOTALL)
_TARGET_SCHEMES: Final = ("http", "https", "ws", "wss")

_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VISIBLE: Final = re.compile(rb"[!-~]+")
_UNUSUAL_BYTE: Final = re.compile(rb"[^\t\r\n -~\x80-\xff]")
_NEVER_IN_FIELD: Final = re.compile(rb"[\x00\x0b\x0c]|\r(?!\n)")
"""What h11 refuses in a header line, but with a pattern that takes the square of the spaces that precede it: 1.3 s for
those of a whole head. Any other line it takes, or refuses within its name."""
_BODY_HEADERS: Final = frozenset({"content-length", "transfer-encoding"})
_PLAIN_NAME: Final = re.compile(r"[0-9A-Za-z-]+")
_PLAIN_VALUE: Final = re.compile(r"[!-~]+(?: [!-~]+)*")

_BROKEN_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SEPARATOR: Final = re.compile(r"[/\\]")


class Refusal(StrEnum):
    """Why a request is not served, as a metric's label."""

    BODY = "body"
    EXTENSION = "extension"
    HEAD_TOO_LARGE = "head_too_large"
    MALFORMED = "malformed"
    METHOD = "method"
    NO_UPGRADE = "no_upgrade"
    SUBPROTOCOL = "subprotocol"
    TARGET_TOO_LONG = "target_too_long"
    TIMEOUT = "timeout"
    VERSION = "version"


def shown(text: str) -> str:
    """Text of the peer's as it may stand in an error: quoted, ASCII, cut."""
    return ascii(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")


def plaintext_at_tls(first: bytes) -> HandshakeRefused | None:
    """The 400 for what came to a port that speaks TLS; None where it may be TLS, as whatever no request begins with.

    A plain request is answered in plain text, as nginx does: TLS would tell its sender nothing but "reset".
    """
    if not first or first[0] not in _METHOD_START:
        return None
    if first.startswith(_PROXY_V1):
        return malformed(PROXY_HEADER_UNEXPECTED)
    return malformed("this is a plain request, but this port speaks TLS: use wss:// or https:// here")


def malformed(message: str) -> HandshakeRefused:
    """The 400 for a request that breaks HTTP or RFC 6455."""
    return HandshakeRefused(message, status=400, reason=Refusal.MALFORMED)


def request_timed_out(deadline_seconds: float) -> HandshakeRefused:
    """The 408 for a head that was not complete in time."""
    return HandshakeRefused(
        f"the request head was not complete within {deadline_seconds:g} seconds",
        status=HTTPStatus.REQUEST_TIMEOUT,
        reason=Refusal.TIMEOUT,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The head of one request, as the client sent it."""

    method: str
    target: str
    """Origin-form (RFC 9112 section 3.2.1), raw: path and query."""
    path: str
    """Percent-decoded; begins with one slash."""
    raw_path: str
    query: str
    """Raw, without its question mark; empty also if there is none."""
    http_version: str
    """`1.0`, `1.1` or a later 1.x."""
    headers: Headers
    body_bytes: int = 0
    """The length of the body that follows."""
    _values: dict[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)
    """Of each header, by its name: a request is asked for them some twenty times."""

    def __post_init__(self) -> None:
        values: dict[str, list[str]] = {}
        for name, value in self.headers:
            if name in values:
                values[name].append(value)
            else:
                values[name] = [value]
        object.__setattr__(self, "_values", {name: tuple(lines) for name, lines in values.items()})

    @classmethod
    def parse(
        cls, *, method: str, target: str, http_version: str = "1.1", headers: Headers = (), body_bytes: int = 0
    ) -> Self:
        """The request with its target taken apart. Raises HandshakeRefused (400) if the target cannot be trusted."""
        raw_path, _, query = target.partition("?")
        return cls(
            method=method,
            target=target,
            path=decode_path(raw_path),
            raw_path=raw_path,
            query=query,
            http_version=http_version,
            headers=headers,
            body_bytes=body_bytes,
        )

    def get_all(self, name: str) -> tuple[str, ...]:
        """The values of all header lines with this lower-case name, in order."""
        return self._values.get(name, ())

    def get(self, name: str) -> str | None:
        """The field's value, several lines joined by commas (RFC 9110 section 5.3); None if there is none."""
        values = self.get_all(name)
        return ", ".join(values) if values else None

    def tokens(self, name: str) -> tuple[str, ...]:
        """The elements of a comma-separated list of case-insensitive tokens, in lower case."""
        values = self._values.get(name)
        return () if values is None else _elements(values)

    @property
    def host(self) -> str:
        """The Host header, valid but as it was sent; empty for an HTTP/1.0 client that sent none."""
        return self.get("host") or ""

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request on this connection."""
        return self.http_version != "1.0" and "close" not in self.tokens("connection")

    @property
    def asks_for_websocket(self) -> bool:
        """Whether this means to be a WebSocket handshake; `check_upgrade` says whether it is one."""
        return "websocket" in self.tokens("upgrade")


def list_tokens(headers: Headers, name: str) -> tuple[str, ...]:
    """The elements of all lines of a comma-separated field, in lower case, without empty ones."""
    return _elements([value for found, value in headers if found == name])


def _elements(values: Sequence[str]) -> tuple[str, ...]:
    elements = [element.strip(" \t").lower() for value in values for element in value.split(",")]
    return tuple([element for element in elements if element])


def decode_path(raw_path: str) -> str:
    """The percent-decoded path. Raises HandshakeRefused (400) for whatever two servers might read in two ways.

    Routing, a proxy's access rules and a file system must all see the same path, so dot segments are not resolved and
    encoded slashes not decoded: there is no honest need for either here.
    """
    if not raw_path.startswith("/"):
        raise malformed(f"the request target must be a path that begins with /, not {shown(raw_path)}")
    if raw_path.startswith("//"):
        # A redirect to such a path would lead to another host (RFC 3986 section 4.2).
        raise malformed("the request target begins with //, which names a host and not a path")
    if "#" in raw_path:
        raise malformed("the request target has a fragment (#), which a client keeps for itself")
    if _BROKEN_ESCAPE.search(raw_path):
        raise malformed("the path has a % that is not followed by two hexadecimal digits")
    lowered = raw_path.lower()
    if "%2f" in lowered or "%5c" in lowered:
        raise malformed("the path has an encoded slash or backslash, which servers read in different ways")
    try:
        path = unquote_to_bytes(raw_path).decode("utf-8")
    except UnicodeDecodeError:
        raise malformed("the percent-decoded path is not UTF-8") from None
    if _CONTROL.search(path):
        raise malformed("the path has an encoded control character")
    if any(segment in (".", "..") for segment in _SEPARATOR.split(path)):
        raise malformed("the path has a dot segment (. or ..); send the resolved path")
    return path


class RequestReader:
    """Reads the heads of one client's requests, one after another.

    `feed` until a `Request` comes out. If it was an upgrade, what the client sent after it is `leftover`; if it was
    answered and the connection is kept alive, `start_next` goes on with what has already come in.
    """

    def __init__(
        self,
        *,
        max_request_line_bytes: int = MAX_REQUEST_LINE_BYTES,
        max_head_bytes: int = MAX_HEAD_BYTES,
        methods: tuple[str, ...] = METHODS,
        takes_bodies: bool = False,
    ) -> None:
        """`methods`: those that are taken. `takes_bodies`: of POST; the body is what is `leftover` first, and who reads
        it reads no other request from the connection."""
        self._methods = methods
        self._takes_bodies = takes_bodies
        self._max_line = max_request_line_bytes
        self._max_head = max_head_bytes
        self._buffer = bytearray()
        self._done = False
        self._error: HandshakeRefused | None = None
        self._begin()

    def _begin(self) -> None:
        self._searched = 0
        self._line_seen = False
        self._blank_line_skipped = False

    @property
    def in_request(self) -> bool:
        """Whether the head of a request has begun and not ended: a connection that is lost now was not idle."""
        return bool(self._buffer) and not self._done

    @property
    def leftover(self) -> bytes:
        """What came in after the request's head."""
        return bytes(self._buffer) if self._done else b""

    def feed(self, data: Buffer) -> Request | None:
        """The request, once its head is complete.

        Raises HandshakeRefused, and the same again ever after, as soon as it is certain that no good head will come:
        400, 405, 413, 414, 431, 501 or 505. Feeding on after a request needs `start_next` first (RuntimeError).
        """
        if self._done:
            raise RuntimeError("a request is still being answered: call start_next before feeding on")
        if self._error is not None:
            raise self._error
        self._buffer += data
        return self._next()

    def start_next(self) -> Request | None:
        """Begin the next request of a connection that is kept alive; it may be here already. Raises as `feed` does."""
        if not self._done:
            raise RuntimeError("no request has been read yet")
        self._done = False
        self._begin()
        return self._next()

    def _next(self) -> Request | None:
        try:
            length = self._find_head()
            if length is None:
                return None
            head = bytes(self._buffer[:length])
            del self._buffer[:length]
            request = _parse_head(head, self._methods, takes_bodies=self._takes_bodies)
        except HandshakeRefused as error:
            self._error = error
            self._buffer.clear()
            raise
        self._done = True
        return request

    def _find_head(self) -> int | None:
        """The length of the complete head, or None. Of several faults the one that stands first is raised."""
        buffer = self._buffer
        # RFC 9112 section 2.2: a server should ignore an empty line before the request line.
        if not self._blank_line_skipped and buffer.startswith(b"\r\n"):
            del buffer[:2]
            self._blank_line_skipped = True
        if not buffer or (buffer == b"\r" and not self._blank_line_skipped):
            return None
        if buffer[0] not in _METHOD_START:
            if buffer[0] == TLS_HANDSHAKE:
                raise malformed("this looks like TLS, but this port speaks plain HTTP: use ws:// or http:// here")
            raise malformed(NOT_HTTP if buffer[0] != ord("\r") else f"{NOT_HTTP}; {PROXY_HEADER_UNEXPECTED}")
        if buffer.startswith(_PROXY_V1):
            raise malformed(PROXY_HEADER_UNEXPECTED)
        resume = max(0, self._searched - 3)
        if not self._line_seen:
            self._line_seen = buffer.find(b"\r\n", resume, self._max_line + 2) >= 0
        horizon = self._max_head if self._line_seen else min(self._max_line + 2, self._max_head)
        end = buffer.find(b"\r\n\r\n", resume, horizon)
        stop = end + 4 if end >= 0 else min(len(buffer), horizon)
        if _AMBIGUOUS_LINE.search(buffer, resume, stop):
            raise malformed("every line of a request head ends in CRLF and none is folded")
        if end >= 0:
            return stop
        if len(buffer) >= horizon:
            if not self._line_seen:
                raise HandshakeRefused(
                    f"the request line is longer than {self._max_line} bytes",
                    status=HTTPStatus.REQUEST_URI_TOO_LONG,
                    reason=Refusal.TARGET_TOO_LONG,
                )
            raise HandshakeRefused(
                f"the request head is longer than {self._max_head} bytes",
                status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                reason=Refusal.HEAD_TOO_LARGE,
            )
        self._searched = len(buffer)
        return None


def _parse_usual(head: bytes) -> Request | None:
    """The request of a head that leaves nothing to interpret: a GET in HTTP/1.1 of a path, with one Host and no body.

    None: it is not so plain, and h11 shall say what it is. Raises HandshakeRefused for what is wrong with path or Host.
    """
    lines = head[:-4].split(b"\r\n")
    if head.count(b"\r") != len(lines) + 1 or _UNUSUAL_BYTE.search(head) is not None:
        return None
    words = lines[0].split(b" ")
    if len(words) != 3 or words[0] != b"GET" or words[2] != b"HTTP/1.1":
        return None
    target = words[1]
    if not target.startswith(b"/") or _VISIBLE.fullmatch(target) is None:
        return None
    headers = []
    hosts = 0
    for line in lines[1:]:
        raw_name, _, value = line.partition(b":")
        if _TOKEN.fullmatch(raw_name) is None or len(raw_name) == len(line):
            return None
        name = raw_name.decode("ascii").lower()
        if name in _BODY_HEADERS:
            return None
        hosts += name == "host"
        headers.append((name, value.strip(b" \t").decode("latin-1")))
    if hosts != 1:
        return None
    request = Request.parse(method="GET", target=target.decode("ascii"), headers=tuple(headers))
    _check_host(request.host)
    return request


def _parse_head(head: bytes, methods: tuple[str, ...], *, takes_bodies: bool) -> Request:
    if "GET" in methods and (usual := _parse_usual(head)) is not None:
        return usual
    return _parse_any(head, methods, takes_bodies=takes_bodies)


def _parse_any(head: bytes, methods: tuple[str, ...], *, takes_bodies: bool) -> Request:
    if _NEVER_IN_FIELD.search(head, head.find(b"\r\n")) is not None:
        raise malformed("malformed request head: illegal header line")
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    connection.receive_data(head)
    try:
        event = connection.next_event()
    except h11.RemoteProtocolError as error:
        # h11 appends the offending bytes, which the client knows and a log does not want.
        detail = str(error).partition(": bytearray(")[0]
        status = error.error_status_hint
        reason = Refusal.BODY if status == HTTPStatus.NOT_IMPLEMENTED else Refusal.MALFORMED
        raise HandshakeRefused(f"malformed request head: {detail}", status=status, reason=reason) from None
    assert isinstance(event, h11.Request)
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in event.headers)
    method = event.method.decode("ascii")
    version = event.http_version.decode("ascii")
    fields = dict(headers)
    if not version.startswith("1."):
        raise HandshakeRefused(
            f"this port speaks HTTP/1.1, not HTTP/{version}",
            status=HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
            reason=Refusal.VERSION,
        )
    if method not in methods:
        raise HandshakeRefused(
            f"only {', '.join(methods[:-1])} and {methods[-1]} are served here, not {shown(method)}",
            status=HTTPStatus.METHOD_NOT_ALLOWED,
            reason=Refusal.METHOD,
            headers=(("Allow", ", ".join(methods)),),
        )
    body_bytes = int(fields.get("content-length", "0"))
    if takes_bodies and method == "POST":
        if "transfer-encoding" in fields:
            raise HandshakeRefused(
                "a body must come with a Content-Length, not with Transfer-Encoding",
                status=HTTPStatus.LENGTH_REQUIRED,
                reason=Refusal.BODY,
            )
    elif "transfer-encoding" in fields or body_bytes > 0:
        raise HandshakeRefused(
            "a request here has no body: send neither Transfer-Encoding nor a Content-Length other than 0",
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            reason=Refusal.BODY,
        )
    if "host" in fields or version != "1.0":
        _check_host(fields.get("host", ""))
    target, headers = _origin_form(event.target.decode("ascii"), headers)
    return Request.parse(method=method, target=target, http_version=version, headers=headers, body_bytes=body_bytes)


def _origin_form(target: str, headers: Headers) -> tuple[str, Headers]:
    """A target in absolute-form as path and query, its authority in place of Host (RFC 9112 section 3.2.2).

    Its scheme says nothing that the connection does not say better.
    """
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return target, headers
    scheme, authority, rest = absolute.groups()
    if scheme.lower() not in _TARGET_SCHEMES:
        raise malformed(f"the request target {shown(target)} is a URL of another scheme than http and https")
    try:
        parse_authority(authority)
    except ValueError as error:
        raise malformed(f"the request target {shown(target)} names no host: {error}") from None
    # RFC 9110 section 4.2.3: an empty path of such a URL is the same as /.
    path = rest if rest.startswith("/") else f"/{rest}"
    return path, (("host", authority), *((name, value) for name, value in headers if name != "host"))


def _check_host(host: str) -> None:
    # RFC 9112 section 3.2: an invalid Host must be answered with 400. That it stands once, h11 has checked for 1.1.
    try:
        parse_authority(host)
    except ValueError as error:
        raise malformed(f"the Host header {shown(host)} is not host or host:port: {error}") from None


# --- responses ----------------------------------------------------------------------------------------------------


def _is_plain(field: tuple[str, str]) -> bool:
    name, value = field
    if _PLAIN_NAME.fullmatch(name) is None or name.lower() in _BODY_HEADERS:
        return False
    return _PLAIN_VALUE.fullmatch(value) is not None


_SWITCHING: Final = "HTTP/1.1 101 Switching Protocols\r\n"


def response_head(
    status: int,
    headers: Sequence[tuple[str, str]] = (),
    *,
    content_length: int | None = None,
    keep_alive: bool = False,
) -> bytes:
    """A response up to its blank line, checked by h11. Raises ValueError for a header that could split the response.

    Whatever h11 accepts is one line, so a value that came from outside cannot smuggle in another. A 101 of visible
    characters and single spaces needs no more looking at.
    """
    fields = list(headers)
    if status == HTTPStatus.SWITCHING_PROTOCOLS and content_length is None and all(map(_is_plain, fields)):
        return "".join([_SWITCHING, *[f"{name}: {value}\r\n" for name, value in fields], "\r\n"]).encode("ascii")
    if content_length is not None:
        fields.append(("Content-Length", str(content_length)))
    if status != HTTPStatus.SWITCHING_PROTOCOLS and not keep_alive:
        # RFC 9110 section 7.8: whoever sends Upgrade also names it in Connection.
        upgrades = any(name.lower() == "upgrade" for name, _ in fields)
        fields.append(("Connection", "Upgrade, close" if upgrades else "close"))
    kind = h11.Response if status >= 200 else h11.InformationalResponse
    try:
        event = kind(status_code=status, headers=fields, reason=_phrase(status))
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise ValueError(f"not a valid HTTP response: {error}") from None
    lines = [b"HTTP/1.1 %d %s\r\n" % (event.status_code, event.reason)]
    lines += [b"%s: %s\r\n" % field for field in event.headers.raw_items()]
    return b"".join(lines) + b"\r\n"


def http_response(
    status: int,
    body: bytes = b"",
    headers: Sequence[tuple[str, str]] = (),
    *,
    head_only: bool = False,
    keep_alive: bool = False,
) -> bytes:
    """A whole response. `head_only` leaves the body out but tells its length, as the answer to HEAD does."""
    # RFC 9110 section 8.6: no Content-Length with 204; with 304 it would be that of the file.
    bodiless = status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
    head = response_head(status, headers, content_length=None if bodiless else len(body), keep_alive=keep_alive)
    return head if head_only or bodiless else head + body


def refusal_response(error: HandshakeRefused, extra: Headers = (), *, head_only: bool = False) -> bytes:
    """The answer to a request that is not served: one line of text that says why, and the connection's end."""
    headers = (
        *extra,
        *error.headers,
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    )
    return http_response(error.status, f"{error}\n".encode(), headers, head_only=head_only)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
