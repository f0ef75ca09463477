"""One route's gatekeeper: which method decides, and what comes of its answer."""

from pathlib import Path
from typing import Any

import pytest

from gateway.access.authorisers import Authorisers
from gateway.access.gatekeeper import Entry, Gatekeeper, Visitor
from gateway.access.method import CertificateNames
from gateway.access.state import Bar, Barred, open_state
from gateway.access.tickets import make_ticket
from gateway.config.access import Authentication
from gateway.errors import HandshakeRefused
from gateway.policy.principal import AccessRefusal
from gateway.policy.refusals import close_code
from gateway.protocol.http import Request
from gateway.telemetry.metrics import RouteMetrics
from tests.access.doubles import EC, ISSUER, NOW, OTHER_EC, ScriptedAsker, claims, key_set, signed

SECRET = "a secret of at least thirty-two bytes"
ORIGIN = "https://app.example.com"
AUTH_URL = "http://auth/check"
INTROSPECTION_URL = "http://auth/introspect"

JWT: dict[str, Any] = {
    "issuers": [{"issuer": ISSUER, "keys": "keys.json"}],
    "audiences": ["kakitome"],
    "algorithms": ["ES256"],
}
TOKEN: dict[str, Any] = {"tokens": [{"subject": "ci", "token": "static-token", "claims": {"groups": ["machines"]}}]}
EVERY_METHOD: list[dict[str, Any]] = [
    {"jwt": JWT},
    {"ticket": {"secrets": [SECRET]}},
    {"token": TOKEN},
    {"introspection": {"url": INTROSPECTION_URL, "client_id": "gateway", "client_secret": "s3cret"}},
    {"forward": {"url": AUTH_URL, "request_headers": ["X-Session"]}},
    {"mtls": {}},
]
CERTIFICATE = CertificateNames(alternative_name="spiffe://example/bob", subject="CN=bob,O=Example", common_name="bob")


class House:
    """A gatekeeper and those it asks."""

    def __init__(self, folder: Path, methods: list[dict[str, Any]] = EVERY_METHOD, **settings: Any) -> None:
        (folder / "keys.json").write_bytes(key_set(EC))
        config = Authentication.model_validate({"methods": methods, **settings})
        for method in config.methods:
            if method.jwt is not None:
                issuer = method.jwt.issuers[0].model_copy(update={"keys": folder / "keys.json"})
                jwt = method.jwt.model_copy(update={"issuers": (issuer,)})
                methods_ = tuple(m.model_copy(update={"jwt": jwt}) if m is method else m for m in config.methods)
                config = config.model_copy(update={"methods": methods_})
        self.asker = ScriptedAsker()
        self.state = open_state(None, now=NOW - 1000)
        self.metrics = RouteMetrics("chat")
        authorisers = Authorisers(self.asker, self.state)
        self.keeper = Gatekeeper(config, authorisers, self.metrics, unix_time=lambda: NOW)

    async def admit(
        self,
        *headers: tuple[str, str],
        target: str = "/chat",
        origin: str | None = ORIGIN,
        certificate: CertificateNames | None = None,
        is_page: bool = True,
        speaks_records: bool = False,
    ) -> Entry:
        visitor = Visitor(
            scheme="https",
            host="chat.example.com",
            address="192.0.2.7",
            origin=origin,
            certificate=certificate,
            is_page=is_page,
        )
        request = Request.parse(method="GET", target=target, headers=headers)
        return await self.keeper.admit(request, visitor, speaks_records=speaks_records)

    async def refusal(self, *headers: tuple[str, str], **how: Any) -> HandshakeRefused:
        with pytest.raises(HandshakeRefused) as caught:
            await self.admit(*headers, **how)
        return caught.value

    async def subject(self, *headers: tuple[str, str], **how: Any) -> str | None:
        principal = (await self.admit(*headers, **how)).principal
        return None if principal is None else f"{principal.method}:{principal.subject}"


