"""`backend.endpoint_from`: which endpoint a client is led to, and which are allowed.

Invariant: as in `model`: a model says all about its own fields, and what several must agree on is in `checks`.
"""

import ipaddress
import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from gateway.config.access import ClaimPath
from gateway.config.fields import LocalPath, Token
from gateway.config.section import Section
from gateway.policy.routing import parse_host_pattern

_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")

FIRST_ENTRY: Final = 0xE0
LAST_ENTRY: Final = 0xEF


def _ports(value: object) -> tuple[int, int]:
    if isinstance(value, tuple) and len(value) == 2:
        return value
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = _PORTS.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("must be a port such as 5900, or a range such as 5900-5999")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last <= 65535:
        raise ValueError(f"{text} is no range of ports from 1 to 65535")
    return first, last


def _format_ports(value: tuple[int, int]) -> str:
    first, last = value
    return str(first) if first == last else f"{first}-{last}"


def _host(text: str) -> str:
    pattern = parse_host_pattern(text)
    try:
        ipaddress.ip_address(pattern)
    except ValueError:
        return pattern
    raise ValueError(f'"{text}" is an address: addresses stand in networks')


def _network(value: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        return ipaddress.ip_network(str(value))
    except ValueError:
        raise ValueError(f'"{value}" is not a network such as 10.0.0.0/8 or fd00::/8') from None


Ports = Annotated[
    tuple[int, int],
    PlainValidator(_ports),
    PlainSerializer(_format_ports),
    WithJsonSchema(
        {
            "title": "ports",
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 65535},
                {"type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$"},
            ],
        }
    ),
]
"""First and last."""

Network = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    PlainValidator(_network),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "title": "network", "minLength": 1}),
]

Host = Annotated[str, AfterValidator(_host)]


class AllowedEndpoints(Section):
    """Endpoints that may be chosen: an entry has `hosts`, `networks` or both."""

    hosts: tuple[Host, ...] = ()
    """Names; `*.example.com` is every name below it. A name that is allowed may lead to any address, unless `networks`
    stand beside it."""
    networks: tuple[Network, ...] = ()
    """Addresses. Beside `hosts`: where those names may lead to. No name is looked up to see whether it is in one."""
    ports: Annotated[tuple[Ports, ...], Field(min_length=1)]
    """Ports, or ranges of them as `5900-5999`."""


class EndpointFrom(Section):
    """Each client has an endpoint of its own, as consoles of many machines do; exactly one of `claim` and `file`."""

    claim: ClaimPath | None = None
    """The claim that has it, as `host:port` or `[v6]:port`. A header of `forward`'s answer is a claim too, under its
    name in lower case, where `claim_headers` has it."""
    file: LocalPath | None = None
    """A file in websockify's format, or a folder of such files, which is read again when it changes: a line is
    `TOKEN: HOST:PORT`, and a comment begins with `#`. The token stands in the query."""
    parameter: Token = "token"
    """`file` only: the query parameter that has the token. It is struck from what a backend is told."""
    tls: bool = False
    """The endpoints speak TLS, as `tls://` ones do; `backend.tls` says how they are verified."""
    allow: Annotated[tuple[AllowedEndpoints, ...], Field(min_length=1)]
    """Whatever is in none of these is refused with 403, whoever names it."""


class ProxyEntry(Section):
    """Something of who a client is, told to a backend in its PROXY protocol header."""

    type: Annotated[int, Field(ge=FIRST_ENTRY, le=LAST_ENTRY)]
    """The entry's type (TLV), from 224 to 239 (`0xE0` to `0xEF`), which the protocol leaves to its users."""
    claim: ClaimPath
    """What it tells: `sub` is who it is; text as it is, everything else as JSON. A client that lacks it has no such
    entry, and one with whom it has more than 1 KiB is refused with 403."""
