"""What an application sees of a session, with a stand-in for the gateway that does as the test says."""

import anyio
import pytest
import trio
from trio.testing import MockClock

from gateway.client.delivered import BinaryMessage, TextMessage
from gateway.client.events import Event, SessionState, StateChanged
from gateway.client.faults import (
    ConnectionClosed,
    ConnectionFailed,
    ConnectionTimeout,
    HandshakeRejected,
    Lost,
    NotRecords,
    Rejected,
    SessionEnded,
    WindowFull,
)
from gateway.client.receipts import Receipt
from gateway.client.session import open_session
from gateway.client.upkeep import Settings
from gateway.errors import MessageTooBig
from gateway.protocol.records import FRAGMENT_BYTES, MORE_FLAG, RecordType, Rung
from tests.client.runtimes import on_both_runtimes
from tests.client.sessions import PROMPT, opened
from tests.support.peers.gateway_double import GatewayDouble, listening

# --- opening ------------------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_the_first_open_asks_for_what_the_settings_say() -> None:
    settings = Settings(receipts=frozenset({Rung.WRITTEN, Rung.ACCEPTED}), window_messages=7, window_bytes=999)
    async with listening() as double, anyio.create_task_group() as tasks:
        asked = []

        async def answer() -> None:
            peer = await double.accept()
            asked.append(await peer.open(settles_at="reached", token="t1"))
            await peer.receive_end()

        tasks.start_soon(answer)
        async with open_session(double.url, settings=settings) as session:
            assert session.state is SessionState.OPEN
            assert (session.token, session.resumes, session.settles_at) == ("t1", 0, Rung.REACHED)
        assert session.has_ended
    position, body = asked[0]
    assert position == 0
    assert body.session is None
    assert body.receipts == (Rung.ACCEPTED, Rung.WRITTEN)
    assert (body.window_messages, body.window_bytes) == (7, 999)


async def _expect_failure(double: GatewayDouble, kind: type[Exception], match: str) -> Exception:
    with pytest.raises(kind, match=match) as caught:
        async with open_session(double.url, settings=PROMPT):
            raise AssertionError("the block must not begin")
    return caught.value


@on_both_runtimes
async def test_what_prevents_the_session_is_raised_as_it_is() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        tasks.start_soon(double.refuse, 403, "the Origin is not allowed here")
        failure = await _expect_failure(double, HandshakeRejected, "403")
        assert isinstance(failure, HandshakeRejected)
        tasks.start_soon(double.refuse, 502)
        await _expect_failure(double, HandshakeRejected, "502")
        tasks.start_soon(double.hang_up)
        await _expect_failure(double, ConnectionFailed, "before it had answered")

        async def speak_nothing() -> None:
            await double.accept(None)

        tasks.start_soon(speak_nothing)
        await _expect_failure(double, NotRecords, r"does not speak kakitome\.v1 at /path")


@on_both_runtimes
async def test_a_close_in_answer_to_open_is_the_sessions_end() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:

        async def refuse() -> None:
            peer = await double.accept()
            await peer.receive_open()
            await peer.end_session(4003, "not you")
            await peer.receive_end()

        tasks.start_soon(refuse)
        await _expect_failure(double, SessionEnded, "closed with 4003 not you")


@on_both_runtimes
async def test_a_connection_that_closes_before_opened_is_no_session() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:

        async def close() -> None:
            peer = await double.accept()
            await peer.close(1013, "overloaded")
            await peer.receive_end()

        tasks.start_soon(close)
        await _expect_failure(double, ConnectionClosed, "1013 overloaded")


async def test_a_gateway_that_does_not_answer_open_is_given_up(autojump_clock: MockClock) -> None:
    async with listening() as double, trio.open_nursery() as nursery:

        async def be_silent() -> None:
            await double.accept()

        nursery.start_soon(be_silent)
        await _expect_failure(double, ConnectionTimeout, "did not open the session within 10 s")


@on_both_runtimes
async def test_entering_need_not_wait_and_then_failures_that_pass_are_tried_again() -> None:
    events: list[Event] = []
    settings = Settings(wait_open=False, first_delay=0.0)
    async with listening() as double, anyio.create_task_group() as tasks:

        async def come_up() -> None:
            await double.hang_up()
            await double.refuse(503)
            peer = await double.accept()
            await peer.open()
            assert await peer.receive_message() == (1, "before the session was open")
            await peer.ack(1)
            await peer.receive_end()

        async with open_session(double.url, settings=settings, on_event=events.append) as session:
            receipt = session.send_nowait("before the session was open")
            tasks.start_soon(come_up)
            assert await receipt.settled() is Rung.CONSUMED
    causes = [type(event.cause) for event in events if isinstance(event, StateChanged) and event.cause]
    assert causes == [ConnectionFailed, HandshakeRejected]


