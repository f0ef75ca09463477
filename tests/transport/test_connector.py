"""Connector: what a dial does when endpoints refuse, stall or lie, and leaves behind; long, for each kind is tried."""

import errno
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from gateway.config import Backend, Health, TcpAddress, UnixAddress
from gateway.config.addresses import parse_endpoint
from gateway.errors import BackendTimeout, BackendUnreachable, GatewayExhausted, NoEndpointLeft
from gateway.protocol.proxy_protocol import LOCAL_HEADER
from gateway.telemetry.metrics import BackendReading, DialOutcome
from gateway.transport.channel import NOT_SENT_LOWAT_BYTES
from gateway.transport.connector import SECOND_LOOK_SECONDS, Connector
from gateway.transport.descriptors import SHORTAGES, Budget
from gateway.transport.racing import HEAD_START_SECONDS
from tests.transport.endpoints import accept, connector, listening, refusing, silent, tcp_endpoint

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


async def test_what_answers_at_once_is_not_waited_for() -> None:
    with refusing() as dead, listening() as (_, endpoint):
        dialing = connector(dead, endpoint)
        with trio.testing.assert_no_checkpoints():
            dialed = await dialing.dial(key=b"")
        assert dialed.state.endpoint == endpoint
        assert [state.active for state in dialing.endpoints] == [0, 1]
        assert dialing.endpoints[0].dials[DialOutcome.REFUSED] == 1
        dialed.close()
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
            monkeypatch.setattr(socket.socket, "connect_ex", connect)
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


class Names:
    """Resolves every name to the given addresses, or to nothing; `silent`: only once it is `released`."""

    def __init__(self, *hosts: str, silent: bool = False) -> None:
        self.hosts = hosts
        self.asked = 0
        self.released = trio.Event()
        if not silent:
            self.released.set()

    async def __call__(self, host: str) -> list[tuple[int, tuple[Any, ...]]]:
        self.asked += 1
        await self.released.wait()
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, (name, 0)) for name in self.hosts]


@contextmanager
def at_each(*hosts: str, backlog: int = 100) -> Iterator[tuple[list[socket.socket], int]]:
    """Listening sockets at each of these hosts, all at one port."""
    with ExitStack() as stack:
        first = stack.enter_context(socket.create_server((hosts[0], 0), backlog=backlog))
        port = first.getsockname()[1]
        rest = [stack.enter_context(socket.create_server((host, port), backlog=backlog)) for host in hosts[1:]]
        yield [first, *rest], port


async def test_a_name_that_does_not_resolve_is_told() -> None:
    dialing = connector(parse_endpoint("tcp://nowhere.test:9000"), look_up=Names())
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(BackendUnreachable, match=r"^tcp://nowhere\.test:9000: Name or service not known$"):
                await dialing.dial(key=b"")
    (reading,) = dialing.readings()
    assert reading.dials[DialOutcome.FAILED] == 2
    assert reading.up is False
    assert [entry["event"] for entry in logs] == ["name_not_resolved"]


async def test_a_name_that_is_not_resolved_in_time_is_a_timeout(autojump_clock: trio.testing.MockClock) -> None:
    dialing = connector(parse_endpoint("tcp://mute.test:9000"), look_up=Names(silent=True), connect_timeout=3.0)
    assert [reading.up for reading in dialing.readings()] == [None]
    with pytest.raises(BackendTimeout, match=r"^tcp://mute\.test:9000: the name was not resolved in time$"):
        await dialing.dial(key=b"")
    assert trio.current_time() == pytest.approx(3)
    (reading,) = dialing.readings()
    assert reading.dials[DialOutcome.TIMED_OUT] == 1


async def test_a_silent_name_holds_up_no_other_endpoint(autojump_clock: trio.testing.MockClock) -> None:
    with listening() as (_, alive):
        dialing = connector(parse_endpoint("tcp://mute.test:9000"), alive, look_up=Names(silent=True))
        (await dialing.dial(key=b"")).close()
        assert trio.current_time() == 0


async def test_dials_at_the_same_time_wait_for_one_lookup(autojump_clock: trio.testing.MockClock) -> None:
    names = Names("127.0.0.1", silent=True)
    with listening() as (sock, _):
        dialing = connector(tcp_endpoint(sock, host="chat.test"), look_up=names)
        async with trio.open_nursery() as nursery:

            async def dial() -> None:
                (await dialing.dial(key=b"")).close()

            async def give_up() -> None:
                with trio.move_on_after(0.1):
                    await dialing.dial(key=b"")

            nursery.start_soon(give_up)
            for _ in range(100):
                nursery.start_soon(dial)
            await trio.sleep(1)
            names.released.set()
    assert names.asked == 1
    assert dialing.endpoints[0].dials[DialOutcome.CONNECTED] == 100


