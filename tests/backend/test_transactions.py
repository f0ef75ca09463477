"""Transactions: effects, replies and position of a message last together, or not at all, whatever goes wrong."""

import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from gateway.backend import Changes, MemoryStore, Session, SqliteStore, Store, StoreFull, serve
from gateway.protocol.records import RecordType
from tests.backend.serving import serving
from tests.support.peers.initiator import Link


async def test_a_transaction_consumes_the_message_and_sends_the_replies_when_it_ends() -> None:
    async def handler(session: Session) -> None:
        async for message in session:
            async with message.transaction() as transaction:
                assert transaction.effects is None
                transaction.send("first")
                transaction.send(b"second")
                assert (session.consumed_messages, session.sent_messages) == (0, 0)
            assert (session.consumed_messages, session.sent_messages) == (1, 2)

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_message() == (1, "first")
        assert await link.receive_message() == (2, b"second")
        await link.receive_ack(1)


async def test_a_transaction_that_fails_leaves_the_message_and_sends_nothing() -> None:
    attempts: list[int] = []

    async def handler(session: Session) -> None:
        async for message in session:
            with suppress(LookupError):
                async with message.transaction() as transaction:
                    transaction.send("never")
                    raise LookupError
            attempts.append(session.consumed_messages)
            async with message.transaction() as transaction:
                transaction.send("at the second try")

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_message() == (1, "at the second try")
    assert attempts == [0]


def acknowledge(session: Session, message: Any) -> None:
    message.ack()


def finish(session: Session, message: Any) -> None:
    session.finish_current()


@pytest.mark.parametrize("hasten", [acknowledge, finish])
async def test_what_acknowledges_a_message_inside_its_transaction_is_undone_with_it(
    hasten: Callable[[Session, Any], None],
) -> None:
    async def handler(session: Session) -> None:
        async for message in session:
            with suppress(LookupError):
                async with message.transaction() as transaction:
                    transaction.send("never")
                    hasten(session, message)
                    raise LookupError
            assert session.consumed_messages == message.seq - 1
            async with message.transaction() as transaction:
                transaction.send("at the second try")
                hasten(session, message)
            assert session.consumed_messages == message.seq

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        for seq in (1, 2):
            await link.data(seq, "x")
            assert await link.receive_message() == (seq, "at the second try")
            await link.receive_ack(seq)


async def test_two_tasks_do_not_both_have_a_transaction_of_a_message() -> None:
    told: list[str] = []

    async def handle(message: Any, begun: anyio.Event) -> None:
        begun.set()
        try:
            async with message.transaction() as transaction:
                await anyio.wait_all_tasks_blocked()
                transaction.send("once")
        except RuntimeError as error:
            told.append(str(error))

    async def handler(session: Session) -> None:
        async for message in session:
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    begun = anyio.Event()
                    tasks.start_soon(handle, message, begun)
                    await begun.wait()

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_message() == (1, "once")
        await link.receive_ack(1)
    assert told == ["message 1 is not the next to be consumed, 2 is"]


async def test_a_transaction_waits_while_replies_are_beyond_the_window() -> None:
    async def handler(session: Session) -> None:
        async for message in session:
            async with message.transaction() as transaction:
                for _ in range(3):
                    transaction.send("reply")

    async with serving(handler) as dial, await dial() as link:
        await link.open(window_messages=1)
        await link.data(1, "x")
        await link.data(2, "y")
        assert await link.receive_message() == (1, "reply")
        await link.receive_ack(1)
        await link.ack(1)
        assert (await link.receive_message())[0] == 2
        assert link.acks == [1]
        await link.ack(2)
        await link.receive_ack(2)


async def test_a_transaction_that_replies_nothing_goes_on_while_the_window_is_full() -> None:
    async def handler(session: Session) -> None:
        await session.send("which fills the window")
        async for message in session:
            async with message.transaction():
                pass

    async with serving(handler) as dial, await dial() as link:
        await link.open(window_messages=1)
        await link.receive_message()
        await link.data(1, "one")
        await link.receive_ack(1)