def bearer(token: str) -> tuple[str, str]:
    return "authorization", f"Bearer {token}"


async def test_each_method_knows_its_own_credential(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.asker.say(INTROSPECTION_URL, b'{"active": true, "sub": "carol"}')
    house.asker.say(AUTH_URL, headers=(("x-auth-request-user", "dave"),))
    ticket = make_ticket(SECRET, subject="erin", now=NOW, good_for_seconds=60)
    assert await house.subject(bearer(signed(claims()))) == "jwt:alice"
    assert await house.subject(bearer(ticket)) == "ticket:erin"
    assert await house.subject(bearer("static-token")) == "token:ci"
    assert await house.subject(bearer("opaque")) == "introspection:carol"
    assert await house.subject(("x-session", "abc")) == "forward:dave"
    assert await house.subject(certificate=CERTIFICATE) == "mtls:spiffe://example/bob"


async def test_no_methods_no_is_another_ones_yes(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.asker.say(INTROSPECTION_URL, b'{"active": true, "sub": "carol"}')
    bad = bearer(signed(claims(), OTHER_EC, header={"kid": "ec-1"}))
    fault = await house.refusal(bad, ("x-session", "abc"), certificate=CERTIFICATE)
    assert "signature" in str(fault)
    assert house.asker.questions == []


async def test_without_a_credential(tmp_path: Path) -> None:
    fault = await House(tmp_path).refusal()
    assert (fault.status, fault.reason) == (401, AccessRefusal.MISSING)
    assert fault.headers == (("WWW-Authenticate", 'Bearer realm="kakitome"'),)
    entry = await House(tmp_path, optional=True).admit()
    assert entry.principal is None
    assert not entry.awaits_open


async def test_optional_takes_nobody_who_shows_something_bad(tmp_path: Path) -> None:
    house = House(tmp_path, [{"jwt": JWT}], optional=True)
    for token in (signed(claims(exp=int(NOW) - 100)), "opaque", "kt1.a.b"):
        assert (await house.refusal(bearer(token))).status == 401


async def test_a_credential_of_no_kind_that_is_taken(tmp_path: Path) -> None:
    house = House(tmp_path, [{"token": TOKEN}])
    fault = await house.refusal(bearer("another"))
    assert (fault.status, fault.reason) == (401, AccessRefusal.INVALID)
    assert "another" not in str(fault)


# --- what is demanded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "claim", "any_of", "allowed"),
    [
        ({"role": "admin"}, "role", ["admin", "ops"], True),
        ({"role": "user"}, "role", ["admin", "ops"], False),
        ({"role": ["user", "ops"]}, "role", ["admin", "ops"], True),
        ({"role": []}, "role", ["admin"], False),
        ({}, "role", ["admin"], False),
        ({"realm_access": {"roles": ["admin"]}}, ["realm_access", "roles"], ["admin"], True),
        ({"realm_access": ["roles"]}, ["realm_access", "roles"], ["roles"], False),
        ({"https://example.com/plan": "pro"}, "https://example.com/plan", ["pro"], True),
        ({"email_verified": True}, "email_verified", [True], True),
        ({"email_verified": 1}, "email_verified", [True], False),
        ({"email_verified": "true"}, "email_verified", [True], False),
        ({"level": 3}, "level", [3], True),
        ({"level": True}, "level", [1], False),
        ({"level": "3"}, "level", [3], False),
        ({"role": {"admin": 1}}, "role", ["admin"], False),
        ({}, "sub", ["alice"], True),
        ({}, "sub", ["bob"], False),
    ],
)
async def test_conditions_on_claims(
    given: dict[str, Any], claim: Any, any_of: list[Any], allowed: bool, tmp_path: Path
) -> None:
    house = House(tmp_path, allow=[{"claim": claim, "any_of": any_of}])
    token = bearer(signed(claims(**given)))
    if allowed:
        assert await house.subject(token) == "jwt:alice"
    else:
        fault = await house.refusal(token)
        assert (fault.status, fault.reason) == (403, AccessRefusal.FORBIDDEN)


async def test_all_conditions_must_hold(tmp_path: Path) -> None:
    conditions = [{"claim": "groups", "any_of": ["machines"]}, {"claim": "site", "any_of": ["tokyo"]}]
    house = House(tmp_path, allow=conditions)
    assert (await house.refusal(bearer("static-token"))).status == 403
    assert await house.subject(bearer(signed(claims(groups=["machines"], site="tokyo")))) == "jwt:alice"


# --- where it stands --------------------------------------------------------------------------------------------------


async def test_what_goes_on_has_no_credential(tmp_path: Path) -> None:
    house = House(tmp_path, credential={"query": "token", "cookie": "session"})
    entry = await house.admit(
        bearer("static-token"), ("cookie", "theme=dark"), target="/chat?room=7&token=static-token"
    )
    assert "static-token" not in repr(entry)
    assert entry.request.headers == (("cookie", "theme=dark"),)
    assert entry.request.target == "/chat?room=7"


@pytest.mark.parametrize("origin", [None, "null"])
async def test_a_cookie_counts_only_with_an_origin(origin: str | None, tmp_path: Path) -> None:
    house = House(tmp_path, credential={"cookie": "session"})
    cookie = ("cookie", "session=static-token")
    assert (await house.refusal(cookie, origin=origin)).status == 403
    assert await house.subject(cookie, origin=ORIGIN) == "token:ci"
    assert await house.subject(cookie, origin=origin, is_page=False) == "token:ci"
    assert await house.subject(cookie, bearer("static-token"), origin=origin) == "token:ci"


async def test_several_credentials(tmp_path: Path) -> None:
    assert (await House(tmp_path).refusal(bearer("a"), bearer("b"))).status == 400


async def test_open_carries_it_for_records_clients_only(tmp_path: Path) -> None:
    house = House(tmp_path, credential={"open": True})
    assert (await house.refusal()).status == 401
    entry = await house.admit(speaks_records=True)
    assert entry.awaits_open
    assert entry.principal is None
    principal = await house.keeper.admit_open(entry.evidence, "static-token")
    assert principal is not None
    assert principal.subject == "ci"
    for token, code in ((None, 3000), ("another", 1013), (signed(claims(exp=1)), 3000)):
        with pytest.raises(HandshakeRefused) as caught:
            await house.keeper.admit_open(entry.evidence, token)
        assert close_code(caught.value) == code


async def test_whoever_shows_it_before_need_not_say_it_again(tmp_path: Path) -> None:
    entry = await House(tmp_path, credential={"open": True}).admit(bearer("static-token"), speaks_records=True)
    assert not entry.awaits_open
    assert entry.principal is not None


# --- revoked, counted -------------------------------------------------------------------------------------------------


async def test_who_is_barred_does_not_come_in(tmp_path: Path) -> None:
    house = House(tmp_path)
    await house.state.bar(Bar(kind=Barred.SUBJECT, value="alice", since=NOW, until=None), now=NOW)
    fault = await house.refusal(bearer(signed(claims())))
    assert (fault.status, fault.reason) == (401, AccessRefusal.REVOKED)
    assert await house.subject(bearer(signed(claims(sub="bob")))) == "jwt:bob"


async def test_outcomes_are_counted_by_method(tmp_path: Path) -> None:
    house = House(tmp_path, optional=True)
    await house.admit()
    await house.admit(bearer("static-token"))
    await house.admit(bearer(signed(claims())))
    await house.refusal(bearer(signed(claims(exp=1))))
    await house.refusal(bearer("opaque"))
    await house.refusal(bearer("a"), bearer("b"))
    assert house.metrics.authentications == {
        ("none", "anonymous"): 1,
        ("token", "accepted"): 1,
        ("jwt", "accepted"): 1,
        ("jwt", "credential_expired"): 1,
        ("introspection", "authoriser_unavailable"): 1,
    }
