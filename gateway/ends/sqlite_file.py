"""An SQLite file that tells what is wrong with it, shared by the stores of the client and the backend kit.

Invariant: what is done in a `transaction` lasts as a whole or not at all, and what is raised is its first cause, never
what clearing up after it met. SQLite gives up a transaction by itself when, say, the disk is full; from then on nothing
more of it is written, also if its user has caught that error and goes on. Nor does anything last that is written to a
file that no name leads to any more; so whoever finds that it was moved, deleted or replaced is told, and saves nothing.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import ClassVar, Final

from gateway.errors import Blame, KakitomeError

BUSY_TIMEOUT_SECONDS: Final = 5.0
"""For another process to let go of the file."""


class StoreFailed(KakitomeError, sqlite3.OperationalError):
    """The store cannot be read or written; what was to be saved is not. The other kinds say why, where it is known."""

    blame = Blame.OPERATOR
    reason = "store_failed"
    hint: ClassVar[str] = ""
    """What the kind means, and what helps."""


class StoreLocked(StoreFailed):
    """Another process, or another connection, is writing the file, or holds it. Passes when that one is done."""

    reason = "store_locked"
    hint = "is locked: another process writes it, or has it open for itself alone"


class StoreFull(StoreFailed):
    """The disk, or the quota of the file, is full."""

    reason = "store_full"
    hint = "has no room to grow: its disk is full"


class StoreReadOnly(StoreFailed):
    """The file, its folder or its file system may not be written."""

    reason = "store_read_only"
    hint = "cannot be written: the file, its folder or its file system is read-only for this process"


class StoreCorrupt(StoreFailed):
    """The file is damaged, or no database at all."""

    reason = "store_corrupt"
    hint = "is damaged, or no SQLite database: restore it from a backup, or take another file"


class StoreUnreachable(StoreFailed):
    """The file cannot be opened: its folder is missing, or is closed to this process, or what is there is no file."""

    reason = "store_unreachable"
    hint = "cannot be opened: its folder is missing, or closed to this process"


class StoreMoved(StoreFailed):
    """The file, or its `-wal`, was moved away, deleted or replaced while it was in use: open the store anew."""

    reason = "store_moved"
    hint = "was moved away, deleted or replaced while in use"


_KINDS: Final[dict[int, type[StoreFailed]]] = {
    sqlite3.SQLITE_BUSY: StoreLocked,
    sqlite3.SQLITE_LOCKED: StoreLocked,
    sqlite3.SQLITE_FULL: StoreFull,
    sqlite3.SQLITE_READONLY: StoreReadOnly,
    sqlite3.SQLITE_CORRUPT: StoreCorrupt,
    sqlite3.SQLITE_NOTADB: StoreCorrupt,
    sqlite3.SQLITE_CANTOPEN: StoreUnreachable,
    sqlite3.SQLITE_IOERR: StoreFailed,
    sqlite3.SQLITE_IOERR_SHMSIZE: StoreFull,  # the `-shm` beside the file has no room
    sqlite3.SQLITE_READONLY_DBMOVED: StoreMoved,
}
"""By result code, the extended or else the primary one (https://www.sqlite.org/rescode.html).

What is not here is a fault of the statement's.
"""


class SqliteFile:
    """The database in the file `path`, made when missing, with the tables of `schema`.

    `synchronous` is SQLite's: `normal` survives the death of the process, `full` that of the machine too. Every method
    raises a kind of StoreFailed for what is wrong with the file, and sqlite3's own errors for what is wrong with a
    statement.
    """

    def __init__(self, path: str | PathLike[str], *, schema: str, synchronous: str) -> None:
        self._path = os.fspath(path)
        self._in_transaction = False
        self._files: dict[str, tuple[int, int]] = {}
        """What the names of the file and its `-wal` led to when it was opened."""
        with self.telling():
            self.connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
        try:
            with self.telling():
                self.connection.execute("PRAGMA journal_mode = WAL")
                self.connection.execute(f"PRAGMA synchronous = {synchronous}")
                self.connection.execute("PRAGMA foreign_keys = ON")
                self.connection.executescript(schema)
            self._remember_files()
        except BaseException:
            self.connection.close()
            raise

    def add_column(self, table: str, column: str, declaration: str) -> None:
        """Gives a table of an older version's file a column that it lacks."""
        with self.telling():
            if column not in [name for _, name, *_ in self.connection.execute(f"PRAGMA table_info({table})")]:
                self.connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {declaration}")

    def _remember_files(self) -> None:
        """To be called when something was read or written: then the `-wal` is there, and stays while it is open."""
        [(_, _, name)] = [row for row in self.connection.execute("PRAGMA database_list") if row[1] == "main"]
        names = [name, f"{name}-wal"] if name else []  # none in memory
        self._files = {name: found for name in names if (found := _file_at(name)) is not None}

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Within, an error of SQLite's that says something about the file is raised by its name."""
        try:
            yield
        except sqlite3.Error as error:
            named = self._named(error)
            if named is None:
                raise
            raise named from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection inside BEGIN and COMMIT; whatever is raised within, or by COMMIT, undoes all of it.

        Raises RuntimeError inside another one.
        """
        connection = self.connection
        if self._in_transaction or connection.in_transaction:
            raise RuntimeError("a transaction of this store is open already")
        with self.telling():
            connection.execute("BEGIN IMMEDIATE")
        self._in_transaction = True
        try:
            yield connection
            self.check_transaction()
            self._check_files()
            with self.telling():
                connection.execute("COMMIT")
        except BaseException as cause:
            self._roll_back(cause)
            raise
        finally:
            self._in_transaction = False

    @property
    def in_transaction(self) -> bool:
        """Inside `transaction`, though SQLite may have given it up."""
        return self._in_transaction

    def check_transaction(self) -> None:
        """Raises StoreFailed where SQLite has given up the transaction, or its user has ended it."""
        if not self.connection.in_transaction:
            raise StoreFailed(
                f"the transaction of {self._path} was over before its end: SQLite has undone it because of an earlier"
                " error, such as a full disk, or it was ended by a COMMIT or ROLLBACK of its user's"
            )

    def _check_files(self) -> None:
        """Raises StoreMoved: SQLite itself looks for that only where it keeps no write-ahead log."""
        for name, opened in self._files.items():
            if _file_at(name) != opened:
                raise StoreMoved(f"the store {self._path} {StoreMoved.hint}: {name} is not what was opened")

    def _roll_back(self, cause: BaseException) -> None:
        if self.connection.in_transaction:  # SQLite undoes some by itself, and then would not know what to roll back
            try:
                self.connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                cause.add_note(f"and rolling back failed: {error}")

    def _named(self, error: sqlite3.Error) -> StoreFailed | None:
        if isinstance(error, StoreFailed):
            return None
        code = getattr(error, "sqlite_errorcode", None)  # sqlite3's own errors, of its misuse, have none
        kind = None if code is None else _KINDS.get(code) or _KINDS.get(code & 0xFF)
        if kind is None:
            return None
        hint = kind.hint or "cannot be read or written"
        if kind is StoreUnreachable:
            kind, hint = self._why_unreachable()
        return kind(f"the store {self._path} {hint} (SQLite: {error})")

    def _why_unreachable(self) -> tuple[type[StoreFailed], str]:
        """SQLite says no more than that it cannot open the file, or what it keeps beside it."""
        folder = os.path.dirname(os.path.realpath(self._path))
        if os.path.isdir(self._path):
            return StoreUnreachable, "cannot be opened: it is a folder"
        if not (os.path.isdir(folder) and os.access(folder, os.X_OK)):
            return StoreUnreachable, StoreUnreachable.hint
        if not os.access(folder, os.W_OK):
            return StoreReadOnly, StoreReadOnly.hint
        if os.path.exists(self._path) and not os.access(self._path, os.R_OK):
            return StoreUnreachable, "cannot be opened: it is closed to this process"
        return (
            StoreUnreachable,
            "cannot be opened, though its folder is there: has this process too many files open?",
        )

    def close(self) -> None:
        """Closes the file. Not during a transaction."""
        self.connection.close()


def _file_at(name: str) -> tuple[int, int] | None:
    """Which file a name leads to: its device and number there; None for none."""
    try:
        found = os.stat(name)
    except OSError:
        return None
    return found.st_dev, found.st_ino
