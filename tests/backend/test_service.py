"""Sessions over real loopback sockets: resumes, epochs, kills, and the ways in."""

import sqlite3
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trio.lowlevel
import trio.testing
import trustme
from anyio.streams.tls import TLSStream

from gateway.backend import (
    Address,
    Changes,
    Handler,
    Limits,
    MemoryStore,
    Session,
    SqliteStore,
    serve,
)
from gateway.backend import service as service_module
from gateway.protocol.records import RecordType
from tests.backend.serving import pong, serving
from tests.support.peers.initiator import Link, open_body

# --- resuming -----------------------------------------------------------------------------------------------------


async def test_a_session_outlives_its_connections() -> None:
    async with serving(pong) as dial:
        async with await dial() as link:
            assert not (await link.open())["resumed"]
            await link.data(1, "one")
            await link.data(2, "two")
            assert await link.receive_message() == (1, "Pong: one")
            assert await link.receive_message() == (2, "Pong: two")
            await link.receive_ack(2)
        for epoch in (2, 3, 4):
            async with await dial() as link:
                answer = await link.open(seq=1, epoch=epoch)
                assert (answer["seq"], answer["resumed"]) == (2, True)
                assert await link.receive_message() == (2, "Pong: two")
        async with await dial() as link:
            await link.open(seq=2, epoch=5)
            await link.data(2, "two")
            await link.data(3, "three")
            assert await link.receive_message() == (3, "Pong: three")


async def test_a_message_that_was_cut_is_taken_anew() -> None:
    async with serving(pong) as dial:
        async with await dial() as link:
            await link.open()
            await link.data(1, "first half", more=True)
            await link.data(1, "", more=True)
            await link.send(RecordType.PING, 0, 0, b"taken?")
            await link.receive_only(RecordType.PONG)
        async with await dial() as link:
            assert (await link.open(epoch=2))["seq"] == 0
            await link.data(1, "whole")
            assert await link.receive_message() == (1, "Pong: whole")


async def test_a_newer_connection_takes_the_session_from_one_that_still_seems_alive() -> None:
    async with serving(pong) as dial, await dial() as old:
        await old.open()
        await old.data(1, "one")
        await old.receive_message()
        async with await dial() as new:
            await new.open(epoch=2)
            assert await new.receive_message() == (1, "Pong: one")
            assert await old.receive_close() == (4001, "superseded by epoch 2")
            await old.data(2, "two, from one that has not heard yet")
            await old.stream.send_eof()
            await old.receive_end()
            await new.data(2, "two")
            assert await new.receive_message() == (2, "Pong: two")


async def test_an_older_epoch_is_refused_and_troubles_nobody() -> None:
    async with serving(pong) as dial, await dial() as link:
        await link.open(epoch=2)
        async with await dial() as stale:
            await stale.send(RecordType.OPEN, 0, 0, open_body(epoch=1))
            assert await stale.receive_close() == (4001, "epoch 1 is older than 2")
            await stale.stream.send_eof()
            await stale.receive_end()
        await link.data(1, "still here")
        assert await link.receive_message() == (1, "Pong: still here")


async def test_sessions_do_not_see_each_others_messages() -> None:
    async with serving(pong) as dial, await dial() as one, await dial() as two:
        await one.open(session="one")
        await two.open(session="two")
        await one.data(1, "for one")
        await two.data(1, "for two")
        assert await two.receive_message() == (1, "Pong: for two")
        assert await one.receive_message() == (1, "Pong: for one")


async def test_messages_sent_without_a_connection_arrive_with_the_next_one() -> None:
    detached, attached = trio.Event(), trio.Event()

    async def handler(session: Session) -> None:
        await detached.wait()
        await session.send("while you were out")
        attached.set()
        await session.wait_ended()

    async with serving(handler) as dial:
        async with await dial() as link:
            await link.open()
        detached.set()
        await attached.wait()
        async with await dial() as link:
            await link.open(epoch=2)
            assert await link.receive_message() == (1, "while you were out")


async def test_a_session_that_nobody_resumes_ends_after_the_grace() -> None:
    ended: list[tuple[int | None, Any]] = []
    over = trio.Event()

    async def handler(session: Session) -> None:
        async for _ in session:
            pass
        ended.append((session.close_code, session.close_reason))
        over.set()

    async with serving(handler, limits=Limits(grace=0.02)) as dial:
        async with await dial() as link:
            await link.open()
        await over.wait()
        async with await dial() as link:
            await link.open(epoch=2)
            assert (await link.receive_close())[0] == 1006
    assert ended == [(1006, "not resumed within the grace")]


# --- being killed -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def killable(
    handler: Handler, path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[], Awaitable[Link]]]:
    """A service on a store of its own that is never told of its end, as after SIGKILL."""
    store = SqliteStore(path)
    async with serving(handler, store=store) as dial:
        yield dial
        monkeypatch.setattr(store, "save", lambda *_: None)
        monkeypatch.setattr(service_module, "GOODBYE_SECONDS", 0.0)
    store.close()


