"""The backend's store in SQLite: what it shares with the handler's tables, and files that are none of its own."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.backend.sqlite_store import SqliteStore
from gateway.backend.store import (
    Changes,
    StoredSession,
)
from gateway.protocol.outbox import OutgoingMessage


def message(seq: int, payload: bytes = b"x", *, text: bool = False) -> OutgoingMessage:
    return OutgoingMessage(seq=seq, text=text, chunks=(payload,))


def model(session: StoredSession, changes: Changes) -> StoredSession:
    """What `session` is after `changes`, the slow and obvious way."""
    settled = session.settled if changes.settled is None else changes.settled
    end = changes.end or session.end
    return replace(
        session,
        epoch=session.epoch if changes.epoch is None else changes.epoch,
        consumed=session.consumed if changes.consumed is None else changes.consumed,
        settled=settled,
        sent=session.sent if changes.sent is None else changes.sent,
        rejected=session.rejected if changes.rejected is None else tuple(changes.rejected),
        outbox=() if end and end.by_peer else tuple(m for m in (*session.outbox, *changes.appended) if m.seq > settled),
        end=end,
    )


def test_sqlite_sessions_outlive_their_connection(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.save("a", Changes(epoch=3, consumed=4, appended=[message(1, "どやさ".encode(), text=True)]))
    again = SqliteStore(tmp_path / "s.db", synchronous="full")  # the first one was never closed, as after a SIGKILL
    assert again.load("a") == model(
        StoredSession(), Changes(epoch=3, consumed=4, appended=[message(1, "どやさ".encode(), text=True)])
    )
    store.close()
    again.close()


def test_sqlite_shares_its_transaction_with_the_handlers_tables(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.connection.execute("CREATE TABLE effects (what TEXT)")

    def fail_after_the_effect() -> None:
        with store.transaction() as connection:
            connection.execute("INSERT INTO effects VALUES ('done')")
            store.save("a", Changes(consumed=1))
            raise LookupError("killed here")

    with pytest.raises(LookupError):
        fail_after_the_effect()
    assert store.connection.execute("SELECT count(*) FROM effects").fetchone() == (0,)
    assert store.load("a") is None
    store.close()


def test_sqlite_refuses_an_unknown_synchronous_mode(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'normal' or 'full'"):
        SqliteStore(tmp_path / "s.db", synchronous="off; DROP TABLE effects")


def test_sqlite_refuses_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database at all, but long enough to be taken for one" * 20)
    with pytest.raises(sqlite3.DatabaseError):
        SqliteStore(tmp_path / "notes.txt")
