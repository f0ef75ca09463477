"""What keeps a session going: breaks, new sessions, delays, the store; long, for each break comes at each moment."""

import sqlite3
from pathlib import Path

import anyio
import pytest
import trio
from trio.testing import MockClock

from gateway.client.events import Event, MessagesLost, Opened, SessionState, StateChanged
from gateway.client.faults import (
    ConnectionClosed,
    Fate,
    Lost,
    SessionEnded,
    WindowFull,
)
from gateway.client.session import open_session
from gateway.client.store import Changes, SqliteStore, StoredSession
from gateway.client.upkeep import Settings
from gateway.protocol.messages import CloseFrame
from gateway.protocol.records import RecordType, Rung
from tests.client.gateway_model import ModelStore
from tests.client.runtimes import on_both_runtimes
from tests.client.sessions import opened, report
from tests.support.network import free_port
from tests.support.peers.gateway_double import GatewayDouble, listening

# --- connections break --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
@on_both_runtimes
async def test_after_a_break_what_is_not_settled_goes_out_again_and_nothing_else(reset: bool) -> None:
    events: list[Event] = []
    async with opened(on_event=events.append, token="t1") as (session, peer, double):
        receipts = [session.send_nowait(text) for text in "abc"]
        for _ in range(3):
            await peer.receive_message()
        await peer.data(1, "from the gateway")
        assert await anext(session) == "from the gateway"
        await peer.ack(1)
        await receipts[0].settled()
        await peer.cut(reset=reset)
        peer = await double.accept()
        position, body = await peer.open(2, token="t1", resumed=True)
        # The loop body of message 1 has not ended, so it is not consumed.
        assert (position, body.session) == (0, "t1")
        assert await peer.receive_message() == (3, "c")
        await peer.data(1, "from the gateway")
        await peer.data(2, "and another")
        assert await anext(session) == "and another"
        await peer.receive_ack(1)
        await peer.ack(3)
        await session.drain()
        assert session.resumes == 1
        assert [receipt.is_settled for receipt in receipts] == [True] * 3
        session.finish_current()
        await peer.end_session(1000)
        await peer.receive_end()
    states = [event.state for event in events if isinstance(event, StateChanged)]
    waiting, connecting, is_open, ended = (
        SessionState.WAITING,
        SessionState.CONNECTING,
        SessionState.OPEN,
        SessionState.ENDED,
    )
    assert states == [is_open, waiting, connecting, is_open, ended]
    assert [event for event in events if isinstance(event, Opened)] == [
        Opened(resumed=False, replayed=0),
        Opened(resumed=True, replayed=1),
    ]


@on_both_runtimes
async def test_a_message_that_was_cut_goes_again_from_its_first_byte() -> None:
    payload = bytes(range(256)) * 2000
    async with opened() as (session, peer, double):
        session.send_nowait(payload)
        await peer.receive()
        await peer.cut()
        peer = await double.accept()
        await peer.open(0, resumed=True)
        assert await peer.receive_message() == (1, payload)
        await peer.ack(1)
        await session.drain()
        await peer.end_session(1000)
        await peer.receive_end()


@on_both_runtimes
async def test_a_message_that_came_in_part_is_taken_once_it_has_come_again() -> None:
    async with opened() as (session, peer, double):
        await peer.data(1, "one, ", more=True)
        await peer.cut()
        peer = await double.accept()
        await peer.open(resumed=True)
        await peer.data(1, "one, ", more=True)
        await peer.data(1, "two")
        assert await anext(session) == "one, two"
        session.finish_current()
        await peer.end_session(1000)
        await peer.receive_end()


@on_both_runtimes
async def test_messages_can_be_sent_while_there_is_no_connection() -> None:
    async with opened(window_messages=2) as (session, peer, double):
        await peer.cut()
        receipts = [session.send_nowait(text) for text in "ab"]
        with pytest.raises(WindowFull):
            session.send_nowait("c")
        peer = await double.accept()
        await peer.open(resumed=True, window_messages=2)
        assert [await peer.receive_message() for _ in range(2)] == [(1, "a"), (2, "b")]
        await peer.ack(2)
        await receipts[1].settled()
        await peer.end_session(1000)
        await peer.receive_end()