async def test_each_address_of_a_name_is_tried_and_a_name_is_looked_up_anew_before_a_dial_fails(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names = Names("127.0.0.9", "127.0.0.1")
    with listening() as (sock, _):
        dialing = connector(tcp_endpoint(sock, host="chat.test"), look_up=names)
        dialed = await dialing.dial(key=b"")
        port = sock.getsockname()[1]
        assert dialed.remote == TcpAddress(host="127.0.0.1", port=port)
        dialed.close()
        await trio.sleep(5)
        names.hosts = ("127.0.0.9",)
        (await dialing.dial(key=b"")).close()
        assert names.asked == 1, "what is known is good enough"
        sock.close()
        with pytest.raises(BackendUnreachable, match=r"chat\.test:.*\(127\.0\.0\.9:.*refused"):
            await dialing.dial(key=b"")
        assert names.asked == 2
        (reading,) = dialing.readings()
        assert reading.dials[DialOutcome.CONNECTED] == 2, "an endpoint is dialled, not an address"
        assert reading.dials[DialOutcome.REFUSED] >= 2


async def test_a_backend_that_came_back_at_another_address_is_found_by_the_first_dial(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names = Names("127.0.0.9")
    with listening() as (sock, _):
        dialing = connector(tcp_endpoint(sock, host="chat.test"), look_up=names)
        with pytest.raises(BackendUnreachable):
            await dialing.dial(key=b"")
        await trio.sleep(2)
        names.hosts = ("127.0.0.1",)
        (await dialing.dial(key=b"")).close()


async def test_a_dead_resolver_takes_no_backend_down(autojump_clock: trio.testing.MockClock) -> None:
    names = Names("127.0.0.1")
    with listening() as (sock, _):
        dialing = connector(tcp_endpoint(sock, host="chat.test"), look_up=names)
        (await dialing.dial(key=b"")).close()
        names.hosts = ()
        await trio.sleep(dialing.backend.resolve)
        for _ in range(3):
            (await dialing.dial(key=b"")).close()
            await trio.sleep(dialing.backend.resolve)
        assert names.asked > 1
        assert [reading.up for reading in dialing.readings()] == [True]


async def test_a_silent_resolver_makes_a_failing_dial_wait_for_a_moment_only(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names = Names("127.0.0.9")
    dialing = connector(parse_endpoint("tcp://chat.test:9"), look_up=names, connect_timeout=5.0)
    with pytest.raises(BackendUnreachable):
        await dialing.dial(key=b"")
    names.released = trio.Event()
    await trio.sleep(10)
    began = trio.current_time()
    with pytest.raises(BackendUnreachable):
        await dialing.dial(key=b"")
    assert trio.current_time() - began == pytest.approx(SECOND_LOOK_SECONDS)


async def test_all_addresses_of_a_name_share_its_load() -> None:
    hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
    with at_each(*hosts) as (_, port):
        for balance in ("round_robin", "least_connections", "session_hash"):
            names = Names(*hosts)
            dialing = connector(parse_endpoint(f"tcp://chat.test:{port}"), look_up=names, balance=balance)
            dialed = [await dialing.dial(key=str(number).encode()) for number in range(60)]
            shares = Counter(str(its.remote) for its in dialed)
            assert len(shares) == 3
            if balance != "session_hash":
                assert set(shares.values()) == {20}
            assert [reading.endpoint for reading in dialing.readings()] == [f"tcp://chat.test:{port}"]
            for its in dialed:
                its.close()


async def test_addresses_that_stay_keep_their_load_and_health_when_a_name_is_looked_up_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    names = Names("127.0.0.1", "127.0.0.2")
    with at_each("127.0.0.1", "127.0.0.2", "127.0.0.3") as (_, port):
        dialing = connector(parse_endpoint(f"tcp://chat.test:{port}"), look_up=names, resolve=30.0)
        dialed = [await dialing.dial(key=b""), await dialing.dial(key=b"")]
        stays = dialing.endpoints[1]
        names.hosts = ("127.0.0.3", "127.0.0.2")
        await trio.sleep(30)
        (await dialing.dial(key=b"")).close()
        await trio.testing.wait_all_tasks_blocked()
        assert dialing.endpoints[1] is stays
        assert [(state.active, state.up) for state in dialing.endpoints] == [(0, None), (1, True)]
        names.hosts = ("127.0.0.1", "127.0.0.2")
        await trio.sleep(30)
        (await dialing.dial(key=b"")).close()
        await trio.testing.wait_all_tasks_blocked()
        assert [state.active for state in dialing.endpoints] == [1, 1], "it left DNS, its connection did not"
        for its in dialed:
            its.close()
        assert [state.active for state in dialing.endpoints] == [0, 0]


async def test_a_dead_first_address_costs_a_head_start_once(autojump_clock: trio.testing.MockClock) -> None:
    with silent() as endpoint, socket.socket() as sock:
        assert isinstance(endpoint.address, TcpAddress)
        sock.bind(("127.0.0.2", endpoint.address.port))
        sock.listen()
        names = Names("127.0.0.1", "127.0.0.2")
        dialing = connector(tcp_endpoint(sock, host="chat.test"), look_up=names, connect_timeout=4.0)
        dialed = await dialing.dial(key=b"")
        assert dialed.remote == TcpAddress(host="127.0.0.2", port=endpoint.address.port)
        assert trio.current_time() == pytest.approx(HEAD_START_SECONDS)
        dialed.close()
        for _ in range(4):
            (await dialing.dial(key=b"")).close()
        assert trio.current_time() == pytest.approx(HEAD_START_SECONDS), "it is remembered"
        (reading,) = dialing.readings()
        assert reading.dials[DialOutcome.OUTPACED] == 1
        assert reading.up is True
        assert [state.active for state in dialing.endpoints] == [0, 0]


# --- want of something of ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", sorted(SHORTAGES))
async def test_what_we_lack_ourselves_is_not_held_against_the_backend(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with listening() as (_, endpoint):
        dialing = connector(endpoint, health=Health())
        (state,) = dialing.endpoints

        def fail(*_: object) -> socket.socket:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
            patch.setattr("gateway.transport.connector.socket.socket", fail)
            with pytest.raises(GatewayExhausted, match=os.strerror(number)):
                await dialing.dial(key=b"")
            with pytest.raises(GatewayExhausted):
                await dialing.probe(state, timeout_seconds=1)
        assert logs == []
        assert not any(state.dials.values())
        assert (state.up, state.active, state.is_available(trio.current_time())) == (None, 0, True)
        (await dialing.dial(key=b"")).close()


async def test_dials_leave_the_last_descriptors_alone_and_probes_may_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as (_, endpoint):
        dialing = connector(endpoint)
        open_now = max(map(int, os.listdir("/proc/self/fd")))
        monkeypatch.setattr(Budget, "for_connections", property(lambda _: 3))
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(GatewayExhausted, match="Too many open files"):
            await dialing.dial(key=b"")
        assert await dialing.probe(dialing.endpoints[0], timeout_seconds=2) is None
        assert len(os.listdir("/proc/self/fd")) == before
        monkeypatch.setattr(Budget, "for_connections", property(lambda _: open_now + 10))
        (await dialing.dial(key=b"")).close()


async def test_no_port_left_towards_a_backend_that_answers_is_no_fault_of_its(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as (_, endpoint):
        dialing = connector(endpoint)
        (state,) = dialing.endpoints
        connect = socket.socket.connect_ex
        for answered in (False, True):
            monkeypatch.setattr(socket.socket, "connect_ex", lambda *_: errno.EADDRNOTAVAIL)
            with pytest.raises(GatewayExhausted if answered else BackendUnreachable) as caught:
                await dialing.dial(key=b"")
            assert isinstance(caught.value, GatewayExhausted) is answered
            assert state.up is answered
            monkeypatch.setattr(socket.socket, "connect_ex", connect)
            (await dialing.dial(key=b"")).close()
            assert state.up


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
        assert trio.current_time() == pytest.approx(HEAD_START_SECONDS)
        dialed.close()


async def test_a_backend_that_takes_connections_and_never_shakes_hands_leaves_time_for_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with listening() as (sock, _), listening() as (_, alive):
        dialing = connector(tcp_endpoint(sock, tls=True), alive, connect_timeout=5.0)
        dialed = await dialing.dial(key=b"")
        assert str(dialed.state.endpoint) == str(alive)
        assert trio.current_time() == pytest.approx(2.5)
        assert dialing.endpoints[0].dials[DialOutcome.TIMED_OUT] == 1
        dialed.close()


async def test_those_that_are_left_out_are_not_dialled_and_the_first_comes_first() -> None:
    with listening() as (_, one), listening() as (_, two):
        dialing = connector(one, two)
        first, second = dialing.endpoints
        for _ in range(3):
            dialed = await dialing.dial(key=b"", first=second)
            assert dialed.state is second
            dialed.close()
            dialed = await dialing.dial(key=b"", first=second, without=[second])
            assert dialed.state is first
            dialed.close()
        with pytest.raises(NoEndpointLeft):
            await dialing.dial(key=b"", without=[first, second])


async def test_what_is_known_to_be_down_costs_the_others_no_time(autojump_clock: trio.testing.MockClock) -> None:
    with silent() as mute, silent() as also_mute:
        dialing = connector(mute, also_mute, connect_timeout=5.0, health=Health())
        dialing.endpoints[1].record_check(passed=False, now=0)
        with pytest.raises(BackendTimeout):
            await dialing.dial(key=b"")
        assert [sum(state.dials.values()) for state in dialing.endpoints] == [1, 1], "a last resort, beside the first"
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
        old.endpoints[0].record_check(passed=False, now=0)
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