async def test_a_transaction_is_for_the_next_message_only() -> None:
    async def handler(session: Session) -> None:
        session.manual_ack = True
        first, second = await anext(session), await anext(session)
        with pytest.raises(RuntimeError, match="message 2 is not the next to be consumed, 1 is"):
            async with second.transaction():
                pytest.fail("it began")
        first.ack()
        async with second.transaction() as transaction:
            transaction.send("in order")

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        await link.data(2, "y")
        assert await link.receive_message() == (1, "in order")


async def test_transactions_of_two_sessions_do_not_mix() -> None:
    inside, go_on = trio.Event(), trio.Event()

    async def handler(session: Session) -> None:
        async for message in session:
            async with message.transaction() as transaction:
                transaction.send(session.id)
                if session.id == "slow":
                    inside.set()
                    await go_on.wait()

    async with serving(handler) as dial, await dial() as slow, await dial() as quick:
        await slow.open(session="slow")
        await quick.open(session="quick")
        await slow.data(1, "x")
        await inside.wait()
        await quick.data(1, "x")
        await quick.send(RecordType.PING, 0, 0, b"here?")
        go_on.set()
        assert await slow.receive_message() == (1, "slow")
        assert await quick.receive_message() == (1, "quick")


# --- a store that fails -------------------------------------------------------------------------------------------

FOREIGN_KEY = """
CREATE TABLE customers (id INTEGER PRIMARY KEY);
CREATE TABLE orders (customer INTEGER REFERENCES customers(id) DEFERRABLE INITIALLY DEFERRED, what TEXT);
INSERT INTO customers VALUES (1);
"""

Positions = tuple[int, int]


class Tries:
    """A handler that tries its first transaction again when it fails, and what it saw."""

    def __init__(self, effects: list[Callable[[Any], object]], caught: type[BaseException] = Exception) -> None:
        self.effects = effects
        """What each try does to the store."""
        self.caught = caught
        self.raised: list[BaseException] = []
        self.seen: list[Positions] = []
        """(consumed, sent) before the first try and after each."""

    async def __call__(self, session: Session) -> None:
        async for message in session:
            self.seen.append((session.consumed_messages, session.sent_messages))
            for number, effect in enumerate(self.effects, 1):
                try:
                    async with message.transaction() as transaction:
                        effect(transaction.effects)
                        transaction.send(f"stored at try {number}")
                except self.caught as error:
                    self.raised.append(error)
                self.seen.append((session.consumed_messages, session.sent_messages))


def order(customer: int) -> Callable[[sqlite3.Connection], object]:
    return lambda effects: effects.execute("INSERT INTO orders VALUES (?, 'tea')", (customer,))


async def send_one_and_see_it_stored_at_the_second_try(link: Link) -> None:
    await link.open()
    await link.data(1, "x")
    assert await link.receive_message() == (1, "stored at try 2")
    await link.receive_ack(1)
    assert link.acks == [1]
    await link.send(RecordType.PING, 0, 0, b"more?")
    assert (await link.receive())[0] == RecordType.PONG


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_commit_that_fails_consumes_nothing_sends_nothing_and_can_be_tried_again(
    backend: str, tmp_path: Path
) -> None:
    """SQLite checks a deferred foreign key at COMMIT, and leaves the transaction open when it does not hold."""
    store = SqliteStore(tmp_path / "s.db")
    store.connection.executescript(FOREIGN_KEY)
    handler = Tries([order(customer=99), order(customer=1)])

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            address: tuple[str, int] = await tasks.start(partial(serve, handler, store=store))
            async with await Link.connect(address) as link:
                await send_one_and_see_it_stored_at_the_second_try(link)
            tasks.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    [error] = handler.raised
    assert isinstance(error, sqlite3.IntegrityError)
    assert handler.seen == [(0, 0), (0, 0), (1, 1)]
    assert store.connection.execute("SELECT customer FROM orders").fetchall() == [(1,)]
    stored = store.load("s1")
    assert stored is not None
    assert (stored.consumed, stored.sent) == (1, 1)
    store.close()


