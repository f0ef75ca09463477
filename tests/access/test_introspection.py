"""Tokens that the authorisation server is asked about."""

import json

import pytest
import trio
import trio.testing
from pydantic import SecretStr

from gateway.access.introspection import REFUSED_FOR_SECONDS, IntrospectionMethod
from gateway.config.access import Introspection
from gateway.errors import HandshakeRefused
from gateway.policy.principal import AccessRefusal
from tests.access.doubles import NOW, ScriptedAsker, evidence

URL = "https://login.example.com/introspect"


def method(asker: ScriptedAsker, **changes: object) -> IntrospectionMethod:
    config = Introspection(url=URL, client_id="gateway", client_secret=SecretStr("s3cret"))
    return IntrospectionMethod(config.model_copy(update=changes), asker)


def active(**claims: object) -> bytes:
    return json.dumps({"active": True, "sub": "alice", **claims}).encode()


async def refused(tokens: IntrospectionMethod, *, now: float = NOW, token: str = "opaque") -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        await tokens.identify(evidence(token), now)
    return caught.value


async def test_who_it_is_and_how_it_is_asked() -> None:
    asker = ScriptedAsker()
    asker.say(URL, active(iss="https://login.example.com", exp=NOW + 60, jti="t-1", sid="s-1", scope="chat"))
    principal = await method(asker).identify(evidence("opaque"), NOW)
    assert (principal.subject, principal.method, principal.issuer) == (
        "alice",
        "introspection",
        "https://login.example.com",
    )
    assert (principal.expires_at, principal.token_id, principal.login_session) == (NOW + 60, "t-1", "s-1")
    assert principal.claims["scope"] == "chat"
    (question,) = asker.questions
    assert question.method == "POST"
    assert question.form == {"token": "opaque", "token_type_hint": "access_token"}
    assert question.basic == ("gateway", "s3cret")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"active": false}', 401, AccessRefusal.INVALID),
        (b'{"active": false, "sub": "alice"}', 401, AccessRefusal.INVALID),
        (active(exp=NOW), 401, AccessRefusal.EXPIRED),
        (active(sub=None), 401, AccessRefusal.INVALID),
        (active(sub=""), 401, AccessRefusal.INVALID),
        (active(sub=["alice"]), 401, AccessRefusal.INVALID),
        (b'{"sub": "alice"}', 503, AccessRefusal.UNAVAILABLE),
        (b'{"active": "true", "sub": "alice"}', 503, AccessRefusal.UNAVAILABLE),
        (b'{"active": 1, "sub": "alice"}', 503, AccessRefusal.UNAVAILABLE),
        (b"[]", 503, AccessRefusal.UNAVAILABLE),
        (b"<html>", 503, AccessRefusal.UNAVAILABLE),
        (b"", 503, AccessRefusal.UNAVAILABLE),
        (b"[" * 100_000, 503, AccessRefusal.UNAVAILABLE),
    ],
)
async def test_what_is_no_yes(body: bytes, status: int, reason: AccessRefusal) -> None:
    asker = ScriptedAsker()
    asker.say(URL, body)
    fault = await refused(method(asker))
    assert (fault.status, fault.reason) == (status, reason)


@pytest.mark.parametrize("status", [201, 204, 301, 302, 400, 401, 403, 404, 500, 503])
async def test_only_200_is_an_answer(status: int) -> None:
    asker = ScriptedAsker()
    asker.say(URL, active(), status=status)
    assert (await refused(method(asker))).status == 503


async def test_audiences() -> None:
    asker = ScriptedAsker()
    tokens = method(asker, audiences=("kakitome",), cache=None)
    for named in ("kakitome", ["another", "kakitome"]):
        asker.say(URL, active(aud=named))
        assert (await tokens.identify(evidence("opaque"), NOW)).subject == "alice"
    others: tuple[object, ...] = (None, "another", ["another"], [["kakitome"]], {"kakitome": 1})
    for audience in others:
        asker.say(URL, active(aud=audience))
        assert "another audience" in str(await refused(tokens))


# --- remembering ----------------------------------------------------------------------------------------------------


async def test_an_answer_is_good_for_a_while() -> None:
    asker = ScriptedAsker()
    asker.say(URL, active())
    tokens = method(asker)
    for now in (NOW, NOW + 29.9):
        await tokens.identify(evidence("opaque"), now)
    assert asker.asked(URL) == 1
    asker.say(URL, b'{"active": false}')
    await refused(tokens, now=NOW + 30)
    assert asker.asked(URL) == 2


async def test_an_answer_is_no_longer_good_than_the_token() -> None:
    asker = ScriptedAsker()
    asker.say(URL, active(exp=NOW + 10))
    tokens = method(asker)
    await tokens.identify(evidence("opaque"), NOW + 9)
    assert (await refused(tokens, now=NOW + 10)).reason == AccessRefusal.EXPIRED


async def test_a_no_is_remembered_for_a_moment_and_an_absence_is_not() -> None:
    asker = ScriptedAsker()
    tokens = method(asker)
    assert (await refused(tokens)).status == 503
    asker.say(URL, b'{"active": false}')
    for _ in range(10):
        assert (await refused(tokens)).status == 401
    assert asker.asked(URL) == 2
    asker.say(URL, active())
    assert (await tokens.identify(evidence("opaque"), NOW + REFUSED_FOR_SECONDS)).subject == "alice"


async def test_without_a_cache_each_connection_asks() -> None:
    asker = ScriptedAsker()
    asker.say(URL, active())
    tokens = method(asker, cache=None)
    for _ in range(3):
        await tokens.identify(evidence("opaque"), NOW)
    assert asker.asked(URL) == 3


async def test_those_who_ask_the_same_at_once_are_one_question(autojump_clock: trio.testing.MockClock) -> None:
    asker = ScriptedAsker()
    asker.delay_seconds = 1
    asker.say(URL, active())
    tokens = method(asker, cache=None)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(tokens.identify, evidence("opaque"), NOW)
        nursery.start_soon(tokens.identify, evidence("another"), NOW)
    assert asker.asked(URL) == 2


async def test_who_asks_for_the_others_and_goes_away_leaves_them_their_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asker = ScriptedAsker()
    asker.delay_seconds = 2
    asker.say(URL, active())
    tokens = method(asker)
    async with trio.open_nursery() as nursery:

        async def impatient() -> None:
            with trio.move_on_after(1):
                await tokens.identify(evidence("opaque"), NOW)

        nursery.start_soon(impatient)
        await trio.testing.wait_all_tasks_blocked()
        assert (await tokens.identify(evidence("opaque"), NOW)).subject == "alice"
    assert asker.asked(URL) == 2
