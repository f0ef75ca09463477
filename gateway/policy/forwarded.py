"""Who the client is, and what it saw, when proxies that the operator trusts stand before the gateway.

Invariant: nothing that an untrusted hop wrote is believed. The walk starts at the peer and goes from the newest entry
to older ones only as long as the hop that wrote them is trusted; the first untrusted hop is the client.

One kind of headers is believed, `Forwarded` (RFC 7239) or `X-Forwarded-For`, `-Proto` and `-Host`: a proxy that sets
one kind hands the other kind through as the client sent it. Where that says something else, the request is refused.
`X-Forwarded-Port` completes a host that was told without a port; a port beside the host goes first, for that is what
the browser asked for, while some proxies tell the port of their own listener, which another one may have mapped.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from http import HTTPStatus
from typing import Final, Literal, Self, TypeAlias, TypeVar

from gateway.errors import HandshakeRefused
from gateway.protocol.authority import parse_authority
from gateway.protocol.http import Headers, shown

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Scheme: TypeAlias = Literal["http", "https"]
Kind: TypeAlias = Literal["x-forwarded", "forwarded"]
T = TypeVar("T")

UNIX: Final = "unix"
"""In a list of trusted proxies: peers that connect over a Unix socket."""

_NAMES: Final[dict[Kind, str]] = {"x-forwarded": "X-Forwarded-*", "forwarded": "Forwarded"}

_SCHEMES: Final[dict[str, Scheme]] = {"http": "http", "ws": "http", "https": "https", "wss": "https"}

_PAIR: Final = re.compile(
    r"""[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=([!#$%&'*+.^_`|~0-9A-Za-z-]+|"(?:[^"\\]|\\.)*")[ \t]*(?=[;,]|$)"""
)
"""RFC 7239 section 4: token "=" value, where the value is a token or a quoted string."""

_ESCAPED: Final = re.compile(r"\\(.)")
_NODE: Final = re.compile(r"(?P<name>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>[0-9]{1,5}|_[A-Za-z0-9._-]+))?")
_OBFUSCATED: Final = re.compile(r"_[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientView:
    """The client, and the address it used, as far as they are known."""

    address: str | None
    """Its IP address in canonical form; None for a Unix socket and where a trusted proxy does not tell."""
    port: int | None
    scheme: Scheme
    """What it spoke to the first trusted proxy, or to us."""
    host: str
    """As in a Host header."""
    warning: str | None = None
    """Why a trusted proxy's headers were not believed, for the operator's log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Node:
    """A hop: its address, None if it is hidden (`unknown`, `_obfuscated`)."""

    address: IpAddress | None
    port: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hop:
    """What one proxy says of the hop before it; None where it says nothing."""

    node: _Node | None = None
    scheme: Scheme | None = None
    host: str | None = None
    port: int | None = None
    """Of `X-Forwarded-Port`, for a host without one."""


class _IllFormed(Exception):
    """A trusted proxy's header does not follow its grammar."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedProxies:
    """The peers whose word on their clients is taken."""

    networks: tuple[IpNetwork, ...] = ()
    unix: bool = False
    kind: Kind = "x-forwarded"
    """The headers that they set."""

    @classmethod
    def parse(cls, texts: Iterable[str], *, kind: Kind = "x-forwarded") -> Self:
        """From addresses, networks and `unix`. Raises ValueError, saying what is wrong."""
        networks: list[IpNetwork] = []
        unix = False
        for text in texts:
            if text == UNIX:
                unix = True
                continue
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError as error:
                raise ValueError(f'"{text}" is no network: {error}') from None
        return cls(networks=tuple(networks), unix=unix, kind=kind)

    def trusts(self, address: IpAddress | None) -> bool:
        """Whether this hop is one of them; None is a peer on a Unix socket."""
        if address is None:
            return self.unix
        return any(address in network for network in self.networks)

    def view(
        self, *, peer_address: str | None, peer_port: int | None, scheme: str, host: str, headers: Headers
    ) -> ClientView:
        """The client behind the peer (`peer_address` is None on a Unix socket).

        `scheme` and `host` are those of our own listener and of the Host header; they stand where no trusted proxy
        says otherwise. Headers that cannot be read leave the peer as the client, with a warning; so does the other
        kind by itself. Raises HandshakeRefused (400) where the other kind contradicts what is believed.
        """
        peer = None if peer_address is None else known_address(peer_address)
        seen = ClientView(
            address=None if peer is None else str(peer), port=peer_port, scheme=_SCHEMES[scheme], host=host
        )
        if not self.trusts(peer):
            return seen
        try:
            told = self._walk(_READERS[self.kind](headers))
        except _IllFormed as error:
            return replace(seen, warning=f"the trusted proxy {seen.address or UNIX} sent {error}")
        other: Kind = "forwarded" if self.kind == "x-forwarded" else "x-forwarded"
        try:
            unbelieved = self._walk(_READERS[other](headers))
        except _IllFormed:
            unbelieved = _Hop()  # whoever wrote it, it is not looked at
        _check_agreement(told, unbelieved, kind=self.kind)
        if told == _Hop() != unbelieved:
            problem = f"only {_NAMES[other]}, which is not believed: `forwarded` says which kind is"
            return replace(seen, warning=f"the trusted proxy {seen.address or UNIX} sent {problem}")
        if told.node is not None:
            address = told.node.address
            seen = replace(seen, address=None if address is None else str(address), port=told.node.port)
        host = _with_port(told.host or seen.host, told.port)
        return replace(seen, scheme=told.scheme or seen.scheme, host=host)

    def _walk(self, hops: Iterator[_Hop]) -> _Hop:
        """What is known of the client, from the newest hop on. Raises _IllFormed only for a hop that it needs."""
        told = _Hop()
        for hop in hops:
            # An older hop stands nearer to the client, so what it says of scheme and host goes first.
            told = _Hop(
                node=hop.node or told.node,
                scheme=hop.scheme or told.scheme,
                host=hop.host or told.host,
                port=hop.port or told.port,
            )
            if hop.node is None or hop.node.address is None or not self.trusts(hop.node.address):
                break
        return told


def _check_agreement(told: _Hop, other: _Hop, *, kind: Kind) -> None:
    """Raises HandshakeRefused where headers that are not believed say something else than those that are."""
    if told.node and other.node and told.node.address != other.node.address:
        raise _contradiction("client", kind)
    if told.scheme and other.scheme and told.scheme != other.scheme:
        raise _contradiction("scheme", kind)
    if told.host and other.host and parse_authority(told.host) != parse_authority(other.host):
        raise _contradiction("host", kind)


def _contradiction(what: str, kind: Kind) -> HandshakeRefused:
    return HandshakeRefused(
        f"Forwarded and X-Forwarded-* name another {what}: the proxy sets {_NAMES[kind]}, and must remove the others",
        status=HTTPStatus.BAD_REQUEST,
        reason="forwarded",
    )


# --- Forwarded ----------------------------------------------------------------------------------------------------


def _read_forwarded(headers: Headers) -> Iterator[_Hop]:
    """The hops, newest first, each read when it is reached; raises _IllFormed there, and not for older ones."""
    for value in reversed([value for name, value in headers if name == "forwarded"]):
        for element in reversed(_elements(value)):
            yield _Hop(
                node=_parse_node(element["for"]) if "for" in element else None,
                scheme=_parse_scheme(element["proto"]) if "proto" in element else None,
                host=_parse_host(element["host"]) if "host" in element else None,
            )


def _elements(value: str) -> list[dict[str, str]]:
    """The elements of one header line, each with its parameters by lower-case name (RFC 7239 section 4)."""
    elements: list[dict[str, str]] = []
    element: dict[str, str] = {}
    at = 0
    while at < len(value):
        if value[at] in ", \t;":
            # RFC 9110 section 5.6.1.2: a list may have empty elements.
            if value[at] == "," and element:
                elements.append(element)
                element = {}
            at += 1
            continue
        pair = _PAIR.match(value, at)
        if pair is None:
            raise _IllFormed(f"a Forwarded header that cannot be read from {shown(value[at:])} on")
        name = pair[1].lower()
        if name in element:
            raise _IllFormed(f"a Forwarded header with {shown(name)} twice in one element")
        element[name] = _ESCAPED.sub(r"\1", pair[2][1:-1]) if pair[2].startswith('"') else pair[2]
        at = pair.end()
    if element:
        elements.append(element)
    return elements


# --- X-Forwarded-* ------------------------------------------------------------------------------------------------


def _read_x_forwarded(headers: Headers) -> Iterator[_Hop]:
    """The hops, newest first, as in `_read_forwarded`.

    X-Forwarded-Proto, -Host and -Port are lists as long as X-Forwarded-For where every proxy appends, and single values
    where the newest overwrites. Of a list of another length only its newest entry is certain to be a trusted proxy's.
    """
    addresses = _list(headers, "x-forwarded-for")
    schemes = _list(headers, "x-forwarded-proto")
    hosts = _list(headers, "x-forwarded-host")
    ports = _list(headers, "x-forwarded-port")
    for age in range(max(len(addresses), 1)):
        yield _Hop(
            node=_parse_x_node(addresses[age]) if addresses else None,
            scheme=_aligned(schemes, addresses, age, _parse_scheme),
            host=_aligned(hosts, addresses, age, _parse_host),
            port=_aligned(ports, addresses, age, _parse_port),
        )


def _list(headers: Headers, name: str) -> list[str]:
    """The elements of all lines, newest first."""
    elements = [element.strip() for found, value in headers if found == name for element in value.split(",")]
    return [element for element in reversed(elements) if element]


def _aligned(values: Sequence[str], addresses: Sequence[str], age: int, parse: Callable[[str], T]) -> T | None:
    if not values:
        return None
    return parse(values[age if len(values) == len(addresses) else 0])


_READERS: Final[dict[Kind, Callable[[Headers], Iterator[_Hop]]]] = {
    "forwarded": _read_forwarded,
    "x-forwarded": _read_x_forwarded,
}


# --- nodes, schemes, hosts ----------------------------------------------------------------------------------------


def _parse_node(text: str) -> _Node:
    """A node of `Forwarded` (RFC 7239 section 6): an IPv6 address stands in brackets."""
    parts = _NODE.fullmatch(text)
    if parts is None:
        raise _IllFormed(f"the node {shown(text)}, which is no address")
    name, port = parts["name"], parts["port"]
    if name == "unknown" or _OBFUSCATED.fullmatch(name):
        return _Node(address=None)
    number = int(port) if port is not None and not port.startswith("_") else None
    if number is not None and number > 65535:
        raise _IllFormed(f"the node {shown(text)}, whose port is beyond 65535")
    try:
        if name.startswith("["):
            address: IpAddress = ipaddress.IPv6Address(name[1:-1])
        else:
            address = ipaddress.IPv4Address(name)
    except ValueError:
        raise _IllFormed(f"the node {shown(text)}, which is no address") from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise _IllFormed(f"the node {shown(text)}, whose zone means nothing here")
    return _Node(address=unmapped(address), port=number)


def _parse_x_node(text: str) -> _Node:
    """An entry of X-Forwarded-For: as a node, but IPv6 mostly stands without brackets."""
    return _parse_node(f"[{text}]" if text.count(":") > 1 and not text.startswith("[") else text)


def _parse_scheme(text: str) -> Scheme:
    scheme = _SCHEMES.get(text.lower())
    if scheme is None:
        raise _IllFormed(f"the scheme {shown(text)}, which is neither http nor https")
    return scheme


def _parse_host(text: str) -> str:
    try:
        parse_authority(text)
    except ValueError as error:
        raise _IllFormed(f"the host {shown(text)}: {error}") from None
    return text


def _parse_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) <= 65535:
        raise _IllFormed(f"the port {shown(text)}, which is no number from 1 to 65535")
    return int(text)


def _with_port(host: str, port: int | None) -> str:
    """`host` with `port`, where it has none of its own; as it is where it is none."""
    try:
        authority = parse_authority(host)
    except ValueError:
        return host
    return host if port is None or authority.port is not None else f"{host.removesuffix(':')}:{port}"


KNOWN_ADDRESSES: Final = 4096
"""So many are remembered as what they were parsed to."""


@lru_cache(KNOWN_ADDRESSES)
def known_address(text: str) -> IpAddress:
    """The address that the kernel gave as text, IPv4 never as `::ffff:`. Raises ValueError."""
    return unmapped(ipaddress.ip_address(text))


def unmapped(address: IpAddress) -> IpAddress:
    """A dual-stack socket shows IPv4 peers as ::ffff:a.b.c.d; they are the same clients."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
