"""A handler that raises costs nobody the session: its message comes again, and is rejected when that does not help."""

import json
import logging
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from gateway.backend import Limits, Session, SqliteStore, serve
from gateway.backend.handling import Retries
from gateway.protocol.records import RecordType
from tests.backend.serving import serving
from tests.support.peers.initiator import Link

LIMITS = Limits(attempts=3, first_retry=0.001)

GAVE_UP = {"code": 1011, "reason": "the backend failed to handle this message"}


async def receive_reject(link: Link) -> tuple[int, object]:
    _, _, seq, body = await link.receive_only(RecordType.REJECT)
    return seq, json.loads(body)


class Failing:
    """Answers messages, and raises over the text `bad` as many times as told; over any other it never does."""

    def __init__(self, failures: int, *, manual_ack: bool = False) -> None:
        self.failures = failures
        self.manual_ack = manual_ack
        self.seen: list[tuple[int, int]] = []
        """(number, attempt) of each message taken."""

    async def __call__(self, session: Session) -> None:
        session.manual_ack = self.manual_ack
        async for message in session:
            self.seen.append((message.seq, session.attempt))
            if message == "bad" and self.failures:
                self.failures -= 1
                raise LookupError("secret detail")
            await session.send(f"{message!r} is done")
            if message != "good, and acknowledged later":
                message.ack()


async def test_a_message_comes_again_when_its_handler_raised() -> None:
    handler = Failing(2)
    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "good")
        await link.data(2, "bad")
        await link.data(3, "")
        for seq, text in enumerate(("good", "bad", ""), 1):
            assert await link.receive_message() == (seq, f"{text!r} is done")
        await link.receive_ack(3)
    assert handler.seen == [(1, 1), (2, 1), (2, 2), (2, 3), (3, 3)]


async def test_a_message_that_fails_every_time_is_rejected_and_the_next_one_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler = Failing(99)
    async with serving(handler, limits=LIMITS) as dial, await dial() as one, await dial() as two:
        await one.open(session="one")
        await two.open(session="two")
        await one.data(1, "bad")
        await one.data(2, "good")
        assert await receive_reject(one) == (1, GAVE_UP)
        assert await one.receive_message() == (1, "'good' is done")
        await one.receive_ack(2)
        await two.data(1, "good")
        assert await two.receive_message() == (1, "'good' is done")
    assert handler.seen == [(1, 1), (1, 2), (1, 3), (2, 1), (1, 1)]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [error.getMessage() for error in errors] == [
        "session one: the handler failed on message 1, and runs again in 0.001 s, attempt 2",
        "session one: the handler failed on message 1, and runs again in 0.002 s, attempt 3",
        "session one: the handler failed on message 1, and gives it up",
    ]
    assert all(error.exc_info for error in errors)


async def test_one_attempt_rejects_at_once() -> None:
    async with serving(Failing(99), limits=Limits(attempts=1)) as dial, await dial() as link:
        await link.open()
        for seq in (1, 2):
            await link.data(seq, "bad")
            assert await receive_reject(link) == (seq, GAVE_UP)
        await link.receive_ack(2)


async def test_messages_that_were_taken_and_not_acknowledged_come_again_in_order() -> None:
    handler = Failing(1, manual_ack=True)
    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        for seq, text in enumerate(("good, and acknowledged later", "good", "bad", "good"), 1):
            await link.data(seq, text)
        assert [(await link.receive_message())[0] for _ in range(5)] == [1, 2, 3, 4, 5]
    assert [seq for seq, _ in handler.seen] == [1, 2, 3, 1, 3, 4]


