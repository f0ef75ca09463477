"""Health: endpoints that die and come back are noticed within an interval, and said so once."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import structlog
import trio
import trio.testing

from gateway.config import Backend, Endpoint, Health, TcpAddress
from gateway.config.model import RECORDS_CHECK_SECONDS
from gateway.errors import BackendUnreachable, GatewayExhausted
from gateway.telemetry.metrics import DialOutcome
from gateway.transport.balancing import EndpointState
from gateway.transport.connector import Connector
from gateway.transport.resolving import Resolver
from gateway.transport.upkeep import Upkeep

INTERVAL = 5.0
HEALTH = Health(interval=INTERVAL, timeout=2.0)


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


def connector(
    *fakes: FakeEndpoint, health: Health | None = HEALTH, framing: Literal["stream", "records"] = "stream"
) -> Connector:
    endpoints = tuple(fake.endpoint for fake in fakes)
    return Connector(Backend(endpoints=endpoints, health=health, framing=framing, balance="round_robin"), route="chat")


@asynccontextmanager
async def checking(*connectors: Connector) -> AsyncIterator[Upkeep]:
    """Checks that run while the block does, the first of them done."""
    async with trio.open_nursery() as nursery:
        checks = Upkeep()
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
        assert [state.up for state in checked.endpoints] == [True, False]
        assert checked.up


async def test_no_endpoint_left_is_known(fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock) -> None:
    one, other = fakes[:2]
    one.start()
    checked = connector(one, other)
    async with checking(checked):
        one.stop()
        await trio.sleep(INTERVAL)
        assert [reading.up for reading in checked.readings()] == [False, False]
        other.start()
        await trio.sleep(INTERVAL)
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
        await trio.sleep(50 * INTERVAL)
        counts = [fake.checks() for fake in fakes]
        assert all(50 <= count <= 1 + 50 / 0.8 for count in counts)
        await trio.sleep(0.1 * INTERVAL)
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
            assert [state.up for state in checked.endpoints] == [None, True]
            await trio.sleep(HEALTH.timeout + 0.01)
            assert [state.up for state in checked.endpoints] == [False, True]


async def test_a_route_without_health_is_not_checked(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    unchecked = connector(fakes[0], health=None)
    async with checking(unchecked, connector(fakes[1])):
        await trio.sleep(60)
        assert unchecked.endpoints[0].up is None


# --- where checks were not asked for ------------------------------------------------------------------------------


async def test_a_backend_that_no_dial_failed_to_is_never_connected_to(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    fake = fakes[0]
    fake.start()
    checked = connector(fake, health=Health())
    async with checking(checked):
        await trio.sleep(600)
        assert [reading.up for reading in checked.readings()] == [None], "nothing is known"
        (await checked.dial(key=b"")).close()
        await trio.sleep(600)
        assert [reading.up for reading in checked.readings()] == [True]
    assert fake.checks() == 1, "the dial"


async def test_a_records_backend_is_checked_all_the_same(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    fake = fakes[0]
    fake.start()
    checked = connector(fake, health=Health(), framing="records")
    async with checking(checked):
        await trio.sleep(300)
    assert 300 / RECORDS_CHECK_SECONDS <= fake.checks() <= 1 + 300 / RECORDS_CHECK_SECONDS / 0.8


async def test_after_a_failed_dial_it_is_asked_again_with_back_off_until_it_answers(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    dead, alive = fakes[:2]
    alive.start()
    checked = connector(dead, alive, health=Health())
    probed: list[float] = []
    probe = checked.probe

    async def note(state: EndpointState, *, timeout_seconds: float) -> str | None:
        probed.append(trio.current_time())
        return await probe(state, timeout_seconds=timeout_seconds)

    checked.probe = note  # type: ignore[method-assign]
    with structlog.testing.capture_logs() as logs:
        async with checking(checked):
            for _ in range(2):
                (await checked.dial(key=b"")).close()
            await trio.sleep(100)
            assert probed == [1, 3, 7, 15, 31, 61, 91]
            assert checked.endpoints[0].dials[DialOutcome.REFUSED] == 1
            for _ in range(20):
                (await checked.dial(key=b"")).close()
            assert checked.endpoints[0].dials[DialOutcome.REFUSED] == 1, "no client is sent to find out"
            dead.start()
            await trio.sleep(30)
            assert [reading.up for reading in checked.readings()] == [True, True]
            await trio.sleep(600)
            assert len(probed) == 8
    assert dead.checks() == 1
    assert [entry["event"] for entry in logs] == ["dial_failed", "backend_up"]


async def test_without_health_nothing_is_asked_but_by_clients(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    fake = fakes[0]
    unchecked = connector(fake, health=None)
    async with checking(unchecked):
        with pytest.raises(BackendUnreachable):
            await unchecked.dial(key=b"")
        fake.start()
        await trio.sleep(600)
        assert fake.checks() == 0
        (await unchecked.dial(key=b"")).close()


async def test_a_check_that_we_lack_the_means_for_says_nothing_about_the_backend(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = fakes[0]
    fake.start()
    checked = connector(fake)
    async with checking(checked):
        assert checked.endpoints[0].up

        async def lack(*_: object, **__: object) -> str | None:
            raise GatewayExhausted("no descriptor left")

        monkeypatch.setattr(checked, "probe", lack)
        with structlog.testing.capture_logs() as logs:
            await trio.sleep(60)
        assert checked.endpoints[0].up
        assert logs == []


async def test_an_address_that_appears_is_checked_and_one_that_goes_no_more(
    fakes: list[FakeEndpoint], autojump_clock: trio.testing.MockClock
) -> None:
    fake = fakes[0]
    fake.start()
    port = fake.address[1]
    hosts = ["127.0.0.1"]

    async def look_up(_: str) -> list[tuple[int, tuple[object, ...]]]:
        return [(socket.AF_INET, (host, 0)) for host in hosts]

    with socket.create_server(("127.0.0.2", port)) as other:
        other.setblocking(False)
        endpoint = Endpoint(scheme="tcp", address=TcpAddress(host="chat.test", port=port))
        backend = Backend(endpoints=(endpoint,), health=HEALTH, resolve=30.0)
        checked = Connector(backend, route="chat", resolver=Resolver(look_up))
        async with checking(checked):
            await trio.sleep(1)
            assert [state.up for state in checked.endpoints] == [True]
            hosts[:] = ["127.0.0.2"]
            await trio.sleep(31)
            assert [state.up for state in checked.endpoints] == [True]
            other.accept()[0].close()
            fake.checks()
            await trio.sleep(60)
            assert fake.checks() == 0
