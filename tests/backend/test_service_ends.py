"""How sessions over real loopback sockets end, and what faults, of the peer and of the world, must not hold up."""

import errno
import logging
import socket
import sqlite3
import struct
from functools import partial
from typing import Any

import anyio
import pytest
import trio
import trio.lowlevel
import trio.testing

from gateway.backend import (
    Changes,
    Limits,
    MemoryStore,
    Message,
    Session,
    SessionEnded,
    serve,
)
from gateway.backend import service as service_module
from gateway.protocol.records import RecordType, encode_prefixed_record
from tests.backend.serving import pong, serving
from tests.support.peers.initiator import Link, open_body

# --- ends ---------------------------------------------------------------------------------------------------------


async def test_a_handler_that_returns_ends_its_session() -> None:
    async def handler(session: Session) -> None:
        await session.send("farewell")

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        assert await link.receive_message() == (1, "farewell")
        assert await link.receive_close() == (1000, "")
        await link.receive_end()


async def test_a_handler_closes_with_a_code_and_takes_no_more_messages() -> None:
    taken: list[Message] = []

    async def handler(session: Session) -> None:
        async for message in session:
            taken.append(message)
            session.close(4000, "enough")
            with pytest.raises(SessionEnded):
                await session.send("too late")

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "one")
        await link.data(2, "two")
        assert await link.receive_close() == (4000, "enough")
    assert taken == ["one"]


