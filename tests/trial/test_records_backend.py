"""The trial's records backend: what it wrote down is what a backend with lasting effects would have done."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path

import trio

from gateway.backend import Limits, SqliteStore, serve
from gateway.protocol.records import RecordType
from gateway.trial.faults import Direction
from gateway.trial.records_backend import SCHEMA, RecordsBackend, read_books
from gateway.trial.tally import Books, Witness
from gateway.trial.traffic import GREETING, Traffic
from tests.support.peers.initiator import Link

TRAFFIC = Traffic(1)
UP, DOWN = Direction.UPSTREAM, Direction.DOWNSTREAM
MESSAGES = 5


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[str, int]]:
    store = SqliteStore(path)
    store.connection.executescript(SCHEMA)
    backend = RecordsBackend(store=store, traffic=TRAFFIC, messages=MESSAGES)
    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve, backend.handle, store=store, limits=Limits()))
        yield address
        nursery.cancel_scope.cancel()
    store.close()


async def test_its_books_survive_it_and_its_sources_go_on_where_they_were(tmp_path: Path) -> None:
    path = tmp_path / "backend.sqlite"
    async with running(path) as address, await Link.connect(address) as link:
        await link.open(session="s1")
        await link.data(1, TRAFFIC.message(UP, 1, GREETING))
        await link.data(2, TRAFFIC.message(UP, 1, 1).decode())
        await link.data(3, TRAFFIC.message(UP, 1, 2))
        await link.receive_ack(3)
        for number in range(1, MESSAGES + 1):
            seq, payload = await link.receive_message()
            data = payload.encode() if isinstance(payload, str) else payload
            assert (seq, TRAFFIC.read(data)) == (number, (DOWN, 1, number))
        await link.ack(2)
        await link.data(4, b"nobody's")
        await link.receive_ack(4)
    async with running(path) as address, await Link.connect(address) as link:
        assert (await link.open(session="s1", epoch=2, seq=3))["seq"] == 4
        assert (await link.receive_message())[0] == 4
        await link.data(5, TRAFFIC.message(UP, 1, 2))
        await link.data(6, TRAFFIC.message(UP, 0, 1))
        await link.receive_ack(6)
    books = Books(2, MESSAGES)
    books.up[1].sent = 2
    read_books(path, books)
    tally = books.up[1]
    assert (tally.arrived, tally.doubled, tally.damaged) == (2, 1, 2)
    (report,) = [report for direction, witness, report in books.reports() if (direction, witness) == WITNESSED]
    assert (report.sent, report.told_settled) == (5, 3)


WITNESSED = (DOWN, Witness.RECORDS)


async def test_a_client_with_a_second_session_is_sent_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "backend.sqlite"
    async with running(path) as address:
        for session, window, numbers in (("s1", 2, [1, 2]), ("s2", 100, [3, 4, 5])):
            async with await Link.connect(address) as link:
                await link.open(session=session, window_messages=window)
                await link.data(1, TRAFFIC.message(UP, 1, GREETING))
                for number in numbers:
                    _, payload = await link.receive_message()
                    data = payload.encode() if isinstance(payload, str) else payload
                    assert TRAFFIC.read(data) == (DOWN, 1, number)


async def test_a_session_that_never_greeted_has_no_books(tmp_path: Path) -> None:
    path = tmp_path / "backend.sqlite"
    async with running(path) as address, await Link.connect(address) as link:
        await link.open(session="s1")
        await link.data(1, TRAFFIC.message(UP, 1, 1))
        await link.receive_ack(1)
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute("SELECT count(*) FROM trial_arrivals").fetchone() == (1,)
    connection.close()
    books = Books(2, MESSAGES)
    read_books(path, books)
    assert books.up[1].arrived == 0


async def test_of_a_clients_overlapping_sessions_only_the_last_is_sent_to(tmp_path: Path) -> None:
    path = tmp_path / "backend.sqlite"
    async with running(path) as address, await Link.connect(address) as old, await Link.connect(address) as new:
        await old.open(session="s1", window_messages=2)
        await old.data(1, TRAFFIC.message(UP, 1, GREETING))
        await old.receive_message()
        await old.receive_message()  # its window is full
        await new.open(session="s2")
        await new.data(1, TRAFFIC.message(UP, 1, GREETING))
        for number in (3, 4, 5):
            _, payload = await new.receive_message()
            data = payload.encode() if isinstance(payload, str) else payload
            assert TRAFFIC.read(data) == (DOWN, 1, number)
    async with running(path) as address, await Link.connect(address) as old:  # also after a restart
        await old.open(session="s1", epoch=2)
        await old.data(2, TRAFFIC.message(UP, 1, 1))
        await old.receive_ack(2)
    with closing(sqlite3.connect(path)) as connection, connection:
        sent = dict(connection.execute("SELECT id, sent FROM kakitome_sessions"))
    connection.close()
    assert sent == {"s1": 2, "s2": 3}


async def test_of_sessions_that_greet_at_the_same_time_only_one_is_sent_to(tmp_path: Path) -> None:
    clients, sessions = range(4), range(5)
    async with running(tmp_path / "backend.sqlite") as address, AsyncExitStack() as stack:
        numbers: dict[int, list[int]] = {client: [] for client in clients}
        all_came = trio.Event()

        async def take(link: Link, client: int) -> None:
            while True:
                _, payload = await link.receive_message()
                numbered = TRAFFIC.read(payload.encode() if isinstance(payload, str) else payload)
                assert numbered is not None
                numbers[client].append(numbered.number)
                if all(len(its) >= MESSAGES for its in numbers.values()):
                    all_came.set()

        links: list[tuple[Link, int]] = []
        for client in clients:
            for session in sessions:
                link = await stack.enter_async_context(await Link.connect(address))
                await link.open(session=f"s{client}-{session}")
                links.append((link, client))
        for link, client in links:
            await link.data(1, TRAFFIC.message(UP, client, GREETING))
        async with trio.open_nursery() as nursery:
            for link, client in links:
                nursery.start_soon(take, link, client)
            await all_came.wait()
            nursery.cancel_scope.cancel()
        for link, client in links:  # what was sent before this is acknowledged has come
            await link.data(2, TRAFFIC.message(UP, client, 1))
            await link.receive_ack(2)
            numbers[client] += [record[2] for record in link.records if record[0] == RecordType.DATA]
    assert {client: sorted(its) for client, its in numbers.items()} == {
        client: list(range(1, MESSAGES + 1)) for client in clients
    }
