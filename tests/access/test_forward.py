"""A service of the operator's own that is asked."""

import pytest

from gateway.access.forward import ForwardMethod
from gateway.config.access import Forward
from gateway.errors import HandshakeRefused
from gateway.policy.principal import AccessRefusal
from gateway.protocol.http import Headers
from tests.access.doubles import NOW, ScriptedAsker, evidence

URL = "http://auth:4180/oauth2/auth"
COOKIE = (("cookie", "session=abc"),)
ALICE = (("x-auth-request-user", "alice"), ("x-auth-request-groups", "admin,ops"), ("set-cookie", "a=b"))


def method(asker: ScriptedAsker, **changes: object) -> ForwardMethod:
    return ForwardMethod(Forward(url=URL).model_copy(update=changes), asker)


async def refused(forward: ForwardMethod, headers: Headers = COOKIE) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        await forward.identify(evidence(headers=headers), NOW)
    return caught.value


async def test_who_it_is() -> None:
    asker = ScriptedAsker()
    asker.say(URL, status=202, headers=ALICE)
    forward = method(asker, claim_headers=("X-Auth-Request-Groups",), expires_after=60.0)
    principal = await forward.identify(evidence(headers=COOKIE), NOW)
    assert (principal.subject, principal.method, principal.expires_at) == ("alice", "forward", NOW + 60)
    assert principal.claims == {"x-auth-request-groups": "admin,ops"}


async def test_what_it_is_shown() -> None:
    asker = ScriptedAsker()
    asker.say(URL, headers=ALICE)
    headers = (
        ("cookie", "session=abc"),
        ("authorization", "Basic dTpw"),
        ("accept-language", "ja"),
        ("host", "chat.example.com"),
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-uri", "/public"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    )
    names = ("Cookie", "Authorization", "Host", "X-Forwarded-For", "X-Forwarded-Uri", "Upgrade", "Sec-WebSocket-Key")
    await method(asker, request_headers=names).identify(evidence(headers=headers, target="/chat?room=7"), NOW)
    (question,) = asker.questions
    assert (question.method, question.body_bytes, question.form) == ("GET", 0, None)
    assert question.headers == (
        ("cookie", "session=abc"),
        ("authorization", "Basic dTpw"),
        ("X-Forwarded-Method", "GET"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "chat.example.com"),
        ("X-Forwarded-Uri", "/chat?room=7"),
        ("X-Forwarded-For", "192.0.2.7"),
    )


def test_it_decides_where_there_is_something_to_show() -> None:
    forward = method(ScriptedAsker())
    assert forward.applies(evidence(headers=COOKIE))
    assert forward.applies(evidence(headers=(("authorization", "Bearer abc"),)))
    assert not forward.applies(evidence(headers=(("accept", "*/*"),)))


@pytest.mark.parametrize("status", [100, 301, 302, 303, 307, 400, 404, 407, 418, 429, 500, 502, 503])
async def test_everything_else_refuses(status: int) -> None:
    asker = ScriptedAsker()
    asker.say(URL, status=status, headers=(("location", "https://mallory.example"), *ALICE))
    fault = await refused(method(asker))
    assert (fault.status, fault.reason) == (503, AccessRefusal.UNAVAILABLE)
    assert len(asker.questions) == 1


async def test_silence_refuses() -> None:
    assert (await refused(method(ScriptedAsker()))).status == 503


async def test_a_yes_that_does_not_say_who_it_is_is_none() -> None:
    asker = ScriptedAsker()
    for headers in ((), (("x-auth-request-user", ""),), (("x-auth-request-user", "a"), ("x-auth-request-user", "b"))):
        asker.say(URL, headers=headers)
        assert (await refused(method(asker))).status == 503
    asker.say(URL, headers=(("x-auth-request-user", "a" * 5000),))
    assert (await refused(method(asker))).status == 503


async def test_what_is_passed_on_of_a_no() -> None:
    asker = ScriptedAsker()
    said = (
        ("www-authenticate", 'Basic realm="app"'),
        ("x-reason", "blocked"),
        ("set-cookie", "a=b"),
        ("upgrade", "h2c"),
    )
    forward = method(asker, refusal_headers=("WWW-Authenticate", "X-Reason", "Upgrade"))
    asker.say(URL, status=401, headers=said)
    fault = await refused(forward)
    assert (fault.status, fault.reason) == (401, AccessRefusal.INVALID)
    assert fault.headers == (("WWW-Authenticate", 'Basic realm="app"'), ("X-Reason", "blocked"))
    asker.say(URL, status=403, headers=said)
    fault = await refused(forward)
    assert (fault.status, fault.reason) == (403, AccessRefusal.FORBIDDEN)
    asker.say(URL, status=401)
    fault = await refused(forward)
    # RFC 9110 section 15.5.2: a 401 must have a challenge.
    assert [name for name, _ in fault.headers] == ["WWW-Authenticate"]


async def test_each_connection_asks_unless_a_yes_may_be_kept() -> None:
    asker = ScriptedAsker()
    asker.say(URL, headers=ALICE)
    for cache, expected in ((None, 3), (60.0, 1)):
        asker.questions.clear()
        forward = method(asker, cache=cache)
        for _ in range(3):
            await forward.identify(evidence(headers=COOKIE), NOW)
        assert len(asker.questions) == expected


async def test_a_kept_yes_is_for_the_same_credential_and_the_same_place_only() -> None:
    asker = ScriptedAsker()
    asker.say(URL, headers=ALICE)
    forward = method(asker, cache=60.0)
    await forward.identify(evidence(headers=COOKIE, target="/public"), NOW)
    asker.say(URL, status=403)
    for headers, target in ((COOKIE, "/admin"), ((("cookie", "session=abd"),), "/public")):
        with pytest.raises(HandshakeRefused):
            await forward.identify(evidence(headers=headers, target=target), NOW)
    assert (await forward.identify(evidence(headers=COOKIE, target="/public"), NOW + 59)).subject == "alice"
    with pytest.raises(HandshakeRefused):
        await forward.identify(evidence(headers=COOKIE, target="/public"), NOW + 60)


async def test_a_no_is_not_kept() -> None:
    asker = ScriptedAsker()
    asker.say(URL, status=401)
    forward = method(asker, cache=60.0)
    await refused(forward)
    asker.say(URL, headers=ALICE)
    assert (await forward.identify(evidence(headers=COOKIE), NOW)).subject == "alice"
