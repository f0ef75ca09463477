"""`jwt`: whose token it is, by keys that are at hand; and that nobody is asked for a token that would not do."""

from collections.abc import Sequence

import pytest
from joserfc.jwk import ECKey

from gateway.access.jwt import JwtMethod
from gateway.access.keys import KeySource
from gateway.errors import HandshakeRefused
from gateway.policy.jws import Key, Rules
from gateway.policy.refusals import unavailable
from tests.access.doubles import EC, ISSUER, NOW, OTHER_EC, claims, evidence, signed

RULES = Rules(audiences=["kakitome"], algorithms=["ES256"], types=["JWT"], subject=["sub"], leeway=30)


class Keys(KeySource):
    """Keys at hand; who asked for which is noted."""

    def __init__(self, *keys: Key) -> None:
        self.keys = keys
        self.asked: list[str | None] = []

    async def find(self, key_id: str | None) -> Sequence[Key]:
        self.asked.append(key_id)
        return self.keys


class NoKeysAtPresent(KeySource):
    async def find(self, key_id: str | None) -> Sequence[Key]:
        raise unavailable()


def method(source: KeySource, **rules: object) -> JwtMethod:
    changed = {name: getattr(RULES, name) for name in ("audiences", "algorithms", "types", "subject", "leeway")}
    return JwtMethod({ISSUER: source}, Rules(**(changed | rules)))


async def refused(method: JwtMethod, token: str) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        await method.identify(evidence(token), NOW)
    assert token not in str(caught.value)
    return caught.value


async def test_who_it_is() -> None:
    keys = Keys(EC)
    body = claims(sid="login-1", role="admin")
    principal = await method(keys).identify(evidence(signed(body)), NOW)
    assert (principal.subject, principal.method, principal.issuer) == ("alice", "jwt", ISSUER)
    assert (principal.token_id, principal.login_session) == ("t-1", "login-1")
    assert (principal.issued_at, principal.expires_at) == (NOW - 10, NOW + 300 + 30)
    assert principal.claims["role"] == "admin"
    assert keys.asked == ["ec-1"]


async def test_a_subject_may_stand_elsewhere() -> None:
    body = claims(realm={"user": "bob"})
    assert (await method(Keys(EC), subject=["realm", "user"]).identify(evidence(signed(body)), NOW)).subject == "bob"


def test_it_decides_over_what_has_the_form_of_a_token() -> None:
    decides = method(Keys(EC)).applies
    assert decides(evidence(signed(claims())))
    assert not decides(evidence("opaque"))
    assert not decides(evidence(None))


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://mallory.example"},
        {"iss": None},
        {"iss": ["https://login.example.com"]},
        {"aud": "another"},
        {"exp": int(NOW) - 100},
        {"sub": None},
    ],
)
async def test_for_a_token_that_would_not_do_nobody_is_asked(changes: dict[str, object]) -> None:
    keys = Keys(EC)
    assert (await refused(method(keys), signed(claims(**changes)))).status == 401
    assert keys.asked == []


@pytest.mark.parametrize(
    ("keys", "key", "problem"),
    [
        ([], EC, "a key that its issuer does not publish"),
        ([EC], OTHER_EC, "a signature that does not hold"),
    ],
)
async def test_a_signature_must_hold_by_a_key_of_the_issuers(keys: list[Key], key: ECKey, problem: str) -> None:
    fault = await refused(method(Keys(*keys)), signed(claims(), key, header={"kid": "ec-1"}))
    assert (fault.status, problem in str(fault)) == (401, True)


async def test_without_keys_at_present_it_is_not_the_tokens_fault() -> None:
    assert (await refused(method(NoKeysAtPresent()), signed(claims()))).status == 503


async def test_a_token_need_not_name_itself_or_its_login_but_what_it_names_is_text() -> None:
    principal = await method(Keys(EC)).identify(evidence(signed(claims(jti=None))), NOW)
    assert (principal.token_id, principal.login_session) == (None, None)
    assert "a sid that is no text" in str(await refused(method(Keys(EC)), signed(claims(sid=7))))
