"""Health: endpoints that die and come back are noticed within an interval, and said so once."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
import trio
import trio.testing

from gateway.config import Backend, Endpoint, Health, TcpAddress
from gateway.transport.connector import Connector
from gateway.transport.health import watch_health

HEALTH = Health(interval=5.0, timeout=2.0)


class FakeEndpoint:
    """A port that is bound all the time, and listened at when `up`."""

    def __init__(self) -> None:
        self._sock = socket.socket()
        self._sock.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._sock.getsockname()
        self.endpoint = Endpoint(scheme="tcp", address=TcpAddress(host=self.address[0], port=self.address[1]))

    def start(self, *, backlog: int = 100) -> None:
        self._sock.listen(backlog)

    def stop(self) -> None:
        self._sock.close()
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(self.address)

    def checks(self) -> int:
        """How many connections were made since the last call."""
        self._sock.setblocking(False)
        count = 0
        while True:
            try:
                self._sock.accept()[0].close()
            except BlockingIOError:
                return count
            count += 1

    def close(self) -> None:
        self._sock.close()


@asynccontextmanager
async def checked(*endpoints: FakeEndpoint, health: Health = HEALTH) -> AsyncIterator[Connector]:
    """A connector whose endpoints are being checked, the first checks done."""
    connector = Connector(Backend(endpoints=tuple(fake.endpoint for fake in endpoints)), route="chat")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_health, connector, health)
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield connector
        finally:
            nursery.cancel_scope.cancel()
            for fake in endpoints:
                fake.close()


async def test_the_first_check_comes_at_once(autojump_clock: trio.testing.MockClock) -> None:
    alive, dead = FakeEndpoint(), FakeEndpoint()
    alive.start()
    async with checked(alive, dead) as connector:
        assert trio.current_time() == 0
        assert [state.check_passed for state in connector.endpoints] == [True, False]
        assert connector.up


async def test_no_endpoint_left_is_known(autojump_clock: trio.testing.MockClock) -> None:
    one, other = FakeEndpoint(), FakeEndpoint()
    one.start()
    async with checked(one, other) as connector:
        one.stop()
        await trio.sleep(HEALTH.interval)
        assert [reading.up for reading in connector.readings()] == [False, False]
        other.start()
        await trio.sleep(HEALTH.interval)
        assert [reading.up for reading in connector.readings()] == [False, True]


async def test_changes_are_logged_once_with_what_went_wrong(autojump_clock: trio.testing.MockClock) -> None:
    fake = FakeEndpoint()
    fake.start()
    with structlog.testing.capture_logs() as logs:
        async with checked(fake) as connector:
            await trio.sleep(20)
            fake.stop()
            await trio.sleep(20)
            fake.start()
            await trio.sleep(20)
    name = connector.endpoints[0].name
    common = {"route": "chat", "endpoint": name}
    assert logs == [
        {"event": "backend_down", "log_level": "warning", "problem": "Connection refused", **common},
        {"event": "backend_up", "log_level": "info", **common},
    ]


async def test_checks_keep_their_pace_without_marching_in_step(autojump_clock: trio.testing.MockClock) -> None:
    fakes = [FakeEndpoint() for _ in range(8)]
    for fake in fakes:
        fake.start()
    async with checked(*fakes):
        await trio.sleep(50 * HEALTH.interval)
        counts = [fake.checks() for fake in fakes]
        assert all(50 <= count <= 1 + 50 / 0.8 for count in counts)
        await trio.sleep(0.1 * HEALTH.interval)
        assert sum(fake.checks() for fake in fakes) < len(fakes)


async def test_a_silent_endpoint_is_down_after_the_timeout_and_holds_up_no_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    mute, alive = FakeEndpoint(), FakeEndpoint()
    alive.start()
    mute.start(backlog=0)
    with socket.create_connection(mute.address), socket.socket() as overflow:
        overflow.setblocking(False)
        overflow.connect_ex(mute.address)
        async with checked(mute, alive) as connector:
            assert [state.check_passed for state in connector.endpoints] == [None, True]
            await trio.sleep(HEALTH.timeout + 0.01)
            assert [state.check_passed for state in connector.endpoints] == [False, True]
