"""Authentication's keys: each contradiction is found at the key to change, and what agrees passes."""

from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config
from gateway.config.checks import find_disagreements
from gateway.config.fields import Source
from gateway.config.files import find_file_faults
from gateway.config.loading import dotted

SECRET = "a secret of at least thirty-two bytes"
BACKEND = {"endpoints": ["tcp://127.0.0.1:9000"]}
TOKENS = {"token": {"tokens": [{"subject": "ci", "token": "t"}]}}
URL_ISSUER = {"issuer": "https://login.example.com", "discovery": True}


def config_with(
    authentication: dict[str, Any], *, listener: dict[str, Any] | None = None, folder: Path | None = None, **route: Any
) -> Config:
    whole = {
        "listeners": [{"bind": "127.0.0.1:8080"} | (listener or {})],
        "routes": [{"name": "chat", "authentication": authentication} | (route or {"backend": BACKEND})],
    }
    return Config.model_validate(whole, context=None if folder is None else Source(folder=folder))


def findings_of(authentication: dict[str, Any], **others: Any) -> list[str]:
    prefix = "routes[0].authentication."
    return [
        f"{dotted(finding.path).removeprefix(prefix)}: {finding.message}"
        + (f"; see {dotted(finding.see).removeprefix(prefix)}" if finding.see else "")
        for finding in find_disagreements(config_with(authentication, **others))
    ]


def jwt(*issuers: dict[str, Any], algorithms: tuple[str, ...] = ("ES256",)) -> dict[str, Any]:
    return {"methods": [{"jwt": {"issuers": list(issuers), "audiences": ["k"], "algorithms": list(algorithms)}}]}


def test_what_agrees_has_no_findings() -> None:
    methods = [
        {"jwt": jwt(URL_ISSUER)["methods"][0]["jwt"]},
        {"ticket": {"secrets": [SECRET]}},
        TOKENS,
        {"introspection": {"url": "https://l.example/i", "client_id": "g", "client_secret": "s"}},
        {"forward": {"url": "http://auth:4180/check"}},
        {"mtls": {}},
    ]
    tls = {"certificate": "c", "key": "k", "client_ca": "ca"}
    assert findings_of({"methods": methods}, listener={"tls": tls}) == []


def test_a_method_has_one_key() -> None:
    names = "jwt, introspection, forward, mtls, ticket, token"
    assert findings_of({"methods": [{}, TOKENS, TOKENS | {"ticket": {"secrets": [SECRET]}}]}) == [
        f"methods[0]: must have exactly one of {names}, not none",
        f"methods[2]: must have exactly one of {names}, not ticket and token",
    ]


def test_an_issuer_has_one_source_of_keys() -> None:
    bare, both = {"issuer": "https://a"}, {"issuer": "https://b", "keys_url": "https://b/k", "discovery": True}
    where = "methods[0].jwt.issuers"
    assert findings_of(jwt(bare, both)) == [
        f"{where}[0]: must have exactly one of keys, keys_url, discovery, secrets, not none",
        f"{where}[1]: must have exactly one of keys, keys_url, discovery, secrets, not keys_url and discovery",
    ]


def test_secrets_and_public_keys_have_algorithms_of_their_own_kind() -> None:
    secret = {"issuer": "https://a", "secrets": [SECRET]}
    assert findings_of(jwt(secret, algorithms=("HS256",))) == []
    assert findings_of(jwt(secret)) == [
        "methods[0].jwt.issuers[0].secrets: are for HS256, HS384 and HS512, of which algorithms has none"
    ]
    (found,) = findings_of(jwt(URL_ISSUER, algorithms=("HS256", "HS384")))
    where = "methods[0].jwt.issuers[0].discovery"
    assert found == f"{where}: has public keys, and algorithms has HS256, HS384 only: name one such as ES256 or RS256"


