"""What an SQLite file tells when it cannot be used, and that a transaction is all or nothing, whatever ends it."""

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway import backend, client
from gateway.ends.sqlite_file import (
    SqliteFile,
    StoreCorrupt,
    StoreFailed,
    StoreFull,
    StoreLocked,
    StoreMoved,
    StoreReadOnly,
    StoreUnreachable,
)
from gateway.protocol.outbox import OutgoingMessage
from tests.support.tools import need

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, what BLOB);
CREATE TABLE IF NOT EXISTS items (
    "order" INTEGER REFERENCES orders(id) DEFERRABLE INITIALLY DEFERRED
);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.db"


@pytest.fixture
def file(path: Path) -> Iterator[SqliteFile]:
    file = SqliteFile(path, schema=SCHEMA, synchronous="normal")
    file.connection.execute("PRAGMA busy_timeout = 0")
    yield file
    file.close()


def count(file: SqliteFile, table: str = "orders") -> int:
    [(number,)] = file.connection.execute(f"SELECT count(*) FROM {table}")
    return int(number)


def insert(file: SqliteFile, *, size: int = 1) -> None:
    with file.transaction() as connection, file.telling():
        connection.execute("INSERT INTO orders (what) VALUES (?)", (bytes(size),))


def fill_up(connection: sqlite3.Connection) -> None:
    """From now on the file cannot grow, as on a disk that is full."""
    [(pages,)] = connection.execute("PRAGMA page_count")
    connection.execute(f"PRAGMA max_page_count = {pages}")


# --- transactions -------------------------------------------------------------------------------------------------


def test_a_commit_that_fails_is_told_as_it_is_and_leaves_nothing(file: SqliteFile) -> None:
    def order_what_there_is_not() -> None:
        with file.transaction() as connection:
            connection.execute("INSERT INTO orders (what) VALUES (x'00')")
            connection.execute("INSERT INTO items VALUES (99)")

    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        order_what_there_is_not()
    assert (count(file), count(file, "items")) == (0, 0)
    insert(file)
    assert count(file) == 1