async def test_a_killed_backend_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sessions.db"
    runs: list[tuple[int, int]] = []

    async def handler(session: Session) -> None:
        runs.append((session.consumed_messages, session.sent_messages))
        async for order in session.texts():
            async with order.transaction() as transaction:
                transaction.effects.execute("CREATE TABLE IF NOT EXISTS effects (what TEXT)")
                transaction.effects.execute("INSERT INTO effects VALUES (?)", (order,))
                transaction.send(f"{order} is done")

    for run in range(3):
        async with killable(handler, path, monkeypatch) as dial, await dial() as link:
            answer = await link.open(seq=run, epoch=run + 1)
            assert (answer["seq"], answer["resumed"]) == (run, run > 0)
            await link.data(run + 1, f"order {run}")
            assert await link.receive_message() == (run + 1, f"order {run} is done")
            await link.receive_ack(run + 1)
    assert runs == [(0, 0), (1, 1), (2, 2)]
    with closing(sqlite3.connect(path)) as database, database:
        assert [what for (what,) in database.execute("SELECT what FROM effects")] == ["order 0", "order 1", "order 2"]
    database.close()


async def test_a_transaction_that_the_kill_interrupts_is_done_again_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sessions.db"
    reached = trio.Event()
    hang = True

    async def handler(session: Session) -> None:
        async for message in session:
            async with message.transaction() as transaction:
                transaction.effects.execute("CREATE TABLE IF NOT EXISTS effects (what TEXT)")
                transaction.effects.execute("INSERT INTO effects VALUES (?)", (message,))
                transaction.send("done")
                reached.set()
                if hang:
                    await trio.sleep_forever()

    async with killable(handler, path, monkeypatch) as dial, await dial() as link:
        await link.open()
        await link.data(1, "order")
        await reached.wait()
    hang = False
    async with killable(handler, path, monkeypatch) as dial, await dial() as link:
        assert (await link.open(epoch=2))["seq"] == 0
        await link.data(1, "order")
        assert await link.receive_message() == (1, "done")
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute("SELECT count(*) FROM effects").fetchone() == (1,)
    database.close()


async def test_a_session_that_did_not_survive_is_refused_by_name(tmp_path: Path) -> None:
    async with serving(pong) as dial, await dial() as link:
        await link.send(RecordType.OPEN, 0, 5, open_body())
        assert await link.receive_close() == (4004, "this backend does not know the session")


async def test_stored_sessions_that_nobody_resumes_end_after_the_grace() -> None:
    store = MemoryStore()
    store.save("s1", Changes(epoch=1))
    saved = trio.Event()

    class Watched(MemoryStore):
        def open_sessions(self) -> list[str]:
            return ["s1"]

        def save(self, session_id: str, changes: Changes) -> None:
            store.save(session_id, changes)
            saved.set()

    async with serving(pong, store=Watched(), limits=Limits(grace=0.01)):
        await saved.wait()
    stored = store.load("s1")
    assert stored is not None
    assert stored.end is not None
    assert stored.end.code == 1006


async def test_a_stopping_service_leaves_the_sessions_of_a_durable_store(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db")
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve, pong, store=store))
        async with await Link.connect(address) as link:
            await link.open()
            await link.data(1, "x")
            await link.receive_message()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await link.receive_end()
                assert not [record for record in link.records if record[0] == RecordType.CLOSE]
    assert list(store.open_sessions()) == ["s1"]
    store.close()


async def test_a_stopping_service_closes_the_sessions_of_its_memory() -> None:
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve, pong))
        async with await Link.connect(address) as link:
            await link.open()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await link.receive_close() == (1012, "service restart")


async def test_what_was_sent_goes_out_before_a_stopping_service_closes() -> None:
    sessions: list[Session] = []

    async def handler(session: Session) -> None:
        sessions.append(session)
        await session.wait_ended()

    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve, handler))
        async with await Link.connect(address) as link:
            await link.open()
            while not sessions:
                await trio.lowlevel.checkpoint()
            for _ in range(10):
                assert sessions[0].send_nowait(bytes(100_000)) is not None
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                for seq in range(1, 11):
                    assert await link.receive_message() == (seq, bytes(100_000))
                assert await link.receive_close() == (1012, "service restart")


# --- other ways in ------------------------------------------------------------------------------------------------


async def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    path = str(tmp_path / "backend.sock")
    async with trio.open_nursery() as nursery:
        address: Address = await nursery.start(partial(serve, pong, path=path))
        assert address == path
        async with Link(await anyio.connect_unix(path)) as link:
            await link.open()
            await link.data(1, "x")
            assert await link.receive_message() == (1, "Pong: x")
        nursery.cancel_scope.cancel()


async def test_tls_serves_too() -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with trio.open_nursery() as nursery:
        address: tuple[str, int] = await nursery.start(partial(serve, pong, tls=server))
        stream = await anyio.connect_tcp(*address)
        wrapped = await TLSStream.wrap(stream, hostname="127.0.0.1", ssl_context=client, standard_compatible=False)
        async with Link(wrapped) as link:
            await link.open()
            await link.data(1, "x")
            assert await link.receive_message() == (1, "Pong: x")
            await link.send(RecordType.CLOSE, 0, 0, b'{"code":1000}')
            await link.receive_end()
        nursery.cancel_scope.cancel()


def test_the_kit_runs_under_asyncio() -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            address: tuple[str, int] = await tasks.start(partial(serve, pong))
            async with await Link.connect(address) as link:
                await link.open()
                await link.data(1, "x")
                assert await link.receive_message() == (1, "Pong: x")
                await link.receive_ack(1)
            async with await Link.connect(address) as link:
                assert (await link.open(seq=1, epoch=2))["seq"] == 1
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    assert await link.receive_close() == (1012, "service restart")

    anyio.run(main, backend="asyncio")
