"""What a handler has in hand: messages, acknowledgements, rejections, transactions, receipts, windows, pieces."""

import json
import logging
from typing import Any

import pytest
import trio
import trio.testing

from gateway.backend import (
    BinaryMessage,
    IncomingPiece,
    Limits,
    Message,
    MessageRejected,
    Receipt,
    Session,
    SessionEnded,
    TextMessage,
)
from gateway.protocol.outbox import PIECES_AHEAD_BYTES
from gateway.protocol.records import RecordType, Rung, encode_prefixed_record
from tests.backend.serving import pong, serving


async def test_a_handler_sees_who_is_there() -> None:
    seen: dict[str, Any] = {}

    async def handler(session: Session) -> None:
        names = (
            "id",
            "epoch",
            "route",
            "path",
            "query",
            "host",
            "origin",
            "subprotocol",
            "client",
            "headers",
            "claims",
        )
        seen.update({name: getattr(session, name) for name in names})
        await session.send("seen")

    more: dict[str, Any] = {
        "query": "a=1",
        "host": "example.com",
        "origin": "https://example.com",
        "subprotocol": "kakitome.v1",
        "headers": {"accept-language": "ja"},
        "claims": {"sub": "hana"},
    }
    async with serving(handler) as dial, await dial() as link:
        await link.open(epoch=3, **more)
        await link.receive_message()
    assert (seen.pop("client").address, seen.pop("id"), seen.pop("epoch")) == ("192.0.2.7", "s1", 3)
    assert seen == {"route": "test", "path": "/test", **more}


async def test_messages_are_str_and_bytes_that_know_their_number() -> None:
    seen: list[Message] = []

    async def handler(session: Session) -> None:
        async for message in session:
            seen.append(message)  # noqa: PERF401 - the session never ends here

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "書留")
        await link.data(2, b"\x00")
        await link.receive_ack(2)
    assert seen == ["書留", b"\x00"]
    assert [(type(message), message.seq) for message in seen] == [(TextMessage, 1), (BinaryMessage, 2)]


async def test_a_message_is_acknowledged_when_its_loop_body_ends_and_not_before() -> None:
    may_go_on = trio.Event()

    async def handler(session: Session) -> None:
        async for _ in session:
            await session.send("before the acknowledgement")
            await may_go_on.wait()

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        await link.receive_message()
        assert link.acks == []
        may_go_on.set()
        await link.receive_ack(1)


async def test_a_handler_with_messages_waiting_lets_others_run() -> None:
    taken: list[int] = []
    at_others_turn: list[int] = []

    async def handler(session: Session) -> None:
        async def other() -> None:
            at_others_turn.append(len(taken))

        async with trio.open_nursery() as nursery:
            async for message in session:
                if not taken:
                    nursery.start_soon(other)
                taken.append(message.seq)
                if len(taken) == 200:
                    break

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.stream.send(b"".join(encode_prefixed_record(RecordType.DATA, 0, seq, b"x") for seq in range(1, 201)))
        await link.receive_ack(200)
    assert at_others_turn[0] < 100


async def test_manual_acknowledgement_waits_for_the_handler() -> None:
    async def acknowledge_the_last_first(session: Session) -> None:
        session.manual_ack = True
        messages = []
        async for message in session:
            messages.append(message)
            if message == "last":
                break
        for message in reversed(messages):
            message.ack()
            await session.send(f"{message!r} done, consumed {session.consumed_messages}")

    async with serving(acknowledge_the_last_first) as dial, await dial() as link:
        await link.open()
        for seq, text in enumerate(("first", "last"), 1):
            await link.data(seq, text)
        assert await link.receive_message() == (1, "'last' done, consumed 0")
        assert await link.receive_message() == (2, "'first' done, consumed 2")
        await link.receive_ack(2)
        assert link.acks == [2]


async def test_a_rejected_message_is_told_with_its_reason() -> None:
    async def handler(session: Session) -> None:
        async for message in session:
            message.reject(4001, "not today")

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        _, _, seq, body = await link.receive_only(RecordType.REJECT)
        assert (seq, body) == (1, b'{"code":4001,"reason":"not today"}')
        await link.receive_ack(1)


async def test_a_handler_that_takes_texts_has_binary_messages_rejected() -> None:
    async with serving(pong) as dial, await dial() as link:
        await link.open()
        await link.data(1, b"binary")
        assert b"1003" in (await link.receive_only(RecordType.REJECT))[3]
        await link.data(2, "text")
        assert await link.receive_message() == (1, "Pong: text")


async def test_a_message_larger_than_may_be_gathered_is_rejected_and_the_next_one_taken() -> None:
    async with serving(pong, limits=Limits(message_bytes=10)) as dial, await dial() as link:
        await link.open()
        for _ in range(3):
            await link.data(1, "12345", more=True)
        _, _, seq, body = await link.receive_only(RecordType.REJECT)
        assert seq == 1
        assert b"1009" in body
        await link.data(1, "the rest")
        await link.data(2, "small")
        assert await link.receive_message() == (1, "Pong: small")


