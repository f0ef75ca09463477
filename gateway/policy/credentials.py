"""Where a request carries its credential: found, and struck from what goes on.

Invariant: there is one credential or none; a request with two that differ, or with one place filled twice, means
different things to different readers and is refused. What was found is in no header, cookie, query or subprotocol of
the request that goes on, and never in the text of an error.
"""

import base64
import binascii
import re
from dataclasses import dataclass, replace
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from gateway.protocol.http import Headers, Request, malformed

_BEARER: Final = re.compile(r"bearer +(\S+) *", re.IGNORECASE)
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""RFC 6750 section 2.1; whatever else a credential may be made of, it is no space and no control character."""

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+")


class Places(Protocol):
    """The places that a route looks at."""

    @property
    def header(self) -> bool:
        """`Authorization: Bearer`."""
        ...

    @property
    def cookie(self) -> str | None:
        """The cookie of this name."""
        ...

    @property
    def query(self) -> str | None:
        """The query parameter of this name."""
        ...

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol with this prefix."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a client showed."""

    value: str
    from_cookie: bool = False
    """A browser sends it from any page, whether the page's author knows it or not."""

    def __repr__(self) -> str:
        return f"Credential(value=..., from_cookie={self.from_cookie})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A request taken apart."""

    credential: Credential | None
    request: Request
    """Without the credential, wherever it stood."""


def take_credential(request: Request, places: Places) -> Shown:
    """Finds and strikes the credential. Raises HandshakeRefused (400) for several, or one that cannot be read."""
    found: list[tuple[str, str]] = []  # (place, value)
    headers = request.headers
    if places.header:
        headers, values = _from_header(headers)
        found += [("the Authorization header", value) for value in values]
    if places.subprotocol is not None:
        headers, values = _from_subprotocols(headers, places.subprotocol)
        found += [("a subprotocol", value) for value in values]
    if places.cookie is not None:
        headers, values = _from_cookies(headers, places.cookie)
        found += [("a cookie", value) for value in values]
    if places.query is not None:
        request, values = take_parameter(request, places.query)
        found += [("the query", value) for value in values]
    names = [place for place, _ in found]
    for place in dict.fromkeys(names):
        if names.count(place) > 1:
            raise malformed(f"the request has {names.count(place)} credentials in {place}, and must have one")
    if len({value for _, value in found}) > 1:
        raise malformed(f"the request has different credentials in {' and '.join(names)}, and must have one")
    for place, value in found:
        if not _TOKEN68.fullmatch(value):
            raise malformed(f"the credential in {place} is empty or has characters that no credential has")
    credential = None
    if found:
        credential = Credential(value=found[0][1], from_cookie=set(names) == {"a cookie"})
    return Shown(credential=credential, request=replace(request, headers=headers))


def take_parameter(request: Request, name: str) -> tuple[Request, list[str]]:
    """The request without the query parameter of that name, and what it had there."""
    query, values = _from_query(request.query, name)
    if not values:
        return request, []
    target = f"{request.raw_path}?{query}" if query else request.raw_path
    return replace(request, target=target, query=query), values


def _from_header(headers: Headers) -> tuple[Headers, list[str]]:
    """Every Authorization line goes; those of the scheme Bearer are credentials. Other schemes are not ours to read."""
    values: list[str] = []
    kept: list[tuple[str, str]] = []
    for name, value in headers:
        if name != "authorization":
            kept.append((name, value))
            continue
        if value.strip().lower().partition(" ")[0] == "bearer":
            found = _BEARER.fullmatch(value.strip() + " ")
            values.append(found[1] if found else "")
        else:
            kept.append((name, value))
    return tuple(kept), values


def _from_subprotocols(headers: Headers, prefix: str) -> tuple[Headers, list[str]]:
    values: list[str] = []
    kept: list[tuple[str, str]] = []
    for name, value in headers:
        if name != "sec-websocket-protocol":
            kept.append((name, value))
            continue
        offered = [element.strip(" \t") for element in value.split(",")]
        values += [_decoded(element.removeprefix(prefix)) for element in offered if element.startswith(prefix)]
        rest = [element for element in offered if not element.startswith(prefix)]
        if rest:
            kept.append((name, ", ".join(rest)))
    return tuple(kept), values


def _decoded(text: str) -> str:
    """The text in base64url without padding; empty for what is none. Kubernetes takes no padding either."""
    if not _BASE64URL.fullmatch(text):
        return ""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        return ""


def _from_cookies(headers: Headers, wanted: str) -> tuple[Headers, list[str]]:
    """RFC 6265 section 4.2: names are case-sensitive, and a value may stand in quotes."""
    values: list[str] = []
    kept: list[tuple[str, str]] = []
    for name, value in headers:
        if name != "cookie":
            kept.append((name, value))
            continue
        rest: list[str] = []
        for pair in value.split(";"):
            key, separator, content = pair.strip(" \t").partition("=")
            if separator and key.strip(" \t") == wanted:
                content = content.strip(" \t")
                quoted = len(content) > 1 and content[0] == content[-1] == '"'
                values.append(content[1:-1] if quoted else content)
            elif pair.strip(" \t"):
                rest.append(pair.strip(" \t"))
        if rest:
            kept.append((name, "; ".join(rest)))
    return tuple(kept), values


def _from_query(query: str, wanted: str) -> tuple[str, list[str]]:
    """Parameter names are compared decoded, so that no spelling of the name hides a credential from the striking."""
    values: list[str] = []
    kept: list[str] = []
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if _form_decoded(key) == wanted:
            values.append(_form_decoded(value))
        else:
            kept.append(part)
    return "&".join(kept), values


def _form_decoded(text: str) -> str:
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "replace")