@on_both_runtimes
async def test_a_drained_gateway_is_left_and_another_one_found() -> None:
    async with opened() as (session, peer, double):
        await peer.close(1012, "restart")
        assert await peer.receive_end() == CloseFrame(code=1012)
        peer = await double.accept()
        await peer.open(resumed=True)
        await session.wait_open()
        await peer.end_session(1000)
        await peer.receive_end()
    assert session.resumes == 1


@on_both_runtimes
async def test_being_taken_over_soon_after_a_break_may_be_the_work_of_a_ghost_of_our_own() -> None:
    """The OPEN of a connection that broke may be late on its way, and supersede the one that came after it."""
    async with opened(token="t1") as (session, peer, double):
        await peer.cut()
        peer = await double.accept()
        await peer.receive_open()
        await peer.cut()
        peer = await double.accept()
        await peer.open(0, token="t1", resumed=True)
        await peer.close(4001, "another connection took over")
        peer = await double.accept()
        await peer.open(0, token="t1", resumed=True)
        session.send_nowait("here still")
        assert await peer.receive_message() == (1, "here still")
        assert session.resumes == 2
        await peer.end_session(1000)


@on_both_runtimes
async def test_a_ghost_of_our_own_supersedes_us_once() -> None:
    """An OPEN is answered once: the second time it was somebody else, and not even a break can have been our own."""
    async with opened(token="t1") as (session, peer, double):
        await peer.cut()
        peer = await double.accept()
        await peer.receive_open()
        await peer.cut()
        peer = await double.accept()
        await peer.receive_open()
        await peer.close(4001, "another gateway has it")
        await peer.receive_end()
        peer = await double.accept()
        await peer.receive_open()
        await peer.close(4001, "and again, in answer to our OPEN")
        await peer.receive_end()
        with pytest.raises(SessionEnded):
            await anext(session)
    assert session.close_code == 4001
    assert len(double.peers) == 4


@on_both_runtimes
async def test_the_process_before_us_may_have_left_a_ghost() -> None:
    """It was killed with an OPEN on its way, which supersedes the one of the process that has its store now."""
    store = ModelStore()
    store.save(Changes(token="t1", sent=0))
    async with opened(store=store, token="t1", resumed=True) as (session, peer, double):
        await peer.close(4001, "another connection took over")
        peer = await double.accept()
        await peer.open(0, token="t1", resumed=True)
        session.send_nowait("here still")
        assert await peer.receive_message() == (1, "here still")
        await peer.close(4001, "and again, which is somebody else's work")
        await peer.receive_end()
        with pytest.raises(SessionEnded):
            await anext(session)
    assert session.close_code == 4001
    assert len(double.peers) == 2
    assert store.session is not None  # it is theirs who have it now, or ours another time
    assert [message.seq for message in store.session.outbox] == [1]


@on_both_runtimes
async def test_a_session_that_somebody_else_has_taken_over_is_not_taken_back() -> None:
    """Every OPEN of ours was answered: whoever has superseded us is somebody else."""
    async with opened(token="t1") as (session, peer, double):
        receipt = session.send_nowait("a")
        await peer.receive_message()
        await peer.cut()
        peer = await double.accept()
        await peer.open(0, token="t1", resumed=True)
        await peer.close(4001, "taken over")
        await peer.receive_end()
        with pytest.raises(Lost) as caught:
            await receipt.settled()
        assert isinstance(caught.value.__cause__, ConnectionClosed)
        assert caught.value.__cause__.code == 4001
    assert session.close_code == 4001
    assert len(double.peers) == 2


