"""Resolving: one lookup a name at a time, with threads of its own, and literal addresses without any."""

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from gateway.config import TcpAddress, UnixAddress
from gateway.transport.resolving import Resolver, Target, literal_target


def tcp(host: str, port: int = 9000) -> TcpAddress:
    return TcpAddress(host=host, port=port)


@pytest.mark.parametrize(
    ("host", "family", "sockaddr"),
    [("10.0.0.1", socket.AF_INET, ("10.0.0.1", 9000)), ("fd00::1", socket.AF_INET6, ("fd00::1", 9000, 0, 0))],
)
def test_a_literal_address_is_its_own_target(host: str, family: int, sockaddr: tuple[Any, ...]) -> None:
    assert literal_target(tcp(host)) == Target(family=family, sockaddr=sockaddr, address=tcp(host))


def test_a_path_is_a_target_and_a_name_is_none() -> None:
    address = UnixAddress(path=Path("/run/vnc.sock"))
    assert literal_target(address) == Target(family=socket.AF_UNIX, sockaddr=b"/run/vnc.sock", address=address)
    assert literal_target(tcp("localhost")) is None


async def test_a_name_is_looked_up_by_the_system() -> None:
    targets = await Resolver().resolve(tcp("localhost", 81))
    assert tcp("127.0.0.1", 81) in [target.address for target in targets]
    assert len(targets) == len(set(targets))


async def test_a_name_without_an_address_is_an_error_of_each_who_asked() -> None:
    async def nothing(_: str) -> list[tuple[int, tuple[object, ...]]]:
        return []

    resolver, errors = Resolver(nothing), []

    async def ask() -> None:
        with pytest.raises(socket.gaierror, match="no address") as caught:
            await resolver.resolve(tcp("chat.test"))
        errors.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(ask)
    assert errors[0] is not errors[1]


async def test_a_fault_of_ours_is_logged_and_ends_no_process() -> None:
    async def broken(_: str) -> list[tuple[int, tuple[object, ...]]]:
        raise ZeroDivisionError

    with structlog.testing.capture_logs() as logs, pytest.raises(OSError, match="the lookup failed"):
        await Resolver(broken).resolve(tcp("chat.test"))
    assert [entry["event"] for entry in logs] == ["lookup_failed"]


async def test_equal_questions_share_one_lookup_whatever_their_ports_and_who_gives_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked = []

    async def look_up(host: str) -> list[tuple[int, tuple[object, ...]]]:
        asked.append(host)
        await trio.sleep(5)
        return [(socket.AF_INET, ("10.0.0.1", 0)), (socket.AF_INET, ("10.0.0.1", 0))]

    resolver, found = Resolver(look_up), []

    async def ask(port: int, patience: float) -> None:
        with trio.move_on_after(patience):
            found.append(await resolver.resolve(tcp("chat.test", port)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, 1, 1.0)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask, 2, 10.0)
        nursery.start_soon(ask, 3, 10.0)
    assert asked == ["chat.test"]
    assert {targets[0].address.port for targets in found if isinstance(targets[0].address, TcpAddress)} == {2, 3}
    assert {len(targets) for targets in found} == {1}
    await resolver.resolve(tcp("chat.test"))
    assert len(asked) == 2, "an answer is not kept here"


async def test_silent_lookups_take_no_thread_that_anything_else_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    ask_system = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        if host.startswith("mute"):
            released.wait()
        return ask_system("localhost", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = Resolver()
    everything_else = trio.to_thread.current_default_thread_limiter()
    try:
        async with trio.open_nursery() as nursery:
            for number in range(2 * int(everything_else.total_tokens)):
                nursery.start_soon(resolver.resolve, tcp(f"mute-{number}.test"))
            await trio.testing.wait_all_tasks_blocked()
            assert everything_else.borrowed_tokens == 0
            assert await resolver.resolve(tcp("alive.test"))
            nursery.cancel_scope.cancel()
    finally:
        released.set()
