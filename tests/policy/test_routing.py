"""Routes: the most specific one is taken, whatever the order they are written in."""

from dataclasses import dataclass
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.routing import Router, parse_host_pattern, parse_path_pattern


@dataclass(frozen=True, slots=True)
class Match:
    """What a route matches."""

    path: str = "/*"
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """The least that a router needs."""

    match: Match

    def __str__(self) -> str:
        return f"{self.match.host or ''}{self.match.path}"


def route(text: str) -> Route:
    """The route for `host/path` or `/path`."""
    host, _, path = text.partition("/")
    return Route(Match(f"/{path}", host or None))


def found(patterns: list[str], host: str, path: str) -> str | None:
    """The pattern that wins."""
    taken = Router([route(pattern) for pattern in patterns]).match(host, path)
    return None if taken is None else str(taken)


@pytest.mark.parametrize(
    ("path", "winner"),
    [
        ("/chat", "/chat"),
        ("/chat/", "/chat/*"),
        ("/chat/room", "/chat/*"),
        ("/chat/room/1", "/chat/room/*"),
        ("/chat/room/", "/chat/room/*"),
        ("/chatter", "/*"),
        ("/Chat", "/*"),
        ("/", "/*"),
        ("/chat//", "/chat/*"),
    ],
)
def test_the_most_specific_path_wins_in_any_order(path: str, winner: str) -> None:
    for patterns in permutations(["/*", "/chat", "/chat/*", "/chat/room/*"]):
        assert found(list(patterns), "example.com", path) == winner


@pytest.mark.parametrize(
    ("host", "winner"),
    [
        ("chat.example.com", "chat.example.com/*"),
        ("CHAT.Example.com.:8080", "chat.example.com/*"),
        ("a.example.com", "*.example.com/*"),
        ("a.b.example.com", "*.b.example.com/*"),
        ("b.example.com", "*.example.com/*"),
        ("example.com", "/*"),
        ("evilexample.com", "/*"),
        ("chat.example.com.evil.com", "/*"),
        ("[::1]:80", "[::1]/*"),
        ("127.0.0.1:80", "127.0.0.1/*"),
        ("xn--bcher-kva.example", "bücher.example/*"),
        ("", "/*"),
        ("a b", "/*"),
        ("user@chat.example.com", "/*"),
    ],
)
def test_the_most_specific_host_wins(host: str, winner: str) -> None:
    patterns = [
        "/*",
        "*.example.com/*",
        "*.b.example.com/*",
        "chat.example.com/*",
        "127.0.0.1/*",
        "[::1]/*",
        "bücher.example/*",
    ]
    assert found(patterns, host, "/") == winner
    assert found(patterns[::-1], host, "/") == winner


@pytest.mark.parametrize(
    ("path", "winner"),
    [("/chat", "chat.example.com/*"), ("/", "chat.example.com/*")],
)
def test_the_host_decides_before_the_path(path: str, winner: str) -> None:
    assert found(["/chat", "*.example.com/chat", "chat.example.com/*"], "chat.example.com", path) == winner


def test_a_host_without_the_path_gives_way_to_the_next() -> None:
    patterns = ["chat.example.com/chat", "*.example.com/files/*", "/status"]
    assert found(patterns, "chat.example.com", "/chat") == "chat.example.com/chat"
    assert found(patterns, "chat.example.com", "/files/a") == "*.example.com/files/*"
    assert found(patterns, "chat.example.com", "/status") == "/status"
    assert found(patterns, "chat.example.com", "/other") is None


def test_no_routes_match_nothing() -> None:
    assert Router[Route]([]).match("example.com", "/") is None


def test_a_host_alone_is_not_below_its_own_wildcard() -> None:
    assert found(["*.example.com/*"], "example.com", "/") is None


@pytest.mark.parametrize(
    "patterns",
    [
        ["/chat", "/chat"],
        ["/chat/*", "/chat/*"],
        ["/*", "/*"],
        ["a.example/x", "A.EXAMPLE./x"],
        ["*.bücher.example/*", "*.xn--bcher-kva.example/*"],
    ],
)
def test_two_routes_for_the_same_requests_are_refused(patterns: list[str]) -> None:
    with pytest.raises(ValueError, match="two routes match the same requests"):
        Router([route(pattern) for pattern in patterns])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "empty"),
        ("*", "no host"),
        ("*.", "empty"),
        ("*.*.example.com", "no host"),
        ("a.*.example.com", "no host"),
        ("example.com:80", "every port"),
        ("*.example.com:80", "every port"),
        ("https://example.com", "no host"),
        ("::1", "brackets"),
        ("exa mple.com", "no host"),
    ],
)
def test_hosts_that_are_no_pattern(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_host_pattern(text)


@pytest.mark.parametrize("text", ["", "chat", "*", "//chat", "/*/chat", "/ch*t", "/chat*", "/**", "/a/*/*"])
def test_paths_that_are_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r"no path|only at its end"):
        parse_path_pattern(text)


# --- against a slow, obvious model --------------------------------------------------------------------------------

HOST_PATTERNS = st.sampled_from([None, "a.test", "b.a.test", "*.a.test", "*.test", "*.b.a.test"])
PATH_PATTERNS = st.sampled_from(["/", "/a", "/a/", "/*", "/a/*", "/a/b/*", "/a/b", "/aa/*"])
ROUTES = st.lists(st.builds(Match, PATH_PATTERNS, HOST_PATTERNS), unique=True, max_size=12).map(
    lambda matches: [Route(match) for match in matches]
)


def rank(match: Match, host: str, path: str) -> tuple[int, int, int, int] | None:
    """How well this matches, or None."""
    if match.host is None:
        host_rank = (0, 0)
    elif match.host.startswith("*."):
        if not host.endswith(match.host[1:]):
            return None
        host_rank = (1, len(match.host))
    elif match.host == host:
        host_rank = (2, 0)
    else:
        return None
    if match.path.endswith("/*"):
        return (*host_rank, 0, len(match.path)) if path.startswith(match.path[:-1]) else None
    return (*host_rank, 1, 0) if match.path == path else None


@given(
    ROUTES,
    st.sampled_from(["a.test", "b.a.test", "c.b.a.test", "test", "x.test", "other"]),
    st.sampled_from(["/", "/a", "/a/", "/a/b", "/a/b/c", "/aa/b", "/b"]),
)
def test_the_router_agrees_with_comparing_every_route(routes: list[Route], host: str, path: str) -> None:
    ranked = [(rank(route.match, host, path), route) for route in routes]
    matching = [(score, route) for score, route in ranked if score is not None]
    best = max(matching, key=lambda item: item[0])[1] if matching else None
    assert Router(routes).match(host, path) is best
