"""Listener: binding and its faults, an accept loop that outlives shortages, and the way to an established channel."""

import errno
import gc
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio
import trio.testing
import trustme

from gateway.config import Address, ListenerTls, TcpAddress, UnixAddress
from gateway.config import Listener as ListenerConfig
from gateway.errors import HandshakeTimeout, StartupError, TlsFailure
from gateway.protocol.proxy_protocol import LOCAL_HEADER, ProxyHeaderInvalid, build_v2
from gateway.telemetry.metrics import AcceptError
from gateway.transport.channel import NOT_SENT_LOWAT_BYTES, Channel
from gateway.transport.listener import ACCEPTS_PER_WAKEUP, Accepted, Established, Listener, establish
from gateway.transport.tls import TlsFacts
from tests.transport.loopback import trusting_context, write_pair

LOOPBACK = TcpAddress(host="127.0.0.1", port=0)


@asynccontextmanager
async def serving(listener: Listener, handler: Callable[[Accepted], Awaitable[None]]) -> AsyncIterator[trio.Nursery]:
    """The listener accepts while the block runs; its handlers are cancelled at the end."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, handler, nursery)
        try:
            yield nursery
        finally:
            listener.close()
            nursery.cancel_scope.cancel()


async def echo(accepted: Accepted) -> None:
    while data := await accepted.channel.receive_some():
        await accepted.channel.send_all(data)


def dial(address: Address) -> Channel:
    match address:
        case TcpAddress(host=host, port=port):
            return Channel(socket.create_connection((host, port)))
        case UnixAddress(path=path):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            return Channel(sock)


async def assert_echoes(address: Address) -> None:
    channel = dial(address)
    try:
        await channel.send_all(b"hello")
        assert await channel.receive_some() == b"hello"
    finally:
        channel.close()


async def accept_one(listener: Listener, connect: Callable[[], Channel]) -> tuple[Channel, Accepted]:
    """The client's channel and the accepted one, which is no longer the listener's to close."""
    arrived: list[Accepted] = []
    got = trio.Event()

    async def take(accepted: Accepted) -> None:
        own = Accepted(listener=listener, channel=Channel(accepted.channel.release()), peer=accepted.peer)
        arrived.append(own)
        got.set()

    async with serving(listener, take):
        client = connect()
        await got.wait()
    return client, arrived[0]


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
        channel=accepted.channel, peer=TcpAddress(host=host, port=port), local=address, tls=None
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


# --- establishing -------------------------------------------------------------------------------------------------


def tls_listener(ca: trustme.CA, folder: Path) -> Listener:
    pair = write_pair(ca, folder, "gateway.test")
    return Listener(ListenerConfig(bind=LOOPBACK, tls=ListenerTls(certificate=pair.certificate, key=pair.key)))


async def test_tls_is_established_with_its_facts(ca: trustme.CA, tmp_path: Path) -> None:
    listener = tls_listener(ca, tmp_path)
    assert listener.scheme == "wss"
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: client.start_tls(trusting_context(ca), server_side=False, server_hostname="gateway.test")
        )
        established = await establish(accepted, timeout_seconds=5)
    assert established.tls is not None
    assert (established.tls.version, established.tls.server_name) == ("TLSv1.3", "gateway.test")
    await client.send_all(b"GET")
    assert await established.channel.receive_some() == b"GET"
    client.close()
    established.channel.close()


async def test_a_slow_drip_tls_client_is_cut_at_the_deadline(
    ca: trustme.CA, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    listener = tls_listener(ca, tmp_path)
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    hello = client_hello()

    async def drip() -> None:
        for byte in hello:
            await client.send_all(bytes([byte]))
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(HandshakeTimeout, match="not complete within 10 s"):
            await establish(accepted, timeout_seconds=10)
        assert trio.current_time() == pytest.approx(10)
        nursery.cancel_scope.cancel()
    client.close()
    accepted.channel.close()


def client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="gateway.test")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


async def test_plain_http_at_a_tls_listener_is_a_tls_failure(ca: trustme.CA, tmp_path: Path) -> None:
    listener = tls_listener(ca, tmp_path)
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    await client.send_all(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(TlsFailure, match="http request"):
        await establish(accepted, timeout_seconds=5)
    client.close()
    accepted.channel.close()


async def test_serving_takes_up_renewed_certificates(
    ca: trustme.CA, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    listener = tls_listener(ca, tmp_path)
    assert listener.tls is not None
    before = listener.tls.context
    async with serving(listener, echo):
        await trio.sleep(30)
        assert listener.tls.context is before
        pair = write_pair(ca, tmp_path, "gateway.test")
        os.utime(pair.key, ns=(0, 0))
        await trio.sleep(30)
        assert listener.tls.context is not before


# --- PROXY protocol -----------------------------------------------------------------------------------------------

V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 50123 443\r\n"
CLIENT, SERVER = TcpAddress(host="192.0.2.7", port=50123), TcpAddress(host="198.51.100.1", port=443)


async def establish_proxied(sent: bytes, *, bind: Address = LOOPBACK) -> Established:
    """What becomes of a connection that begins with `sent`; both ends are closed afterwards."""
    listener = Listener(ListenerConfig(bind=bind, proxy_protocol=True))
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    try:
        await client.send_all(sent)
        client.sock.shutdown(socket.SHUT_WR)
        established = await establish(accepted, timeout_seconds=5)
        assert await established.channel.receive_some() == sent[-3:]
        return established
    finally:
        client.close()
        accepted.channel.close()


async def test_a_v1_header_names_client_and_server_and_http_follows() -> None:
    established = await establish_proxied(V1 + b"GET")
    assert (established.peer, established.local, established.tls) == (CLIENT, SERVER, None)


async def test_a_v2_header_tells_of_the_proxys_tls_too() -> None:
    tls = TlsFacts(
        version="TLSv1.2", cipher="X", server_name="chat.test", client_subject="CN=a\\,b", client_common_name="a,b"
    )
    established = await establish_proxied(build_v2(CLIENT, SERVER, tls=tls, authority="chat.test") + b"GET")
    assert (established.peer, established.local, established.tls) == (CLIENT, SERVER, tls)


@pytest.mark.parametrize("header", [LOCAL_HEADER, b"PROXY UNKNOWN\r\n"])
async def test_a_header_that_names_nobody_leaves_the_connections_own_addresses(header: bytes) -> None:
    established = await establish_proxied(header + b"GET")
    assert established.peer is not None
    assert established.peer.host == "127.0.0.1"
    assert isinstance(established.local, TcpAddress)
    assert established.local.host == "127.0.0.1"


async def test_a_header_over_a_unix_socket_names_the_client(tmp_path: Path) -> None:
    established = await establish_proxied(V1 + b"GET", bind=UnixAddress(path=tmp_path / "gateway.sock"))
    assert (established.peer, established.local) == (CLIENT, SERVER)


async def test_what_is_no_header_is_refused() -> None:
    with pytest.raises(ProxyHeaderInvalid, match="expected a PROXY protocol header"):
        await establish_proxied(b"GET / HTTP/1.1\r\n\r\n")


async def test_a_proxy_that_hangs_up_early_is_an_aborted_connection() -> None:
    with pytest.raises(ConnectionAbortedError):
        await establish_proxied(V1[:20])


@pytest.mark.parametrize("missing", ["PROXY protocol header", "TLS handshake"])
async def test_header_and_handshake_share_one_deadline(
    ca: trustme.CA, tmp_path: Path, autojump_clock: trio.testing.MockClock, missing: str
) -> None:
    pair = write_pair(ca, tmp_path, "gateway.test")
    tls = ListenerTls(certificate=pair.certificate, key=pair.key)
    listener = Listener(ListenerConfig(bind=LOOPBACK, tls=tls, proxy_protocol=True))
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))

    async def drip() -> None:
        await client.send_all(V1[:-1])
        if missing == "TLS handshake":
            await trio.sleep(6)
            await client.send_all(V1[-1:])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        with pytest.raises(HandshakeTimeout, match=f"the {missing} was not complete within 10 s"):
            await establish(accepted, timeout_seconds=10)
    assert trio.current_time() == pytest.approx(10)
    client.close()
    accepted.channel.close()


async def test_tls_follows_the_header(ca: trustme.CA, tmp_path: Path) -> None:
    pair = write_pair(ca, tmp_path, "gateway.test")
    tls = ListenerTls(certificate=pair.certificate, key=pair.key)
    listener = Listener(ListenerConfig(bind=LOOPBACK, tls=tls, proxy_protocol=True))
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    async with trio.open_nursery() as nursery:

        async def connect() -> None:
            await client.send_all(V1)
            await client.start_tls(trusting_context(ca), server_side=False, server_hostname="gateway.test")

        nursery.start_soon(connect)
        established = await establish(accepted, timeout_seconds=5)
    assert established.peer == CLIENT
    assert established.tls is not None
    assert established.tls.version == "TLSv1.3"
    client.close()
    established.channel.close()