def test_discovery_needs_an_issuer_that_is_a_url() -> None:
    assert findings_of(jwt({"issuer": "login", "discovery": True})) == [
        'methods[0].jwt.issuers[0].discovery: asks "login" for its keys, which is no URL'
    ]


def test_an_issuer_stands_once() -> None:
    where = "methods[0].jwt.issuers"
    assert findings_of(jwt(URL_ISSUER, URL_ISSUER)) == [
        f'{where}[1].issuer: "https://login.example.com" stands here already; see {where}[0]'
    ]


def test_secrets_are_long_enough() -> None:
    problem = "must have 32 bytes or more: shorter ones can be guessed from what they signed"
    assert findings_of({"methods": [{"ticket": {"secrets": [SECRET, "short"]}}]}) == [
        f"methods[0].ticket.secrets[1]: {problem}"
    ]
    assert findings_of(jwt({"issuer": "https://a", "secrets": ["short"]}, algorithms=("HS256",))) == [
        f"methods[0].jwt.issuers[0].secrets[0]: {problem}"
    ]


def test_a_secret_that_stays_unread_is_not_judged(tmp_path: Path) -> None:
    whole = {
        "listeners": [{"bind": "127.0.0.1:8080"}],
        "routes": [
            {
                "name": "chat",
                "authentication": {"methods": [{"ticket": {"secrets": ["file:ticket"]}}]},
                "backend": BACKEND,
            }
        ],
    }
    config = Config.model_validate(whole, context=Source(folder=tmp_path, read_files=False))
    assert list(find_disagreements(config)) == []


def test_a_token_is_one_subjects() -> None:
    tokens = [{"subject": "a", "token": "t"}, {"subject": "b", "token": "u"}, {"subject": "c", "token": "t"}]
    (found,) = findings_of({"methods": [{"token": {"tokens": tokens}}]})
    assert found.startswith("methods[0].token.tokens[2].token: is the same token as that of another subject")
    assert found.endswith("see methods[0].token.tokens[0]")


@pytest.mark.parametrize("rule", ["*", "null"])
@pytest.mark.parametrize(
    ("authentication", "where"),
    [
        ({"credential": {"cookie": "s"}, "methods": [TOKENS]}, "credential.cookie"),
        ({"methods": [{"forward": {"url": "http://a"}}]}, "methods[0].forward.request_headers"),
    ],
)
def test_cookies_and_any_page_do_not_go_together(authentication: dict[str, Any], where: str, rule: str) -> None:
    (found,) = findings_of(authentication, origins=["https://app.example.com", rule], backend=BACKEND)
    assert found.startswith(f'{where}: reads a cookie, which browsers send from any page, and origins has "{rule}"')
    assert findings_of(authentication, origins=["https://app.example.com"], backend=BACKEND) == []
    without = {"methods": [{"forward": {"url": "http://a", "request_headers": ["Authorization"]}}]}
    assert findings_of(without, origins=[rule], backend=BACKEND) == []


def test_files_are_no_websockets() -> None:
    for key, value in (("open", True), ("subprotocol", "bearer.")):
        assert findings_of({"credential": {key: value}, "methods": [TOKENS]}, files=".") == [
            f"credential.{key}: is for WebSockets; this route serves files"
        ]
    assert findings_of({"credential": {"cookie": "s"}, "methods": [TOKENS]}, files=".") == []


def test_certificates_are_read_where_they_are_verified() -> None:
    assert findings_of({"methods": [{"mtls": {}}]}) == [
        "methods[0].mtls: needs a listener with tls.client_ca, which verifies the certificates that it reads"
    ]


def test_key_files(tmp_path: Path) -> None:
    (tmp_path / "nonsense.json").write_text("{")
    config = config_with(
        jwt({"issuer": "https://a", "keys": "missing.json"}, {"issuer": "https://b", "keys": "nonsense.json"}),
        folder=tmp_path,
    )
    assert [f"{dotted(f.path)}: {f.message}".replace(f"{tmp_path}/", "") for f in find_file_faults(config)] == [
        "routes[0].authentication.methods[0].jwt.issuers[0].keys: cannot read missing.json: No such file or directory",
        "routes[0].authentication.methods[0].jwt.issuers[1].keys: nonsense.json holds no keys: the key set is no JSON",
    ]


