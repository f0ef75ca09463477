"""docs/openapi.json says what the admin API does, all of it, with the scope that it takes."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import SecretStr

from gateway.access.state import Bar, Barred, StateUnwritable
from gateway.admin.acting import Operations
from gateway.admin.app import AdminApp
from gateway.admin.openapi import OPERATIONS, text
from gateway.config.model import AdminToken, LogLevel
from gateway.errors import HandshakeRefused
from tests.admin.requests import get
from tests.admin.test_app import FakeGateway, NoSessions

READS = AdminToken(name="prometheus", token=SecretStr("reading"), scopes=("read",))
ACTS = AdminToken(name="oncall", token=SecretStr("acting"), scopes=("act",))
BOTH = AdminToken(name="admin", token=SecretStr("doing-both"), scopes=("read", "act"))
PAGE = Path(__file__).parents[2] / "docs" / "openapi.json"


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


def test_the_openapi_document_is_current() -> None:
    assert PAGE.read_text() == text(), "run: python -m gateway.admin.openapi > docs/openapi.json"


async def test_every_documented_operation_is_there_with_its_scope() -> None:
    for operation in OPERATIONS:
        target = operation.path.replace("{id}", "nobody").replace("{name}", "chat")
        for token, scopes in (("reading", ("read", None)), ("acting", ("act", None))):
            try:
                await app(Recorded()).answer(
                    get(target, method=operation.method.upper(), authorization=f"Bearer {token}")
                )
                status = 200
            except HandshakeRefused as refusal:
                status = refusal.status
            if operation.scope in scopes:
                assert status in (200, *operation.refusals), (operation, status)
            else:
                assert status == 403, (operation, token)
