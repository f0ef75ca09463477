"""The gatehouse: turns for those who shake hands, time for those who talk already."""

import trio
import trio.testing

from gateway.policy.anteroom import Guest
from gateway.transport.gatehouse import CROWD, SPREAD, Gatehouse
from tests.sessions.harness import until


def gatehouse(*, per_second: float = 1000.0, limit: int = 1000) -> Gatehouse:
    return Gatehouse(limit=limit, group_limit=limit, per_second=per_second)


def enter(house: Gatehouse, address: str | None = "192.0.2.1") -> Guest:
    guest = house.enter(address, lambda: None)
    assert guest is not None
    return guest


async def test_a_turn_comes_at_once_while_there_is_time(autojump_clock: trio.testing.MockClock) -> None:
    house = gatehouse()
    began = trio.current_time()
    await house.turn(enter(house))
    await house.turn(None)
    assert trio.current_time() == began


async def test_a_storm_of_one_address_delays_itself_and_not_another_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    house = gatehouse()
    order: list[str] = []

    async def shake(address: str) -> None:
        await house.turn(enter(house, address))
        house.spend(0.01)
        order.append(address)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.run)
        for _ in range(200):
            nursery.start_soon(shake, "192.0.2.1")
        await trio.sleep(0.5)
        assert house.waiting
        nursery.start_soon(shake, "192.0.2.2")
        await until(lambda: "192.0.2.2" in order)
        assert order.count("192.0.2.1") < 60
        await until(lambda: len(order) == 201)
        nursery.cancel_scope.cancel()
    assert not house.waiting


async def test_handshakes_have_their_share_of_the_time_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    house = gatehouse()
    done = 0

    async def shake() -> None:
        nonlocal done
        await house.turn(enter(house))
        house.spend(0.01)
        done += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.run)
        for _ in range(500):
            nursery.start_soon(shake)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert 150 <= done <= 5 * 0.4 / 0.01 + 20


async def test_who_gives_up_waits_no_longer(autojump_clock: trio.testing.MockClock) -> None:
    house = gatehouse()
    house.spend(10)
    with trio.move_on_after(1) as scope:
        await house.turn(enter(house))
    assert scope.cancelled_caught
    assert not house.waiting


async def test_accepting_rests_while_there_is_no_time(autojump_clock: trio.testing.MockClock) -> None:
    house = gatehouse()
    began = trio.current_time()
    await house.rest(1)
    assert trio.current_time() == began
    await house.rest(10_000)
    assert trio.current_time() > began + 1


async def test_deadlines_of_a_crowd_are_spread_and_those_of_a_few_are_exact() -> None:
    house = gatehouse()
    for _ in range(CROWD):
        enter(house)
    assert house.patience(10.0) == 10.0
    enter(house)
    spread = [house.patience(10.0) for _ in range(100)]
    assert all(10.0 <= seconds <= 10.0 * (1 + SPREAD) for seconds in spread)
    assert max(spread) - min(spread) > 1.0


async def test_addresses_of_one_network_are_one_group() -> None:
    house = Gatehouse(limit=100, group_limit=2, per_second=10)
    gone: list[int] = []
    for number in range(3):
        house.enter(f"2001:db8::{number}", lambda number=number: gone.append(number))  # type: ignore[misc]
    house.enter(None, lambda: gone.append(9))
    assert gone == [0]
