"""Tickets: good once, for a short time, also over a restart."""

import json
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from gateway.access.state import AccessState, Bar, Barred, StateUnwritable, open_state
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


async def test_a_ticket_that_cannot_be_written_down_lets_nobody_in(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = open_state(path, now=NOW - 1000)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("DROP TABLE used")
        text = ticket()
        assert (await refused(method(state), text)).status == 503
        other.execute("CREATE TABLE used (name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID")
    other.close()
    assert "was used before" in str(await refused(method(state), text))
    state.close()


async def test_a_file_that_is_no_state(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(ValueError, match=r"state\.db cannot be used: file is not a database"):
        open_state(path, now=NOW)
    with pytest.raises(ValueError, match="cannot be used: unable to open database file"):
        open_state(tmp_path / "missing" / "state.db", now=NOW)


# --- bars -----------------------------------------------------------------------------------------------------------


def principal(**changes: object) -> Principal:
    facts = {"subject": "alice", "method": "jwt", "issued_at": NOW - 10, "token_id": "t-1", "login_session": "s-1"}
    return Principal(**(facts | changes))  # type: ignore[arg-type]


def barred(state: AccessState, who: Principal | None, *, now: float = NOW, session: str | None = None) -> Barred | None:
    bar = state.bar_for(who, route="chat", address="192.0.2.7", session=session, now=now)
    return None if bar is None else bar.kind


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Barred.TOKEN, "t-1"),
        (Barred.SUBJECT, "alice"),
        (Barred.LOGIN_SESSION, "s-1"),
        (Barred.SESSION, "id"),
        (Barred.ADDRESS, "192.0.2.7"),
        (Barred.ROUTE, "chat"),
    ],
)
async def test_every_kind_of_bar_holds_until_its_end_and_over_a_restart(
    kind: Barred, value: str, tmp_path: Path
) -> None:
    state = open_state(tmp_path / "state.db", now=NOW)
    assert barred(state, principal(), session="id") is None
    await state.bar(Bar(kind=kind, value=value, since=NOW, until=NOW + 60), now=NOW)
    await state.bar(Bar(kind=kind, value="another", since=NOW, until=None), now=NOW)
    for _ in range(2):
        assert barred(state, principal(), session="id") == kind
        assert barred(state, principal(), session="id", now=NOW + 59) == kind
        assert barred(state, principal(), session="id", now=NOW + 60) is None
        state.close()
        state = open_state(tmp_path / "state.db", now=NOW + 1)
    assert await state.lift(kind, value)
    assert not await state.lift(kind, value)
    assert barred(state, principal(), session="id") is None
    state.close()
    state = open_state(tmp_path / "state.db", now=NOW + 1)
    assert [bar.value for bar in state.bars(NOW + 1)] == ["another"]
    state.close()


@pytest.mark.parametrize(("kind", "value"), [(Barred.SUBJECT, "alice"), (Barred.LOGIN_SESSION, "s-1")])
async def test_a_new_login_lifts_the_bar_of_a_subject(kind: Barred, value: str) -> None:
    state = open_state(None, now=NOW)
    await state.bar(Bar(kind=kind, value=value, since=NOW, until=None), now=NOW)
    assert barred(state, principal(issued_at=NOW)) == kind
    assert barred(state, principal(issued_at=None)) == kind
    assert barred(state, principal(issued_at=NOW + 1)) is None


async def test_what_an_issuer_says_holds_for_its_own_subjects_by_the_name_that_it_gave_them(tmp_path: Path) -> None:
    state = open_state(tmp_path / "state.db", now=NOW)
    await state.bar(Bar(kind=Barred.SUBJECT, value="248", since=NOW, until=None, issuer="one"), now=NOW)
    await state.bar(Bar(kind=Barred.LOGIN_SESSION, value="s-1", since=NOW, until=None, issuer="two"), now=NOW)
    for _ in range(2):
        named = principal(subject="alice@example.com", claims={"sub": "248"}, login_session=None)
        assert barred(state, replace(named, issuer="one")) is Barred.SUBJECT
        assert barred(state, replace(named, issuer="two")) is None
        assert barred(state, named) is None
        assert barred(state, principal(issuer="one", subject="248", claims={})) is Barred.SUBJECT
        assert barred(state, principal(issuer="one")) is None
        assert barred(state, principal(issuer="two")) is Barred.LOGIN_SESSION
        state.close()
        state = open_state(tmp_path / "state.db", now=NOW + 1)
    assert not await state.lift(Barred.SUBJECT, "248")
    assert await state.lift(Barred.SUBJECT, "248", issuer="one")
    assert barred(state, principal(issuer="one", subject="248")) is None
    state.close()


@pytest.mark.parametrize(
    ("one", "other", "both"), [(None, NOW, None), (NOW, None, None), (NOW, NOW + 1, NOW + 1), (NOW + 1, NOW, NOW + 1)]
)
def test_of_two_bars_of_one_name_the_longer_and_the_later_count(
    one: float | None, other: float | None, both: float | None
) -> None:
    first = Bar(kind=Barred.SUBJECT, value="alice", since=NOW - 1, until=one)
    second = replace(first, since=NOW, until=other)
    assert first.joined(second) == second.joined(first) == replace(first, since=NOW, until=both)
    assert first.joined(None) == first


async def test_bars_of_a_file_from_before_they_had_issuers_hold(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with sqlite3.connect(path, isolation_level=None) as old:
        old.execute("CREATE TABLE barred (kind TEXT, value TEXT, since REAL, until REAL, PRIMARY KEY (kind, value))")
        old.execute("INSERT INTO barred VALUES ('subject', 'alice', ?, NULL)", (NOW,))
    old.close()
    for _ in range(2):
        state = open_state(path, now=NOW)
        assert barred(state, principal()) is Barred.SUBJECT
        state.close()


async def test_a_bar_that_cannot_be_written_down_holds_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    state = open_state(path, now=NOW)
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("DROP TABLE bars")
    other.close()
    with pytest.raises(StateUnwritable):
        await state.bar(Bar(kind=Barred.SUBJECT, value="alice", since=NOW, until=None), now=NOW)
    assert barred(state, principal()) == Barred.SUBJECT
    state.close()


async def test_what_is_over_is_forgotten(tmp_path: Path) -> None:
    state = open_state(None, now=NOW)
    for index in range(5000):
        assert await state.use(f"ticket:{index}", until=NOW + index, now=NOW + index)
    assert len(state._used) < 1100
