"""A backend's names: what they lead to, what is kept when they lead nowhere, and what a reload keeps."""

import socket
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.config.addresses import parse_endpoint
from gateway.transport.endpoints import BackendEndpoint, Endpoints
from gateway.transport.resolving import Resolver


class Names:
    """A resolver's answers, to be changed: addresses by name; a name without any is unknown."""

    def __init__(self, **addresses: str) -> None:
        self.addresses = {name: its.split() for name, its in addresses.items()}
        self.asked: list[str] = []

    async def look_up(self, host: str) -> list[tuple[int, tuple[object, ...]]]:
        self.asked.append(host)
        if not self.addresses.get(host):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, (address, 0)) for address in self.addresses[host]]


def named(**options: Any) -> BackendEndpoint:
    return BackendEndpoint(parse_endpoint("tcp://chat:9000"), **options)


def led_to(its: BackendEndpoint) -> list[str]:
    return [str(state.target.address) for state in its.states if state.target is not None]


def warnings(logs: list[Any]) -> list[Any]:
    return [line for line in logs if line["log_level"] == "warning"]


def led_everywhere(endpoints: Endpoints) -> int:
    return len(endpoints.states)


def test_a_literal_address_is_there_from_the_start() -> None:
    its = BackendEndpoint(parse_endpoint("tcp://10.0.0.1:9000"))
    assert (its.is_name, led_to(its), its.up) == (False, ["10.0.0.1:9000"], None)


async def test_a_name_leads_to_all_its_addresses() -> None:
    names = Names(chat="10.0.0.1 10.0.0.2")
    its = named()
    assert (its.is_name, its.states, its.up) == (True, (), None)
    await its.look_up(Resolver(names.look_up))
    assert led_to(its) == ["10.0.0.1:9000", "10.0.0.2:9000"]


async def test_one_that_cannot_be_resolved_keeps_what_it_had_and_says_so_once() -> None:
    names = Names(chat="10.0.0.1")
    its, resolver = named(), Resolver(names.look_up)
    await its.look_up(resolver)
    names.addresses.clear()
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await its.look_up(resolver)
    assert led_to(its) == ["10.0.0.1:9000"]
    assert its.problem is not None
    assert [(line["event"], line["endpoint"], line["kept"]) for line in warnings(logs)] == [
        ("name_not_resolved", "tcp://chat:9000", ["10.0.0.1:9000"])
    ]
    names.addresses["chat"] = ["10.0.0.1"]
    await its.look_up(resolver)
    assert its.problem is None


async def test_one_that_never_led_anywhere_is_down() -> None:
    its = named()
    await its.look_up(Resolver(Names().look_up))
    assert its.up is False


async def test_an_address_that_stays_keeps_what_is_known_of_it() -> None:
    names = Names(chat="10.0.0.1 10.0.0.2")
    its, resolver = named(), Resolver(names.look_up)
    await its.look_up(resolver)
    first, second = its.states
    first.record_check(passed=True, now=0)
    second.record_check(passed=False, now=0)
    assert its.up is True
    names.addresses["chat"] = ["10.0.0.3", "10.0.0.2"]
    await its.look_up(resolver)
    assert its.states[1] is second
    assert its.up is None, "one is down, and nothing is known of the other"


@pytest.mark.parametrize("busy", [True, False])
async def test_an_address_that_comes_back_while_it_has_connections_is_the_same(busy: bool) -> None:
    names = Names(chat="10.0.0.1")
    its, resolver = named(), Resolver(names.look_up)
    await its.look_up(resolver)
    (before,) = its.states
    before.active = int(busy)
    for addresses in (["10.0.0.2"], ["10.0.0.1"]):
        names.addresses["chat"] = addresses
        await its.look_up(resolver)
    assert (its.states[0] is before) is busy


async def test_where_an_address_may_not_be_dialled_nothing_is_left_of_before() -> None:
    """A name that leads inside, all at once, is not led to what it was."""
    names = Names(chat="10.0.0.1 192.0.2.1")
    its, resolver = named(permits=lambda address: address.startswith("10.")), Resolver(names.look_up)
    await its.look_up(resolver)
    assert led_to(its) == ["10.0.0.1:9000"]
    names.addresses["chat"] = ["169.254.169.254"]
    with structlog.testing.capture_logs() as logs:
        await its.look_up(resolver)
    assert (led_to(its), its.up) == ([], False)
    assert [line["problem"] for line in warnings(logs)] == ["none of its addresses is one that may be dialled"]


async def test_a_name_is_looked_up_when_it_is_due_and_once_at_a_time(autojump_clock: MockClock) -> None:
    names = Names(chat="10.0.0.1")
    resolver = Resolver(names.look_up)
    configured = [parse_endpoint("tcp://chat:9000"), parse_endpoint("tcp://10.0.0.9:9000")]
    endpoints = Endpoints(configured, resolver, refresh_seconds=30)
    assert [its.name for its in endpoints.names] == ["tcp://chat:9000"]
    assert led_everywhere(endpoints) == 1
    assert endpoints.refresh()
    assert endpoints.refresh()
    await wait_all_tasks_blocked()
    assert names.asked == ["chat"]
    assert led_everywhere(endpoints) == 2
    assert not endpoints.refresh(), "it is fresh"
    await trio.sleep(30)
    assert endpoints.refresh()
    await wait_all_tasks_blocked()
    assert endpoints.refresh(older_than=trio.current_time()), "asked for by whom it has led astray"
    await wait_all_tasks_blocked()
    assert names.asked == ["chat"] * 3


async def test_endpoints_that_stay_over_a_reload_stay_what_they_are() -> None:
    resolver = Resolver(Names().look_up)
    a, b, c = (parse_endpoint(f"tcp://10.0.0.{number}:9000") for number in (1, 2, 3))
    before = Endpoints([a, b], resolver, refresh_seconds=30)
    after = Endpoints([c, b], resolver, refresh_seconds=30, previous=before)
    assert after.configured[1] is before.configured[1]
    assert after.configured[0] not in before.configured