@pytest.mark.parametrize("code", [1011, 1012, 1013, 1014])
@on_both_runtimes
async def test_a_session_that_is_lost_begins_anew_by_itself_and_tells_what_is_lost(code: int) -> None:
    events: list[Event] = []
    async with opened(on_event=events.append, token="t1") as (session, peer, double):
        receipts = [session.send_nowait(text) for text in "abc"]
        for _ in range(3):
            await peer.receive_message()
        await peer.data(1, "not taken yet")
        await peer.end_session(code, "restart", report=report(1, [2, 2], [3, 3]))
        assert await peer.receive_end() == CloseFrame(code=code, reason="restart")
        peer = await double.accept()
        _, body = await peer.open(token="t2")
        assert body.session == "t1"
        assert await receipts[0].settled() is Rung.CONSUMED
        with pytest.raises(Lost, match="unknown whether it arrived") as caught:
            await receipts[1].settled()
        assert isinstance(caught.value.__cause__, ConnectionClosed)
        assert caught.value.__cause__.code == code
        assert await peer.receive_message() == (1, "c")
        await peer.ack(1)
        assert await receipts[2].settled() is Rung.CONSUMED
        assert await anext(session) == "not taken yet"
        assert not session.has_ended
        await peer.end_session(1000)
        await peer.receive_end()
    [told] = [event for event in events if isinstance(event, MessagesLost)]
    assert [message.chunks for message in told.unknown] == [(b"b",)]
    assert [event for event in events if isinstance(event, Opened)] == [
        Opened(resumed=False, replayed=0),
        Opened(resumed=False, replayed=0),
    ]


@on_both_runtimes
async def test_what_a_later_attempt_is_told_is_not_hidden_by_the_loss_before_it() -> None:
    events: list[Event] = []
    async with opened(on_event=events.append, token="t1") as (session, peer, double):
        receipt = session.send_nowait("a")
        await peer.receive_message()
        await peer.end_session(1014, "the backend has gone", report=report(0, [1, 1], None))
        await peer.receive_end()
        peer = await double.accept()
        await peer.receive_open()
        await peer.close(1013, "nobody knows at present")
        await peer.receive_end()
        peer = await double.accept()
        await peer.receive_open()
        await peer.close(3003, "not you")
        await peer.receive_end()
        with pytest.raises(Lost), anyio.fail_after(10):
            await receipt.settled()
    assert (session.close_code, session.close_reason) == (3003, "not you")
    waited = [event.cause for event in events if isinstance(event, StateChanged) and event.delay_seconds is not None]
    assert [str(cause) for cause in waited] == [
        "the connection was closed with 1014 the backend has gone",
        "the connection was closed with 1013 nobody knows at present",
    ]


@pytest.mark.parametrize("code", [4001, 1008, 1000])
@on_both_runtimes
async def test_a_close_that_does_not_pass_ends_the_session(code: int) -> None:
    async with opened() as (session, peer, _):
        receipt = session.send_nowait("a")
        await peer.receive_message()
        await peer.close(code, "taken over")
        await peer.receive_end()
        with pytest.raises(Lost, match="unknown whether it arrived"):
            await receipt.settled()
        with pytest.raises(SessionEnded, match=f"{code} taken over") as caught:
            session.send_nowait("b")
        assert isinstance(caught.value.__cause__, ConnectionClosed)
    assert session.close_code == code


async def test_delays_grow_and_what_the_server_asks_for_is_heeded(autojump_clock: MockClock) -> None:
    delays: list[float | None] = []

    def note(event: Event) -> None:
        if isinstance(event, StateChanged) and event.state is SessionState.WAITING:
            delays.append(event.delay_seconds)

    async with opened(Settings(), on_event=note) as (session, peer, double):
        await peer.cut()
        double.patience_seconds = 1000.0
        for _ in range(6):
            await double.hang_up()
        await double.refuse(503, headers=[("Retry-After", "100")])
        begin = trio.current_time()
        peer = await double.accept()
        assert trio.current_time() - begin >= 100
        await peer.open(resumed=True)
        await session.wait_open()
        await peer.end_session(1000)
        await peer.receive_end()
    assert len(delays) == 8
    assert all(delay is not None and 0 <= delay <= 0.25 * 2**step for step, delay in enumerate(delays[:7]))
    assert delays[7] is not None
    assert 100 <= delays[7] <= 130