@pytest.mark.parametrize("raised", [LookupError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_whatever_is_raised_undoes_the_transaction(file: SqliteFile, raised: type[BaseException]) -> None:
    def fail() -> None:
        with file.transaction() as connection:
            connection.execute("INSERT INTO orders (what) VALUES (x'00')")
            raise raised

    with pytest.raises(raised):
        fail()
    assert count(file) == 0
    insert(file)


def test_a_full_disk_is_told_and_not_what_clearing_up_met(file: SqliteFile) -> None:
    fill_up(file.connection)
    with pytest.raises(StoreFull, match=r"orders\.db has no room to grow: its disk is full .*database or disk is full"):
        insert(file, size=100_000)
    file.connection.execute("PRAGMA max_page_count = 1000000")
    insert(file, size=100_000)
    assert count(file) == 1


def test_a_transaction_that_sqlite_gave_up_is_not_gone_on_with(file: SqliteFile) -> None:
    """SQLite undoes the whole transaction when the disk is full, and would commit each statement after it alone."""

    def go_on_after_the_error() -> None:
        with file.transaction() as connection:
            connection.execute("INSERT INTO orders (what) VALUES (x'00')")
            fill_up(connection)
            with pytest.raises(sqlite3.OperationalError, match="full"):
                connection.execute("INSERT INTO orders (what) VALUES (?)", (bytes(100_000),))

    with pytest.raises(StoreFailed, match="over before its end: SQLite has undone it"):
        go_on_after_the_error()
    assert count(file) == 0


def test_transactions_do_not_nest(file: SqliteFile) -> None:
    with file.transaction(), pytest.raises(RuntimeError, match="open already"), file.transaction():
        pytest.fail("a second transaction began")


def test_a_rollback_that_fails_is_noted_on_its_cause(file: SqliteFile, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        in_transaction = True

        def execute(self, statement: str) -> None:
            if statement == "ROLLBACK":
                raise sqlite3.OperationalError("disk I/O error")

    def fail() -> None:
        with file.transaction():
            raise LookupError("the cause")

    connection = file.connection
    monkeypatch.setattr(Broken, "in_transaction", property(lambda self: file.in_transaction))
    file.connection = Broken()  # type: ignore[assignment]
    with pytest.raises(LookupError, match="the cause") as raised:
        fail()
    assert raised.value.__notes__ == ["and rolling back failed: disk I/O error"]
    file.connection = connection


# --- what is wrong with the file ----------------------------------------------------------------------------------

Use = Callable[[Path], None]


def use_file(path: Path) -> None:
    file = SqliteFile(path, schema=SCHEMA, synchronous="normal")
    try:
        insert(file)
    finally:
        file.close()


def use_backend_store(path: Path) -> None:
    store = backend.SqliteStore(path)
    try:
        store.save("a", backend.Changes(epoch=1))
        assert store.load("a") is not None
        assert list(store.open_sessions()) == ["a"]
    finally:
        store.close()


def use_client_store(path: Path) -> None:
    store = client.SqliteStore(path)
    try:
        store.save(client.Changes(token="t"))
        assert store.load() is not None
    finally:
        store.close()


@pytest.fixture(params=[use_file, use_backend_store, use_client_store])
def use(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Use:
    """Opens a store, writes and reads."""
    monkeypatch.setattr("gateway.ends.sqlite_file.BUSY_TIMEOUT_SECONDS", 0.0)
    return request.param  # type: ignore[no-any-return]


def test_a_locked_file_is_told_as_locked(use: Use, path: Path) -> None:
    use(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreLocked, match=r"orders\.db is locked: another process writes it"):
        use(path)
    other.execute("COMMIT")
    other.close()
    use(path)


def test_a_file_that_is_no_database_is_told_so(use: Use, path: Path) -> None:
    path.write_text("no database at all, but long enough to be taken for one" * 20)
    with pytest.raises(StoreCorrupt, match="is damaged, or no SQLite database"):
        use(path)


def test_a_damaged_file_is_told_so(use: Use, path: Path) -> None:
    use(path)
    with path.open("r+b") as damaged:
        damaged.seek(100)  # behind the file's header: the root of its schema
        damaged.write(b"\xff" * (path.stat().st_size - 100))
    with pytest.raises(StoreCorrupt, match="is damaged, or no SQLite database"):
        use(path)


def test_a_folder_that_is_not_there_is_told(use: Use, path: Path) -> None:
    with pytest.raises(StoreUnreachable, match="its folder is missing, or closed"):
        use(path / "nowhere" / "orders.db")


def test_a_file_that_may_not_be_written_is_told(file: SqliteFile) -> None:
    file.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreReadOnly, match="is read-only for this process"):
        insert(file)


def delete(path: Path) -> None:
    path.unlink()


def move_away(path: Path) -> None:
    path.rename(path.with_name("old.db"))


def replace(path: Path) -> None:
    other = path.with_name("other.db")
    use_backend_store(other)
    other.rename(path)


def delete_the_log(path: Path) -> None:
    path.with_name("orders.db-wal").unlink()


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
@pytest.mark.parametrize("lose", [delete, move_away, replace])
def test_a_file_that_no_name_leads_to_any_more_is_told_and_not_written_in_vain(
    lose: Callable[[Path], None], journal: str, path: Path
) -> None:
    file = SqliteFile(path, schema=SCHEMA, synchronous="normal")
    insert(file)
    file.connection.execute(f"PRAGMA journal_mode = {journal}")
    lose(path)
    with pytest.raises(StoreMoved, match="was moved away, deleted or replaced"):
        insert(file)
    assert not file.connection.in_transaction
    file.close()


@pytest.mark.parametrize("lose", [delete, move_away, replace, delete_the_log])
def test_both_stores_save_nothing_to_a_file_that_is_gone(lose: Callable[[Path], None], path: Path) -> None:
    kits = backend.SqliteStore(path)
    kits.save("a", backend.Changes(epoch=1))
    with pytest.raises(StoreMoved):
        _lose_and_save(lose, path, lambda: kits.save("a", backend.Changes(epoch=2)))
    assert kits.load("a") == backend.StoredSession(epoch=1)
    kits.close()
    for left in path.parent.iterdir():
        left.unlink()
    clients = client.SqliteStore(path)
    clients.save(client.Changes(token="t"))
    with pytest.raises(StoreMoved):
        _lose_and_save(lose, path, lambda: clients.save(client.Changes(token="u")))
    assert clients.load() == client.StoredSession(token="t")
    clients.close()


def _lose_and_save(lose: Callable[[Path], None], path: Path, save: Callable[[], None]) -> None:
    lose(path)
    save()


def test_a_database_in_memory_has_no_file_to_lose() -> None:
    file = SqliteFile(":memory:", schema=SCHEMA, synchronous="normal")
    insert(file)
    assert count(file) == 1
    file.close()


def test_a_folder_in_place_of_the_file_is_told(use: Use, path: Path) -> None:
    path.mkdir()
    with pytest.raises(StoreUnreachable, match="it is a folder"):
        use(path)


def test_a_process_without_a_descriptor_left_is_not_told_that_the_folder_is_missing(use: Use, path: Path) -> None:
    use(path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(StoreUnreachable, match="has this process too many files open"):
            use(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    use(path)


# --- file systems of its own --------------------------------------------------------------------------------------

ON_A_FILE_SYSTEM_OF_ITS_OWN = """
import subprocess, sys
from pathlib import Path
from tests.ends.test_sqlite_file import use_backend_store, use_client_store

folder, options, state = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
uses = {"backend": use_backend_store, "client": use_client_store}
for name, use in uses.items():
    use(folder / f"{name}.db")
if state == "full":
    with (folder / "filling").open("wb", buffering=0) as filling:
        try:
            while filling.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
else:
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
for name, use in uses.items():
    for path in (folder / f"{name}.db", folder / f"{name}-new.db"):
        try:
            use(path)
            print("nothing was told")
        except Exception as error:
            print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("options", "state", "told"), [("size=256k", "full", "StoreFull"), ("size=1m", "read-only", "StoreReadOnly")]
)
def test_the_state_of_a_file_system_is_told_by_whoever_opens_a_store_there(
    options: str, state: str, told: str, tmp_path: Path
) -> None:
    unshare = [need("unshare", "apt-get install util-linux"), "--mount", "--map-root-user"]
    if subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("may not make a namespace here: allow unprivileged user namespaces, or be root")
    argv = [*unshare, sys.executable, "-c", ON_A_FILE_SYSTEM_OF_ITS_OWN, str(tmp_path), options, state]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == [told] * 4


def test_a_fault_of_the_statement_is_none_of_the_file(file: SqliteFile) -> None:
    with pytest.raises(sqlite3.OperationalError, match="no such table") as raised, file.telling():
        file.connection.execute("SELECT * FROM nowhere")
    assert not isinstance(raised.value, StoreFailed)


def test_a_store_of_an_older_version_is_given_a_column_that_it_lacks(file: SqliteFile) -> None:
    insert(file)
    for _ in range(2):
        file.add_column("orders", "paid", "INTEGER NOT NULL DEFAULT 0")
    assert file.connection.execute("SELECT paid FROM orders").fetchall() == [(0,)]


# --- both stores on a full disk -----------------------------------------------------------------------------------


def big(seq: int) -> OutgoingMessage:
    return OutgoingMessage(seq=seq, text=False, chunks=(bytes(1 << 20),))


def test_the_backends_store_tells_a_full_disk_and_can_be_saved_to_when_there_is_room(path: Path) -> None:
    store = backend.SqliteStore(path)
    store.save("a", backend.Changes(epoch=1))
    fill_up(store.connection)
    with pytest.raises(StoreFull):
        store.save("a", backend.Changes(sent=1, appended=[big(1)]))
    assert store.load("a") == backend.StoredSession(epoch=1)
    store.connection.execute("PRAGMA max_page_count = 1000000")
    store.save("a", backend.Changes(sent=1, appended=[big(1)]))
    store.close()


def test_the_clients_store_tells_a_full_disk_and_can_be_saved_to_when_there_is_room(path: Path) -> None:
    store = client.SqliteStore(path)
    store.save(client.Changes(token="t"))
    connection = store._file.connection
    fill_up(connection)
    with pytest.raises(StoreFull):
        store.save(client.Changes(sent=1, appended=[big(1)]))
    assert store.load() == client.StoredSession(token="t")
    connection.execute("PRAGMA max_page_count = 1000000")
    store.save(client.Changes(sent=1, appended=[big(1)]))
    store.close()
