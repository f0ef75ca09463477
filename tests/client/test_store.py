"""The client's store in an SQLite file."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.store import Changes, SqliteStore, StoredSession
from gateway.protocol.outbox import OutgoingMessage
from tests.client.gateway_model import ModelStore


def message(seq: int, payload: bytes = b"x", *, text: bool = False) -> OutgoingMessage:
    return OutgoingMessage(seq=seq, text=text, chunks=(payload,))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "session.db")
    yield store
    store.close()


def test_a_new_file_holds_no_session(store: SqliteStore) -> None:
    assert store.load() is None


def test_what_was_saved_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "session.db")
    store.save(Changes(sent=2, appended=[message(1, b"a", text=True), message(2, b"\xff")]))
    store.save(Changes(token="t", consumed=4, settled=1))
    store.close()
    store = SqliteStore(tmp_path / "session.db")
    assert store.load() == StoredSession(token="t", consumed=4, sent=2, settled=1, outbox=(message(2, b"\xff"),))
    store.close()


def test_a_save_that_fails_changes_nothing(store: SqliteStore) -> None:
    store.save(Changes(token="t", sent=1, appended=[message(1)]))
    before = store.load()
    with pytest.raises(sqlite3.IntegrityError):
        store.save(Changes(consumed=9, sent=2, appended=[message(2), message(1)]))
    assert store.load() == before
    store.save(Changes(consumed=1))
    assert store.load() != before


def test_an_ended_session_is_forgotten(store: SqliteStore) -> None:
    store.save(Changes(token="t", sent=1, appended=[message(1)]))
    store.save(Changes(ended=True))
    assert store.load() is None


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but a text that is long enough to be read as one" * 10)
    with pytest.raises(sqlite3.DatabaseError):
        SqliteStore(path)


@st.composite
def histories(draw: st.DrawFn) -> list[Changes]:
    """Changes as a conversation makes them: numbers only rise, until a session begins anew."""
    history = []
    consumed = sent = settled = 0
    for number in range(draw(st.integers(1, 8))):
        anew = draw(st.booleans()) and draw(st.booleans())
        if anew:
            consumed = sent = settled = 0
        first = sent + 1
        sent += draw(st.integers(0, 3))
        settled = draw(st.integers(settled, sent))
        consumed += draw(st.integers(0, 2))
        history.append(
            Changes(
                begins_anew=anew,
                token=f"t{number}" if anew or number == 0 else None,
                consumed=consumed or None,
                sent=sent or None,
                settled=settled or None,
                rejected=draw(st.none() | st.just([(1, 3, 4000, "no 書")])),
                appended=[message(seq, b"%d" % seq, text=draw(st.booleans())) for seq in range(first, sent + 1)],
                ended=draw(st.integers(0, 20)) == 0,
            )
        )
        if history[-1].ended:
            break
    return history


@given(history=histories())
def test_it_keeps_what_a_plain_picture_would(history: list[Changes]) -> None:
    store, model = SqliteStore(":memory:"), ModelStore()
    for changes in history:
        if changes:
            store.save(changes)
            model.save(changes)
            assert store.load() == model.load()
    store.close()
