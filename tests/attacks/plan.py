"""The attacks of `make attack`, in the order in which they run."""

from dataclasses import dataclass
from typing import Final

from tests.attacks.scene import Wave

MANY: Final = 100
"""Addresses of an attacker who has more than one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """One of them: its name on the command line, what it is in words, and the attackers that work at once."""

    name: str
    title: str
    waves: tuple[Wave, ...]


_ALONE: Final = (
    ("empty_messages", "empty messages"),
    ("one_byte_messages", "messages of one byte"),
    ("one_byte_fragments", "one message in fragments of a byte"),
    ("pings", "pings, their pongs unread"),
    ("resumes", "one session resumed again and again"),
    ("parked_sessions", "sessions begun and left"),
    ("unread_receipts", "receipts that are not read"),
    ("unread_rejects", "REJECTs that are not read"),
    ("pinging_backend", "a backend that pings and reads nothing"),
    ("deflate_bombs", "deflate bombs"),
    ("slow_heads", "request heads, a byte a second"),
    ("half_tls_handshakes", "half a ClientHello, then silence"),
    ("slow_readers", "clients that read nothing"),
    ("slow_downloads", "downloads that nobody takes"),
    ("refused_handshakes", "requests that are refused"),
    ("hello_and_hang_up", "ClientHello, and gone"),
    ("silent_connections", "4,000 silent connections"),
)

_FROM_MANY: Final = (
    "parked_sessions",
    "slow_heads",
    "half_tls_handshakes",
    "refused_handshakes",
    "hello_and_hang_up",
    "silent_connections",
)
"""Where what one address may have is not what holds them."""


def mix(connections: int | None = None) -> tuple[Wave, ...]:
    """Some of each kind at once: memory, handshakes, sessions, silence. `connections`: of each at most."""
    names = ("empty_messages", "pings", "parked_sessions", "refused_handshakes", "hello_and_hang_up", "slow_heads")
    return tuple(Wave(threat=name, connections=connections) for name in names)


_CROWD: Final = (
    Wave(threat="relayed_connections", addresses=MANY),
    Wave(threat="silent_connections", addresses=MANY),
    Wave(threat="slow_heads", addresses=MANY),
    Wave(threat="half_tls_handshakes", addresses=MANY),
)
"""4,000 that are relayed, 8,000 that are not admitted: more descriptors there are not on many a machine."""

_ATTACKS: Final = (
    *(Attack(name=name, title=title, waves=(Wave(threat=name),)) for name, title in _ALONE),
    *(
        Attack(name=f"{name}-{MANY}", title=f"{title}, {MANY} addresses", waves=(Wave(threat=name, addresses=MANY),))
        for name, title in _ALONE
        if name in _FROM_MANY
    ),
    Attack(name="mix", title="six of these at once", waves=mix()),
    Attack(name="crowd", title="4,000 relayed and 8,000 unadmitted connections", waves=_CROWD),
)

ATTACKS: Final = {attack.name: attack for attack in _ATTACKS}
