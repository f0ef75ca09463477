"""What several keys must agree on: each rule looks at a whole `Config` and names the key to change.

Invariant: nothing here touches the file system (`files` does) and nothing raises; a config without findings is one
that the gateway can serve, apart from what the machine it runs on lacks.
"""

import ipaddress
from collections.abc import Iterator
from itertools import combinations

from gateway.config.access_checks import authentication_findings, logout_findings
from gateway.config.addresses import BindAddress, TcpAddress, UnixAddress
from gateway.config.document import Finding, KeyPath
from gateway.config.model import Admin, Backend, BackendTls, Config, Listener, ListenerTls, Route
from gateway.config.units import format_size

MAX_INFLATED_BYTES = 64 * 2**20
"""Inflation is bounded by `message_bytes` alone: a few kB of deflate can ask for so much memory on each connection."""

_BACKEND_ONLY = ("origins", "require_origin", "subprotocols", "delivery", "compression")
"""Keys of a route that a folder has no use for. Refused, lest somebody takes `origins` for access control of files."""

_LIMITS_OF_FILES = frozenset({"connections", "connections_per_address"})
"""Those limits that hold for downloads, and for who tells of logouts."""


def find_disagreements(config: Config) -> Iterator[Finding]:
    """Every pair of keys that contradict each other."""
    yield from _listener_findings(config)
    yield from _bind_findings(config)
    yield from _same_names(config)
    yield from _same_matches(config)
    if config.requests.line_bytes > config.requests.head_bytes:
        line, head = ("requests", "line_bytes"), ("requests", "head_bytes")
        message = f"must not be more than head_bytes, {format_size(config.requests.head_bytes)}, which contains it"
        yield Finding(path=line, message=message, also=(head,))
    has_client_ca = any(listener.tls is not None and listener.tls.client_ca for listener in config.listeners)
    for index, route in enumerate(config.routes):
        yield from _route_findings(route, ("routes", index))
        if route.authentication is not None:
            yield from authentication_findings(
                route.authentication,
                ("routes", index, "authentication"),
                origins=route.origins,
                serves_files=route.files is not None,
                has_client_ca=has_client_ca,
            )


def _listener_findings(config: Config) -> Iterator[Finding]:
    if config.admin is not None:
        yield from _socket_file_findings(config.admin, ("admin",))
        yield from _admin_findings(config.admin)
    for index, listener in enumerate(config.listeners):
        yield from _socket_file_findings(listener, ("listeners", index))
        if listener.tls is not None:
            path: KeyPath = ("listeners", index, "tls")
            yield from _pair_findings(listener.tls, path)
            if listener.tls.certificate is listener.tls.key is None and not listener.tls.certificates:
                yield Finding(path=path, message="names no certificate; set certificate and key")
            if listener.tls.client_crl is not None and listener.tls.client_ca is None:
                yield Finding(path=(*path, "client_crl"), message="needs client_ca, whose certificates it revokes")
        if listener.proxy_protocol and not config.trusted_proxies:
            message = "believes whoever connects; name the proxies in trusted_proxies"
            yield Finding(path=("listeners", index, "proxy_protocol"), message=message, also=(("trusted_proxies",),))


def _admin_findings(admin: Admin) -> Iterator[Finding]:
    has_token = admin.token is not None or bool(admin.tokens)
    is_guarded = has_token or admin.open_to_network
    if not is_guarded and isinstance(admin.bind, TcpAddress) and not _is_loopback(admin.bind.host):
        message = (
            f"{admin.bind} can be reached from outside this machine: set token or tokens, which all but the probes "
            "then need, or say open_to_network: true"
        )
        yield Finding(path=("admin", "bind"), message=message, also=(("admin", "token"), ("admin", "tokens")))
    if has_token and admin.open_to_network:
        yield Finding(path=("admin", "open_to_network"), message="does nothing beside a token; take it out")
    secrets: list[tuple[KeyPath, str]] = []
    if admin.token is not None:
        secrets.append((("admin", "token"), admin.token.get_secret_value()))
    names: dict[str, KeyPath] = {}
    seen: dict[str, KeyPath] = {}
    for index, entry in enumerate(admin.tokens):
        path: KeyPath = ("admin", "tokens", index)
        first = names.setdefault(entry.name, (*path, "name"))
        if first != (*path, "name"):
            message = f'"{entry.name}" is taken already: the log could not tell who acts'
            yield Finding(path=(*path, "name"), message=message, see=first)
        secrets.append(((*path, "token"), entry.token.get_secret_value()))
    for where, secret in secrets:
        if seen.setdefault(secret, where) != where:
            message = "is the same token as another one's: nobody could tell them apart"
            yield Finding(path=where, message=message, see=seen[secret])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _socket_file_findings(bound: Listener | Admin, path: KeyPath) -> Iterator[Finding]:
    if isinstance(bound.bind, UnixAddress):
        return
    for key, value in (("mode", bound.mode), ("owner", bound.owner), ("group", bound.group)):
        if value is not None:
            message = f"is for the file of a unix:PATH, and {bound.bind} has none"
            yield Finding(path=(*path, key), message=message, also=((*path, "bind"),))