@on_both_runtimes
async def test_a_gateway_that_breaks_the_protocol_is_told_and_left() -> None:
    async with opened() as (session, peer, _):
        receipt = session.send_nowait("a")
        await peer.receive_message()
        await peer.ack(2)
        end = await peer.receive_end()
        assert end is not None
        assert (end.code, end.reason) == (1002, "ACK 2, expected at most 1, the last message sent")
        with pytest.raises(Lost):
            await receipt.settled()
        with pytest.raises(SessionEnded, match="1002"):
            await anext(session)


@on_both_runtimes
async def test_text_on_a_connection_of_records_is_a_breach_of_the_protocol() -> None:
    async with opened() as (_, peer, _):
        await peer.send_pieces([(1, b"hello", 3)])
        end = await peer.receive_end()
        assert end is not None
        assert (end.code, end.reason) == (1002, "a text message, expected binary ones with a record each")


# --- the session is gone ------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_in_a_new_session_what_was_never_forwarded_is_sent_and_the_unknown_is_told() -> None:
    events: list[Event] = []
    async with opened(on_event=events.append, token="t1") as (session, peer, double):
        receipts = [session.send_nowait(text) for text in "abcde"]
        for _ in range(5):
            await peer.receive_message()
        await peer.cut()
        peer = await double.accept()
        _, body = await peer.open(token="t2", report=report(1, [2, 3], [4, 4]))
        assert body.session == "t1"
        assert await receipts[0].settled() is Rung.CONSUMED
        for receipt in receipts[1:3]:
            with pytest.raises(Lost) as caught:
                await receipt.settled()
            assert caught.value.fate is Fate.UNKNOWN
            assert caught.value.report == session.report
        # The fourth was never sent on, the fifth never came to the gateway.
        assert [await peer.receive_message() for _ in range(2)] == [(1, "d"), (2, "e")]
        await peer.ack(2)
        assert await receipts[4].settled() is Rung.CONSUMED
        assert receipts[4].seq == 2
        assert (session.token, session.resumes) == ("t2", 0)
        await peer.end_session(1000)
        await peer.receive_end()
    [lost] = [event for event in events if isinstance(event, MessagesLost)]
    assert [message.chunks for message in lost.unknown] == [(b"b",), (b"c",)]
    assert lost.never_forwarded == ()


@on_both_runtimes
async def test_without_carrying_over_what_was_never_forwarded_is_told_too() -> None:
    events: list[Event] = []
    settings = Settings(carry_over=False, first_delay=0.0, longest_delay=0.0)
    async with opened(settings, on_event=events.append) as (session, peer, double):
        receipts = [session.send_nowait(text) for text in "ab"]
        await peer.receive_message()
        await peer.receive_message()
        await peer.cut()
        peer = await double.accept()
        await peer.open(token="t2", report=report(0, [1, 1], None))
        for receipt, fate in zip(receipts, (Fate.UNKNOWN, Fate.NEVER_FORWARDED), strict=True):
            with pytest.raises(Lost) as caught:
                await receipt.settled()
            assert caught.value.fate is fate
        session.send_nowait("c")
        assert await peer.receive_message() == (1, "c")
        await peer.ack(1)
        await session.drain()
        await peer.end_session(1000)
        await peer.receive_end()
    [lost] = [event for event in events if isinstance(event, MessagesLost)]
    assert [message.seq for message in lost.never_forwarded] == [2]


@on_both_runtimes
async def test_without_a_report_all_that_was_sent_is_unknown() -> None:
    async with opened(window_messages=1) as (session, peer, double):
        sent = session.send_nowait("a")
        await peer.receive_message()
        await peer.cut()
        peer = await double.accept()
        await peer.open(token="t2")
        with pytest.raises(Lost, match="unknown"):
            await sent.settled()
        assert session.report is None
        await peer.end_session(1000)
        await peer.receive_end()


