"""Which pages may open a WebSocket: the Origin of a handshake against a route's rules.

Invariant: origins are compared as RFC 6454 section 5 says, as triples of scheme, host and port in canonical form, never
as strings; whatever is not exactly one origin is refused, under every rule.

Browsers send a page's cookies with a WebSocket to anywhere and apply no same-origin policy to it, so this check is all
that stands between a user's session and any page they open (cross-site WebSocket hijacking). It says nothing about
clients that are no browsers: they send whatever Origin they like.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from http import HTTPStatus
from typing import Final, Self, TypeAlias, assert_never

from gateway.errors import HandshakeRefused
from gateway.policy.hosts import OwnHosts
from gateway.protocol.authority import Authority, parse_authority
from gateway.protocol.http import shown

NULL: Final = "null"
"""What browsers send for an opaque origin: a sandboxed frame, a file, a redirect across origins."""

DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_ADDRESS: Final = re.compile(r"[0-9.]+|.*:.*")
_SEPARATORS: Final = re.compile(r"[ \t,]+")
_PAGE_SCHEMES: Final = {"ws": "http", "wss": "https"}

_APPLICATION_AUTHORITY: Final = re.compile(r"(?P<host>[A-Za-z0-9._~%!$&'()+;=-]*)(?::(?P<port>[0-9]{1,5}))?")
"""After a scheme that is not the web's a host is opaque (WHATWG URL, "opaque-host parser"): it may be empty, as in
`file://`, or what no DNS name is, as in Electron's `app://.` and `app://-`."""


class OriginRefusal(StrEnum):
    """Why an Origin was refused, as a metric's label."""

    MISSING = "origin_missing"
    SEVERAL = "origin_multiple"
    MALFORMED = "origin_malformed"
    NOT_ALLOWED = "origin_not_allowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A tuple origin (RFC 6454 section 4): two are the same origin exactly when they are equal."""

    scheme: str
    host: str
    """As in `Authority`: lower-case ASCII, no trailing dot, IPv6 without brackets. After an application's scheme it is
    whatever stands there, in lower case, and may be empty."""
    port: int | None
    """Never the scheme's default port, which is None like no port at all."""

    @classmethod
    def parse(cls, text: str, *, international: bool = False) -> Self:
        """The origin in `scheme://host[:port]`. Raises ValueError, saying what is wrong; `null` is no tuple origin."""
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        if not separator or not _SCHEME.fullmatch(scheme):
            raise ValueError("an origin begins with a scheme, as in https://")
        for character, name in (("/", "path"), ("?", "query"), ("#", "fragment"), ("\\", "backslash")):
            if character in rest:
                raise ValueError(f"an origin has no {name}")
        application = None if scheme in DEFAULT_PORTS else _APPLICATION_AUTHORITY.fullmatch(rest)
        if application is None:
            return cls.of(scheme, parse_authority(rest, international=international))
        port = int(application["port"]) if application["port"] else None
        if port is not None and port > 65535:
            raise ValueError("the port is a number up to 65535")
        return cls(scheme=scheme, host=application["host"].lower(), port=port)

    @classmethod
    def of(cls, scheme: str, authority: Authority) -> Self:
        """The origin of what is served at `authority`; `scheme` is lower-case."""
        port = None if authority.port == DEFAULT_PORTS.get(scheme) else authority.port
        return cls(scheme=scheme, host=authority.host, port=port)

    def __str__(self) -> str:
        return f"{self.scheme}://{Authority(host=self.host, port=self.port)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subdomains:
    """`https://*.example.com`: every name of one or more labels below the domain, not the domain itself."""

    below: Origin

    def includes(self, origin: Origin) -> bool:
        """Whether `origin` has the same scheme and port, and a host below the domain."""
        below = self.below
        return origin.scheme == below.scheme and origin.port == below.port and origin.host.endswith(f".{below.host}")


class Keyword(Enum):
    """The rules that are words."""

    SAME_ORIGIN = "same-origin"
    """The page was served from the scheme and host that the WebSocket is opened to."""
    NULL = "null"
    """Opaque origins."""
    ANY = "*"
    """Every origin, opaque ones too."""


OriginRule: TypeAlias = Origin | Subdomains | Keyword


