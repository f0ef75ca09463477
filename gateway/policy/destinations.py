"""Where a client may be led: the endpoint that a claim or a token names, and the list of those that are allowed.

Invariant: what is compared with the list is what is dialled. A destination is read once, into its canonical form;
whatever could be read in two ways (`127.1`, a name with a zone, user information) is none, and no name is looked up to
see whether its address would be allowed.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from gateway.protocol.authority import Authority, parse_authority

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_CHARACTERS: Final = 300
"""The longest host there is, a port and brackets."""


class AllowedDestinations(Protocol):
    """One entry of the list."""

    @property
    def hosts(self) -> Sequence[str]:
        """Names, `*.` before a domain for all names below it; in the form of `parse_host_pattern`."""
        ...

    @property
    def networks(self) -> Sequence[Network]:
        """Of addresses; with `hosts`, of the addresses that those names lead to."""
        ...

    @property
    def ports(self) -> Sequence[tuple[int, int]]:
        """First and last of each range."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """An endpoint that is allowed."""

    host: str
    """A name or an address in canonical form, without brackets."""
    port: int
    networks: tuple[Network, ...] | None
    """For a name: where its addresses must be in; None: anywhere."""

    def __str__(self) -> str:
        return str(Authority(host=self.host, port=self.port))

    def permits(self, address: str) -> bool:
        """Whether that address, of those that its name has, may be dialled."""
        return self.networks is None or any(_holds(network, _address(address)) for network in self.networks)


def find_destination(text: str, allowed: Sequence[AllowedDestinations]) -> Destination:
    """The destination that `host:port` or `[v6]:port` means. Raises ValueError, saying what is wrong with it.

    The text tells the log: a client hears none of it.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"the endpoint has {len(text)} characters, and no host and port have more than 300")
    try:
        authority = parse_authority(text)
    except ValueError as fault:
        raise ValueError(f"the endpoint {text!r} is no host:port: {fault}") from None
    if not authority.port:
        raise ValueError(f"the endpoint {text!r} has no port; it must be host:port or [v6]:port")
    address = _literal(authority)
    entries = [entry for entry in allowed if any(first <= authority.port <= last for first, last in entry.ports)]
    if address is not None:
        for entry in entries:
            if not entry.hosts and any(_holds(network, address) for network in entry.networks):
                return Destination(host=str(address), port=authority.port, networks=None)
    else:
        named = [entry for entry in entries if any(_matches(authority.host, pattern) for pattern in entry.hosts)]
        if named:
            anywhere = any(not entry.networks for entry in named)
            networks = None if anywhere else tuple(network for entry in named for network in entry.networks)
            return Destination(host=authority.host, port=authority.port, networks=networks)
    raise ValueError(f"the endpoint {text!r} is not among those that endpoint_from.allow has")


def _literal(authority: Authority) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return _address(authority.host)
    except ValueError:
        return None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """IPv4 for what is IPv4 inside IPv6 (RFC 4291 section 2.5.5.2): the kernel dials the same host by both."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return address.ipv4_mapped or address if isinstance(address, ipaddress.IPv6Address) else address


def _holds(network: Network, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.version == network.version and address in network


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern
