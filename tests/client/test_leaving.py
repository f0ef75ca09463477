"""How a session ends for its application, and what becomes of the message that it was not done with."""

import sys
from contextlib import suppress

import anyio
import pytest
import trio
from trio.testing import MockClock

from gateway.client.connection import Timeouts
from gateway.client.events import Event, MessagesLost, SessionState
from gateway.client.faults import (
    Lost,
    SessionEnded,
)
from gateway.client.session import Session, open_session
from gateway.client.upkeep import Settings
from gateway.protocol.messages import CloseFrame
from gateway.protocol.records import CloseBody, RecordType, Rung
from tests.client.gateway_model import ModelStore
from tests.client.runtimes import on_both_runtimes
from tests.client.sessions import opened, report
from tests.support.peers.gateway_double import GatewayDouble, listening

# --- the end ------------------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_the_gateways_close_ends_the_session_with_its_report() -> None:
    async with opened() as (session, peer, _):
        receipts = [session.send_nowait(text) for text in "ab"]
        await peer.receive_message()
        await peer.receive_message()
        await peer.data(1, "last words")
        await peer.end_session(4000, "enough", report=report(1, [2, 2], None))
        assert await receipts[0].settled() is Rung.CONSUMED
        with pytest.raises(Lost):
            await receipts[1].settled()
        # What came before the end is still to be had, and acknowledged before we close.
        assert await anext(session) == "last words"
        with pytest.raises(SessionEnded, match="closed with 4000 enough"):
            await anext(session)
        await peer.receive_ack(1)
        assert await peer.receive_end() == CloseFrame(code=4000, reason="enough")
        assert session.report is not None
        assert session.report.upstream.unknown == (2, 2)
    assert (session.close_code, session.close_reason) == (4000, "enough")


@on_both_runtimes
async def test_an_end_in_good_order_ends_the_iteration() -> None:
    async with opened() as (session, peer, _):
        await peer.data(1, "bye")
        await peer.end_session(1000, "done")
        assert [message async for message in session] == ["bye"]
        await peer.receive_ack(1)


@on_both_runtimes
async def test_leaving_waits_for_what_is_under_way_and_then_ends_the_session() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        heard: list[object] = []

        async def answer() -> None:
            peer = await double.accept()
            await peer.open()
            heard.append(await peer.receive_message())
            await peer.data(1, "not waited for")
            await anyio.wait_all_tasks_blocked()
            await peer.ack(1)
            heard.append((await peer.receive())[0])
            heard.append(await peer.receive_end())

        tasks.start_soon(answer)
        async with open_session(double.url) as session:
            receipt = session.send_nowait("last")
    assert receipt.is_settled
    assert heard == [(1, "last"), RecordType.CLOSE, CloseFrame(code=1000)]
    assert session.close_code == 1000


async def test_what_is_not_settled_in_time_is_lost_when_the_session_is_left(autojump_clock: MockClock) -> None:
    events: list[Event] = []
    async with opened(on_event=events.append) as (session, peer, _):
        receipt = session.send_nowait("a")
        await peer.receive_message()
        begin = trio.current_time()
        await session.close(4000, "no more")
        assert trio.current_time() - begin == pytest.approx(15.0)  # settle, and for a Close that nobody answers
        with pytest.raises(Lost):
            await receipt.settled()
        record_type, _, _, body = await peer.receive()
        assert record_type == RecordType.CLOSE
        assert b"4000" in body
        with pytest.raises(SessionEnded, match="4000 no more"):
            await session.post("b")
        assert [message async for message in session] == []
    assert any(isinstance(event, MessagesLost) for event in events)


async def hear_the_end(double: GatewayDouble, closes: list[object]) -> None:
    """Opens a session and appends how it ends: the code of the CLOSE record, then the Close frame."""
    peer = await double.accept()
    await peer.open()
    closes.append(CloseBody.from_json((await peer.receive())[3]).code)
    closes.append(await peer.receive_end())


@on_both_runtimes
async def test_what_the_block_raises_comes_out_as_it_is_and_ends_the_session_with_1011() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        closes: list[object] = []
        tasks.start_soon(hear_the_end, double, closes)
        with pytest.raises(ZeroDivisionError):
            async with open_session(double.url):
                _ = 1 / 0
    assert closes == [1011, CloseFrame(code=1011)]


@on_both_runtimes
async def test_a_cancelled_block_still_ends_the_session() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        closes: list[object] = []
        tasks.start_soon(hear_the_end, double, closes)
        with anyio.CancelScope() as scope:
            async with open_session(double.url) as session:
                scope.cancel()
                await anext(session)
    assert scope.cancelled_caught
    assert closes == [1001, CloseFrame(code=1001)]


async def test_leaving_while_the_gateway_is_gone_takes_no_longer_than_settling_may(autojump_clock: MockClock) -> None:
    settings = Settings(timeouts=Timeouts(settle=10.0))
    async with opened(settings) as (session, peer, double):
        await peer.cut()
        await double.close()
        begin = trio.current_time()
        await session.close()
        assert trio.current_time() - begin <= 10.5


async def test_what_came_before_the_gateways_end_is_acknowledged_however_slowly_it_is_taken(
    autojump_clock: MockClock,
) -> None:
    async with opened() as (session, peer, _):
        for seq in range(1, 5):
            await peer.data(seq, "taken slowly")
        await peer.end_session(1000)
        await peer.close(1000)
        async for _ in session:
            await trio.sleep(9)
    await peer.receive_ack(4)


@pytest.mark.parametrize(("total", "lost"), [(60.0, 0), (20.0, 1)])
async def test_messages_that_are_settled_one_after_the_other_are_waited_for(
    autojump_clock: MockClock, total: float, lost: int
) -> None:
    settings = Settings(timeouts=Timeouts(settle=10.0, settle_total=total))
    async with opened(settings) as (session, peer, _), trio.open_nursery() as nursery:
        receipts = [session.send_nowait(f"message {seq}") for seq in range(1, 5)]

        @nursery.start_soon
        async def settle_slowly() -> None:
            for seq in range(1, 5):
                await trio.sleep(8)
                await peer.ack(seq)

        await session.close()
        nursery.cancel_scope.cancel()
    assert [receipt.is_settled for receipt in receipts].count(False) == lost


async def test_a_gateway_that_does_not_read_is_not_waited_for_long(autojump_clock: MockClock) -> None:
    async with opened(Settings(message_bytes=1 << 30), window_bytes=1 << 30) as (session, _, _):
        receipt = session.send_nowait(bytes(32 << 20))
        begin = trio.current_time()
        await session.end(1000)
        assert trio.current_time() - begin == pytest.approx(5.0)
        with pytest.raises(Lost, match="unknown"):
            await receipt.settled()


class Unusual(BaseException):
    """Stands for what is no Exception."""


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, Unusual])
@on_both_runtimes
async def test_an_exit_or_an_interrupt_comes_out_as_it_is_and_ends_the_session_with_1001(
    kind: type[BaseException],
) -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        closes: list[object] = []
        tasks.start_soon(hear_the_end, double, closes)
        with pytest.raises(kind) as caught:
            async with open_session(double.url):
                raise kind(3)
        assert caught.value.args == (3,)
    assert closes == [1001, CloseFrame(code=1001)]


@on_both_runtimes
async def test_what_the_callback_for_events_is_left_with_comes_out_as_it_is() -> None:
    def leave(event: Event) -> None:
        sys.exit(3)

    async with listening() as double, anyio.create_task_group() as tasks:

        async def answer() -> None:
            await (await double.accept()).open()

        async def send() -> None:
            async with open_session(double.url, on_event=leave) as session:
                await session.send("x")

        tasks.start_soon(answer)
        with pytest.raises(SystemExit):
            await send()


@on_both_runtimes
async def test_a_session_can_be_left_in_another_task_than_it_was_entered_in() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        sessions: list[Session] = []
        opening = open_session(double.url)

        async def answer() -> None:
            peer = await double.accept()
            await peer.open()
            assert (await peer.receive())[0] == RecordType.CLOSE
            await peer.receive_end()

        async def enter() -> None:
            sessions.append(await opening.__aenter__())

        async def leave() -> None:
            await opening.__aexit__(None, None, None)

        tasks.start_soon(answer)
        async with anyio.create_task_group() as entering:
            entering.start_soon(enter)
        assert sessions[0].state is SessionState.OPEN
        async with anyio.create_task_group() as leaving:
            leaving.start_soon(leave)
    assert sessions[0].close_code == 1000


# --- a message that the application is not done with ------------------------------------------------------------------


class Trouble(Exception):
    """What a loop body raises."""


async def _leave_over_a_message(double: GatewayDouble, store: ModelStore, leave: str) -> None:
    """Takes message 1 and leaves as told."""
    async with open_session(double.url, store=store) as session:
        try:
            async for _ in session:
                match leave:
                    case "raise":
                        raise Trouble
                    case "exit":
                        sys.exit(3)
                    case "cancel":
                        await anyio.sleep_forever()
                    case "close in finally":
                        raise Trouble
                    case "break":
                        break
        finally:
            if leave == "close in finally":
                await session.close(1000)


@pytest.mark.parametrize("leave", ["raise", "exit", "cancel", "break"])
@on_both_runtimes
async def test_only_a_message_whose_loop_body_has_ended_is_acknowledged(leave: str) -> None:
    """Whoever takes the session up from the store gets the other one."""
    store = ModelStore()
    async with listening() as double, anyio.create_task_group() as tasks:
        positions: list[int] = []

        async def serve(first: bool) -> None:
            peer = await double.accept()
            position, _ = await peer.open(resumed=not first)
            positions.append(position)
            if position == 0:
                await peer.data(1, "to be done")
            await peer.receive_end()
            positions.extend(peer.acks)

        tasks.start_soon(serve, True)
        with anyio.CancelScope() as scope:

            async def cancel() -> None:
                await anyio.wait_all_tasks_blocked()
                scope.cancel()

            if leave == "cancel":
                tasks.start_soon(cancel)
            with suppress(Trouble, SystemExit):
                await _leave_over_a_message(double, store, leave)
        await anyio.wait_all_tasks_blocked()
        assert positions == ([0, 1] if leave == "break" else [0])
        tasks.start_soon(serve, False)
        async with open_session(double.url, store=store) as session:
            if leave != "break":
                assert await anext(session) == "to be done"
    assert positions == ([0, 1, 1] if leave == "break" else [0, 0, 1])


@on_both_runtimes
async def test_closing_while_an_exception_is_under_way_acknowledges_nothing() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        acks: list[list[int]] = []

        async def serve() -> None:
            peer = await double.accept()
            await peer.open()
            await peer.data(1, "to be done")
            await peer.receive_end()
            acks.append(peer.acks)

        tasks.start_soon(serve)
        with pytest.raises(Trouble):
            await _leave_over_a_message(double, ModelStore(), "close in finally")
    assert acks == [[]]


@on_both_runtimes
async def test_a_code_that_cannot_be_changes_nothing() -> None:
    async with opened() as (session, peer, _):
        for end in (session.close, session.end):
            with pytest.raises(ValueError, match="code 7, expected 1000 to 4999"):
                await end(7)
        assert not session.has_ended
        await peer.data(1, "still here")
        assert await anext(session) == "still here"
