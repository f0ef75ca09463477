"""Which route a request takes: the most specific one whose host and path match.

Invariant: a request has at most one route, whatever the order of the configuration: no two routes have the same
pattern, and of those that match, the host decides before the path.

    host   chat.example.com   before   *.example.com (the longer one first)   before   any host
    path   /chat              before   /chat/* (the longer one first)         before   /*

A host whose routes do not match the path gives way to the next one.
"""

from collections.abc import Iterable
from typing import Final, Generic, Protocol, TypeVar

from gateway.protocol.authority import parse_authority

ANY_PATH: Final = "/*"


class Pattern(Protocol):
    """What a route matches."""

    @property
    def path(self) -> str:
        """An exact path, or a prefix that ends in `/*`."""
        ...

    @property
    def host(self) -> str | None:
        """A host, `*.` and a domain for all names below it, or None for any."""
        ...


class Routable(Protocol):
    """Anything with a `match`."""

    @property
    def match(self) -> Pattern:
        """What the route matches."""
        ...


R = TypeVar("R", bound=Routable)


def parse_host_pattern(text: str) -> str:
    """The canonical form of `chat.example.com` or `*.example.com`. Raises ValueError, saying what is wrong."""
    wildcard = text.startswith("*.")
    try:
        authority = parse_authority(text.removeprefix("*."), international=True)
    except ValueError as error:
        raise ValueError(f'"{text}" is no host: {error}') from None
    if authority.port is not None:
        raise ValueError(f'"{text}" has a port; routes match on every port')
    return f"*.{authority.host}" if wildcard else authority.host


def parse_path_pattern(text: str) -> str:
    """`/chat` or `/chat/*` as it is. Raises ValueError, saying what is wrong."""
    if not text.startswith("/") or text.startswith("//"):
        raise ValueError(f'"{text}" is no path: it begins with one /')
    if "*" in text.removesuffix("/*"):
        raise ValueError(f'"{text}" may have a * only at its end, as in /chat/*')
    return text


class _Paths(Generic[R]):
    """The routes of one host pattern."""

    def __init__(self) -> None:
        self._exact: Final[dict[str, R]] = {}
        self._prefixes: Final[list[tuple[str, R]]] = []

    def add(self, pattern: str, route: R) -> bool:
        """Whether the pattern was new."""
        if not pattern.endswith("/*"):
            return self._exact.setdefault(pattern, route) is route
        prefix = pattern.removesuffix("*")
        if any(known == prefix for known, _ in self._prefixes):
            return False
        self._prefixes.append((prefix, route))
        self._prefixes.sort(key=lambda item: len(item[0]), reverse=True)
        return True

    def find(self, path: str) -> R | None:
        exact = self._exact.get(path)
        if exact is not None:
            return exact
        return next((route for prefix, route in self._prefixes if path.startswith(prefix)), None)


class Router(Generic[R]):
    """Finds routes. Raises ValueError if a pattern is none or stands twice."""

    def __init__(self, routes: Iterable[R]) -> None:
        self._hosts: Final[dict[str | None, _Paths[R]]] = {}
        for route in routes:
            host = None if route.match.host is None else parse_host_pattern(route.match.host)
            path = parse_path_pattern(route.match.path)
            if not self._hosts.setdefault(host, _Paths()).add(path, route):
                raise ValueError(f"two routes match the same requests: host {host or 'any'}, path {path}")
        self._any_host: Final = self._hosts.get(None) if len(self._hosts) == 1 else None
        """Where no route asks for a host, none is looked at."""

    def match(self, host: str, path: str) -> R | None:
        """The route for a request to `host` (as in the Host header, port and all) and the decoded `path`.

        `/chat/*` takes `/chat/` and all below it, not `/chat`. A host that is none matches only routes for any host.
        """
        if self._any_host is not None:
            return self._any_host.find(path)
        for pattern in _host_patterns(host):
            paths = self._hosts.get(pattern)
            if paths is not None and (route := paths.find(path)) is not None:
                return route
        return None


def _host_patterns(host: str) -> Iterable[str | None]:
    """All patterns that match `host`, the most specific first."""
    try:
        name = parse_authority(host).host
    except ValueError:
        name = ""
    if name:
        yield name
    _, dot, parent = name.partition(".")
    while dot:
        yield f"*.{parent}"
        _, dot, parent = parent.partition(".")
    yield None
