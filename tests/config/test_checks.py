"""Rules on several keys: each contradiction is found at the key to change, and what agrees passes."""

from typing import Any

import pytest

from gateway.config import Config
from gateway.config.checks import find_disagreements
from gateway.config.loading import dotted

BACKEND = {"endpoints": ["tcp://127.0.0.1:9000"]}
LOGOUT = {
    "issuers": [{"issuer": "https://login.example.com", "discovery": True}],
    "audiences": ["chat"],
    "algorithms": ["ES256"],
}


def findings_of(**changes: Any) -> list[str]:
    """`path: message`, and the path that it points to, for a good config with top-level keys replaced."""
    config = Config.model_validate(
        {"listeners": [{"bind": "127.0.0.1:8080"}], "routes": [{"name": "chat", "backend": BACKEND}]} | changes
    )
    return [
        f"{dotted(finding.path)}: {finding.message}" + (f"; see {dotted(finding.see)}" if finding.see else "")
        for finding in find_disagreements(config)
    ]


def route_findings(**route: Any) -> list[str]:
    return [finding.removeprefix("routes[0]") for finding in findings_of(routes=[{"name": "chat"} | route])]


def test_a_config_in_order_has_no_findings() -> None:
    assert findings_of() == []


def test_permissions_are_for_socket_files() -> None:
    unix = {"bind": "unix:/run/k.sock", "mode": 0o660, "owner": "root", "group": "root"}
    assert findings_of(listeners=[unix], admin=unix | {"bind": "unix:/run/a.sock"}) == []
    assert findings_of(listeners=[{"bind": "127.0.0.1:80", "mode": 0o660, "group": "root"}]) == [
        "listeners[0].mode: is for the file of a unix:PATH, and 127.0.0.1:80 has none",
        "listeners[0].group: is for the file of a unix:PATH, and 127.0.0.1:80 has none",
    ]
    assert findings_of(admin={"bind": "127.0.0.1:90", "owner": "root"}) == [
        "admin.owner: is for the file of a unix:PATH, and 127.0.0.1:90 has none"
    ]


def test_a_request_line_is_part_of_its_head() -> None:
    assert findings_of(requests={"head_bytes": 65536, "line_bytes": 65536}) == []
    assert findings_of(requests={"head_bytes": 4096}) == [
        "requests.line_bytes: must not be more than head_bytes, 4KiB, which contains it"
    ]


@pytest.mark.parametrize(
    ("binds", "collides"),
    [
        (["127.0.0.1:80", "127.0.0.1:80"], True),
        (["127.0.0.1:80", "127.0.0.2:80"], False),
        (["127.0.0.1:80", "127.0.0.1:81"], False),
        (["127.0.0.1:0", "127.0.0.1:0"], False),
        (["0.0.0.0:80", "127.0.0.1:80"], True),
        (["127.0.0.1:80", "0.0.0.0:80"], True),
        (["[::]:80", "[::1]:80"], True),
        (["[::]:80", "0.0.0.0:80"], False),
        (["localhost:80", "localhost:80"], True),
        (["localhost:80", "0.0.0.0:80"], False),
        (["unix:/a", "unix:/a"], True),
        (["unix:/a", "unix:/b"], False),
        (["unix:/a", "127.0.0.1:80"], False),
    ],
)
def test_listeners_do_not_bind_the_same_address(binds: list[str], collides: bool) -> None:
    found = findings_of(listeners=[{"bind": bind} for bind in binds])
    assert found == ([f"listeners[1].bind: {binds[1]} is taken already; see listeners[0].bind"] if collides else [])


def test_the_admin_listener_has_an_address_of_its_own() -> None:
    assert findings_of(admin={"bind": "127.0.0.1:8080"}) == [
        "admin.bind: 127.0.0.1:8080 is taken already; see listeners[0].bind"
    ]
    assert findings_of(admin=None) == []


@pytest.mark.parametrize(
    ("tls", "findings"),
    [
        ({"certificate": "a", "key": "b"}, []),
        ({"certificates": [{"certificate": "a", "key": "b"}]}, []),
        ({}, [": names no certificate; set certificate and key"]),
        ({"certificate": "a"}, [".certificate: needs its private key; set key beside it"]),
        ({"key": "b"}, [".key: needs its certificate; set certificate beside it"]),
    ],
)
def test_a_tls_listener_has_certificates_with_keys(tls: dict[str, Any], findings: list[str]) -> None:
    found = findings_of(listeners=[{"bind": "127.0.0.1:8443", "tls": tls}])
    assert found == [f"listeners[0].tls{finding}" for finding in findings]