async def test_receipts_tell_what_became_of_a_message() -> None:
    results: list[Rung | MessageRejected | SessionEnded | None] = []

    async def handler(session: Session) -> None:
        receipts = [await session.send(text) for text in ("settled", "rejected", "unknown")]
        assert not receipts[0].is_settled
        results.extend([await outcome(receipt) for receipt in receipts])

    async def outcome(receipt: Receipt) -> Rung | MessageRejected | SessionEnded | None:
        try:
            return await receipt.settled()
        except (MessageRejected, SessionEnded) as error:
            return error

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        for _ in range(3):
            await link.receive_message()
        await link.ack(1, Rung.REACHED)
        await link.send(RecordType.REJECT, 0, 2, b'{"code":4000,"reason":"no"}')
        await link.send(RecordType.CLOSE, 0, 0, b'{"code":1001,"reason":"bye"}')
        await link.receive_end()
    settled, rejected, unknown = results
    assert settled is Rung.REACHED
    assert isinstance(rejected, MessageRejected)
    assert (rejected.seq, rejected.code, rejected.reason) == (2, 4000, "no")
    assert isinstance(unknown, SessionEnded)
    assert (unknown.code, unknown.reason) == (1001, "bye")


async def test_sending_waits_for_room_in_the_window() -> None:
    progress: list[int] = []

    async def handler(session: Session) -> None:
        for number in range(3):
            await session.send(b"x")
            progress.append(number)
        assert session.send_nowait(b"x") is None
        await session.send(b"last")

    async with serving(handler) as dial, await dial() as link:
        await link.open(window_messages=2)
        for seq in (1, 2):
            assert await link.receive_message() == (seq, b"x")
        assert progress == [0, 1]
        await link.ack(1)
        assert await link.receive_message() == (3, b"x")
        await link.ack(3)
        assert await link.receive_message() == (4, b"last")


@pytest.mark.parametrize("large", [90, 200])
async def test_a_large_message_does_not_starve_behind_small_ones(large: int) -> None:
    """Twelve tasks keep the window of 100 bytes filled, so that it never happens to have room for the large one."""

    async def send_on(session: Session) -> None:
        while True:
            await session.send(bytes(30))

    async def handler(session: Session) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(send_on, session)
            await trio.lowlevel.checkpoint()
            await session.send(bytes(large))
            await session.send_piece(b"in pieces", text=False, last=True)
            nursery.cancel_scope.cancel()

    sizes: list[int] = []
    async with serving(handler) as dial, await dial() as link:
        await link.open(window_bytes=100)
        while len(sizes) < 100 and len(b"in pieces") not in sizes:
            seq, payload = await link.receive_message()
            sizes.append(len(payload))
            await link.ack(seq)
    assert sizes.index(large) <= 16
    assert sizes.index(len(b"in pieces")) <= 32


async def test_a_large_message_does_not_starve_behind_the_replies_of_transactions() -> None:
    async def handler(session: Session) -> None:
        async with trio.open_nursery() as nursery:
            await session.send(bytes(30))
            nursery.start_soon(session.send, bytes(70))
            await trio.testing.wait_all_tasks_blocked()
            async for message in session:
                async with message.transaction() as transaction:
                    transaction.send(bytes(30))

    sizes: list[int] = []
    async with serving(handler) as dial, await dial() as link:
        await link.open(window_bytes=100)
        for seq in range(1, 101):
            await link.data(seq, "x")
        while len(sizes) < 50 and 70 not in sizes:
            seq, payload = await link.receive_message()
            sizes.append(len(payload))
            if seq > 1:  # one behind, so that the window is never empty
                await link.ack(seq - 1)
    assert 70 in sizes


async def test_transactions_without_replies_pass_a_message_that_waits_for_room() -> None:
    async def handler(session: Session) -> None:
        async with trio.open_nursery() as nursery:
            await session.send(bytes(30))
            nursery.start_soon(session.send, bytes(90))
            await trio.testing.wait_all_tasks_blocked()
            async for message in session:
                async with message.transaction():
                    pass

    async with serving(handler) as dial, await dial() as link:
        await link.open(window_bytes=100)
        await link.receive_message()
        for seq in range(1, 11):
            await link.data(seq, "x")
        await link.receive_ack(10)


async def test_sending_without_waiting_does_not_push_in_front_of_those_who_wait() -> None:
    async def handler(session: Session) -> None:
        async with trio.open_nursery() as nursery:
            await session.send(bytes(30))
            nursery.start_soon(session.send, bytes(90))
            await trio.testing.wait_all_tasks_blocked()
            assert session.send_nowait(bytes(30)) is None

    async with serving(handler) as dial, await dial() as link:
        await link.open(window_bytes=100)
        assert len((await link.receive_message())[1]) == 30
        await link.ack(1)
        assert len((await link.receive_message())[1]) == 90
        assert await link.receive_close() == (1000, "")


