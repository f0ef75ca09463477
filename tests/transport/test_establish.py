"""The way from an accepted connection to an established channel: TLS, and the PROXY protocol before it."""

import os
import socket
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from gateway.config import Address, ListenerTls, TcpAddress, UnixAddress
from gateway.config import Listener as ListenerConfig
from gateway.errors import HandshakeRefused, HandshakeTimeout, TlsFailure
from gateway.protocol.proxy_protocol import LOCAL_HEADER, ProxyHeaderInvalid, build_v2
from gateway.transport.channel import Channel
from gateway.transport.listener import Accepted, Established, Listener, establish
from gateway.transport.silent import FIRST_BYTE_SECONDS, SilentConnections
from gateway.transport.tls import TlsFacts
from tests.transport.listening import LOOPBACK, accept_one, dial, echo, serving
from tests.transport.loopback import trusting_context, write_pair

# --- TLS ----------------------------------------------------------------------------------------------------------


def tls_listener(ca: trustme.CA, folder: Path) -> Listener:
    pair = write_pair(ca, folder, "gateway.test")
    return Listener(ListenerConfig(bind=LOOPBACK, tls=ListenerTls(certificate=pair.certificate, key=pair.key)))


async def shake_hands(
    ca: trustme.CA, client: Channel, accepted: Accepted, *, silent: SilentConnections | None = None
) -> Established:
    """What becomes of a connection whose client trusts `ca` and shakes hands."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: client.start_tls(trusting_context(ca), server_side=False, server_hostname="gateway.test")
        )
        return await establish(accepted, timeout_seconds=5, silent=silent)


async def test_tls_is_established_with_its_facts(ca: trustme.CA, tmp_path: Path) -> None:
    listener = tls_listener(ca, tmp_path)
    assert listener.scheme == "wss"
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    established = await shake_hands(ca, client, accepted)
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


async def test_a_tls_client_that_never_sent_anything_is_left_a_moment_after_the_end(
    ca: trustme.CA, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    listener = tls_listener(ca, tmp_path)
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    silent = SilentConnections()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def end() -> None:
            await trio.testing.wait_all_tasks_blocked()
            silent.end()

        with pytest.raises(ConnectionAbortedError, match="had sent nothing"):
            await establish(accepted, timeout_seconds=60, silent=silent)
    assert FIRST_BYTE_SECONDS <= trio.current_time() < 10
    client.close()
    accepted.channel.close()


async def test_a_tls_client_whose_hello_was_on_its_way_at_the_end_is_served(ca: trustme.CA, tmp_path: Path) -> None:
    listener = tls_listener(ca, tmp_path)
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    silent = SilentConnections()
    silent.end()
    established = await shake_hands(ca, client, accepted, silent=silent)
    assert established.tls is not None
    client.close()
    established.channel.close()


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
        version="TLSv1.2",
        cipher="X",
        server_name="chat.test",
        client_subject="CN=a\\,b",
        client_common_name="a,b",
        client_identity="subject:CN=a\\,b",
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


async def test_only_a_proxy_that_is_trusted_is_believed() -> None:
    asked: list[TcpAddress | None] = []

    def trusts(peer: TcpAddress | None) -> bool:
        asked.append(peer)
        return False

    listener = Listener(ListenerConfig(bind=LOOPBACK, proxy_protocol=True))
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    try:
        await client.send_all(V1)
        with pytest.raises(ProxyHeaderInvalid, match="none of trusted_proxies"):
            await establish(accepted, timeout_seconds=5, trusts=trusts)
        assert asked == [accepted.peer]
    finally:
        client.close()
        accepted.channel.close()


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


# --- plain text where TLS is spoken -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (b"GET /chat HTTP/1.1\r\nHost: gateway.test\r\n\r\n", "use wss:// or https:// here"),
        (b"G", "use wss:// or https:// here"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "PROXY protocol header is not expected"),
    ],
)
async def test_a_plain_request_to_a_tls_listener_is_to_be_answered(
    ca: trustme.CA, tmp_path: Path, first: bytes, told: str
) -> None:
    listener = tls_listener(ca, tmp_path)
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    await client.send_all(first)
    with pytest.raises(HandshakeRefused, match=told) as caught:
        await establish(accepted, timeout_seconds=5)
    assert caught.value.status == 400
    client.close()
    accepted.channel.close()


async def test_what_no_request_begins_with_is_left_to_tls(ca: trustme.CA, tmp_path: Path) -> None:
    listener = tls_listener(ca, tmp_path)
    client, accepted = await accept_one(listener, lambda: dial(listener.addresses[0]))
    await client.send_all(b"\x00\x01\x02\x03\x04\x05\x06\x07")
    with pytest.raises(TlsFailure):
        await establish(accepted, timeout_seconds=5)
    client.close()
    accepted.channel.close()