def test_route_names_are_unique() -> None:
    routes = [{"name": "a", "match": {"path": f"/{number}"}, "files": "."} for number in range(3)]
    assert findings_of(routes=routes) == [
        'routes[1].name: "a" is taken already; see routes[0].name',
        'routes[2].name: "a" is taken already; see routes[0].name',
    ]


def test_two_routes_do_not_match_the_same_requests() -> None:
    matches: list[dict[str, str]] = [
        {"path": "/a"},
        {"path": "/a/*"},
        {"path": "/a", "host": "x.example"},
        {"path": "/a", "host": "*.x.example"},
        {"path": "/a", "host": "X.Example."},
        {"path": "/a"},
    ]
    routes = [{"name": f"r{number}", "match": match, "files": "."} for number, match in enumerate(matches)]
    assert findings_of(routes=routes) == [
        "routes[4].match: /a on x.example is taken already; see routes[2].match",
        "routes[5].match: /a on any host is taken already; see routes[0].match",
    ]


@pytest.mark.parametrize(
    ("route", "findings"),
    [
        ({}, [": needs a backend to relay to, files to serve, or logout to hear of"]),
        ({"logout": LOGOUT, "limits": {"connections": 5}}, []),
        ({"logout": LOGOUT, "files": "."}, [".logout: cannot stand beside files; make it a route of its own"]),
        (
            {"logout": LOGOUT, "backend": BACKEND, "files": "."},
            [
                ".files: cannot stand beside backend; make it a route of its own",
                ".logout: cannot stand beside backend; make it a route of its own",
            ],
        ),
        ({"logout": LOGOUT, "csp": "default-src 'self'"}, [".csp: is for routes with files"]),
        (
            {"logout": LOGOUT, "origins": ["*"], "limits": {"message_bytes": "1KiB"}},
            [
                ".origins: does nothing on a route with logout; take it out",
                ".limits.message_bytes: does nothing on a route with logout; take it out",
            ],
        ),
        (
            {
                "logout": LOGOUT,
                "authentication": {"methods": [{"token": {"tokens": [{"subject": "a", "token": "t"}]}}]},
            },
            [".authentication: does nothing on a route with logout, whose tokens say whose they are; take it out"],
        ),
        (
            {"logout": {**LOGOUT, "issuers": [{"issuer": "i"}, {"issuer": "i", "secrets": ["short"]}]}},
            [
                ".logout.issuers[0]: must have exactly one of keys, keys_url, discovery, secrets, not none",
                ".logout.issuers[1].secrets: are for HS256, HS384 and HS512, of which algorithms has none",
                (
                    ".logout.issuers[1].secrets[0]: must have 32 bytes or more: shorter ones can be guessed from what "
                    "they signed"
                ),
                '.logout.issuers[1].issuer: "i" stands here already; see routes[0].logout.issuers[0]',
            ],
        ),
        ({"files": ".", "backend": BACKEND}, [".files: cannot stand beside backend; make it a route of its own"]),
        ({"files": ".", "csp": "default-src 'self'"}, []),
        ({"backend": BACKEND, "csp": "default-src 'self'"}, [".csp: is for routes with files"]),
        ({"files": ".", "origins": ["*"]}, [".origins: does nothing on a route with files; take it out"]),
        ({"files": ".", "compression": {}}, [".compression: does nothing on a route with files; take it out"]),
        ({"files": ".", "limits": {"connections": 5, "connections_per_address": 2}}, []),
        (
            {"files": ".", "limits": {"message_bytes": "1KiB", "frames_per_second": 5}},
            [
                ".limits.frames_per_second: does nothing on a route with files; take it out",
                ".limits.message_bytes: does nothing on a route with files; take it out",
            ],
        ),
        ({"backend": BACKEND, "require_origin": True}, []),
        (
            {"backend": BACKEND, "require_origin": True, "origins": ["*"]},
            ['.require_origin: contradicts the origin "*", which lets every page in; name the origins instead'],
        ),
    ],
)
def test_a_route_has_a_backend_or_files_and_what_goes_with_it(route: dict[str, Any], findings: list[str]) -> None:
    assert route_findings(**route) == findings