async def test_a_sender_that_gives_up_waiting_lets_the_next_one_go() -> None:
    async def handler(session: Session) -> None:
        await session.send(bytes(60))
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(0) as scope:
                await session.send(bytes(90))
            assert scope.cancelled_caught
            nursery.start_soon(session.send, bytes(40))

    async with serving(handler) as dial, await dial() as link:
        await link.open(window_bytes=100)
        assert [len((await link.receive_message())[1]) for _ in range(2)] == [60, 40]


async def test_what_is_no_message_cannot_be_sent() -> None:
    errors = []

    async def handler(session: Session) -> None:
        for wrong in (5, None):
            with pytest.raises(TypeError, match="str or bytes"):
                await session.send(wrong)  # type: ignore[arg-type]
            errors.append(wrong)

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        assert await link.receive_close() == (1000, "")
    assert errors == [5, None]


# --- pieces and positions -----------------------------------------------------------------------------------------


async def test_pieces_come_before_their_message_is_whole() -> None:
    seen: list[IncomingPiece] = []

    async def handler(session: Session) -> None:
        async for piece in session.pieces():
            seen.append(piece)
            await session.send(f"{len(seen)} seen")

    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, b"begin", more=True)
        assert await link.receive_message() == (1, "1 seen")
        assert link.acks == []
        await link.data(1, b"end")
        assert await link.receive_message() == (2, "2 seen")
        await link.receive_ack(1)
        await link.send(RecordType.CLOSE, 0, 0, b'{"code":1000}')
        await link.receive_end()
    assert seen == [IncomingPiece(1, False, b"begin", True, False), IncomingPiece(1, False, b"end", False, True)]


async def test_pieces_sent_without_a_connection_wait_beyond_a_bound() -> None:
    detached, progress = trio.Event(), []

    async def handler(session: Session) -> None:
        await detached.wait()
        for last in (False, False, True):
            await session.send_piece(bytes(PIECES_AHEAD_BYTES // 2 + 1), text=False, last=last)
            progress.append(last)
        await session.wait_ended()

    async with serving(handler) as dial:
        async with await dial() as link:
            await link.open()
        await trio.testing.wait_all_tasks_blocked()
        detached.set()
        await trio.testing.wait_all_tasks_blocked()
        assert progress == [False]
        async with await dial() as link:
            await link.open(epoch=2)
            assert await link.receive_message() == (1, bytes(3 * (PIECES_AHEAD_BYTES // 2 + 1)))
    assert progress == [False, False, True]


async def test_a_session_tells_its_positions_and_the_losses_at_its_end() -> None:
    seen: list[tuple[int, int, int]] = []
    told: list[Any] = []

    async def handler(session: Session) -> None:
        async for _ in session:
            receipt = await session.send("x")
            await receipt.settled()
            seen.append((session.consumed_messages, session.sent_messages, session.settled_messages))
        told.append(session.loss_report)

    report = {"upstream": {"settled": 1, "unknown": [2, 3]}, "downstream": {"settled": 1}}
    async with serving(handler) as dial, await dial() as link:
        await link.open()
        await link.data(1, "x")
        await link.receive_message()
        await link.ack(1)
        await link.receive_ack(1)
        await link.send(RecordType.CLOSE, 0, 0, json.dumps({"code": 1006, "report": report}).encode())
        await link.receive_end()
    assert seen == [(0, 1, 1)]
    assert told[0].upstream.unknown == (2, 3)


async def test_an_end_that_a_task_of_the_handler_meets_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(session: Session) -> None:
        async def send_on() -> None:
            while True:
                await session.send("x")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_on)
            nursery.start_soon(send_on)

    async with serving(handler) as dial, await dial() as link:
        await link.open(window_messages=1)
        await link.receive_message()
        await link.send(RecordType.CLOSE, 0, 0, b'{"code":1001}')
        await link.receive_end()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_receipt_of_a_session_that_we_ended_tells_so_when_nothing_more_can_come() -> None:
    outcomes: list[SessionEnded] = []
    waiting = trio.Event()

    async def wait_for(receipt: Receipt) -> None:
        waiting.set()
        with pytest.raises(SessionEnded) as ended:
            await receipt.settled()
        outcomes.append(ended.value)

    async with trio.open_nursery() as nursery:

        async def handler(session: Session) -> None:
            nursery.start_soon(wait_for, await session.send("x"))
            await waiting.wait()
            session.close(4000, "done")

        async with serving(handler) as dial, await dial() as link:
            await link.open()
            await link.receive_close()
            await link.stream.send_eof()
            await link.receive_end()
            while not outcomes:
                await trio.lowlevel.checkpoint()
    assert [(ended.code, ended.reason) for ended in outcomes] == [(4000, "done")]