def parse_rule(text: str) -> OriginRule:
    """The rule that an operator wrote. Raises ValueError with a text that says what to write instead."""
    for keyword in Keyword:
        if text == keyword.value:
            return keyword
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise ValueError(
            f'"{text}" is no origin: write https://example.com, app://name, file://, same-origin, "null" or "*"'
        )
    if page_scheme := _PAGE_SCHEMES.get(scheme.lower()):
        raise ValueError(f'"{text}" is a WebSocket\'s address; an origin is that of the page: {page_scheme}://{rest}')
    if "/" in rest:
        origin = rest.partition("/")[0]
        raise ValueError(f'"{text}" has a path, and an origin has none: write {scheme}://{origin}')
    wildcard = rest.startswith("*.")
    if "*" in rest.removeprefix("*."):
        raise ValueError(f'"{text}" may have a * only as the first label of its host, as in https://*.example.com')
    try:
        origin_named = Origin.parse(f"{scheme}://{rest.removeprefix('*.')}", international=True)
    except ValueError as error:
        raise ValueError(f'"{text}" is no origin: {error}') from None
    if not wildcard:
        return origin_named
    if not origin_named.host.strip("."):
        raise ValueError(f'"{text}" names no domain below which a name could be')
    if _ADDRESS.fullmatch(origin_named.host):
        raise ValueError(f'"{text}" is an address, which has no names below it')
    return Subdomains(below=origin_named)


class OriginPolicy:
    """A route's rules for the Origin of a handshake. Raises ValueError for a rule that is none."""

    def __init__(self, rules: Sequence[str], require_origin: bool = False, hosts: OwnHosts | None = None) -> None:
        """`hosts`: for which `same-origin` holds; None: for any, where somebody else has seen to the host."""
        exact: set[Origin] = set()
        keywords: set[Keyword] = set()
        subdomains: list[Subdomains] = []
        for rule in map(parse_rule, rules):
            match rule:
                case Origin():
                    exact.add(rule)
                case Subdomains():
                    subdomains.append(rule)
                case Keyword():
                    keywords.add(rule)
                case _:
                    assert_never(rule)
        self._exact: Final = frozenset(exact)
        self._keywords: Final = frozenset(keywords)
        self._subdomains: Final = tuple(subdomains)
        self._require_origin: Final = require_origin
        self._hosts: Final = hosts

    @property
    def trusts_its_host(self) -> bool:
        """Pages of the host that was connected to may come, whatever its name is."""
        return Keyword.SAME_ORIGIN in self._keywords and Keyword.ANY not in self._keywords

    def check(self, origins: Sequence[str], *, scheme: str, host: str) -> str | None:
        """The origin that was allowed, in canonical form; `null` for an opaque one, None if none was sent.

        `origins` are the values of all Origin headers. `scheme` (`http` or `https`; `ws` and `wss` mean the same) and
        `host` are those that the client connected to, as it saw them. `same-origin` holds where that host is one of
        ours, lest a page's own name that leads to us (DNS rebinding) makes it one of our pages.

        Raises HandshakeRefused (403) with an `OriginRefusal`.
        """
        if not origins:
            if self._require_origin:
                raise _refused("this address is for web pages: the request has no Origin", OriginRefusal.MISSING)
            return None
        # RFC 6454 section 7.1 allows a list in one header, and proxies join headers by commas: neither is one origin.
        if len(origins) > 1 or len(list(filter(None, _SEPARATORS.split(origins[0])))) > 1:
            raise _refused("the request has several origins, and must have one", OriginRefusal.SEVERAL)
        offered = origins[0]
        if offered == NULL:
            if self._keywords.isdisjoint((Keyword.NULL, Keyword.ANY)):
                raise _refused(
                    "the Origin null (of a sandboxed page or a file) is not allowed here", OriginRefusal.NOT_ALLOWED
                )
            return NULL
        try:
            origin = Origin.parse(offered)
        except ValueError as error:
            raise _refused(f"the Origin {shown(offered)} is no origin: {error}", OriginRefusal.MALFORMED) from None
        own = _own_origin(scheme, host) if Keyword.SAME_ORIGIN in self._keywords else None
        is_ours = self._hosts is None or self._hosts.has(host)
        if (
            Keyword.ANY in self._keywords
            or origin in self._exact
            or (is_ours and origin == own)
            or any(rule.includes(origin) for rule in self._subdomains)
        ):
            return str(origin)
        if origin == own:
            raise _refused(
                f"the Origin {shown(str(origin))} is that of this very host, which the gateway does not know for its "
                f"own: name {shown(parse_authority(host).host)} in `hosts`, in the route's match.host, or the page in "
                "its origins",
                OriginRefusal.NOT_ALLOWED,
            )
        expected = f"; the own origin of this address is {own}" if own else ""
        raise _refused(f"the Origin {shown(str(origin))} is not allowed here{expected}", OriginRefusal.NOT_ALLOWED)


def _own_origin(scheme: str, host: str) -> Origin | None:
    try:
        return Origin.of(_PAGE_SCHEMES.get(scheme, scheme), parse_authority(host))
    except ValueError:
        return None


def _refused(message: str, reason: OriginRefusal) -> HandshakeRefused:
    return HandshakeRefused(message, status=HTTPStatus.FORBIDDEN, reason=reason)