ALLOW = [{"networks": ["10.0.0.0/8"], "ports": ["5900-5999"]}]


def choice_findings(*, authentication: Any = None, **backend: Any) -> list[str]:
    route = {"name": "vnc", "backend": backend} | ({"authentication": authentication} if authentication else {})
    config = Config.model_validate({"listeners": [{"bind": "127.0.0.1:8080"}], "routes": [route]})
    return [
        f"{dotted(finding.path).removeprefix('routes[0].backend')}: {finding.message}"
        for finding in find_disagreements(config)
    ]


def test_an_endpoint_is_configured_or_chosen_by_one_thing() -> None:
    by_file: dict[str, Any] = {"file": "tokens", "allow": ALLOW}
    by_claim: dict[str, Any] = {"claim": "at", "allow": ALLOW}
    asked = {"methods": [TOKENS]}
    assert choice_findings(endpoint_from=by_file) == []
    assert choice_findings(endpoint_from=by_claim, authentication=asked) == []
    assert choice_findings() == [": needs endpoints, or endpoint_from"]
    assert choice_findings(endpoint_from=by_file, **BACKEND) == [
        ".endpoint_from: cannot stand beside endpoints: the client's own endpoint is the only one it may have"
    ]
    assert choice_findings(endpoint_from={"allow": ALLOW}) == [
        ".endpoint_from: must have exactly one of claim, file, not none"
    ]
    assert choice_findings(endpoint_from=by_file | by_claim, authentication=asked) == [
        ".endpoint_from: must have exactly one of claim, file, not claim and file"
    ]
    assert choice_findings(endpoint_from=by_claim) == [
        ".endpoint_from.claim: needs authentication beside it, which says what is claimed"
    ]
    assert choice_findings(endpoint_from=by_file, authentication=asked | {"credential": {"query": "token"}}) == [
        '.endpoint_from.parameter: "token" is the query parameter of the credential already; name another one'
    ]
    assert choice_findings(endpoint_from={"file": "tokens", "allow": [{"ports": [5900]}]}) == [
        ".endpoint_from.allow[0]: needs hosts, networks or both"
    ]
    assert choice_findings(endpoint_from=by_file | {"tls": True}, tls={"server_name": "vm"}) == []


def test_entries_of_the_proxy_header_need_it_and_somebody_to_tell_of() -> None:
    entries = [{"type": 0xE0, "claim": "sub"}, {"type": 0xE1, "claim": ["realm_access", "roles"]}]
    told: dict[str, Any] = {"proxy_protocol": "v2", "proxy_protocol_entries": entries, **BACKEND}
    assert choice_findings(authentication={"methods": [TOKENS]}, **told) == []
    assert choice_findings(**told | {"proxy_protocol": None}) == [
        ".proxy_protocol_entries: are for proxy_protocol: v2",
        ".proxy_protocol_entries: need authentication beside backend, which says who a client is",
    ]
    told["proxy_protocol_entries"] = [entries[0], entries[0]]
    assert choice_findings(authentication={"methods": [TOKENS]}, **told) == [
        ".proxy_protocol_entries[1].type: 0xE0 is taken already"
    ]


def test_a_token_file_is_there(tmp_path: Path) -> None:
    backend = {"endpoint_from": {"file": "tokens", "allow": ALLOW}}
    config = config_with({"methods": [TOKENS]}, folder=tmp_path, backend=backend)
    assert [finding.message for finding in find_file_faults(config)] == [
        f"{tmp_path / 'tokens'} is neither a file nor a folder"
    ]
    (tmp_path / "tokens").mkdir()
    assert list(find_file_faults(config)) == []
