"""Reading requests off a connection, and answers that are none but refusals."""

from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from gateway.errors import HandshakeRefused
from gateway.protocol.handshake import RequestReader
from gateway.transport.channel import Channel
from gateway.transport.requests import read_request, refuse
from gateway.transport.silent import FIRST_BYTE_SECONDS, SilentConnections
from tests.transport.loopback import connected_channels

REQUEST = b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    """(ours, the client's)"""
    async with connected_channels() as pair:
        yield pair


async def answered(ours: Channel, client: Channel) -> RequestReader:
    """The reader of a connection whose first request has been answered."""
    reader = RequestReader()
    await client.send_all(REQUEST)
    request = await read_request(ours, reader, first=True, timeout_seconds=10, silent=SilentConnections())
    assert request is not None
    assert request.path == "/page"
    return reader


async def test_a_request_that_is_here_is_not_waited_for(ends: tuple[Channel, Channel]) -> None:
    ours, client = ends
    await client.send_all(REQUEST)
    await ours.wait_readable()
    with assert_no_checkpoints():
        request = await read_request(ours, RequestReader(), first=True, timeout_seconds=10, silent=SilentConnections())
    assert request is not None


async def test_a_connection_that_is_over_is_none_also_when_nothing_is_waited_for(ends: tuple[Channel, Channel]) -> None:
    ours, client = ends
    client.close()
    await ours.wait_readable()
    assert await read_request(ours, RequestReader(), first=True, timeout_seconds=10) is None


async def test_a_connection_between_two_requests_is_ended_at_once(ends: tuple[Channel, Channel]) -> None:
    reader, silent = await answered(*ends), SilentConnections()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                assert await read_request(ends[0], reader, first=False, timeout_seconds=60, silent=silent) is None

            await wait_all_tasks_blocked()
            silent.end()


async def test_a_connection_that_comes_to_wait_after_the_end_does_not_wait(ends: tuple[Channel, Channel]) -> None:
    reader, silent = await answered(*ends), SilentConnections()
    silent.end()
    with trio.fail_after(5):
        assert await read_request(ends[0], reader, first=False, timeout_seconds=60, silent=silent) is None


@pytest.mark.parametrize("first", [True, False], ids=["first", "next"])
async def test_a_request_that_has_begun_is_read_to_its_end(ends: tuple[Channel, Channel], first: bool) -> None:
    ours, client = ends
    silent = SilentConnections()
    reader = RequestReader() if first else await answered(ours, client)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                request = await read_request(ours, reader, first=first, timeout_seconds=60, silent=silent)
                assert request is not None

            await client.send_all(REQUEST[:10])
            await wait_all_tasks_blocked(0.01)
            silent.end()
            await client.send_all(REQUEST[10:])


async def test_a_silent_connection_on_which_nothing_comes_is_left_after_the_timeout(
    ends: tuple[Channel, Channel], autojump_clock: MockClock
) -> None:
    reader = await answered(*ends)
    assert await read_request(ends[0], reader, first=False, timeout_seconds=10) is None
    assert trio.current_time() >= 10


@pytest.mark.parametrize("ended", ["before", "meanwhile"])
async def test_a_connection_that_never_sent_anything_is_left_a_moment_after_the_end(
    ends: tuple[Channel, Channel], autojump_clock: MockClock, ended: str
) -> None:
    silent = SilentConnections()
    async with trio.open_nursery() as nursery:
        if ended == "before":
            silent.end()
        else:

            @nursery.start_soon
            async def end() -> None:
                await wait_all_tasks_blocked()
                silent.end()

        assert await read_request(ends[0], RequestReader(), first=True, timeout_seconds=60, silent=silent) is None
    assert FIRST_BYTE_SECONDS <= trio.current_time() < 10


async def test_a_first_request_that_was_on_its_way_at_the_end_is_read(ends: tuple[Channel, Channel]) -> None:
    ours, client = ends
    silent = SilentConnections()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def read() -> None:
                request = await read_request(ours, RequestReader(), first=True, timeout_seconds=60, silent=silent)
                assert request is not None

            await wait_all_tasks_blocked()
            silent.end()
            await client.send_all(REQUEST)


@pytest.mark.parametrize("head_only", [False, True])
async def test_a_refusal_of_a_head_request_has_no_body(ends: tuple[Channel, Channel], head_only: bool) -> None:
    ours, client = ends
    await refuse(ours, HandshakeRefused("not here", status=404, reason="other"), timeout_seconds=5, head_only=head_only)
    answer = b""
    while data := await client.receive_some():
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Length: 9" in head
    assert body == (b"" if head_only else b"not here\n")
