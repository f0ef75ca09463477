"""Connector: what a dial does when endpoints refuse, stall or lie, and what it leaves behind."""

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing

from gateway.config import Backend, Health, TcpAddress, UnixAddress
from gateway.config.addresses import parse_endpoint
from gateway.errors import BackendTimeout, BackendUnreachable
from gateway.protocol.proxy_protocol import LOCAL_HEADER
from gateway.telemetry.metrics import BackendReading, DialOutcome
from gateway.transport.channel import NOT_SENT_LOWAT_BYTES
from gateway.transport.connector import Connector
from tests.transport.endpoints import accept, connector, listening, refusing, silent, tcp_endpoint

Resolve = Callable[..., Awaitable[list[tuple[int, int, int, str, tuple[object, ...]]]]]


# --- one endpoint -------------------------------------------------------------------------------------------------


async def test_a_dial_connects_tunes_and_counts() -> None:
    with listening() as (sock, endpoint):
        dialing = connector(endpoint)
        (state,) = dialing.endpoints
        dialed = await dialing.dial(key=b"")
        assert dialed.state is state
        assert dialed.remote == endpoint.address
        option = dialed.channel.sock.getsockopt
        assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert option(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == NOT_SENT_LOWAT_BYTES
        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        with_backend = accept(sock)
        await with_backend.send_all(b"hello")
        assert await dialed.channel.receive_some() == b"hello"
        assert state.active == 1
        dialed.close()
        dialed.close()
        assert state.active == 0
        assert await with_backend.receive_some() == b""
        with_backend.close()
        expected = {outcome: int(outcome is DialOutcome.CONNECTED) for outcome in DialOutcome}
        assert list(dialing.readings()) == [
            BackendReading(route="chat", endpoint=str(endpoint), up=True, dials=expected)
        ]


async def test_closing_leaves_a_socket_alone_that_the_pump_took() -> None:
    with listening() as (_, endpoint):
        dialed = await connector(endpoint).dial(key=b"")
        with dialed.channel.release() as sock:
            dialed.close()
            assert sock.fileno() >= 0
        assert dialed.state.active == 0


async def test_unix_sockets_are_dialled(tmp_path: Path) -> None:
    path = tmp_path / "backend.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        dialed = await connector(parse_endpoint(f"unix://{path}")).dial(key=b"")
        assert dialed.remote == UnixAddress(path=path)
        dialed.close()


async def test_a_unix_socket_whose_backlog_is_full_is_waited_for(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "backend.sock"
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as first:
        sock.bind(str(path))
        sock.listen(0)
        first.connect(str(path))
        dialing = connector(parse_endpoint(f"unix://{path}"), connect_timeout=5.0)
        with pytest.raises(BackendTimeout):
            await dialing.dial(key=b"")
        assert trio.current_time() == pytest.approx(5)
        async with trio.open_nursery() as nursery:

            async def make_room() -> None:
                await trio.sleep(1)
                sock.accept()[0].close()

            nursery.start_soon(make_room)
            (await dialing.dial(key=b"")).close()
        assert trio.current_time() == pytest.approx(6, abs=0.1)


async def test_nobody_there_is_refused() -> None:
    with refusing() as endpoint:
        dialing = connector(endpoint)
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                with pytest.raises(BackendUnreachable, match=f"^{endpoint}: Connection refused$") as caught:
                    await dialing.dial(key=b"")
                assert not isinstance(caught.value, BackendTimeout)
        (state,) = dialing.endpoints
        assert state.dials[DialOutcome.REFUSED] == 2
        assert state.active == 0
        assert not dialing.up
        assert [(entry["event"], entry["endpoint"], entry["problem"]) for entry in logs] == [
            ("dial_failed", str(endpoint), "Connection refused")
        ]


async def test_a_missing_unix_socket_is_refused(tmp_path: Path) -> None:
    dialing = connector(parse_endpoint(f"unix://{tmp_path}/backend.sock"))
    with pytest.raises(BackendUnreachable, match="No such file"):
        await dialing.dial(key=b"")
    assert dialing.endpoints[0].dials[DialOutcome.REFUSED] == 1


async def test_no_answer_is_a_timeout_at_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    with silent() as endpoint:
        dialing = connector(endpoint, connect_timeout=3.0)
        with pytest.raises(BackendTimeout, match=f"^{endpoint}: the connection was not complete in time$"):
            await dialing.dial(key=b"")
        assert trio.current_time() == pytest.approx(3)
        assert dialing.endpoints[0].dials[DialOutcome.TIMED_OUT] == 1
        assert dialing.endpoints[0].active == 0


async def test_a_cancelled_dial_leaves_nothing_behind() -> None:
    with silent() as endpoint:
        dialing = connector(endpoint)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: dialing.dial(key=b""))
            await trio.testing.wait_all_tasks_blocked()
            assert dialing.endpoints[0].active == 1
            nursery.cancel_scope.cancel()
        assert dialing.endpoints[0].active == 0
        assert not any(dialing.endpoints[0].dials.values())


async def test_a_socket_that_connected_to_itself_is_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing() as endpoint:
        dialing = connector(endpoint)
        connect = socket.socket.connect_ex

        def choose_the_dialled_port(sock: socket.socket, address: tuple[str, int]) -> int:
            # What the kernel may do by itself: the connecting socket gets the port that it connects to.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
            return connect(sock, sock.getsockname())

        monkeypatch.setattr(socket.socket, "connect_ex", choose_the_dialled_port)
        with pytest.raises(BackendUnreachable, match="Connection refused"):
            await dialing.dial(key=b"")
        assert dialing.endpoints[0].dials[DialOutcome.REFUSED] == 1


@pytest.mark.parametrize(
    ("number", "outcome", "fault"),
    [
        (errno.EHOSTUNREACH, DialOutcome.FAILED, BackendUnreachable),
        (errno.ETIMEDOUT, DialOutcome.TIMED_OUT, BackendTimeout),
    ],
)
async def test_what_the_kernel_says_is_told_and_counted(
    monkeypatch: pytest.MonkeyPatch, number: int, outcome: DialOutcome, fault: type[BackendUnreachable]
) -> None:
    with listening() as (_, endpoint):
        dialing = connector(endpoint)
        monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: number)
        with pytest.raises(BackendUnreachable, match=os.strerror(number)) as caught:
            await dialing.dial(key=b"")
        assert type(caught.value) is fault
        assert dialing.endpoints[0].dials[outcome] == 1