async def test_the_peers_close_ends_the_iteration_behind_what_came_before(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[Message] = []
    may_go_on = trio.Event()
    ends: list[tuple[Any, ...]] = []

    async def handler(session: Session) -> None:
        await may_go_on.wait()
        taken.extend([message async for message in session])
        ends.append((session.ended, session.close_code, session.close_reason))
        await session.send("nobody is there")

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "one")
        await link.data(2, "two")
        await link.send(RecordType.CLOSE, 0, 0, b'{"code":1001,"reason":"bye"}')
        await link.stream.send_eof()
        may_go_on.set()
        await link.receive_end()
        assert link.acks[-1] == 2
    assert taken == ["one", "two"]
    assert ends == [(True, 1001, "bye")]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_handler_that_is_slow_tells_of_each_message_behind_the_peers_close(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Whoever sent them and closed is told that they arrived, though that takes longer than `close_timeout` in all."""

    async def handler(session: Session) -> None:
        async for _ in session:
            await trio.sleep(3)

    async with serving(handler, limits=Limits(close_timeout=4, keepalive=2)) as dial, await dial() as link:
        await link.open()
        for seq in range(1, 6):
            await link.data(seq, "taken in turn")
        await link.send(RecordType.CLOSE, 0, 0, b'{"code":1000,"reason":""}')
        await link.stream.send_eof()
        await link.receive_ack(5)
        await link.receive_end()


async def test_a_session_that_ended_is_not_begun_again() -> None:
    async with serving(pong) as dial:
        async with await dial() as link:
            await link.open()
            await link.send(RecordType.CLOSE, 0, 0, b'{"code":1001,"reason":"bye"}')
            await link.receive_end()
        async with await dial() as link:
            await link.send(RecordType.OPEN, 0, 0, open_body(epoch=2))
            assert await link.receive_close() == (1001, "bye")


async def test_an_answer_and_a_close_that_were_lost_are_told_again() -> None:
    async def handler(session: Session) -> None:
        async for text in session.texts():
            await session.send(f"{text}, and good-bye")
            session.close(4000, "done")

    async with serving(handler) as dial:
        async with await dial() as link:
            await link.open()
            await link.data(1, "x")
            await link.receive_close()  # and the gateway is killed with it
        async with await dial() as link:
            assert (await link.open(epoch=2))["seq"] == 1
            assert await link.receive_message() == (1, "x, and good-bye")
            assert await link.receive_close() == (4000, "done")


# --- faults of the peer, and of the world -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        ((RecordType.DATA, 0, 1, b"x"), "DATA before OPEN"),
        ((RecordType.OPEN, 0, 0, b"{}"), "OPEN body: session"),
        ((RecordType.OPEN, 0, 0, open_body(epoch=0)), "OPEN body: epoch"),
        ((9, 0, 0, b""), "record type 0x09"),
    ],
)
async def test_a_connection_that_does_not_begin_with_open_is_closed(
    sent: tuple[int, int, int, bytes], problem: str
) -> None:
    async with serving(pong) as dial, await dial() as link:
        await link.send(*sent)
        code, reason = await link.receive_close()
        assert code == 1002
        assert problem in reason


async def test_nothing_may_follow_open_before_opened() -> None:
    async with serving(pong) as dial, await dial() as link:
        opening = encode_prefixed_record(RecordType.OPEN, 0, 0, open_body())
        await link.stream.send(opening + encode_prefixed_record(RecordType.PING, 0, 0, b"x"))
        assert (await link.receive_close())[0] == 1002


async def test_a_connection_without_open_is_dropped_at_the_deadline() -> None:
    async with serving(pong, limits=Limits(open_timeout=0.01)) as dial, await dial() as link:
        await link.receive_end()


async def test_a_health_check_that_only_connects_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(pong) as dial:
        async with await dial():
            pass
        async with await dial() as link:
            await link.open()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_broken_record_ends_the_session_with_the_reason() -> None:
    async with serving(pong) as dial, await dial() as link:
        await link.open()
        await link.stream.send(b"\xff" * 20)
        code, reason = await link.receive_close()
        assert (code, "4294967295 bytes" in reason) == (1002, True)


async def test_exceeding_the_window_is_a_fault() -> None:
    async def handler(session: Session) -> None:
        await session.wait_ended()

    async with serving(handler, limits=Limits(window_messages=2)) as dial, await dial() as link:
        assert (await link.open())["window_messages"] == 2
        for seq in (1, 2, 3):
            await link.data(seq, "x")
        assert await link.receive_close() == (1008, "DATA 3 exceeds the window of 2 messages")


async def test_more_sessions_than_the_service_takes_are_turned_away() -> None:
    async with serving(pong, limits=Limits(sessions=1)) as dial, await dial() as one, await dial() as two:
        await one.open(session="one")
        await two.send(RecordType.OPEN, 0, 0, open_body("two"))
        assert (await two.receive_close())[0] == 1013
        await one.data(1, "x")
        assert await one.receive_message() == (1, "Pong: x")


async def test_a_silent_connection_is_asked_and_then_dropped() -> None:
    async with serving(pong, limits=Limits(keepalive=0.02)) as dial:
        async with await dial() as link:
            await link.open()
            for _ in range(3):
                _, _, seq, body = await link.receive_only(RecordType.PING)
                await link.send(RecordType.PONG, 0, seq, body)
            await link.receive_only(RecordType.PING)
            await link.receive_end()
        async with await dial() as link:
            assert (await link.open(epoch=2))["resumed"]


async def test_a_handler_that_is_behind_pauses_only_its_own_connection() -> None:
    go_on = trio.Event()

    async def handler(session: Session) -> None:
        if session.id == "slow":
            await go_on.wait()
        async for piece in session.pieces():
            if piece.last:
                await session.send("all of it")

    limits = Limits(window_bytes=1 << 16, message_bytes=1 << 16, keepalive=0.02)
    async with serving(handler, limits=limits) as dial, await dial() as slow, await dial() as quick:
        await slow.open(session="slow")
        await quick.open(session="quick")
        sent = 0

        async def flood() -> None:
            nonlocal sent
            for _ in range(512):
                await slow.data(1, bytes(1 << 16), more=True)
                sent += 1
            await slow.data(1, b"")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            for _ in range(5):  # asked several times for a sign of life, while the other one cannot give any
                _, _, seq, body = await quick.receive_only(RecordType.PING)
                await quick.send(RecordType.PONG, 0, seq, body)
            assert sent < 512, "32 MiB fit nowhere, so the backend stopped reading"
            await quick.data(1, "x")
            assert await quick.receive_message() == (1, "all of it")
            go_on.set()
        assert await slow.receive_message() == (1, "all of it")


async def test_a_store_that_fails_drops_the_connection_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryStore):
        failing = False

        def save(self, session_id: str, changes: Changes) -> None:
            if self.failing:
                raise sqlite3.OperationalError("disk full")
            super().save(session_id, changes)

    store = Failing()
    async with serving(pong, store=store) as dial:
        async with await dial() as link:
            await link.open()
            store.failing = True
            await link.data(1, "x")
            await link.receive_end()
            assert (link.acks, list(link.records)) == ([], [])
        store.failing = False
        async with await dial() as link:
            await link.open(epoch=2)
            assert await link.receive_message() == (1, "Pong: x")
            await link.receive_ack(1)
    assert "connection dropped" in caplog.text


async def test_the_last_save_of_a_session_may_fail_without_harm_to_others(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryStore):
        def open_sessions(self) -> list[str]:
            return ["forgotten"]

        def save(self, session_id: str, changes: Changes) -> None:
            if changes.end is not None and session_id != "fine":
                raise sqlite3.OperationalError("disk full")
            super().save(session_id, changes)

    async with serving(pong, store=Failing(), limits=Limits(grace=0.01)) as dial:
        async with await dial() as link:
            await link.open(session="ends")
            await link.send(RecordType.CLOSE, 0, 0, b'{"code":1000}')
            await link.receive_end()
        while "session forgotten" not in caplog.text:
            await trio.lowlevel.checkpoint()
        async with await dial() as link:
            await link.open(session="fine")
            await link.data(1, "x")
            assert await link.receive_message() == (1, "Pong: x")
    assert "session ends: its last state was not saved" in caplog.text


async def test_a_lack_of_descriptors_is_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as sample:
        listener_type = type(sample.listeners[0])
    accept, failures = listener_type.accept, [errno.EMFILE, errno.ENFILE]  # type: ignore[attr-defined]

    async def accept_or_fail(self: object) -> object:
        if failures:
            raise anyio.BrokenResourceError from OSError(failures.pop(), "too many open files")
        return await accept(self)

    monkeypatch.setattr(listener_type, "accept", accept_or_fail)
    monkeypatch.setattr(service_module, "ACCEPT_BACK_OFF_SECONDS", 0.001)
    async with serving(pong) as dial, await dial() as link:
        await link.open()
    assert failures == []
    assert caplog.text.count("cannot accept connections") == 2


async def test_a_session_that_was_resumed_in_time_lives_on() -> None:
    async with serving(pong, limits=Limits(grace=0.05, keepalive=0.02)) as dial:
        async with await dial() as link:
            await link.open()
        async with await dial() as link:
            await link.open(epoch=2)
            for _ in range(5):  # longer than the grace
                _, _, seq, body = await link.receive_only(RecordType.PING)
                await link.send(RecordType.PONG, 0, seq, body)
            await link.data(1, "x")
            assert await link.receive_message() == (1, "Pong: x")


async def test_a_service_stops_at_once_though_a_peer_reads_nothing() -> None:
    sent = trio.Event()

    async def handler(session: Session) -> None:
        await session.send(bytes(32 << 20))
        sent.set()
        await session.wait_ended()

    async with trio.open_nursery() as nursery:
        address = await nursery.start(partial(serve, handler))
        async with await Link.connect(address) as link:
            await link.open(window_bytes=1 << 30)
            await sent.wait()
            await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await link.receive_end()
                assert not [record for record in link.records if record[0] == RecordType.CLOSE]


async def test_a_peer_that_reset_first_is_a_broken_connection_and_no_fault_of_the_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = await anyio.connect_tcp(*listener.getsockname())
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()  # with a reset
        async with stream:
            with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
                await stream.receive()
            with pytest.raises(anyio.BrokenResourceError):
                await service_module._end_output(stream)
