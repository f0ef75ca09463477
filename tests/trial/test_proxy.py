"""Each fault as the two ends of a connection see it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from gateway.trial.faults import Fault, FaultKind, FaultSchedule, Hop
from gateway.trial.proxy import CHUNK_BYTES, TRICKLE_BYTES, FaultProxy

PATIENCE_SECONDS = 10.0


class Ends:
    """A proxy with a connection through it: `near` has connected, `far` was connected to."""

    def __init__(self, near: trio.SocketStream, far: trio.SocketStream) -> None:
        self.near = near
        self.far = far


def schedule_of(*kinds: FaultKind, seconds: float = 0.05, place: float = 0.5) -> FaultSchedule:
    """Faults that are due at once."""
    schedule = FaultSchedule([Fault(kind=kind, at=0.0, hop=Hop.FRONT, place=place, seconds=seconds) for kind in kinds])
    schedule.advance(1.0)
    return schedule


@asynccontextmanager
async def proxied(schedule: FaultSchedule) -> AsyncIterator[Ends]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as nursery:
        proxy = FaultProxy(schedule, Hop.FRONT, host="127.0.0.1", port=port)
        bound = await nursery.start(partial(proxy.serve, ("127.0.0.1", 0)))
        near = await trio.open_tcp_stream("127.0.0.1", bound)
        far = await listener.accept()
        async with near, far:
            yield Ends(near, far)
        nursery.cancel_scope.cancel()


async def rest_of(stream: trio.SocketStream) -> tuple[bytes, bool]:
    """All that still comes, and whether it ended with a reset."""
    data = b""
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            while chunk := await stream.receive_some():
                data += chunk
        except trio.BrokenResourceError:
            return data, True
    return data, False


async def exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    with trio.fail_after(PATIENCE_SECONDS):
        while len(data) < size:
            chunk = await stream.receive_some(size - len(data))
            assert chunk
            data += chunk
    return data


async def test_without_faults_bytes_pass_both_ways_and_so_does_each_end() -> None:
    async with proxied(FaultSchedule([])) as ends:
        sent = bytes(range(256)) * 2000
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends.near.send_all, sent)
            assert await exactly(ends.far, len(sent)) == sent
        await ends.near.send_eof()
        assert await rest_of(ends.far) == (b"", False)
        await ends.far.send_all(b"answer")
        await ends.far.send_eof()
        assert await rest_of(ends.near) == (b"answer", False)


async def test_a_peers_reset_is_passed_on_as_one() -> None:
    async with proxied(FaultSchedule([])) as ends:
        await ends.near.send_all(b"x")
        await exactly(ends.far, 1)
        ends.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await ends.far.aclose()
        assert await rest_of(ends.near) == (b"", True)


async def test_nobody_listening_looks_like_a_reset() -> None:
    async with trio.open_nursery() as nursery:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        proxy = FaultProxy(FaultSchedule([]), Hop.FRONT, host="127.0.0.1", port=port)
        bound = await nursery.start(partial(proxy.serve, ("127.0.0.1", 0)))
        async with await trio.open_tcp_stream("127.0.0.1", bound) as stream:
            assert await rest_of(stream) == (b"", True)
        nursery.cancel_scope.cancel()


async def test_a_cut_ends_both_sides_in_the_midst_of_what_is_under_way() -> None:
    async with proxied(schedule_of(FaultKind.CUT)) as ends:
        await ends.near.send_all(b"12345678")
        assert await rest_of(ends.far) == (b"1234", False)
        assert await rest_of(ends.near) == (b"", False)


async def test_a_reset_is_seen_by_both_sides() -> None:
    async with proxied(schedule_of(FaultKind.RESET, place=0.0)) as ends:
        await ends.far.send_all(b"12345678")
        assert (await rest_of(ends.near))[1]
        assert (await rest_of(ends.far))[1]


async def test_after_a_stall_everything_comes() -> None:
    async with proxied(schedule_of(FaultKind.STALL, seconds=0.2)) as ends:
        begin = trio.current_time()
        await ends.near.send_all(b"12345678")
        assert await exactly(ends.far, 4) == b"1234"
        await ends.far.send_all(b"answer")
        assert await exactly(ends.far, 4) == b"5678"
        assert await exactly(ends.near, 6) == b"answer"
        assert trio.current_time() - begin >= 0.2


async def test_a_trickle_lets_everything_through_a_few_bytes_at_a_time() -> None:
    async with proxied(schedule_of(FaultKind.TRICKLE, seconds=0.1)) as ends:
        sent = bytes(range(200))
        await ends.near.send_all(sent)
        received = await exactly(ends.far, 100)
        first = await ends.far.receive_some(1000)
        assert 0 < len(first) <= 2 * TRICKLE_BYTES
        assert received + first + await exactly(ends.far, 100 - len(first)) == sent


async def test_a_black_hole_takes_everything_gives_nothing_and_ends_in_a_reset() -> None:
    async with proxied(schedule_of(FaultKind.BLACK_HOLE, seconds=0.2)) as ends:
        await ends.near.send_all(b"12345678")
        assert await exactly(ends.far, 4) == b"1234"
        await ends.far.send_all(b"into the void")
        await ends.near.send_all(b"and back")
        assert await rest_of(ends.near) == (b"", True)
        assert await rest_of(ends.far) == (b"", True)


async def test_a_half_close_ends_one_direction_and_later_the_other() -> None:
    async with proxied(schedule_of(FaultKind.HALF_CLOSE, seconds=0.3)) as ends:
        await ends.near.send_all(b"12345678")
        assert await rest_of(ends.far) == (b"1234", False)
        await ends.far.send_all(b"still heard")
        assert await exactly(ends.near, 11) == b"still heard"
        await ends.near.send_all(b"into the void")
        assert await rest_of(ends.near) == (b"", False)


async def test_a_fault_strikes_one_connection_and_no_other() -> None:
    schedule = schedule_of(FaultKind.RESET)
    async with proxied(schedule) as ends, proxied(schedule) as others:
        await ends.near.send_all(b"12")
        assert (await rest_of(ends.far))[1]
        await others.near.send_all(b"fine")
        assert await exactly(others.far, 4) == b"fine"
    assert schedule.struck.total() == 1


@pytest.mark.parametrize("kind", [FaultKind.CUT, FaultKind.HALF_CLOSE])
async def test_a_side_that_takes_nothing_does_not_keep_a_fault_from_ending_the_connection(kind: FaultKind) -> None:
    schedule = FaultSchedule([Fault(kind=kind, at=0.0, hop=Hop.FRONT, place=0.5, seconds=0.05)])
    async with proxied(schedule) as ends, trio.open_nursery() as nursery:

        async def flood() -> None:
            try:
                while True:
                    await ends.near.send_all(bytes(CHUNK_BYTES))
            except trio.BrokenResourceError:
                broken.set()

        broken = trio.Event()
        nursery.start_soon(flood)
        await trio.testing.wait_all_tasks_blocked(0.05)
        schedule.advance(1.0)
        await ends.far.send_all(b"so that something is on its way")
        with trio.fail_after(PATIENCE_SECONDS):
            await broken.wait()
        nursery.cancel_scope.cancel()
