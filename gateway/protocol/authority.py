"""Host and port as they stand in a URL, a Host header or an Origin, in one canonical form.

Invariant: two authorities name the same host exactly when their `host` strings are equal; nothing that could be read
in two ways (user information, an escape, a host like `127.1`) becomes an `Authority`.
"""

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import idna

MAX_HOST_CHARACTERS: Final = 253
"""The longest name that fits the DNS (RFC 1035 section 2.3.4, without the root's empty label)."""

KNOWN_AUTHORITIES: Final = 1024
"""So many are remembered, none longer than any that is valid: a request's host is looked at several times, and mostly
it is that of the request before. What is none is looked at again."""

_MAX_AUTHORITY_CHARACTERS: Final = MAX_HOST_CHARACTERS + len("[].:65535")

_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}")
_PORT: Final = re.compile(r"[0-9]{0,5}")
_NUMERIC_LABEL: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A host, lower-case ASCII without brackets or a trailing dot, and the port if one was written."""

    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse_authority(text: str, *, international: bool = False) -> Authority:
    """The canonical form of `host[:port]`, whose host is a DNS name, an IPv4 address or an IPv6 address in brackets.

    `international` admits a name outside ASCII, which becomes its A-labels (UTS 46): what people write in a
    configuration or an address bar, never what comes in a header. Raises ValueError, whose text says what is wrong.
    """
    if len(text) <= _MAX_AUTHORITY_CHARACTERS:
        return _parse_known(text, international)
    return _parse(text, international)


def _parse(text: str, international: bool) -> Authority:
    if "@" in text:
        raise ValueError("user information (before an @) does not belong here")
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("an IPv6 address stands in brackets, with at most a :port after them")
        return Authority(host=_ipv6(address), port=_port(rest[1:]))
    name, _, port = text.partition(":")
    if ":" in port:
        raise ValueError("an IPv6 address stands in brackets, as in [::1]:8080")
    return Authority(host=_name_or_ipv4(name, international=international), port=_port(port))


_parse_known: Final = lru_cache(KNOWN_AUTHORITIES)(_parse)


def _ipv6(text: str) -> str:
    if "%" in text:
        raise ValueError("an IPv6 zone means nothing to others")
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError("what stands in brackets is no IPv6 address") from None


def _name_or_ipv4(text: str, *, international: bool) -> str:
    name = text
    if not name.isascii():
        if not international:
            raise ValueError("a host name is sent in ASCII (xn-- for other letters)")
        try:
            name = idna.encode(name, uts46=True, std3_rules=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"no valid international host name: {error}") from None
    # The dot of the DNS root changes nothing for a browser's user, so it must not make another origin here.
    name = name.lower().removesuffix(".")
    if not name:
        raise ValueError("the host is empty")
    if len(name) > MAX_HOST_CHARACTERS:
        raise ValueError(f"the host is longer than {MAX_HOST_CHARACTERS} characters")
    labels = name.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise ValueError("a host name is letters, digits and hyphens between single dots")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        # Such a name is an IPv4 address to browsers (WHATWG URL, "ends in a number"), also as 127.1 or 0x7f.0.0.1.
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise ValueError("an IPv4 address is four decimal numbers up to 255") from None
    return name


def _port(text: str) -> int | None:
    # RFC 3986 section 3.2.3: the port may be empty, which is the same as none.
    if not text:
        return None
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ValueError("the port is a number up to 65535")
    return int(text)