async def test_a_transaction_that_cannot_be_committed_is_made_once_when_it_can(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    store.connection.executescript("""
        CREATE TABLE customers (id INTEGER PRIMARY KEY);
        CREATE TABLE orders (customer INTEGER REFERENCES customers(id) DEFERRABLE INITIALLY DEFERRED);
    """)
    runs: list[int] = []

    async def handler(session: Session) -> None:
        runs.append(session.attempt)
        if session.attempt == 3:
            store.connection.execute("INSERT INTO customers VALUES (1)")
        async for message in session:
            async with message.transaction() as transaction:
                transaction.effects.execute("INSERT INTO orders VALUES (1)")
                transaction.send("stored")

    async with serving(handler, store=store, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_message() == (1, "stored")
        await link.receive_ack(1)
    assert runs == [1, 2, 3]
    assert store.connection.execute("SELECT count(*) FROM orders").fetchone() == (1,)
    store.close()


async def test_a_rejection_is_kept_by_the_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    async with serving(Failing(99), store=store, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "bad")
        await link.receive_ack(1)
    stored = store.load("s1")
    assert stored is not None
    assert stored.consumed == 1
    store.close()


async def test_a_message_that_came_before_the_peers_end_comes_again_too() -> None:
    seen: list[tuple[int, int]] = []
    go_on = trio.Event()

    async def handler(session: Session) -> None:
        async for message in session:
            seen.append((message.seq, session.attempt))
            await go_on.wait()
            if session.attempt < 3:
                raise LookupError

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        await link.send(RecordType.CLOSE, 0, 0, b'{"code":1000}')
        go_on.set()
        await link.receive_ack(1)
    assert seen == [(1, 1), (1, 2), (1, 3)]


async def test_a_connection_that_breaks_during_the_wait_costs_nothing() -> None:
    failed, go_on = trio.Event(), trio.Event()

    async def handler(session: Session) -> None:
        if session.attempt == 2:
            await go_on.wait()
        async for message in session:
            if session.attempt == 1:
                failed.set()
                raise LookupError
            await session.send(message)

    async with serving(handler, limits=LIMITS) as dial:
        async with await dial() as link:
            await link.open()
            await link.data(1, "x")
            await failed.wait()
        async with await dial() as link:
            assert (await link.open(epoch=2))["seq"] == 0
            await link.data(1, "x")
            go_on.set()
            assert await link.receive_message() == (1, "x")
            await link.receive_ack(1)


async def test_a_service_stops_at_once_though_a_handler_waits_to_be_run_again() -> None:
    failed = trio.Event()

    async def handler(session: Session) -> None:
        async for _ in session:
            failed.set()
            raise LookupError

    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve, handler, limits=Limits(first_retry=1000, longest_retry=1000)))
        async with await Link.connect(address) as link:
            await link.open()
            await link.data(1, "x")
            await failed.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await link.receive_close() == (1012, "service restart")
                assert link.acks == []


@pytest.mark.parametrize("manual_ack", [False, True])
async def test_a_session_that_is_closed_because_a_body_raised_does_not_acknowledge_its_message(
    manual_ack: bool,
) -> None:
    async def handler(session: Session) -> None:
        session.manual_ack = manual_ack
        try:
            async for message in session:
                if message == "bad":
                    raise LookupError
                message.ack()
        except LookupError:
            session.close(4000, "sorry")

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "good")
        await link.data(2, "bad")
        assert await link.receive_close() == (4000, "sorry")
        assert link.acks[-1:] == [1]


@pytest.mark.parametrize("reads_pieces", [False, True])
async def test_nor_does_one_that_is_closed_in_a_finally(reads_pieces: bool) -> None:
    async def handler(session: Session) -> None:
        try:
            async for _ in session.pieces() if reads_pieces else session:
                raise LookupError
        finally:
            session.close(4000, "sorry")

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_close() == (4000, "sorry")
        assert link.acks == []


async def test_a_close_that_cannot_be_acknowledges_nothing() -> None:
    raised: list[str] = []

    async def handler(session: Session) -> None:
        async for _ in session:
            with pytest.raises(ValueError, match="code 999") as caught:
                session.close(999)
            raised.append(str(caught.value))
            session.manual_ack = True
            return

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_close() == (1000, "")
        assert link.acks == []
    assert raised


# --- nothing that could be rejected -------------------------------------------------------------------------------


async def test_a_handler_that_fails_with_no_message_in_hand_ends_the_session_when_that_does_not_pass() -> None:
    runs: list[int] = []

    async def handler(session: Session) -> None:
        runs.append(session.attempt)
        raise LookupError("secret detail")

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        assert await link.receive_close() == (1011, "the backend failed")
    assert runs == [1, 2, 3]


async def test_a_handler_that_fails_with_no_message_in_hand_may_recover() -> None:
    async def handler(session: Session) -> None:
        if session.attempt < 3:
            raise LookupError
        async for message in session:
            await session.send(message)

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_message() == (1, "x")


async def test_a_handler_that_fails_after_its_own_close_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(session: Session) -> None:
        async for _ in session:
            session.close(4000, "done")
            raise LookupError

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert await link.receive_close() == (4000, "done")
        assert link.acks == [1]
    assert "the handler failed after its session had ended" in caplog.text


# --- pieces -------------------------------------------------------------------------------------------------------