@pytest.mark.parametrize(
    ("message_bytes", "allowed"),
    [("64MiB", True), (64 * 2**20 + 1, False), (None, False), ("1B", True), ("auto", True)],
)
def test_compression_needs_a_bound_on_what_it_inflates(message_bytes: object, allowed: bool) -> None:
    found = route_findings(backend=BACKEND, compression={"enabled": True}, limits={"message_bytes": message_bytes})
    message = ".compression.enabled: needs limits.message_bytes of 64MiB at most, which bounds inflation"
    assert found == ([] if allowed else [message])
    assert route_findings(backend=BACKEND, limits={"message_bytes": message_bytes}) == []


@pytest.mark.parametrize(
    ("backend", "findings"),
    [
        ({"proxy_protocol": "v2"}, []),
        (
            {"proxy_protocol": "v2", "framing": "records"},
            [".proxy_protocol: cannot precede framing records, whose OPEN names the client already"],
        ),
        ({"text": True}, []),
        ({"text": True, "framing": "lines"}, [".text: is for framing stream, not lines"]),
        ({"headers": ["x-user"], "framing": "records"}, []),
        ({"headers": ["x-user"]}, [".headers: needs framing records; stream cannot carry them"]),
        ({"tls": {}}, [".tls: is for tls:// endpoints, of which there is none"]),
        ({"tls": {}, "endpoints": ["tcp://a:1", "tls://b:1"]}, []),
        (
            {"tls": {"certificate": "a"}, "endpoints": ["tls://b:1"]},
            [".tls.certificate: needs its private key; set key beside it"],
        ),
        (
            {"endpoints": ["tcp://a:1", "tls://a:1", "tcp://a:1"]},
            [".endpoints[2]: tcp://a:1 stands here already; see routes[0].backend.endpoints[0]"],
        ),
    ],
)
def test_a_backends_keys_fit_its_framing_and_endpoints(backend: dict[str, Any], findings: list[str]) -> None:
    assert route_findings(backend=BACKEND | backend) == [f".backend{finding}" for finding in findings]


def test_an_admin_listener_beyond_this_machine_needs_a_token_or_a_word() -> None:
    token = {"name": "ops", "token": "t"}
    told = "can be reached from outside this machine: set token or tokens, which all but the probes then need, or say"
    for bind in ("0.0.0.0:9090", "[::]:9090", "10.0.0.1:9090", "gateway.example.com:9090"):
        assert findings_of(admin={"bind": bind}) == [f"admin.bind: {bind} {told} open_to_network: true"]
        for cure in ({"token": "t"}, {"tokens": [token]}, {"open_to_network": True}):
            assert findings_of(admin={"bind": bind, **cure}) == []
    for bind in ("127.0.0.1:9090", "127.8.8.8:9090", "[::1]:9090", "localhost:9090", "unix:/run/a.sock"):
        assert findings_of(admin={"bind": bind}) == []
    assert findings_of(admin={"token": "t", "open_to_network": True}) == [
        "admin.open_to_network: does nothing beside a token; take it out"
    ]


def test_admin_tokens_are_told_apart() -> None:
    same = "is the same token as another one's: nobody could tell them apart"
    tokens = [{"name": "ops", "token": "one"}, {"name": "ops", "token": "two"}, {"name": "ci", "token": "one"}]
    assert findings_of(admin={"tokens": tokens}) == [
        'admin.tokens[1].name: "ops" is taken already: the log could not tell who acts; see admin.tokens[0].name',
        f"admin.tokens[2].token: {same}; see admin.tokens[0].token",
    ]
    assert findings_of(admin={"token": "one", "tokens": tokens[:1]}) == [
        f"admin.tokens[0].token: {same}; see admin.token"
    ]


def test_proxy_headers_are_believed_of_somebody() -> None:
    listener = {"bind": "127.0.0.1:8080", "proxy_protocol": True}
    assert findings_of(listeners=[listener]) == [
        "listeners[0].proxy_protocol: believes whoever connects; name the proxies in trusted_proxies"
    ]
    assert findings_of(listeners=[listener], trusted_proxies=["10.0.0.0/8"]) == []


def test_revocation_lists_are_of_an_authority() -> None:
    tls = {"certificate": "c", "key": "k", "client_crl": "crl"}
    assert findings_of(listeners=[{"bind": "127.0.0.1:8443", "tls": tls}]) == [
        "listeners[0].tls.client_crl: needs client_ca, whose certificates it revokes"
    ]
    assert findings_of(listeners=[{"bind": "127.0.0.1:8443", "tls": tls | {"client_ca": "ca"}}]) == []