async def test_a_disk_that_is_full_consumes_nothing_and_can_be_tried_again_when_there_is_room(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.connection.execute("CREATE TABLE orders (what BLOB)")
    [(pages,)] = store.connection.execute("PRAGMA page_count")

    def insert(effects: sqlite3.Connection, *, room: bool) -> None:
        effects.execute(f"PRAGMA max_page_count = {1_000_000 if room else pages}")
        with suppress(sqlite3.OperationalError):  # a handler that makes light of it
            effects.execute("INSERT INTO orders VALUES (?)", (bytes(1 << 20),))

    handler = Tries([partial(insert, room=False), partial(insert, room=True)])
    async with serving(handler, store=store) as dial, await dial() as link:
        await send_one_and_see_it_stored_at_the_second_try(link)
    assert [str(error).partition(":")[0] for error in handler.raised] == [
        f"the transaction of {tmp_path / 's.db'} was over before its end"
    ]
    assert handler.seen == [(0, 0), (0, 0), (1, 1)]
    assert store.connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)
    store.close()


async def test_replies_for_which_there_is_no_room_on_the_disk_are_not_sent(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    errors: list[StoreFull] = []

    async def handler(session: Session) -> None:
        async for message in session:
            [(pages,)] = store.connection.execute("PRAGMA page_count")
            store.connection.execute(f"PRAGMA max_page_count = {pages}")
            try:
                async with message.transaction() as transaction:
                    transaction.send(bytes(1 << 20))
            except StoreFull as error:
                errors.append(error)
            store.connection.execute("PRAGMA max_page_count = 1000000")
            async with message.transaction() as transaction:
                transaction.send("there is room again")

    async with serving(handler, store=store) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_message() == (1, "there is room again")
        await link.receive_ack(1)
    assert len(errors) == 1
    store.close()


class FailingCommit(MemoryStore):
    """A store whose first COMMITs fail with `errors`, or else does `before` what a COMMIT is."""

    def __init__(self, *errors: BaseException, before: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.errors = list(errors)
        self.before = before

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            yield
            if self.errors:
                raise self.errors.pop(0)
            self.before()


class FailingSave(MemoryStore):
    """A store whose first saves inside a transaction fail."""

    def __init__(self, *errors: BaseException) -> None:
        super().__init__()
        self.errors = list(errors)

    def save(self, session_id: str, changes: Changes) -> None:
        if self._staged is not None and self.errors:
            raise self.errors.pop(0)
        super().save(session_id, changes)


@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
@pytest.mark.parametrize("failing", [FailingCommit, FailingSave])
async def test_whatever_a_store_raises_leaves_the_message_as_it_was(
    failing: Callable[[BaseException], Store], error: BaseException
) -> None:
    handler = Tries([lambda _: None, lambda _: None], caught=BaseException)
    async with serving(handler, store=failing(error)) as dial, await dial() as link:
        await send_one_and_see_it_stored_at_the_second_try(link)
    assert handler.raised == [error]
    assert handler.seen == [(0, 0), (0, 0), (1, 1)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
async def test_whatever_a_handler_raises_leaves_the_message_as_it_was(error: BaseException) -> None:
    def fail(_: object) -> None:
        raise error

    handler = Tries([fail, lambda _: None], caught=BaseException)
    async with serving(handler) as dial, await dial() as link:
        await send_one_and_see_it_stored_at_the_second_try(link)
    assert handler.seen == [(0, 0), (0, 0), (1, 1)]


async def test_a_cancellation_inside_leaves_the_message_as_it_was() -> None:
    seen: list[Positions] = []

    async def handler(session: Session) -> None:
        async for message in session:
            with trio.CancelScope() as scope:
                async with message.transaction() as transaction:
                    transaction.send("never")
                    scope.cancel()
                    await trio.lowlevel.checkpoint()
            seen.append((session.consumed_messages, session.sent_messages))
            async with message.transaction() as transaction:
                transaction.send("stored at try 2")

    async with serving(handler) as dial, await dial() as link:
        await send_one_and_see_it_stored_at_the_second_try(link)
    assert seen == [(0, 0)]


async def test_a_cancellation_between_save_and_commit_changes_memory_and_store_alike() -> None:
    scope = trio.CancelScope()
    store = FailingCommit(before=scope.cancel)
    seen: list[Positions] = []

    async def handler(session: Session) -> None:
        async for message in session:
            with scope:
                async with message.transaction() as transaction:
                    transaction.send("stored")
                await trio.lowlevel.checkpoint()
            stored = store.load(session.id)
            assert stored is not None
            seen.extend([(session.consumed_messages, session.sent_messages), (stored.consumed, stored.sent)])

    async with serving(handler, store=store) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_message() == (1, "stored")
        await link.receive_ack(1)
    assert scope.cancelled_caught
    assert seen == [(1, 1), (1, 1)]


def test_an_interrupt_from_the_keyboard_does_not_come_between_store_and_memory() -> None:
    store = FailingCommit(before=lambda: signal.raise_signal(signal.SIGINT))
    seen: list[Positions] = []

    async def handler(session: Session) -> None:
        async for message in session:
            try:
                async with message.transaction() as transaction:
                    transaction.send("stored")
            finally:
                seen.append((session.consumed_messages, session.sent_messages))

    async def main() -> None:
        async with serving(handler, store=store) as dial, await dial() as link:
            await link.open()
            await link.data(1, "x")
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as raised:
        trio.run(main)
    assert raised.group_contains(KeyboardInterrupt)
    assert seen == [(1, 1)]
    stored = store.load("s1")
    assert stored is not None
    assert (stored.consumed, stored.sent) == (1, 1)


async def test_what_was_sent_inside_a_transaction_that_fails_but_not_by_it_is_sent_once() -> None:
    async def handler(session: Session) -> None:
        async for message in session:
            with suppress(LookupError):
                async with message.transaction() as transaction:
                    await session.send("in passing")  # not saved before the end: the store is ours
                    transaction.send("never")
            async with message.transaction() as transaction:
                transaction.send("stored at try 2")

    async with serving(handler, store=FailingSave(LookupError())) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_message() == (1, "in passing")
        assert await link.receive_message() == (2, "stored at try 2")
        await link.receive_ack(1)


async def test_messages_and_replies_of_no_bytes_are_consumed_and_sent_too(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")

    async def handler(session: Session) -> None:
        async for message in session:
            async with message.transaction() as transaction:
                transaction.send(message)

    async with serving(handler, store=store) as dial, await dial() as link:
        await link.open()
        await link.data(1, b"")
        await link.data(2, "")
        assert await link.receive_message() == (1, b"")
        assert await link.receive_message() == (2, "")
        await link.receive_ack(2)
    store.close()


async def test_a_transaction_while_a_message_is_sent_in_pieces_is_refused_before_anything_is_stored() -> None:
    seen: list[Positions] = []

    async def handler(session: Session) -> None:
        async for message in session:
            await session.send_piece(b"begun, ", text=False, last=False)
            with pytest.raises(RuntimeError, match="in pieces"):
                async with message.transaction() as transaction:
                    transaction.send("too early")
            seen.append((session.consumed_messages, session.sent_messages))
            await session.send_piece(b"ended", text=False, last=True)
            async with message.transaction() as transaction:
                transaction.send("in time")

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_message() == (1, b"begun, ended")
        assert await link.receive_message() == (2, "in time")
        await link.receive_ack(1)
    assert seen == [(0, 0)]
