"""Sessions in an SQLite file, so that a backend may be killed at any moment and its sessions go on.

Invariant: positions, outbox and the handler's own effects share one connection, so that one transaction can hold them
all. That makes exactly-once effects reachable: the effect, the reply and the position are all there, or none is.

Several processes must not serve from one file: each session's state is also in memory while it is open.
"""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from gateway.backend.store import ENDED_SESSIONS_KEPT, Changes, SessionEnd, StoredSession
from gateway.ends.sqlite_file import SqliteFile
from gateway.protocol.outbox import OutgoingMessage

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kakitome_sessions (
    id TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL DEFAULT 0,
    consumed INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    settled INTEGER NOT NULL DEFAULT 0,
    end_order INTEGER UNIQUE,  -- NULL while the session is open
    end_code INTEGER,
    end_reason TEXT,
    end_by_peer INTEGER,
    rejected TEXT  -- JSON, NULL for none
);
CREATE TABLE IF NOT EXISTS kakitome_outbox (
    session TEXT NOT NULL REFERENCES kakitome_sessions(id) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    text INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (session, seq)
) WITHOUT ROWID;
"""
"""The names begin with `kakitome_` because the handler's own tables may live in the same file."""


class SqliteStore:
    """A `Store` in the file `path`, created when missing.

    With `synchronous="normal"` what was saved survives the death of the process but perhaps not of the machine; "full"
    survives both and waits for the disk at every save. All methods raise a kind of StoreFailed, which is a
    `sqlite3.OperationalError`, if the file cannot be used: StoreLocked, StoreFull, StoreReadOnly, StoreCorrupt,
    StoreUnreachable, StoreMoved.
    """

    durable: bool = True

    def __init__(self, path: str | Path, *, synchronous: str = "normal") -> None:
        if synchronous not in ("normal", "full"):
            raise ValueError(f"synchronous is 'normal' or 'full', not {synchronous!r}")
        self._file = SqliteFile(path, schema=SCHEMA, synchronous=synchronous)
        self._file.add_column("kakitome_sessions", "rejected", "TEXT")
        self.connection = self._file.connection
        """For the handler's own tables; what is done through it outside `transaction` commits on its own."""

    def open_sessions(self) -> Sequence[str]:
        with self._file.telling():
            rows = self.connection.execute("SELECT id FROM kakitome_sessions WHERE end_order IS NULL")
            return [session_id for (session_id,) in rows]

    def load(self, session_id: str) -> StoredSession | None:
        with self._file.telling():
            return self._load(session_id)

    def _load(self, session_id: str) -> StoredSession | None:
        row = self.connection.execute(
            "SELECT epoch, consumed, sent, settled, rejected, end_code, end_reason, end_by_peer"
            " FROM kakitome_sessions WHERE id = ?",
            (session_id,),
        ).fetchone()
        if row is None:
            return None
        epoch, consumed, sent, settled, rejected, end_code, end_reason, by_peer = row
        outbox = self.connection.execute(
            "SELECT seq, text, payload FROM kakitome_outbox WHERE session = ? ORDER BY seq", (session_id,)
        )
        return StoredSession(
            epoch=epoch,
            consumed=consumed,
            sent=sent,
            settled=settled,
            outbox=tuple(OutgoingMessage(seq=seq, text=bool(text), chunks=(payload,)) for seq, text, payload in outbox),
            rejected=tuple(map(tuple, json.loads(rejected or "[]"))),
            end=None if end_code is None else SessionEnd(code=end_code, reason=end_reason, by_peer=bool(by_peer)),
        )

    def save(self, session_id: str, changes: Changes) -> None:
        if self._file.in_transaction:
            self._file.check_transaction()
            with self._file.telling():
                self._write(session_id, changes)
        else:
            with self._file.transaction(), self._file.telling():
                self._write(session_id, changes)

    def _write(self, session_id: str, changes: Changes) -> None:
        execute = self.connection.execute
        execute(
            "INSERT INTO kakitome_sessions (id, epoch, consumed, sent, settled, rejected)"
            " VALUES (:id, ifnull(:epoch, 0), ifnull(:consumed, 0), ifnull(:sent, 0), ifnull(:settled, 0), :rejected)"
            " ON CONFLICT (id) DO UPDATE SET epoch = ifnull(:epoch, epoch), consumed = ifnull(:consumed, consumed),"
            " sent = ifnull(:sent, sent), settled = ifnull(:settled, settled), rejected = ifnull(:rejected, rejected)",
            {
                "id": session_id,
                "epoch": changes.epoch,
                "consumed": changes.consumed,
                "sent": changes.sent,
                "settled": changes.settled,
                "rejected": None if changes.rejected is None else json.dumps(changes.rejected, ensure_ascii=False),
            },
        )
        if changes.appended:
            self.connection.executemany(
                "INSERT INTO kakitome_outbox (session, seq, text, payload) VALUES (?, ?, ?, ?)",
                [(session_id, message.seq, message.text, b"".join(message.chunks)) for message in changes.appended],
            )
        if changes.settled is not None:
            execute("DELETE FROM kakitome_outbox WHERE session = ? AND seq <= ?", (session_id, changes.settled))
        if changes.end is not None:
            if changes.end.by_peer:
                execute("DELETE FROM kakitome_outbox WHERE session = ?", (session_id,))
            execute(
                "UPDATE kakitome_sessions SET end_code = ?, end_reason = ?, end_by_peer = ?,"
                " end_order = (SELECT ifnull(max(end_order), 0) + 1 FROM kakitome_sessions) WHERE id = ?",
                (changes.end.code, changes.end.reason, changes.end.by_peer, session_id),
            )
            execute(
                "DELETE FROM kakitome_sessions WHERE end_order <= (SELECT max(end_order) FROM kakitome_sessions) - ?",
                (ENDED_SESSIONS_KEPT,),
            )

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """Yields the connection inside BEGIN and COMMIT; whatever is raised, also by COMMIT, rolls all of it back."""
        return self._file.transaction()

    def close(self) -> None:
        """Closes the file. Not during a transaction."""
        self._file.close()