# --- names --------------------------------------------------------------------------------------------------------


class Names(trio.abc.HostnameResolver):
    """Resolves every name to the given addresses, with the port asked for; or to nothing."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts
        self.asked = 0

    async def getaddrinfo(  # type: ignore[override]
        self, host: bytes | None, port: int, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        self.asked += 1
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, port)) for name in self.hosts]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


async def test_a_name_that_does_not_resolve_is_told() -> None:
    trio.socket.set_custom_hostname_resolver(Names())
    dialing = connector(parse_endpoint("tcp://nowhere.test:9000"))
    with pytest.raises(BackendUnreachable, match=r"^tcp://nowhere\.test:9000: Name or service not known$"):
        await dialing.dial(key=b"")
    assert dialing.endpoints[0].dials[DialOutcome.FAILED] == 1


async def test_each_address_of_a_name_is_tried_and_names_are_resolved_anew() -> None:
    names = Names("127.0.0.9", "127.0.0.1")
    trio.socket.set_custom_hostname_resolver(names)
    with listening() as (sock, _):
        dialing = connector(tcp_endpoint(sock, host="chat.test"))
        dialed = await dialing.dial(key=b"")
        port = sock.getsockname()[1]
        assert dialed.remote == TcpAddress(host="127.0.0.1", port=port)
        dialed.close()
        names.hosts = ("127.0.0.9",)
        with pytest.raises(BackendUnreachable, match=r"chat\.test:.*refused"):
            await dialing.dial(key=b"")
        assert names.asked == 2
        assert dialing.endpoints[0].dials[DialOutcome.CONNECTED] == 1, "an endpoint is dialled, not an address"
        assert dialing.endpoints[0].dials[DialOutcome.REFUSED] == 1


async def test_a_silent_address_leaves_time_for_the_next(autojump_clock: trio.testing.MockClock) -> None:
    trio.socket.set_custom_hostname_resolver(Names("127.0.0.1", "127.0.0.2"))
    with silent() as endpoint, socket.socket() as sock:
        assert isinstance(endpoint.address, TcpAddress)
        sock.bind(("127.0.0.2", endpoint.address.port))
        sock.listen()
        dialed = await connector(tcp_endpoint(sock, host="chat.test"), connect_timeout=4.0).dial(key=b"")
        assert dialed.remote == TcpAddress(host="127.0.0.2", port=endpoint.address.port)
        assert trio.current_time() == pytest.approx(2)
        dialed.close()


# --- several endpoints --------------------------------------------------------------------------------------------


async def test_a_failed_dial_tries_the_next_and_avoids_the_failed_one_for_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with refusing() as dead, listening() as (_, alive):
        dialing = connector(dead, alive)
        for _ in range(6):
            (await dialing.dial(key=b"")).close()
        first, second = dialing.endpoints
        assert (first.dials[DialOutcome.REFUSED], second.dials[DialOutcome.CONNECTED]) == (1, 6)
        assert dialing.up
        await trio.sleep(1)
        for _ in range(2):
            (await dialing.dial(key=b"")).close()
        assert (first.dials[DialOutcome.REFUSED], second.dials[DialOutcome.CONNECTED]) == (2, 8)


async def test_a_silent_endpoint_leaves_time_for_the_others(autojump_clock: trio.testing.MockClock) -> None:
    with silent() as mute, listening() as (_, alive):
        dialed = await connector(mute, alive, connect_timeout=5.0).dial(key=b"")
        assert str(dialed.state.endpoint) == str(alive)
        assert trio.current_time() == pytest.approx(2.5)
        dialed.close()


async def test_what_is_known_to_be_down_costs_the_others_no_time(autojump_clock: trio.testing.MockClock) -> None:
    with silent() as mute, silent() as also_mute:
        dialing = connector(mute, also_mute, connect_timeout=5.0, health=Health())
        dialing.endpoints[1].record_check(passed=False)
        with pytest.raises(BackendTimeout):
            await dialing.dial(key=b"")
        assert [sum(state.dials.values()) for state in dialing.endpoints] == [1, 0]
        assert trio.current_time() == pytest.approx(5)


async def test_all_that_was_said_is_told_when_every_endpoint_fails(autojump_clock: trio.testing.MockClock) -> None:
    with refusing() as dead, silent() as mute:
        with pytest.raises(BackendUnreachable, match=f"^{dead}: Connection refused; {mute}: .*not complete") as caught:
            await connector(dead, mute).dial(key=b"")
        assert not isinstance(caught.value, BackendTimeout), "somebody answered, so it is no 504"
        with pytest.raises(BackendTimeout):
            await connector(mute, mute).dial(key=b"")
        assert trio.current_time() == pytest.approx(10)


async def test_least_connections_counts_dials_that_are_under_way() -> None:
    with silent() as first, silent() as second:
        dialing = connector(first, second, balance="least_connections")
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(lambda: dialing.dial(key=b""))
            await trio.testing.wait_all_tasks_blocked()
            assert [state.active for state in dialing.endpoints] == [3, 3]
            nursery.cancel_scope.cancel()


async def test_session_hash_keeps_a_key_at_its_endpoint() -> None:
    with listening() as (_, first), listening() as (_, second):
        dialing = connector(first, second, balance="session_hash")
        chosen: dict[bytes, set[str]] = {}
        for _ in range(3):
            for number in range(20):
                key = str(number).encode()
                dialed = await dialing.dial(key=key)
                chosen.setdefault(key, set()).add(dialed.state.name)
                dialed.close()
        assert all(len(names) == 1 for names in chosen.values())
        assert len(set.union(*chosen.values())) == 2


async def test_a_reload_keeps_what_is_known_of_endpoints_that_stay() -> None:
    with listening() as (_, stays), refusing() as goes:
        old = connector(stays, goes, health=Health())
        dialed = await old.dial(key=b"")
        old.endpoints[0].record_check(passed=False)
        backend = Backend(endpoints=(stays,), health=Health())
        new = Connector(backend, route="chat", previous=old)
        assert new.endpoints == (old.endpoints[0],)
        assert not new.up
        unchecked = Connector(backend.model_copy(update={"health": None}), route="chat", previous=new)
        assert unchecked.up, "no check will ever lift the old verdict"
        assert unchecked.endpoints[0].active == 1
        dialed.close()
        assert unchecked.endpoints[0].active == 0


# --- probing ------------------------------------------------------------------------------------------------------


async def test_a_probe_tells_what_is_wrong_and_counts_nothing(autojump_clock: trio.testing.MockClock) -> None:
    with listening() as (sock, alive), refusing() as dead, silent() as mute:
        dialing = connector(alive, dead, mute)
        problems = [await dialing.probe(state, timeout_seconds=2) for state in dialing.endpoints]
        assert problems == [None, "Connection refused", "the connection was not complete in time"]
        assert trio.current_time() == pytest.approx(2)
        assert not any(count for state in dialing.endpoints for count in state.dials.values())
        probed = accept(sock)
        assert await probed.receive_some() == b""
        probed.close()


async def test_a_probe_is_no_clients_connection() -> None:
    with listening() as (sock, endpoint):
        dialing = connector(endpoint, proxy_protocol="v2")
        assert await dialing.probe(dialing.endpoints[0], timeout_seconds=2) is None
        probed = accept(sock)
        assert await probed.receive_some() == LOCAL_HEADER
        assert await probed.receive_some() == b""
        probed.close()