def _pair_findings(tls: ListenerTls | BackendTls, path: KeyPath) -> Iterator[Finding]:
    if tls.certificate is not None and tls.key is None:
        message = "needs its private key; set key beside it"
        yield Finding(path=(*path, "certificate"), message=message, also=((*path, "key"),))
    if tls.key is not None and tls.certificate is None:
        message = "needs its certificate; set certificate beside it"
        yield Finding(path=(*path, "key"), message=message, also=((*path, "certificate"),))


def _bind_findings(config: Config) -> Iterator[Finding]:
    binds: list[tuple[KeyPath, BindAddress]] = [
        (("listeners", index, "bind"), listener.bind) for index, listener in enumerate(config.listeners)
    ]
    if config.admin is not None:
        binds.append((("admin", "bind"), config.admin.bind))
    for (first_path, first), (path, bind) in combinations(binds, 2):
        if _collide(first, bind):
            yield Finding(path=path, message=f"{bind} is taken already", see=first_path)


def _collide(one: BindAddress, other: BindAddress) -> bool:
    """Whether the kernel would refuse the second bind (port 0 never collides: it is another port each time)."""
    if not (isinstance(one, TcpAddress) and isinstance(other, TcpAddress)):
        return one == other
    return one.port == other.port != 0 and (one.host == other.host or _covers(one, other) or _covers(other, one))


def _covers(one: TcpAddress, other: TcpAddress) -> bool:
    """Whether `one` is the wildcard of `other`'s family."""
    try:
        first, second = ipaddress.ip_address(one.host), ipaddress.ip_address(other.host)
    except ValueError:
        return False
    return first.is_unspecified and first.version == second.version


def _same_names(config: Config) -> Iterator[Finding]:
    seen: dict[str, int] = {}
    for index, route in enumerate(config.routes):
        first = seen.setdefault(route.name, index)
        if first != index:
            message = f'"{route.name}" is taken already'
            yield Finding(path=("routes", index, "name"), message=message, see=("routes", first, "name"))


def _same_matches(config: Config) -> Iterator[Finding]:
    seen: dict[tuple[str | None, str], int] = {}
    for index, route in enumerate(config.routes):
        first = seen.setdefault((route.match.host, route.match.path), index)
        if first != index:
            what = f"{route.match.path} on {'any host' if route.match.host is None else route.match.host}"
            message, other = f"{what} is taken already", ("routes", first, "match")
            yield Finding(path=("routes", index, "match"), message=message, also=(other,), see=other)


def _route_findings(route: Route, path: KeyPath) -> Iterator[Finding]:
    present = {"backend": route.backend, "files": route.files, "logout": route.logout}
    purposes = [name for name, value in present.items() if value is not None]
    if not purposes:
        yield Finding(path=path, message="needs a backend to relay to, files to serve, or logout to hear of")
    for name in purposes[1:]:
        yield Finding(path=(*path, name), message=f"cannot stand beside {purposes[0]}; make it a route of its own")
    if route.backend is not None:
        yield from _backend_findings(route.backend, (*path, "backend"))
        yield from _choice_findings(route, route.backend, (*path, "backend"))
    if route.csp is not None and route.files is None:
        yield Finding(path=(*path, "csp"), message="is for routes with files")
    if route.logout is not None:
        yield from logout_findings(route.logout, (*path, "logout"))
        if route.authentication is not None:
            message = "does nothing on a route with logout, whose tokens say whose they are; take it out"
            yield Finding(path=(*path, "authentication"), message=message)
    if purposes and route.backend is None:
        purpose = purposes[0]
        for key in _BACKEND_ONLY:
            if key in route.model_fields_set:
                yield Finding(path=(*path, key), message=f"does nothing on a route with {purpose}; take it out")
        for key in sorted(route.limits.model_fields_set - _LIMITS_OF_FILES):
            message = f"does nothing on a route with {purpose}; take it out"
            yield Finding(path=(*path, "limits", key), message=message)
    if route.require_origin and "*" in route.origins:
        message = 'contradicts the origin "*", which lets every page in; name the origins instead'
        yield Finding(path=(*path, "require_origin"), message=message)
    limit = route.limits.message_bytes
    if route.compression.enabled and limit != "auto" and (limit is None or limit > MAX_INFLATED_BYTES):
        message = f"needs limits.message_bytes of {format_size(MAX_INFLATED_BYTES)} at most, which bounds inflation"
        yield Finding(
            path=(*path, "compression", "enabled"), message=message, also=((*path, "limits", "message_bytes"),)
        )


