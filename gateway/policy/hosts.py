"""Which hosts are ours: against DNS rebinding, where the attacker's own name leads to us.

Invariant: a name is ours only because the operator wrote it down. An address and `localhost` need nobody's word: no
DNS answer makes a browser send them for somebody else's name.

By rebinding, a page of evil.example resolves its own name anew, to an address of ours, and is then of the same origin
as what answers there; the Host header still has that name.
"""

import ipaddress
from collections.abc import Iterable
from typing import Final

from gateway.policy.routing import parse_host_pattern
from gateway.protocol.authority import parse_authority

LOCALHOST: Final = "localhost"


class OwnHosts:
    """The hosts by which clients know this gateway."""

    def __init__(self, named: Iterable[str] = (), routed: Iterable[str] = ()) -> None:
        """`named`: all that there are; empty: nobody has said. `routed`: what routes match.

        Raises ValueError for a pattern that is none.
        """
        self._named: Final = frozenset(map(parse_host_pattern, named))
        self._known: Final = self._named or frozenset(map(parse_host_pattern, routed))

    def answers_to(self, host: str) -> bool:
        """Whether a request with this Host header is for us; where nobody has said, every one is."""
        return not self._named or self.has(host)

    def has(self, host: str) -> bool:
        """Whether the host, as in a Host header, is certainly ours: an address, localhost, or one that is named."""
        try:
            name = parse_authority(host).host
        except ValueError:
            return False
        return _needs_no_word(name) or name in self._known or any(f"*.{above}" in self._known for above in _above(name))

    def has_or_is_local(self, host: str) -> bool:
        """The same, or a name without a dot, as a composition's service has.

        There are none in the public DNS (RFC 7085), so only those who have a say in this network can lead one here.
        """
        try:
            return self.has(host) or "." not in parse_authority(host).host
        except ValueError:
            return False


def _needs_no_word(name: str) -> bool:
    if name == LOCALHOST or name.endswith(f".{LOCALHOST}"):
        return True  # RFC 6761 section 6.3: browsers resolve it by themselves
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _above(name: str) -> Iterable[str]:
    _, dot, parent = name.partition(".")
    while dot:
        yield parent
        _, dot, parent = parent.partition(".")