@on_both_runtimes
async def test_entering_without_waiting_ends_at_what_does_not_pass() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        tasks.start_soon(double.refuse, 404)

        async def send() -> None:
            async with open_session(double.url, settings=Settings(wait_open=False)) as session:
                receipt = session.send_nowait("never")
                with pytest.raises(Lost, match="never forwarded"):
                    await receipt.settled()
                await session.send("nor this")

        with pytest.raises(HandshakeRejected, match="404"):
            await send()


# --- sending ------------------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_sending_waits_until_the_message_is_settled() -> None:
    async with opened() as (session, peer, _), anyio.create_task_group() as tasks:
        receipts: list[Receipt] = []

        async def send() -> None:
            receipts.append(await session.send("どやさ"))

        tasks.start_soon(send)
        assert await peer.receive_message() == (1, "どやさ")
        await anyio.wait_all_tasks_blocked()
        assert receipts == []
        assert not session.is_settled
        await peer.ack(1)
        await session.drain()
        await anyio.wait_all_tasks_blocked()
        assert receipts[0].rung is Rung.CONSUMED
        assert session.receipts == ()


@on_both_runtimes
async def test_receipts_climb_the_rungs_that_were_asked_for() -> None:
    settings = Settings(receipts=frozenset({Rung.ACCEPTED, Rung.REACHED}))
    async with opened(settings) as (session, peer, _):
        first, second = session.send_nowait("a"), session.send_nowait("b")
        climbed: list[tuple[int, Rung | None]] = []
        for receipt in (first, second):
            receipt.on_change(lambda changed: climbed.append((changed.seq, changed.rung)))
        await peer.receive_message()
        await peer.receive_message()
        await peer.ack(2, Rung.ACCEPTED)
        await peer.ack(1, Rung.REACHED)
        await peer.ack(2)
        await second.settled()
        assert climbed == [
            (1, Rung.ACCEPTED),
            (2, Rung.ACCEPTED),
            (1, Rung.REACHED),
            (1, Rung.CONSUMED),
            (2, Rung.CONSUMED),
        ]


@on_both_runtimes
async def test_a_rejected_message_raises_the_reason_and_no_other_does() -> None:
    async with opened() as (session, peer, _):
        receipts = [session.send_nowait(text) for text in "abc"]
        for _ in range(3):
            await peer.receive_message()
        await peer.reject(2, 4009, "not this one")
        with pytest.raises(Rejected, match="message 2 was rejected with 4009 not this one"):
            await receipts[1].settled()
        await peer.ack(3)
        assert await receipts[0].settled() is Rung.CONSUMED
        assert await receipts[2].settled() is Rung.CONSUMED


@on_both_runtimes
async def test_no_more_than_the_window_is_under_way() -> None:
    async with opened(window_messages=2) as (session, peer, _), anyio.create_task_group() as tasks:
        session.send_nowait("a")
        session.send_nowait("b")
        with pytest.raises(WindowFull):
            session.send_nowait("c")
        posted: list[Receipt] = []

        async def post() -> None:
            posted.append(await session.post("c"))

        tasks.start_soon(post)
        assert [await peer.receive_message() for _ in range(2)] == [(1, "a"), (2, "b")]
        await anyio.wait_all_tasks_blocked()
        assert posted == []
        await peer.ack(1)
        assert await peer.receive_message() == (3, "c")
        assert posted[0].seq == 3
        await peer.ack(3)
        await session.drain()


@on_both_runtimes
async def test_a_message_that_the_gateway_would_not_take_is_not_sent() -> None:
    async with opened(message_bytes=10) as (session, peer, _):
        with pytest.raises(MessageTooBig, match="message of 11 bytes exceeds the gateway's limit of 10 bytes"):
            session.send_nowait("x" * 11)
        receipt = session.send_nowait("x" * 10)
        assert await peer.receive_message() == (1, "x" * 10)
        await peer.ack(1)
        await receipt.settled()


@on_both_runtimes
async def test_large_messages_go_in_fragments_behind_which_an_ack_need_not_wait_long() -> None:
    payload = bytes(range(256)) * 1024
    async with opened() as (session, peer, _):
        session.send_nowait(payload)
        sizes = []
        while True:
            _, flags, seq, body = await peer.receive()
            assert seq == 1
            sizes.append(len(body))
            if not flags & MORE_FLAG:
                break
        assert sizes == [FRAGMENT_BYTES] * 4
        await peer.ack(1)
        await session.drain()


@on_both_runtimes
async def test_only_text_and_bytes_are_messages() -> None:
    async with opened() as (session, _, _):
        with pytest.raises(TypeError, match="a message is str or bytes, not list"):
            session.send_nowait([])  # type: ignore[arg-type]


# --- receiving ----------------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_messages_are_acknowledged_when_the_loop_comes_back() -> None:
    async with opened() as (session, peer, _), anyio.create_task_group() as tasks:
        await peer.data(1, "text")
        await peer.data(2, b"\xff", more=True)
        await peer.data(2, b"\x00")
        taken: list[str | bytes] = []
        go_on = anyio.Event()

        async def take() -> None:
            async for message in session:
                taken.append(message)
                if message.seq == 2:
                    await go_on.wait()

        tasks.start_soon(take)
        await peer.receive_ack(1)
        assert taken == ["text", b"\xff\x00"]
        assert isinstance(taken[0], TextMessage)
        assert isinstance(taken[1], BinaryMessage)
        assert peer.acks == [1]
        go_on.set()
        await peer.receive_ack(2)
        tasks.cancel_scope.cancel()