def _backend_findings(backend: Backend, path: KeyPath) -> Iterator[Finding]:
    if backend.proxy_protocol is not None and backend.framing == "records":
        message = "cannot precede framing records, whose OPEN names the client already"
        yield Finding(path=(*path, "proxy_protocol"), message=message)
    if backend.text and backend.framing != "stream":
        message = f"is for framing stream, not {backend.framing}"
        yield Finding(path=(*path, "text"), message=message)
    if backend.headers and backend.framing != "records":
        message = f"needs framing records; {backend.framing} cannot carry them"
        yield Finding(path=(*path, "headers"), message=message, also=((*path, "framing"),))
    if backend.tls is not None:
        yield from _pair_findings(backend.tls, (*path, "tls"))
        speaks_tls = backend.endpoint_from is not None and backend.endpoint_from.tls
        if not speaks_tls and not any(endpoint.tls for endpoint in backend.endpoints):
            message = "is for tls:// endpoints, of which there is none"
            yield Finding(path=(*path, "tls"), message=message, also=((*path, "endpoints"),))
    for index, endpoint in enumerate(backend.endpoints):
        first = backend.endpoints.index(endpoint)
        if first != index:
            other = (*path, "endpoints", first)
            yield Finding(path=(*path, "endpoints", index), message=f"{endpoint} stands here already", see=other)


def _choice_findings(route: Route, backend: Backend, path: KeyPath) -> Iterator[Finding]:
    choice = backend.endpoint_from
    where: KeyPath = (*path, "endpoint_from")
    if choice is None:
        if not backend.endpoints:
            yield Finding(path=path, message="needs endpoints, or endpoint_from")
    else:
        if backend.endpoints:
            message = "cannot stand beside endpoints: the client's own endpoint is the only one it may have"
            yield Finding(path=where, message=message, also=((*path, "endpoints"),))
        if (choice.claim is None) == (choice.file is None):
            found = "none" if choice.claim is None else "claim and file"
            yield Finding(path=where, message=f"must have exactly one of claim, file, not {found}")
        if choice.claim is not None and route.authentication is None:
            message = "needs authentication beside it, which says what is claimed"
            yield Finding(path=(*where, "claim"), message=message)
        credential = None if route.authentication is None else route.authentication.credential
        if choice.file is not None and credential is not None and credential.query == choice.parameter:
            message = f'"{choice.parameter}" is the query parameter of the credential already; name another one'
            yield Finding(path=(*where, "parameter"), message=message)
        for index, allowed in enumerate(choice.allow):
            if not allowed.hosts and not allowed.networks:
                yield Finding(path=(*where, "allow", index), message="needs hosts, networks or both")
    if backend.proxy_protocol_entries:
        entries: KeyPath = (*path, "proxy_protocol_entries")
        if backend.proxy_protocol is None:
            yield Finding(path=entries, message="are for proxy_protocol: v2")
        if route.authentication is None:
            yield Finding(path=entries, message="need authentication beside backend, which says who a client is")
        types = [entry.type for entry in backend.proxy_protocol_entries]
        for index, entry in enumerate(backend.proxy_protocol_entries):
            if (first := types.index(entry.type)) != index:
                message = f"{entry.type:#04X} is taken already".replace("0X", "0x")
                yield Finding(path=(*entries, index, "type"), message=message, see=(*entries, first, "type"))
