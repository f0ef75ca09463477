"""Tickets: good once, for a short time, also over a restart."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from gateway.access.state import AccessState, open_state
from gateway.access.tickets import PREFIX, TicketMethod, _encode, _signature, make_ticket
from gateway.errors import HandshakeRefused
from gateway.policy.principal import AccessRefusal, Principal
from tests.access.doubles import NOW, evidence

SECRET = "a secret of at least thirty-two bytes"
OLD_SECRET = "the one before it, of thirty-two bytes"


def method(state: AccessState | None = None, *secrets: str) -> TicketMethod:
    return TicketMethod(secrets or (SECRET,), longest_seconds=300, state=state or open_state(None, now=NOW - 1000))


def ticket(secret: str = SECRET, *, now: float = NOW, good_for_seconds: float = 60, **claims: object) -> str:
    return make_ticket(secret, subject="alice", now=now, good_for_seconds=good_for_seconds, claims=claims)


def signed(payload: bytes, secret: str = SECRET) -> str:
    text = PREFIX + _encode(payload)
    return f"{text}.{_encode(_signature(secret, text))}"


async def refused(tickets: TicketMethod, text: str, *, now: float = NOW, origin: str | None = None) -> HandshakeRefused:
    headers = () if origin is None else (("origin", origin),)
    with pytest.raises(HandshakeRefused) as caught:
        await tickets.identify(evidence(text, headers=headers), now)
    assert text not in str(caught.value)
    return caught.value


async def test_a_ticket_lets_in_once() -> None:
    tickets = method()
    text = ticket(room="7")
    assert tickets.applies(evidence(text))
    principal = await tickets.identify(evidence(text), NOW)
    assert principal.subject == "alice"
    assert principal.claims["room"] == "7"
    assert "was used before" in str(await refused(tickets, text))


async def test_of_several_at_the_same_moment_one_comes_in() -> None:
    tickets, text, let_in = method(), ticket(), 0

    async def enter() -> None:
        nonlocal let_in
        try:
            await tickets.identify(evidence(text), NOW)
        except HandshakeRefused:
            return
        let_in += 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(enter)
    assert let_in == 1


async def test_old_and_new_secret_while_one_replaces_the_other() -> None:
    tickets = method(None, SECRET, OLD_SECRET)
    for secret in (SECRET, OLD_SECRET):
        assert (await tickets.identify(evidence(ticket(secret)), NOW)).subject == "alice"
    assert "signature" in str(await refused(tickets, ticket("mallory's own secret of 32 bytes or so")))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kt1.", "three parts"),
        ("kt1.abc", "three parts"),
        ("kt1..abc", "three parts"),
        ("kt1.a.b.c", "three parts"),
        (ticket() + "=", "a signature that does not hold"),
        (ticket()[:-1], "a signature that does not hold"),
        (ticket().replace("kt1.", "kt1.e", 1), "a signature that does not hold"),
        (signed(b"[]"), "no JSON object"),
        (signed(b"{"), "no JSON object"),
        (signed(b"\xff"), "no JSON object"),
        (signed(b"[" * 2000), "no JSON object"),
        (signed(json.dumps({"sub": "alice"}).encode()), "no jti"),
        (signed(json.dumps({"jti": "1"}).encode()), "no sub"),
        (signed(json.dumps({"sub": 5, "jti": "1"}).encode()), "no sub"),
        (signed(json.dumps({"sub": "a", "jti": "1", "exp": NOW + 9}).encode()), "no iat"),
        (signed(json.dumps({"sub": "a", "jti": "1", "iat": True, "exp": NOW + 9}).encode()), "no iat"),
        (signed(json.dumps({"sub": "a", "jti": "1", "iat": NOW, "exp": "soon"}).encode()), "no exp"),
        (signed(json.dumps({"sub": "a", "jti": "1" * 129, "iat": NOW, "exp": NOW + 9}).encode()), "more than 128"),
        (ticket(good_for_seconds=301), "for longer than the 300 seconds"),
        (ticket(now=NOW + 6), "issued in the future"),
        (ticket(now=NOW - 61), "has expired"),
        (ticket(now=NOW - 60), "has expired"),
        (ticket(route="vnc"), "is for another route"),
        (ticket(route=None), "is for another route"),
        (ticket(origin="https://app.example.com"), "is for another origin"),
        (ticket(padding="x" * 5000), "is longer than 4096 bytes"),
    ],
)
async def test_what_is_not_taken(text: str, problem: str) -> None:
    assert problem in str(await refused(method(), text))


async def test_a_ticket_for_one_route_and_one_page() -> None:
    text = ticket(route="chat", origin="https://app.example.com")
    assert "another origin" in str(await refused(method(), text, origin="https://mallory.example"))
    headers = (("origin", "https://app.example.com"),)
    assert (await method().identify(evidence(text, headers=headers), NOW)).subject == "alice"


# --- over a restart -------------------------------------------------------------------------------------------------


async def test_a_used_ticket_stays_used_over_a_restart(tmp_path: Path) -> None:
    text = ticket()
    state = open_state(tmp_path / "state.db", now=NOW - 1000)
    await method(state).identify(evidence(text), NOW)
    state.close()
    state = open_state(tmp_path / "state.db", now=NOW + 1)
    assert "was used before" in str(await refused(method(state), text, now=NOW + 1))
    assert (await method(state).identify(evidence(ticket()), NOW + 1)).subject == "alice"
    state.close()


@pytest.mark.parametrize("with_file", [False, True])
async def test_without_memory_of_before_nothing_of_before_is_believed(with_file: bool, tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    text = ticket()
    state = open_state(path if with_file else None, now=NOW - 1000)
    await method(state).identify(evidence(text), NOW)
    state.close()
    path.unlink(missing_ok=True)
    state = open_state(path if with_file else None, now=NOW + 1)
    fault = await refused(method(state), text, now=NOW + 1)
    assert "older than this gateway's memory" in str(fault)
    assert fault.reason == AccessRefusal.EXPIRED
    state.close()


@pytest.mark.parametrize("good_for", [60.0, 59.9])
async def test_one_of_the_second_in_which_the_memory_begins_is_taken_if_it_came_later(good_for: float) -> None:
    began = NOW + 0.4
    state = open_state(None, now=began)
    early, late = (
        make_ticket(SECRET, subject="alice", now=made, good_for_seconds=good_for) for made in (NOW + 0.3, NOW + 0.5)
    )
    assert "older than this gateway's memory" in str(await refused(method(state), early, now=NOW + 0.6))
    assert (await method(state).identify(evidence(late), NOW + 0.6)).subject == "alice"
    state.close()


async def test_a_ticket_that_cannot_be_written_down_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = open_state(path, now=NOW - 1000)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, other:
        other.execute("DROP TABLE used")
        text = ticket()
        assert (await refused(method(state), text)).status == 503
        other.execute("CREATE TABLE used (name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID")
    other.close()
    assert "was used before" in str(await refused(method(state), text))
    state.close()


# --- bars -----------------------------------------------------------------------------------------------------------


def principal(**changes: object) -> Principal:
    facts = {"subject": "alice", "method": "jwt", "issued_at": NOW - 10, "token_id": "t-1", "login_session": "s-1"}
    return Principal(**(facts | changes))  # type: ignore[arg-type]
