"""The part of the admin API that acts: who may, what is done, and clear words for what cannot be."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.access.state import Bar, Barred, StateUnwritable
from gateway.admin.acting import Operations
from gateway.admin.app import AdminApp
from gateway.config.model import AdminToken, LogLevel
from gateway.errors import HandshakeRefused
from tests.admin.requests import get
from tests.admin.test_app import FakeGateway, NoSessions

READS = AdminToken(name="prometheus", token=SecretStr("reading"), scopes=("read",))
ACTS = AdminToken(name="oncall", token=SecretStr("acting"), scopes=("act",))
BOTH = AdminToken(name="admin", token=SecretStr("doing-both"), scopes=("read", "act"))


class Recorded(Operations):
    """Keeps what it is asked for."""

    def __init__(self) -> None:
        self.heard: list[tuple[object, ...]] = []
        self.is_writable = True
        self._level: LogLevel = "info"

    async def bar(
        self, kind: Barred, value: str, *, seconds: float | None, issuer: str | None = None
    ) -> tuple[Bar, int, bool]:
        self.heard.append(("bar", kind, value, issuer, seconds))
        return Bar(kind=kind, value=value, since=1.0, until=seconds, issuer=issuer), 3, self.is_writable

    def disconnect(self, kind: Barred, value: str, *, issuer: str | None = None) -> int:
        self.heard.append(("disconnect", kind, value, issuer))
        return 0 if value == "nobody" else 2

    def bars(self) -> Sequence[Bar]:
        return [Bar(kind=Barred.SUBJECT, value="mallory", since=1.0, until=None)]

    async def lift(self, kind: Barred, value: str, *, issuer: str | None = None) -> bool:
        self.heard.append(("lift", kind, value, issuer))
        if not self.is_writable:
            raise StateUnwritable("disk full")
        return value != "nobody"

    def drain_route(self, route: str) -> int | None:
        return 5 if route == "chat" else None

    def open_route(self, route: str) -> bool:
        return route == "chat"

    @property
    def log_level(self) -> LogLevel:
        return self._level

    def set_log_level(self, level: LogLevel) -> None:
        self._level = level


def app(operations: Recorded, *tokens: AdminToken) -> AdminApp:
    return AdminApp(
        FakeGateway(), sessions=NoSessions(), memory=dict, tokens=tokens or (READS, ACTS, BOTH), operations=operations
    )


async def ask(operations: Recorded, method: str, target: str, token: str = "doing-both") -> Any:
    request = get(target, method=method, authorization=f"Bearer {token}")
    response = await app(operations).answer(request)
    assert response.status == HTTPStatus.OK
    return json.loads(response.body)


async def refused(operations: Recorded, method: str, target: str, token: str = "doing-both") -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as caught:
        await ask(operations, method, target, token)
    return caught.value


async def test_each_operation_does_what_it_says() -> None:
    operations = Recorded()
    for method, target, answer, heard in (
        ("DELETE", "/sessions/abc", {"ended": 2}, ("disconnect", Barred.SESSION, "abc", None)),
        ("POST", "/disconnect?address=10.0.0.1", {"ended": 2}, ("disconnect", Barred.ADDRESS, "10.0.0.1", None)),
        (
            "POST",
            "/bars?subject=mallory%20%26%20co&seconds=60",
            {"by": "subject", "value": "mallory & co", "since": 1.0, "until": 60.0, "ended": 3, "kept": True},
            ("bar", Barred.SUBJECT, "mallory & co", None, 60.0),
        ),
        (
            "POST",
            "/bars?token=t-1",
            {"by": "token", "value": "t-1", "since": 1.0, "until": None, "ended": 3, "kept": True},
            ("bar", Barred.TOKEN, "t-1", None, None),
        ),
        (
            "POST",
            "/bars?login_session=s-1&issuer=https%3A%2F%2Flogin.example.com",
            {
                "by": "login_session",
                "value": "s-1",
                "since": 1.0,
                "until": None,
                "issuer": "https://login.example.com",
                "ended": 3,
                "kept": True,
            },
            ("bar", Barred.LOGIN_SESSION, "s-1", "https://login.example.com", None),
        ),
        ("DELETE", "/bars?subject=al&issuer=i", {}, ("lift", Barred.SUBJECT, "al", "i")),
        ("DELETE", "/bars?route=chat", {}, ("lift", Barred.ROUTE, "chat", None)),
    ):
        assert await ask(operations, method, target) == answer
        assert operations.heard.pop() == heard
    bars = await ask(operations, "GET", "/bars")
    assert bars == {"bars": [{"by": "subject", "value": "mallory", "since": 1.0, "until": None}]}
    assert await ask(operations, "POST", "/routes/chat/drain") == {"leaving": 5}
    assert await ask(operations, "DELETE", "/routes/chat/drain") == {}
    assert await ask(operations, "PUT", "/log/level?level=debug") == {"level": "debug"}
    assert await ask(operations, "GET", "/log/level") == {"level": "debug"}


@pytest.mark.parametrize(
    ("method", "target", "status", "words"),
    [
        ("POST", "/bars", 400, "exactly one of token, subject"),
        ("POST", "/bars?subject=", 400, "exactly one of"),
        ("POST", "/bars?subject=a&route=b", 400, "exactly one of"),
        ("POST", "/bars?subject=a&seconds=0", 400, "seconds must be a number from 1"),
        ("POST", "/bars?subject=a&seconds=soon", 400, "seconds must be a number from 1"),
        ("POST", "/bars?address=10.0.0.1&issuer=i", 400, "issuer goes with token, subject, login_session"),
        ("POST", "/bars?subject=a&issuer=", 400, "issuer goes with"),
        ("POST", "/bars?who=a", 400, "the query may have, once each"),
        ("POST", "/disconnect?subject=a&seconds=5", 400, "the query may have, once each"),
        ("DELETE", "/sessions/nobody", 404, "no live session"),
        ("DELETE", "/sessions/abc?bar=1", 400, "the query has to be empty"),
        ("DELETE", "/bars?subject=nobody", 404, "nobody of that name is barred"),
        ("POST", "/routes/none/drain", 404, "no route has this name"),
        ("DELETE", "/routes/none/drain", 404, "is not drained"),
        ("PUT", "/log/level?level=loud", 400, "level is one of debug, info"),
        ("POST", "/metrics", 405, "this takes GET, HEAD"),
        ("DELETE", "/sessions/ended", 405, "this takes GET, HEAD"),
    ],
)
async def test_what_cannot_be_is_said_in_words(method: str, target: str, status: int, words: str) -> None:
    refusal = await refused(Recorded(), method, target)
    assert refusal.status == status
    assert words in str(refusal)


async def test_a_token_does_what_its_scopes_allow_and_no_more() -> None:
    operations = Recorded()
    for token, reads, acts in (
        ("reading", None, 403),
        ("acting", 403, None),
        ("doing-both", None, None),
        ("x", 401, 401),
    ):
        for method, target, status in (("GET", "/bars", reads), ("POST", "/disconnect?subject=a", acts)):
            if status is None:
                await ask(operations, method, target, token)
            else:
                assert (await refused(operations, method, target, token)).status == status
    assert len(operations.heard) == 2


async def test_nobody_acts_where_no_token_may() -> None:
    for tokens in ((), (READS,)):
        silent = AdminApp(FakeGateway(), tokens=tokens, operations=Recorded())
        with pytest.raises(HandshakeRefused, match="with the scope act") as caught:
            await silent.answer(get("/disconnect?subject=a", method="POST"))
        assert caught.value.status == HTTPStatus.FORBIDDEN
    old = AdminApp(FakeGateway(), token=SecretStr("reading"), operations=Recorded())
    assert (await old.answer(get("/bars", authorization="Bearer reading"))).status == HTTPStatus.OK
    with pytest.raises(HandshakeRefused, match="with the scope act"):
        await old.answer(get("/disconnect?subject=a", method="POST", authorization="Bearer reading"))


async def test_a_state_that_cannot_be_written_is_told() -> None:
    operations = Recorded()
    operations.is_writable = False
    assert (await ask(operations, "POST", "/bars?subject=mallory"))["kept"] is False
    refusal = await refused(operations, "DELETE", "/bars?subject=mallory")
    assert refusal.status == HTTPStatus.INSUFFICIENT_STORAGE
    assert "disk full" in str(refusal)