@on_both_runtimes
async def test_acks_are_coalesced() -> None:
    async with opened() as (session, peer, _):
        for seq in range(1, 101):
            await peer.data(seq, "x")
        async for message in session:
            if message.seq == 100:
                break
        session.finish_current()
        await peer.receive_ack(100)
        assert len(peer.acks) < 50


@on_both_runtimes
async def test_with_manual_ack_the_application_says_when_and_in_any_order() -> None:
    async with opened() as (session, peer, _):
        session.manual_ack = True
        for seq in (1, 2, 3):
            await peer.data(seq, f"message {seq}")
        first, second, third = [await anext(session) for _ in range(3)]
        second.ack()
        third.reject(4009, "no, thank you")
        record_type, _, seq, body = await peer.receive()
        assert (record_type, seq) == (RecordType.REJECT, 3)
        assert b"no, thank you" in body
        assert peer.acks == []
        first.ack()
        first.ack()
        await peer.receive_ack(3)
        with pytest.raises(ValueError, match="code 7, expected 1000 to 4999"):
            third.reject(7)


@on_both_runtimes
async def test_a_message_larger_than_is_taken_is_rejected_and_the_next_one_comes() -> None:
    async with opened(Settings(message_bytes=100)) as (session, peer, _):
        await peer.data(1, "x" * 101)
        await peer.data(2, "small")
        assert await anext(session) == "small"
        record_type, _, seq, body = await peer.receive()
        assert (record_type, seq) == (RecordType.REJECT, 1)
        assert b"1009" in body


# --- fairness -----------------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_a_large_message_is_not_overtaken_by_small_ones_for_ever() -> None:
    """Twelve tasks that keep a window of 4 MiB nearly full with 60 kB each, beside one with 3.9 MB."""
    async with opened(window_bytes=4 << 20) as (session, peer, _), anyio.create_task_group() as tasks:
        large: list[Receipt] = []

        async def keep_sending() -> None:
            while not large:
                await session.send(bytes(60_000))

        async def acknowledge() -> None:
            while True:
                seq, _ = await peer.receive_message()
                await peer.ack(seq)

        for _ in range(12):
            tasks.start_soon(keep_sending)
        tasks.start_soon(acknowledge)
        await session.send(b"first")
        with anyio.fail_after(20):
            large.append(await session.post(bytes(3_900_000)))
            await large[0].settled()
        await session.drain()
        tasks.cancel_scope.cancel()


@on_both_runtimes
async def test_one_that_waits_for_room_is_not_overtaken() -> None:
    async with opened(window_bytes=100) as (session, peer, _), anyio.create_task_group() as tasks:
        session.send_nowait(bytes(60))
        posted: list[int] = []

        async def post(size: int) -> None:
            posted.append(await_size(await session.post(bytes(size)), size))

        tasks.start_soon(post, 90)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(WindowFull):
            session.send_nowait(bytes(10))
        tasks.start_soon(post, 10)
        await anyio.wait_all_tasks_blocked()
        assert posted == []
        await peer.receive_message()
        await peer.ack(1)
        assert [await peer.receive_message() for _ in range(2)] == [(2, bytes(90)), (3, bytes(10))]
        assert posted == [90, 10]
        await peer.ack(3)
        await session.drain()


def await_size(receipt: Receipt, size: int) -> int:
    assert receipt.seq > 1
    return size


@on_both_runtimes
async def test_a_message_posted_before_the_limit_was_known_ends_nothing_but_itself() -> None:
    settings = Settings(wait_open=False, first_delay=0.0)
    async with listening() as double, anyio.create_task_group() as tasks:

        async def serve() -> None:
            peer = await double.accept()
            await peer.open(message_bytes=10)
            assert [await peer.receive_message() for _ in range(2)] == [(1, "before"), (2, "after")]
            await peer.ack(2)
            assert (await peer.receive())[0] == RecordType.CLOSE
            await peer.receive_end()

        async with open_session(double.url, settings=settings) as session:
            receipts = [session.send_nowait(text) for text in ("before", "x" * 11, "after")]
            tasks.start_soon(serve)
            with pytest.raises(MessageTooBig, match="message of 11 bytes exceeds the gateway's limit of 10 bytes"):
                await receipts[1].settled()
            assert [await receipts[at].settled() for at in (0, 2)] == [Rung.CONSUMED] * 2


# --- events -------------------------------------------------------------------------------------------------------


@on_both_runtimes
async def test_a_callback_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("a bug of the application's")

    async with opened(on_event=fail) as (session, peer, _):
        receipt = session.send_nowait("a")
        await peer.receive_message()
        await peer.ack(1)
        assert await receipt.settled() is Rung.CONSUMED
    assert "the callback for events failed" in caplog.text
