"""What a client remembers of its session beyond its process: the token, positions, and the messages not settled.

Invariant: whatever is told to the gateway was saved before. A message and its number are saved before its bytes leave,
and a consumed position before it is acknowledged; so a client that is killed at any point takes up where the gateway
believes it to be.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Final, Protocol

from gateway.ends.sqlite_file import SqliteFile
from gateway.protocol.outbox import OutgoingMessage
from gateway.protocol.rejections import RejectedRange


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """All that is needed to take a session up again."""

    token: str | None = None
    """None while the gateway has not given one; the messages then wait for their first session."""
    consumed: int = 0
    """Highest message of the gateway's that was consumed."""
    sent: int = 0
    """Highest number that was given to a message."""
    settled: int = 0
    """Highest message that was settled; the outbox holds those after it."""
    outbox: tuple[OutgoingMessage, ...] = ()
    rejected: tuple[RejectedRange, ...] = ()
    """What was refused lately of the gateway's messages: (first, last, code, reason)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one turn changed; None means unchanged."""

    begins_anew: bool = False
    """A session begins: all that was stored before is forgotten, and the rest of this is where the new one stands."""
    token: str | None = None
    consumed: int | None = None
    sent: int | None = None
    settled: int | None = None
    appended: Sequence[OutgoingMessage] = ()
    """New messages, up to number `sent`."""
    rejected: Sequence[RejectedRange] | None = None
    """All that was refused lately, in place of what was saved before."""
    ended: bool = False
    """The session has ended for good: all is forgotten."""

    def __bool__(self) -> bool:
        return (
            self.begins_anew
            or self.ended
            or bool(self.appended)
            or any(value is not None for value in (self.token, self.consumed, self.sent, self.settled, self.rejected))
        )


class Store(Protocol):
    """Where one session is kept. Called on the event loop's thread: be brief."""

    def load(self) -> StoredSession | None:
        """The session, None if there is none."""

    def save(self, changes: Changes) -> None:
        """Makes all of `changes` last, or none."""


class SqliteStore:
    """One session in an SQLite file. For one process at a time."""

    _SCHEMA: Final = """
        CREATE TABLE IF NOT EXISTS session (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            token TEXT, consumed INTEGER NOT NULL, sent INTEGER NOT NULL, settled INTEGER NOT NULL,
            rejected TEXT  -- JSON, NULL for none
        );
        CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY, text INTEGER NOT NULL, payload BLOB NOT NULL);
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Opens the file, or makes it.

        This and every other method raise a kind of StoreFailed, which is a `sqlite3.OperationalError`, if the file
        cannot be used: StoreLocked, StoreFull, StoreReadOnly, StoreCorrupt, StoreUnreachable, StoreMoved.
        """
        # Every save is on the disk when it returns: what it says is then told to the gateway.
        self._file = SqliteFile(path, schema=self._SCHEMA, synchronous="full")
        self._file.add_column("session", "rejected", "TEXT")

    def load(self) -> StoredSession | None:
        with self._file.telling():
            return self._load()

    def _load(self) -> StoredSession | None:
        execute = self._file.connection.execute
        row = execute("SELECT token, consumed, sent, settled, rejected FROM session").fetchone()
        if row is None:
            return None
        messages = execute("SELECT seq, text, payload FROM outbox ORDER BY seq")
        return StoredSession(
            token=row[0],
            consumed=row[1],
            sent=row[2],
            settled=row[3],
            rejected=tuple(map(tuple, json.loads(row[4] or "[]"))),
            outbox=tuple(
                OutgoingMessage(seq=seq, text=bool(text), chunks=(payload,)) for seq, text, payload in messages
            ),
        )

    def save(self, changes: Changes) -> None:
        with self._file.transaction(), self._file.telling():
            self._apply(changes)

    def _apply(self, changes: Changes) -> None:
        execute = self._file.connection.execute
        if changes.begins_anew or changes.ended:
            execute("DELETE FROM session")
            execute("DELETE FROM outbox")
        if changes.ended:
            return
        execute("INSERT OR IGNORE INTO session (id, consumed, sent, settled) VALUES (1, 0, 0, 0)")
        execute(
            "UPDATE session SET token = coalesce(?, token), consumed = coalesce(?, consumed), sent = coalesce(?, sent),"
            " settled = coalesce(?, settled), rejected = coalesce(?, rejected)",
            (
                changes.token,
                changes.consumed,
                changes.sent,
                changes.settled,
                None if changes.rejected is None else json.dumps(changes.rejected, ensure_ascii=False),
            ),
        )
        self._file.connection.executemany(
            "INSERT INTO outbox VALUES (?, ?, ?)",
            [(message.seq, message.text, b"".join(message.chunks)) for message in changes.appended],
        )
        if changes.settled is not None:
            execute("DELETE FROM outbox WHERE seq <= ?", (changes.settled,))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
