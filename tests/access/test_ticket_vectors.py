"""The tickets of docs/vectors/tickets.json, which other implementations are held against."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.access.state import open_state
from gateway.access.tickets import TicketMethod, make_ticket
from gateway.errors import HandshakeRefused
from tests.access.doubles import evidence

VECTORS: Final[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "docs" / "vectors" / "tickets.json").read_text(encoding="utf-8")
)
NOW: Final[int] = VECTORS["now"]
PAGE: Final = (("origin", "https://app.example.com"),)


def method(secret: str) -> TicketMethod:
    return TicketMethod([secret], longest_seconds=300, state=open_state(None, now=NOW - 1))


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["description"])
async def test_valid(vector: dict[str, Any]) -> None:
    payload = vector["payload"]
    principal = await method(vector["secret"]).identify(evidence(vector["ticket"], headers=PAGE), NOW)
    assert principal.subject == payload["sub"]
    assert principal.claims == payload
    more = {name: value for name, value in payload.items() if name not in ("sub", "iat", "exp", "jti")}
    made = make_ticket(
        vector["secret"],
        subject=payload["sub"],
        now=NOW,
        good_for_seconds=payload["exp"] - NOW,
        claims=more,
        ticket_id=payload["jti"],
    )
    assert made == vector["ticket"]


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["description"])
async def test_invalid(vector: dict[str, Any]) -> None:
    with pytest.raises(HandshakeRefused) as caught:
        await method(vector["secret"]).identify(evidence(vector["ticket"], headers=PAGE), NOW)
    assert caught.value.status == 401