async def test_a_message_in_pieces_comes_again_from_its_first_piece() -> None:
    pieces: list[bytes] = []

    async def handler(session: Session) -> None:
        async for piece in session.pieces():
            pieces.append(piece.data)
            if piece.data == b"second" and session.attempt == 1:
                raise LookupError
            if piece.last:
                await session.send("whole")

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, b"first", more=True)
        await link.data(1, b"second", more=True)
        while len(pieces) < 4:
            await trio.lowlevel.checkpoint()
        await link.data(1, b"third")
        assert await link.receive_message() == (1, "whole")
        await link.receive_ack(1)
    assert pieces == [b"first", b"second", b"first", b"second", b"third"]


@pytest.mark.parametrize("ends", [True, False])
async def test_a_message_in_pieces_that_is_too_large_to_be_kept_is_rejected(ends: bool) -> None:
    async def handler(session: Session) -> None:
        async for piece in session.pieces():
            if piece.data == b"bad":
                raise LookupError
            if piece.last:
                await session.send(piece.data)

    limits = Limits(attempts=3, first_retry=0.001, window_bytes=100)
    async with serving(handler, limits=limits) as dial, await dial() as link:
        await link.open()
        await link.data(1, bytes(200), more=True)
        await link.data(1, b"bad", more=not ends)
        seq, body = await receive_reject(link)
        assert (seq, body) == (
            1,
            {"code": 1011, "reason": "the backend failed over this message, which is too large to be tried again"},
        )
        if not ends:
            await link.data(1, b"the rest")
        await link.data(2, b"next")
        assert await link.receive_message() == (1, b"next")
        await link.receive_ack(2)


async def test_an_answer_in_pieces_is_gone_on_with() -> None:
    taken = trio.Event()

    async def handler(session: Session) -> None:
        async for _ in session:
            await session.send_piece(b"half, ", text=False, last=False)
            if session.attempt == 1:
                await taken.wait()
                raise LookupError
            await session.send_piece(b"other half", text=False, last=True)

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        assert (await link.receive())[3] == b"half, "
        taken.set()
        assert await link.receive_message() == (1, b"other half")  # the rest of the same message
        await link.receive_ack(1)


async def test_an_answer_in_pieces_that_stays_unfinished_ends_the_session() -> None:
    taken = trio.Event()

    async def handler(session: Session) -> None:
        async for _ in session:
            await session.send_piece(b"half, ", text=False, last=False)
            await taken.wait()
            raise LookupError

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        await link.receive()
        taken.set()
        assert await receive_reject(link) == (1, GAVE_UP)
        assert await link.receive_close() == (1011, "the backend left a message unfinished")


async def test_an_answer_in_pieces_of_which_nothing_has_left_is_forgotten() -> None:
    async def handler(session: Session) -> None:
        await session.send("fills the window")
        async for message in session:
            if session.attempt == 1:
                session._conversation.outbox.append_piece(text=False, data=b"never", last=False)
                raise LookupError
            await session.send(message)

    async with serving(handler, limits=LIMITS) as dial, await dial() as link:
        await link.open(window_messages=1)
        await link.data(1, "x")
        assert await link.receive_message() == (1, "fills the window")
        await link.ack(1)
        assert await link.receive_message() == (2, "fills the window")
        await link.ack(2)
        assert await link.receive_message() == (3, "x")


# --- how often, and how soon --------------------------------------------------------------------------------------


def test_the_waits_double_up_to_a_limit() -> None:
    retries = Retries(Limits(attempts=7, first_retry=1, longest_retry=5))
    assert [retries.failed(1, ran_seconds=0) for _ in range(8)] == [1, 2, 4, 5, 5, 5, None, 1]


def test_another_message_is_counted_anew() -> None:
    retries = Retries(Limits(attempts=3, first_retry=1))
    assert [retries.failed(seq, ran_seconds=0) for seq in (1, 1, 2, 2, 2)] == [1, 2, 1, 2, None]


def test_failures_over_nothing_count_together_only_when_they_follow_one_another() -> None:
    retries = Retries(Limits(attempts=3, first_retry=1, longest_retry=10))
    assert [retries.failed(None, ran_seconds=ran) for ran in (0, 0, 11, 0, 0)] == [1, 2, 1, 2, None]


def test_the_default_bridges_a_hiccup_of_some_seconds() -> None:
    retries, waits = Retries(Limits()), []
    while (wait := retries.failed(1, ran_seconds=0)) is not None:
        waits.append(wait)
    assert sum(waits) == 7.75
