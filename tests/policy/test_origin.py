"""Origins: who may connect under which rule, and every trick by which a page might pass for another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import HandshakeRefused
from gateway.policy.origin import Keyword, Origin, OriginPolicy, OriginRefusal, Subdomains, parse_rule


def decide(
    rules: list[str],
    *origins: str,
    require_origin: bool = False,
    scheme: str = "https",
    host: str = "gateway.example",
) -> str | OriginRefusal | None:
    """The allowed origin, or why it was refused."""
    try:
        return OriginPolicy(rules, require_origin).check(origins, scheme=scheme, host=host)
    except HandshakeRefused as error:
        return OriginRefusal(error.reason)


# --- comparison ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "origin"),
    [
        # RFC 6454 section 3.2.1: "All of the following resources have the same origin".
        ("http://example.com", "http://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com", "http://example.com:80"),
        ("https://example.com", "https://EXAMPLE.com:443"),
        ("HTTPS://Example.COM:443", "https://example.com"),
        ("https://example.com", "HTTPS://example.com"),
        ("https://example.com.", "https://example.com"),
        ("https://example.com", "https://example.com."),
        ("https://example.com", "https://example.com.:443"),
        ("https://example.com:8443", "https://example.com:8443"),
        ("https://example.com:8443", "https://example.com:08443"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "https://XN--BCHER-KVA.example"),
        ("http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000"),
        ("https://[2001:DB8::A]", "https://[2001:db8::a]:443"),
        ("http://127.0.0.1:5173", "http://127.0.0.1:5173"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("file://", "file://"),
        ("app://.", "app://."),
        ("app://.", "APP://."),
        ("app://-", "app://-"),
        ("safari-web-extension://0A1B2C3D-0000", "safari-web-extension://0a1b2c3d-0000"),
        ("vscode-webview://1f2e3d.0x4", "vscode-webview://1f2e3d.0x4"),
        ("wails://wails.localhost:34115", "wails://wails.localhost:34115"),
    ],
)
def test_the_same_origin_in_another_spelling(rule: str, origin: str) -> None:
    assert decide([rule], origin) == str(Origin.parse(origin))


@pytest.mark.parametrize(
    ("rule", "origin"),
    [
        # RFC 6454 section 3.2.1: "Each of the following resources has a different origin from the others".
        ("http://example.com", "http://example.com:8080"),
        ("http://example.com", "http://www.example.com"),
        ("http://example.com", "https://example.com:80"),
        ("http://example.com", "https://example.com"),
        ("http://example.com", "http://example.org"),
        ("https://example.com", "http://example.com"),
        ("https://example.com", "http://example.com:443"),
        ("https://example.com", "https://example.com:80"),
        ("https://example.com", "https://example.com:8443"),
        ("https://example.com:8443", "https://example.com"),
        ("https://example.com", "wss://example.com"),
        ("https://example.com", "https://example.com.evil.com"),
        ("https://example.com", "https://evil-example.com"),
        ("https://example.com", "https://evilexample.com"),
        ("https://example.com", "https://example.co"),
        ("https://example.com", "https://example.comm"),
        ("https://example.com", "https://xn--xample-9uf.com"),
        ("https://apple.com", "https://xn--pple-43d.com"),
        ("https://a-b.example", "https://a_b.example"),
        ("http://[::1]", "http://127.0.0.1"),
        ("http://127.0.0.1", "http://localhost"),
        ("chrome-extension://abc", "moz-extension://abc"),
        ("app://.", "app://-"),
        ("app://.", "app://"),
        ("app://.", "file://"),
        ("file://", "file://server"),
        ("file://", "null"),
        ("null", "file://"),
        ("app://localhost", "app://localhost:80"),
    ],
)
def test_another_origin(rule: str, origin: str) -> None:
    assert decide([rule], origin) is OriginRefusal.NOT_ALLOWED


@pytest.mark.parametrize("rules", [["https://example.com"], ["*"], ["*", "null", "same-origin"]])
@pytest.mark.parametrize(
    "origin",
    [
        "",
        "example.com",
        "//example.com",
        "https:example.com",
        "https:/example.com",
        "https:///example.com",
        "https://",
        "https://:443",
        "https://example.com@evil.com",
        "https://evil.com@example.com",
        "https://user:pass@example.com",
        "https://@example.com",
        "https://example.com/",
        "https://example.com/path",
        "https://example.com?",
        "https://example.com#",
        "https://example.com\\@evil.com",
        "https://example.com\\.evil.com",
        "https://example.com:443:443",
        "https://example.com:port",
        "https://example.com:99999",
        "https://example.com:-443",
        "https://example.com%00.evil.com",
        "https://example%2ecom",
        "https://example..com",
        "https://.example.com",
        "https://*.example.com",
        "https://exam\u0440le.com",
        "https://b\xfccher.example",
        "https://example\u3002com",
        "https://example.com\x00",
        "https://example.com\x0b",
        "https://[::1",
        "https://::1",
        "https://[::1%25eth0]",
        "https://0x7f.1",
        "https://2130706433",
        "https://127.1",
        "1https://example.com",
        "ht_tps://example.com",
        "file:///",
        "file:///home/page.html",
        "file:",
        "app://./",
        "app://.?",
        "app://user@host",
        "app://.:99999",
        "app://a:b:c",
        "app://[",
        "ws://",
        "ftp_://",
        "NULL",
        "Null",
        "null.",
        "undefined",
        "*",
        "same-origin",
    ],
)
def test_what_is_no_origin_is_refused_under_every_rule(rules: list[str], origin: str) -> None:
    assert decide(rules, origin) is OriginRefusal.MALFORMED


@pytest.mark.parametrize("rules", [["https://example.com"], ["*"]])
@pytest.mark.parametrize(
    "origins",
    [
        ("https://example.com", "https://evil.com"),
        ("https://example.com", "https://example.com"),
        ("https://example.com", ""),
        ("null", "https://example.com"),
        ("https://example.com https://evil.com",),
        ("https://example.com,https://evil.com",),
        ("https://example.com, https://evil.com",),
        ("https://example.com\thttps://evil.com",),
        ("https://example.com, https://example.com",),
        ("null, https://example.com",),
        ("null null",),
    ],
)
def test_several_origins_are_refused_under_every_rule(rules: list[str], origins: tuple[str, ...]) -> None:
    assert decide(rules, *origins) is OriginRefusal.SEVERAL


# --- rules --------------------------------------------------------------------------------------------------------


def test_any_of_several_rules_allows() -> None:
    rules = ["https://a.example", "https://*.b.example", "same-origin"]
    assert decide(rules, "https://a.example") == "https://a.example"
    assert decide(rules, "https://x.b.example") == "https://x.b.example"
    assert decide(rules, "https://gateway.example") == "https://gateway.example"
    assert decide(rules, "https://c.example") is OriginRefusal.NOT_ALLOWED


def test_a_client_without_origin_is_no_web_page() -> None:
    assert decide(["https://example.com"]) is None
    assert decide(["https://example.com"], require_origin=True) is OriginRefusal.MISSING
    assert decide(["*"], require_origin=True) is OriginRefusal.MISSING


@pytest.mark.parametrize(
    ("rules", "allowed"), [(["null"], True), (["*"], True), (["same-origin", "https://example.com"], False)]
)
def test_opaque_origins_need_their_own_rule(rules: list[str], allowed: bool) -> None:
    assert decide(rules, "null") == ("null" if allowed else OriginRefusal.NOT_ALLOWED)


def test_null_allows_nothing_else() -> None:
    assert decide(["null"], "https://null") is OriginRefusal.NOT_ALLOWED


def test_any_origin() -> None:
    assert decide(["*"], "https://Evil.com:443") == "https://evil.com"


@pytest.mark.parametrize(
    "origin",
    [
        "file://",  # Cordova on Android, Electron before 7
        "app://.",  # Electron with a scheme of its own
        "app://-",  # electron-serve
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "moz-extension://9f86d081-884c-4d63-a159-2f9c3a0b3e0f",
        "qrc://",
    ],
)
def test_an_applications_own_scheme_is_an_origin_and_can_be_named(origin: str) -> None:
    assert decide(["*"], origin) == origin
    assert decide([origin], origin) == origin
    assert decide(["same-origin", "null", "https://example.com"], origin) is OriginRefusal.NOT_ALLOWED


@pytest.mark.parametrize(
    ("rule", "origin", "allowed"),
    [
        ("https://*.example.com", "https://a.example.com", True),
        ("https://*.example.com", "https://a.b.c.example.com", True),
        ("https://*.example.com", "https://A.EXAMPLE.COM.:443", True),
        ("https://*.bücher.example", "https://a.xn--bcher-kva.example", True),
        ("https://*.example.com:8443", "https://a.example.com:8443", True),
        ("http://*.localhost:3000", "http://app.localhost:3000", True),
        ("https://*.example.com", "https://example.com", False),
        ("https://*.example.com", "https://evilexample.com", False),
        ("https://*.example.com", "https://a.example.com.evil.com", False),
        ("https://*.example.com", "https://a-example.com", False),
        ("https://*.example.com", "http://a.example.com", False),
        ("https://*.example.com", "https://a.example.com:8443", False),
        ("https://*.example.com:8443", "https://a.example.com", False),
        ("https://*.example.com", "null", False),
    ],
)
def test_wildcards_mean_one_label_or_more_below_the_domain(rule: str, origin: str, allowed: bool) -> None:
    assert (decide([rule], origin) is not OriginRefusal.NOT_ALLOWED) is allowed


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "allowed"),
    [
        ("https", "gateway.example", "https://gateway.example", True),
        ("https", "Gateway.Example.:443", "https://gateway.example", True),
        ("https", "gateway.example:8443", "https://gateway.example:8443", True),
        ("http", "127.0.0.1:8080", "http://127.0.0.1:8080", True),
        ("http", "[::1]:8080", "http://[0::1]:8080", True),
        ("wss", "gateway.example", "https://gateway.example", True),
        ("ws", "gateway.example:80", "http://gateway.example", True),
        ("http", "gateway.example", "https://gateway.example", False),
        ("https", "gateway.example", "http://gateway.example", False),
        ("https", "gateway.example", "https://gateway.example:8443", False),
        ("https", "gateway.example:8443", "https://gateway.example", False),
        ("https", "gateway.example", "https://a.gateway.example", False),
        ("https", "gateway.example", "null", False),
        ("https", "", "https://gateway.example", False),
        ("https", "gateway.example@evil.com", "https://evil.com", False),
    ],
)
def test_the_same_origin_is_scheme_and_host_as_the_client_saw_them(
    scheme: str, host: str, origin: str, allowed: bool
) -> None:
    decision = decide(["same-origin"], origin, scheme=scheme, host=host)
    assert (decision is not OriginRefusal.NOT_ALLOWED) is allowed


def test_a_refusal_names_the_origin_offered_and_its_own_where_that_would_do() -> None:
    with pytest.raises(HandshakeRefused, match=r"'https://gateway\.example' is not .* is http://gateway\.example$"):
        OriginPolicy(["same-origin"]).check(["https://gateway.example"], scheme="http", host="gateway.example")
    with pytest.raises(HandshakeRefused) as caught:
        OriginPolicy(["https://secret.example"]).check(["https://evil.com"], scheme="http", host="gateway.example")
    assert str(caught.value) == "the Origin 'https://evil.com' is not allowed here"
    assert caught.value.status == 403


def test_a_refusal_repeats_no_more_than_a_line_of_the_origin() -> None:
    with pytest.raises(HandshakeRefused) as caught:
        OriginPolicy(["*"]).check(["\xff<script>" * 1000], scheme="http", host="gateway.example")
    assert caught.value.status == 403
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isascii()


# --- the operator's rules -----------------------------------------------------------------------------------------


def test_rules_are_parsed_to_what_they_mean() -> None:
    assert parse_rule("same-origin") is Keyword.SAME_ORIGIN
    assert parse_rule("null") is Keyword.NULL
    assert parse_rule("*") is Keyword.ANY
    assert parse_rule("https://Example.com:443") == Origin(scheme="https", host="example.com", port=None)
    assert parse_rule("https://*.example.com:1") == Subdomains(below=Origin(scheme="https", host="example.com", port=1))


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ("", "write https://example.com"),
        ("example.com", "write https://example.com"),
        ("*.example.com", "write https://example.com"),
        ("Same-Origin", "write https://example.com"),
        ("https://", "the host is empty"),
        ("https://example.com/", "has a path, and an origin has none: write https://example.com$"),
        ("https://example.com/app", "write https://example.com$"),
        ("wss://example.com", "that of the page: https://example.com"),
        ("ws://*.example.com:80", r"that of the page: http://\*\.example\.com:80"),
        ("https://*", "first label"),
        ("https://*:443", "first label"),
        ("https://a.*.example.com", "first label"),
        ("https://*.*.example.com", "first label"),
        ("https://*example.com", "first label"),
        ("https://example.com:*", "first label"),
        ("https://*.", "the host is empty"),
        ("https://*.127.0.0.1", "address"),
        ("https://*.[::1]", "address"),
        ("https://user@example.com", "user information"),
        ("https://example.com?a", "query"),
        ("https://example.com:https", "port"),
        ("https://exa mple.com", "letters, digits"),
        ("https://i❤.ws", "international"),
        ("https ://example.com", "scheme"),
        ("://example.com", "scheme"),
    ],
)
def test_a_rule_that_is_none_is_named_with_what_to_write(rule: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        OriginPolicy([rule])
    assert f'"{rule}"' in str(caught.value)


# --- properties ---------------------------------------------------------------------------------------------------

LABELS = st.text(alphabet="aAzZ09-", min_size=1, max_size=5).filter(lambda label: not label.isdigit())
HOSTS = (
    st.lists(LABELS, min_size=1, max_size=4).map(".".join).filter(lambda host: not host.rpartition(".")[2][0].isdigit())
)
ORIGINS = st.builds(
    Origin.parse,
    st.builds(
        "{}://{}{}".format,
        st.sampled_from(["http", "https", "app"]),
        HOSTS,
        st.sampled_from(["", ":80", ":443", ":8443"]),
    ),
)


@given(ORIGINS, ORIGINS)
def test_an_origin_is_allowed_by_exactly_its_own_rule(rule: Origin, offered: Origin) -> None:
    assert decide([str(rule)], str(rule)) == str(rule)
    assert (decide([str(rule)], str(offered)) == str(offered)) is (rule == offered)


@given(HOSTS, st.text(max_size=8))
def test_a_wildcard_allows_only_hosts_that_end_in_its_domain(domain: str, prefix: str) -> None:
    decision = decide([f"https://*.{domain}"], f"https://{prefix}{domain}")
    if not isinstance(decision, OriginRefusal):
        assert decision is not None
        assert decision.endswith(f".{domain.lower()}")
        assert prefix.endswith(".")


@given(st.lists(st.text(max_size=30) | st.text(alphabet="htps:/@.*[]e,xample ", max_size=30), max_size=2))
def test_any_origins_are_allowed_in_canonical_form_or_refused(origins: list[str]) -> None:
    decision = decide(["*"], *origins)
    if not isinstance(decision, OriginRefusal | None) and decision != "null":
        assert str(Origin.parse(decision)) == decision
