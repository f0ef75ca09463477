"""Listener: binding and its faults, and an accept loop that outlives shortages."""

import errno
import gc
import os
import resource
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from gateway.config import Address, TcpAddress, UnixAddress
from gateway.config import Listener as ListenerConfig
from gateway.errors import StartupError
from gateway.telemetry.metrics import AcceptError
from gateway.transport.channel import NOT_SENT_LOWAT_BYTES
from gateway.transport.listener import ACCEPTS_PER_WAKEUP, Accepted, Established, Listener, establish
from tests.transport.listening import LOOPBACK, accept_one, assert_echoes, dial, echo, serving

# --- binding ------------------------------------------------------------------------------------------------------


async def test_tcp_connections_come_in_with_their_peers_address() -> None:
    listener = Listener(ListenerConfig(bind=LOOPBACK))
    (address,) = listener.addresses
    assert isinstance(address, TcpAddress)
    assert address.port != 0
    assert listener.scheme == "ws"
    client, accepted = await accept_one(listener, lambda: dial(address))
    established = await establish(accepted, timeout_seconds=1)
    host, port = client.sock.getsockname()
    assert established == Established(
        channel=accepted.channel, peer=TcpAddress(host=host, port=port), local=address, tls=None, listener=str(LOOPBACK)
    )
    client.close()
    established.channel.close()


async def test_accepted_sockets_are_tuned() -> None:
    listener = Listener(ListenerConfig(bind=LOOPBACK))
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    sock = accepted.channel.sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == NOT_SENT_LOWAT_BYTES
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert not sock.getblocking()
    client.close()
    accepted.channel.close()


async def test_the_any_address_of_ipv6_takes_ipv4_too_and_shows_it_as_such() -> None:
    listener = Listener(ListenerConfig(bind=TcpAddress(host="::", port=0)))
    (address,) = listener.addresses
    assert isinstance(address, TcpAddress)
    over_v4 = TcpAddress(host="127.0.0.1", port=address.port)
    client, accepted = await accept_one(listener, lambda: dial(over_v4))
    established = await establish(accepted, timeout_seconds=1)
    assert established.peer is not None
    assert established.peer.host == "127.0.0.1"
    assert established.local == over_v4
    client.close()
    established.channel.close()


async def test_a_host_name_is_bound_at_each_of_its_addresses_with_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = listen_at(monkeypatch, (socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0)))
    v6, v4 = listener.addresses
    assert isinstance(v6, TcpAddress)
    assert v4 == TcpAddress(host="127.0.0.1", port=v6.port)
    async with serving(listener, echo):
        await assert_echoes(v6)
        await assert_echoes(v4)