@on_both_runtimes
async def test_messages_of_the_old_session_are_still_handed_out_and_not_acknowledged_in_the_new_one() -> None:
    async with opened() as (session, peer, double):
        for seq in (1, 2):
            await peer.data(seq, f"old {seq}")
        assert await anext(session) == "old 1"
        await peer.cut()
        peer = await double.accept()
        await peer.open(token="t2")
        await peer.data(1, "new 1")
        await session.wait_open()
        assert [await anext(session), await anext(session)] == ["old 2", "new 1"]
        assert peer.acks == []
        session.finish_current()
        await peer.receive_ack(1)
        await peer.end_session(1000)
        await peer.receive_end()


# --- with a store -------------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_a_stored_session_is_left_and_taken_up_by_the_next_block() -> None:
    store = ModelStore()
    async with opened(store=store, token="t1") as (session, peer, _):
        session.send_nowait("a")
        left = session.send_nowait("b")
        assert [await peer.receive_message() for _ in range(2)] == [(1, "a"), (2, "b")]
        await peer.ack(1)
        await peer.data(1, "one")
        await peer.data(2, "two")
        assert [await anext(session), await anext(session)] == ["one", "two"]
    with pytest.raises(Lost):  # to this process
        await left.settled()
    assert store.session is not None
    assert (store.session.token, store.session.consumed, store.session.settled) == ("t1", 2, 1)
    async with listening() as double, anyio.create_task_group() as tasks:

        async def take_up() -> None:
            peer = await double.accept()
            position, body = await peer.open(1, token="t1", resumed=True)
            assert (position, body.session) == (2, "t1")
            assert await peer.receive_message() == (2, "b")
            await peer.ack(2)
            assert (await peer.receive())[0] == RecordType.CLOSE
            await peer.receive_end()

        tasks.start_soon(take_up)
        async with open_session(double.url, store=store) as session:
            [receipt] = session.receipts
            assert await receipt.settled() is Rung.CONSUMED
            await session.close()
    assert store.session is None, "a session that was closed is not taken up again"


@on_both_runtimes
async def test_messages_that_were_sent_before_any_connection_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "session.db"
    store = SqliteStore(path)
    async with open_session(
        f"ws://127.0.0.1:{free_port()}/", store=store, settings=Settings(wait_open=False)
    ) as session:
        session.send_nowait("patience")
    store.close()
    store = SqliteStore(path)
    async with listening() as double, anyio.create_task_group() as tasks:

        async def take_up() -> None:
            peer = await double.accept()
            await peer.open()
            assert await peer.receive_message() == (1, "patience")
            await peer.ack(1)
            await peer.receive_end()

        tasks.start_soon(take_up)
        async with open_session(double.url, store=store) as session:
            await session.drain()
    store.close()


class FailingStore:
    """Fails once it is told to."""

    def __init__(self) -> None:
        self.fails = False

    def load(self) -> StoredSession | None:
        return None

    def save(self, changes: Changes) -> None:
        if self.fails:
            raise sqlite3.OperationalError("disk full")


@on_both_runtimes
async def test_what_cannot_be_saved_is_not_told_and_ends_the_session(caplog: pytest.LogCaptureFixture) -> None:
    store = FailingStore()

    async def take(double: GatewayDouble) -> None:
        async with open_session(double.url, store=store) as session:
            assert await anext(session) == "a"
            store.fails = True
            await anext(session)

    async with listening() as double, anyio.create_task_group() as tasks:

        async def answer() -> None:
            peer = await double.accept()
            await peer.open()
            await peer.data(1, "a")
            assert await peer.receive_end() is None
            assert peer.acks == []

        tasks.start_soon(answer)
        with pytest.raises(sqlite3.OperationalError, match="disk full"):
            await take(double)
    assert "cannot be saved" in caplog.text
