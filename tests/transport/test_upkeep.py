"""Upkeep: names are looked up again, certificate files watched, and a reload ends the care of what was."""

import socket

import pytest
import trio
import trio.testing

from gateway.config import Backend, Health
from gateway.config.addresses import parse_endpoint
from gateway.transport.connector import Connector
from gateway.transport.resolving import Resolver
from gateway.transport.tls import ClientTls
from gateway.transport.upkeep import Upkeep
from tests.transport.endpoints import connector, listening


async def test_names_are_looked_up_at_the_start_and_at_their_pace_also_when_nobody_dials(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked: list[float] = []

    async def look_up(_: str) -> list[tuple[int, tuple[object, ...]]]:
        asked.append(trio.current_time())
        return [(socket.AF_INET, ("127.0.0.1", 0))]

    named = connector(parse_endpoint("tcp://chat.test:9000"), look_up=look_up, resolve=10.0)
    async with trio.open_nursery() as nursery:
        upkeep = Upkeep()
        upkeep.start(nursery, [named])
        await trio.testing.wait_all_tasks_blocked()
        assert asked == [0]
        assert [str(state.target.address) for state in named.endpoints if state.target] == ["127.0.0.1:9000"]
        await trio.sleep(1000)
        assert 1000 / 10 <= len(asked) <= 1 + 1000 / 8
        asked.clear()
        upkeep.replace([])
        await trio.sleep(100)
        assert asked == []
        nursery.cancel_scope.cancel()


async def test_a_silent_name_holds_up_no_others_lookup(autojump_clock: trio.testing.MockClock) -> None:
    async def look_up(host: str) -> list[tuple[int, tuple[object, ...]]]:
        if host == "mute.test":
            await trio.sleep_forever()
        return [(socket.AF_INET, ("127.0.0.1", 0))]

    resolver = Resolver(look_up)
    mute, alive = (
        Connector(Backend(endpoints=(parse_endpoint(f"tcp://{name}.test:9000"),)), route=name, resolver=resolver)
        for name in ("mute", "alive")
    )
    async with trio.open_nursery() as nursery:
        Upkeep().start(nursery, [mute, alive])
        await trio.testing.wait_all_tasks_blocked()
        assert (len(mute.endpoints), len(alive.endpoints)) == (0, 1)
        assert mute.up, "nothing is known of it"
        nursery.cancel_scope.cancel()


async def test_certificate_files_are_watched(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[float] = []
    monkeypatch.setattr(ClientTls, "reload", lambda _: looked.append(trio.current_time()))
    async with trio.open_nursery() as nursery:
        Upkeep().start(nursery, [connector(parse_endpoint("tls://127.0.0.1:9443"))])
        await trio.sleep(35)
        nursery.cancel_scope.cancel()
    assert looked == [10, 20, 30]


async def test_replacing_checks_the_new_endpoints_at_once_and_the_old_ones_no_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    health = Health(interval=5.0)
    with listening() as (old_socket, old), listening() as (_, new):
        async with trio.open_nursery() as nursery:
            upkeep = Upkeep()
            upkeep.start(nursery, [connector(old, health=health)])
            await trio.testing.wait_all_tasks_blocked()
            old_socket.accept()[0].close()
            replacement = connector(new, health=health)
            upkeep.replace([replacement])
            await trio.testing.wait_all_tasks_blocked()
            assert replacement.endpoints[0].up
            await trio.sleep(60)
            with pytest.raises(BlockingIOError):
                old_socket.accept()
            nursery.cancel_scope.cancel()


async def test_a_reload_of_a_route_that_stays_goes_on_with_its_checks(autojump_clock: trio.testing.MockClock) -> None:
    with listening() as (sock, endpoint):
        before = connector(endpoint, health=Health())
        async with trio.open_nursery() as nursery:
            upkeep = Upkeep()
            upkeep.start(nursery, [before])
            await trio.testing.wait_all_tasks_blocked()
            after = Connector(before.backend, route="chat", previous=before)
            upkeep.replace([after])
            await trio.testing.wait_all_tasks_blocked()
            (state,) = after.endpoints
            assert state.on_suspended is not None, "what the old care left behind must not end the new one's"
            nursery.cancel_scope.cancel()
        sock.close()