async def test_a_host_name_is_bound_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = listen_at(monkeypatch, (socket.AF_INET6, ("2001:db8::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0)))
    async with serving(listener, echo):
        (address,) = listener.addresses
        await assert_echoes(address)


def listen_at(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[socket.AddressFamily, tuple[object, ...]]) -> Listener:
    """A listener bound to a host name that resolves to `addresses`."""
    infos = [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for family, address in addresses]
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
        return Listener(ListenerConfig(bind=TcpAddress(host="several.test", port=0)))


@pytest.fixture
def no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without IPv6, on a machine whose /etc/hosts names ::1 all the same."""

    class Socket(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", Socket)


@pytest.mark.usefixtures("no_ipv6")
async def test_localhost_is_bound_without_ipv6_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = listen_at(monkeypatch, (socket.AF_INET6, ("::1", 0, 0, 0)), (socket.AF_INET, ("127.0.0.1", 0)))
    (address,) = listener.addresses
    async with serving(listener, echo):
        await assert_echoes(address)


@pytest.mark.usefixtures("no_ipv6")
def test_an_ipv6_address_without_ipv6_in_the_kernel_is_told() -> None:
    with pytest.raises(StartupError, match="kernel has no IPv6; bind an IPv4 address"):
        Listener(ListenerConfig(bind=TcpAddress(host="::", port=0)))


async def test_unix_connections_have_no_peer_and_the_file_goes_with_the_listener(tmp_path: Path) -> None:
    bind = UnixAddress(path=tmp_path / "gateway.sock")
    listener = Listener(ListenerConfig(bind=bind))
    assert listener.addresses == (bind,)
    client, accepted = await accept_one(listener, lambda: dial(bind))
    established = await establish(accepted, timeout_seconds=1)
    assert established.peer is None
    assert established.local == bind
    assert not bind.path.exists()
    listener.close()
    client.close()
    established.channel.close()


async def test_the_file_of_a_unix_listener_gets_the_permissions_and_the_group_asked_for(tmp_path: Path) -> None:
    bind = UnixAddress(path=tmp_path / "gateway.sock")
    before = os.umask(0o077)
    try:
        listener = Listener(ListenerConfig(bind=bind, mode=0o660, owner=str(os.geteuid()), group=str(os.getegid())))
    finally:
        os.umask(before)
    status = bind.path.stat()
    assert stat.filemode(status.st_mode) == "srw-rw----"
    assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
    async with serving(listener, echo):
        await assert_echoes(bind)


@pytest.mark.parametrize(("key", "hint"), [("owner", "only root may"), ("group", "must be in that group, or be root")])
def test_a_file_that_cannot_be_given_away_is_told_and_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, hint: str
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chown", refuse)  # root may give everything away
    path = tmp_path / "gateway.sock"
    with pytest.raises(StartupError, match=f"cannot give it to the {key} 0: Operation not permitted; .*{hint}"):
        Listener(ListenerConfig.model_validate({"bind": UnixAddress(path=path), key: "0"}))
    assert not path.exists()


def test_a_user_that_is_not_there_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gateway.sock"
    with pytest.raises(StartupError, match='there is no group "nobody-of-ours"'):
        Listener(ListenerConfig(bind=UnixAddress(path=path), group="nobody-of-ours"))
    assert not path.exists()


async def test_a_socket_file_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    bind = UnixAddress(path=tmp_path / "gateway.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(bind.path))
    async with serving(Listener(ListenerConfig(bind=bind)), echo):
        await assert_echoes(bind)


async def test_a_socket_file_that_somebody_listens_at_is_left_alone(tmp_path: Path) -> None:
    bind = UnixAddress(path=tmp_path / "gateway.sock")
    async with serving(Listener(ListenerConfig(bind=bind)), echo):
        with pytest.raises(StartupError, match="another process listens there"):
            Listener(ListenerConfig(bind=bind))
        await assert_echoes(bind)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    with pytest.raises(StartupError, match="a file that is no socket"):
        Listener(ListenerConfig(bind=UnixAddress(path=precious)))
    assert precious.read_text() == "data"


def test_closing_does_not_remove_a_successors_socket_file(tmp_path: Path) -> None:
    bind = UnixAddress(path=tmp_path / "gateway.sock")
    old = Listener(ListenerConfig(bind=bind))
    bind.path.rename(tmp_path / "aside")
    new = Listener(ListenerConfig(bind=bind))
    old.close()
    assert bind.path.is_socket()
    new.close()
    assert not bind.path.exists()


def test_closing_does_not_mind_a_socket_file_that_is_gone(tmp_path: Path) -> None:
    bind = UnixAddress(path=tmp_path / "gateway.sock")
    listener = Listener(ListenerConfig(bind=bind))
    bind.path.unlink()
    listener.close()
    assert not bind.path.exists()


def test_a_port_in_use_is_one_line_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=rf"cannot listen on 127\.0\.0\.1:{port}: the port is in use.*another"):
            Listener(ListenerConfig(bind=TcpAddress(host="127.0.0.1", port=port)))


@pytest.mark.parametrize(
    ("bind", "hint"),
    [
        (TcpAddress(host="192.0.2.1", port=0), "no interface of this machine has this address"),
        (UnixAddress(path=Path("/nonexistent/gateway.sock")), "there is no folder /nonexistent; create it"),
    ],
)
def test_an_address_that_cannot_be_has_its_hint(bind: Address, hint: str) -> None:
    with pytest.raises(StartupError, match=hint) as caught:
        Listener(ListenerConfig(bind=bind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "bind", "hint"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), LOOPBACK, "CAP_NET_BIND_SERVICE"),
        (PermissionError(errno.EACCES, "no"), UnixAddress(path=Path("/run/x.sock")), "create files in /run"),
        (OSError(errno.EAFNOSUPPORT, "Address family not supported"), LOOPBACK, "family not supported; bind another"),
    ],
)
def test_what_the_kernel_forbids_has_its_hint(
    monkeypatch: pytest.MonkeyPatch, error: OSError, bind: Address, hint: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(StartupError, match=hint):
        Listener(ListenerConfig(bind=bind))


def test_a_host_name_that_does_not_resolve_has_its_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(StartupError, match="the host name does not resolve; write an address"):
        Listener(ListenerConfig(bind=TcpAddress(host="nowhere.test", port=0)))


# --- accepting ----------------------------------------------------------------------------------------------------


async def test_more_connections_than_one_wakeup_takes_are_all_served() -> None:
    listener = Listener(ListenerConfig(bind=LOOPBACK))
    clients = [dial(listener.addresses[0]) for _ in range(3 * ACCEPTS_PER_WAKEUP + 1)]
    async with serving(listener, echo):
        for client in clients:
            await client.send_all(b"x")
        for client in clients:
            assert await client.receive_some() == b"x"
            client.close()


async def test_a_handler_that_fails_is_logged_and_ends_its_own_connection_only() -> None:
    listener = Listener(ListenerConfig(bind=LOOPBACK))

    async def fail_once(accepted: Accepted) -> None:
        if await accepted.channel.receive_some() == b"fail":
            raise RuntimeError("a bug")
        await accepted.channel.send_all(b"served")

    with structlog.testing.capture_logs() as logs:
        async with serving(listener, fail_once):
            healthy, faulty = dial(listener.addresses[0]), dial(listener.addresses[0])
            await faulty.send_all(b"fail")
            assert await faulty.receive_some() == b""
            await healthy.send_all(b"x")
            assert await healthy.receive_some() == b"served"
            assert await healthy.receive_some() == b"", "the handler's end closes the connection"
            healthy.close()
            faulty.close()
    assert [entry["event"] for entry in logs] == ["connection_failed"]
    assert logs[0]["exc_info"]


async def test_a_shortage_of_descriptors_is_outlived(autojump_clock: trio.testing.MockClock) -> None:
    errors: list[AcceptError] = []
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)

    def count(error: AcceptError) -> None:
        errors.append(error)
        if len(errors) == 5:
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)

    listener = Listener(ListenerConfig(bind=LOOPBACK), on_accept_error=count)
    client = dial(listener.addresses[0])
    gc.collect()  # what other tests left would free descriptors in the midst of this one
    lowest_free = os.dup(0)
    os.close(lowest_free)
    try:
        with structlog.testing.capture_logs() as logs:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limit[1]))
            async with serving(listener, echo):
                await client.send_all(b"patience")
                assert await client.receive_some() == b"patience"
                waited = trio.current_time()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        client.close()
    assert errors == [AcceptError.DESCRIPTORS] * 5
    assert waited == pytest.approx(0.1 + 0.2 + 0.4 + 0.8 + 1.0)
    assert [(entry["event"], entry["problem"]) for entry in logs] == [("accept_failing", "Too many open files")]


class Refusals:
    """Stands before `socket.accept` and raises what is in `errnos`, one for each call, then lets it through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errnos: int) -> None:
        self.errnos = list(errnos)
        accept = socket.socket.accept

        def refuse_first(sock: socket.socket) -> tuple[socket.socket, object]:
            if self.errnos:
                number = self.errnos.pop(0)
                raise OSError(number, os.strerror(number))
            return accept(sock)

        monkeypatch.setattr(socket.socket, "accept", refuse_first)


@pytest.mark.parametrize(
    ("number", "counted", "pause_seconds"),
    [
        (errno.EMFILE, AcceptError.DESCRIPTORS, 0.1),
        (errno.ENFILE, AcceptError.DESCRIPTORS, 0.1),
        (errno.ENOBUFS, AcceptError.MEMORY, 0.1),
        (errno.ENOMEM, AcceptError.MEMORY, 0.1),
        (errno.EINVAL, AcceptError.OTHER, 0.1),
        (errno.ECONNABORTED, AcceptError.OTHER, 0),
        (errno.EPERM, AcceptError.OTHER, 0),
    ],
)
async def test_each_accept_error_is_counted_and_paused_for_as_it_deserves(
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
    number: int,
    counted: AcceptError,
    pause_seconds: float,
) -> None:
    errors: list[AcceptError] = []
    listener = Listener(ListenerConfig(bind=LOOPBACK), on_accept_error=errors.append)
    Refusals(monkeypatch, number)
    async with serving(listener, echo):
        await assert_echoes(listener.addresses[0])
    assert errors == [counted]
    assert trio.current_time() == pytest.approx(pause_seconds)


async def test_each_shortage_is_logged_once_and_the_next_begins_with_a_short_pause(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    listener = Listener(ListenerConfig(bind=LOOPBACK))
    refusals = Refusals(monkeypatch, *[errno.EMFILE] * 3)
    with structlog.testing.capture_logs() as logs:
        async with serving(listener, echo):
            await assert_echoes(listener.addresses[0])
            refusals.errnos = [errno.EMFILE]
            await assert_echoes(listener.addresses[0])
    assert [entry["event"] for entry in logs] == ["accept_failing"] * 2
    assert trio.current_time() == pytest.approx(0.1 + 0.2 + 0.4 + 0.1)


async def test_closing_ends_serving_and_refuses_newcomers_while_connections_live_on() -> None:
    listener = Listener(ListenerConfig(bind=LOOPBACK))
    (address,) = listener.addresses
    served = trio.Event()
    async with trio.open_nursery() as handlers:

        async def serve() -> None:
            await listener.serve(echo, handlers)
            served.set()

        handlers.start_soon(serve)
        client = dial(address)
        await client.send_all(b"1")
        assert await client.receive_some() == b"1"
        listener.close()
        listener.close()
        await served.wait()
        with pytest.raises(ConnectionRefusedError):
            dial(address)
        await client.send_all(b"2")
        assert await client.receive_some() == b"2"
        client.close()


async def test_closing_during_a_pause_ends_serving(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    listener = Listener(ListenerConfig(bind=LOOPBACK))
    Refusals(monkeypatch, *[errno.EMFILE] * 10)
    client = dial(listener.addresses[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, echo, nursery)
        await trio.testing.wait_all_tasks_blocked()
        listener.close()
    client.close()
