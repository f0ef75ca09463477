"""Health: endpoints that die and come back are noticed within an interval, and said so once."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import structlog
import trio
import trio.testing

from gateway.config import Backend, Endpoint, Health, TcpAddress
from gateway.transport.connector import Connector
from gateway.transport.health import HealthChecks

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


def connector(*fakes: FakeEndpoint, health: Health | None = HEALTH) -> Connector:
    return Connector(Backend(endpoints=tuple(fake.endpoint for fake in fakes), health=health), route="chat")


@asynccontextmanager
async def checking(*connectors: Connector) -> AsyncIterator[HealthChecks]:
    """Checks that run while the block does, the first of them done."""
    async with trio.open_nursery() as nursery:
        checks = HealthChecks()
        checks.start(nursery, connectors)
        await trio.testing.wait_all_tasks_blocked()
        try:
            yield checks
        finally:
            nursery.cancel_scope.cancel()


@pytest.fixture
def fakes() -> Iterator[list[FakeEndpoint]]:
    """Eight endpoints, none of them up."""
    endpoints = [FakeEndpoint() for _ in range(8)]
    yield endpoints
    for endpoint in endpoints:
        endpoint.close()


async def test_the_first_check_comes_at_once(fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock) -> None:
    fakes[0].start()
    checked = connector(*fakes[:2])
    async with checking(checked):
        assert trio.current_time() == 0
        assert [state.check_passed for state in checked.endpoints] == [True, False]
        assert checked.up


async def test_no_endpoint_left_is_known(fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock) -> None:
    one, other = fakes[:2]
    one.start()
    checked = connector(one, other)
    async with checking(checked):
        one.stop()
        await trio.sleep(HEALTH.interval)
        assert [reading.up for reading in checked.readings()] == [False, False]
        other.start()
        await trio.sleep(HEALTH.interval)
        assert [reading.up for reading in checked.readings()] == [False, True]


async def test_changes_are_logged_once_with_what_went_wrong(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    fake = fakes[0]
    fake.start()
    with structlog.testing.capture_logs() as logs:
        async with checking(connector(fake)):
            await trio.sleep(20)
            fake.stop()
            await trio.sleep(20)
            fake.start()
            await trio.sleep(20)
    common = {"route": "chat", "endpoint": str(fake.endpoint)}
    assert logs == [
        {"event": "backend_down", "log_level": "warning", "problem": "Connection refused", **common},
        {"event": "backend_up", "log_level": "info", **common},
    ]


async def test_checks_keep_their_pace_without_marching_in_step(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    for fake in fakes:
        fake.start()
    async with checking(connector(*fakes)):
        await trio.sleep(50 * HEALTH.interval)
        counts = [fake.checks() for fake in fakes]
        assert all(50 <= count <= 1 + 50 / 0.8 for count in counts)
        await trio.sleep(0.1 * HEALTH.interval)
        assert sum(fake.checks() for fake in fakes) < len(fakes)


async def test_a_silent_endpoint_is_down_after_the_timeout_and_holds_up_no_other(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    mute, alive = fakes[:2]
    alive.start()
    mute.start(backlog=0)
    checked = connector(mute, alive)
    with socket.create_connection(mute.address), socket.socket() as overflow:
        overflow.setblocking(False)
        overflow.connect_ex(mute.address)
        async with checking(checked):
            assert [state.check_passed for state in checked.endpoints] == [None, True]
            await trio.sleep(HEALTH.timeout + 0.01)
            assert [state.check_passed for state in checked.endpoints] == [False, True]


async def test_a_route_without_health_is_not_checked(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    unchecked = connector(fakes[0], health=None)
    async with checking(unchecked, connector(fakes[1])):
        await trio.sleep(60)
        assert unchecked.endpoints[0].check_passed is None


async def test_replacing_checks_the_new_endpoints_at_once_and_the_old_ones_no_more(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    old, new = fakes[:2]
    old.start()
    async with checking(connector(old)) as checks:
        replacement = connector(new)
        checks.replace([replacement])
        await trio.testing.wait_all_tasks_blocked()
        assert replacement.endpoints[0].check_passed is False
        old.checks()
        await trio.sleep(60)
        assert old.checks() == 0
