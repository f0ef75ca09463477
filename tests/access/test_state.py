"""What outlasts a restart: tickets that were used, bars; and files that are no state."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.access.state import AccessState, Bar, Barred, StateUnwritable, open_state
from gateway.access.tickets import TicketMethod
from gateway.policy.principal import Principal
from tests.access.doubles import NOW

SECRET = "a secret of at least thirty-two bytes"


def method(state: AccessState | None = None, *secrets: str) -> TicketMethod:
    return TicketMethod(secrets or (SECRET,), longest_seconds=300, state=state or open_state(None, now=NOW - 1000))


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
    with closing(sqlite3.connect(path, isolation_level=None)) as old, old:
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
    with closing(sqlite3.connect(path, isolation_level=None)) as other, other:
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
