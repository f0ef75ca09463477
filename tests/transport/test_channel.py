"""Channel: what arrives arrives whole, TLS in both roles, cancellation and closing from another task."""

import os
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
import trustme

from gateway.errors import TlsFailure
from gateway.transport.channel import LINGER_BYTES, Channel
from tests.transport.loopback import shake_hands, trusting_context


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Channel, socket.socket]]:
    """A channel and its peer's blocking-free socket, over loopback TCP."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        peer = socket.create_connection(listening.getsockname())
        accepted, _ = listening.accept()
    peer.settimeout(5)
    channel = Channel(accepted)
    yield channel, peer
    channel.close()
    peer.close()


@pytest.fixture
async def client(pair: tuple[Channel, socket.socket]) -> AsyncIterator[Channel]:
    """The peer as a channel, closed with whatever TLS it has put on."""
    channel = Channel(pair[1])
    yield channel
    channel.close()


def server_context(ca: trustme.CA, name: str = "gateway.test") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(context)
    return context


def take_only_a_close_notify_for_the_end(channel: Channel) -> None:
    vars(channel.sock)["suppress_ragged_eofs"] = False


async def receive_all(channel: Channel) -> bytes:
    parts = []
    while part := await channel.receive_some():
        parts.append(part)
    return b"".join(parts)


async def receive_what_is_there(channel: Channel) -> bytes:
    """By `receive_now`, behind the session tickets of TLS."""
    while (data := channel.receive_now()) is None:
        await trio.lowlevel.wait_readable(channel.sock)
    return data


async def test_receives_what_is_sent_and_then_the_end(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    peer.sendall(b"hello")
    assert await channel.receive_some() == b"hello"
    peer.shutdown(socket.SHUT_WR)
    assert await channel.receive_some() == b""


async def test_what_is_here_is_had_without_waiting(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    with trio.testing.assert_no_checkpoints():
        assert channel.receive_now() is None
    peer.sendall(b"hello")
    await channel.wait_readable()
    channel.push_back(b"oh, ")
    with trio.testing.assert_no_checkpoints():
        assert channel.receive_now(2) == b"oh"
        assert channel.receive_now() == b", "
        assert channel.receive_now() == b"hello"
    peer.shutdown(socket.SHUT_WR)
    await channel.wait_readable()
    assert channel.receive_now() == b""


async def test_what_is_here_under_tls_is_had_without_waiting(
    pair: tuple[Channel, socket.socket], client: Channel, ca: trustme.CA
) -> None:
    channel, _ = pair
    await shake_hands(client, channel, server_context(ca), trusting_context(ca))
    with trio.fail_after(5):
        assert channel.receive_now() is None
        await client.send_short(b"hello")
        assert await receive_what_is_there(channel) == b"hello"


async def test_what_is_no_tls_record_is_a_named_failure_also_without_waiting(
    pair: tuple[Channel, socket.socket], client: Channel, ca: trustme.CA
) -> None:
    channel, _ = pair
    await shake_hands(client, channel, server_context(ca), trusting_context(ca))
    socket.socket.sendall(client.sock, b"this is no record")
    with trio.fail_after(5), pytest.raises(TlsFailure):
        await receive_what_is_there(channel)


async def test_what_the_kernel_takes_at_once_is_sent_without_waiting(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    with trio.testing.assert_no_checkpoints():
        await channel.send_short(b"hello")
    assert peer.recv(10) == b"hello"


async def test_what_the_kernel_does_not_take_at_once_is_sent_all_the_same(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    channel.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    data = os.urandom(4 << 20)
    client = Channel(peer)
    received = bytearray()

    async def receive() -> None:
        while len(received) < len(data):
            received.extend(await client.receive_some())

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await channel.send_short(data)
    assert received == data


async def test_bytes_pushed_back_come_first_and_in_order(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    peer.sendall(b"c")
    channel.push_back(b"b")
    channel.push_back(b"aa")
    assert await channel.receive_some(2) == b"aa"
    assert await channel.receive_some() == b"b"
    assert await channel.receive_some() == b"c"


async def test_leftover_is_handed_over_once_also_after_release(pair: tuple[Channel, socket.socket]) -> None:
    channel, _ = pair
    channel.push_back(b"GET")
    channel.release().close()
    assert channel.take_leftover() == b"GET"
    assert channel.take_leftover() == b""


async def test_sends_more_than_the_kernel_holds(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    data = os.urandom(8 << 20)
    other = Channel(peer)
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await receive_all(other))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await channel.send_all(data)
        await channel.aclose()
    assert received == [data]


async def test_tls_carries_megabytes_both_ways_at_once(
    pair: tuple[Channel, socket.socket], client: Channel, ca: trustme.CA
) -> None:
    server, _ = pair
    await shake_hands(server, client, server_context(ca), trusting_context(ca))
    data = {server: os.urandom(4 << 20), client: os.urandom(4 << 20)}
    received: dict[Channel, bytes] = {}

    async def receive(channel: Channel) -> None:
        parts = bytearray()
        while len(parts) < 4 << 20:
            parts += await channel.receive_some()
        received[channel] = bytes(parts)

    async with trio.open_nursery() as nursery:
        for channel in (server, client):
            nursery.start_soon(receive, channel)
            nursery.start_soon(channel.send_all, data[channel])
    assert received == {server: data[client], client: data[server]}


async def test_closing_under_tls_ends_the_peer_cleanly(
    pair: tuple[Channel, socket.socket], client: Channel, ca: trustme.CA
) -> None:
    server, _ = pair
    await shake_hands(server, client, server_context(ca), trusting_context(ca))
    take_only_a_close_notify_for_the_end(client)
    server.close()
    assert await client.receive_some() == b""


async def test_tls_begins_right_after_what_was_read_exactly(
    pair: tuple[Channel, socket.socket], client: Channel, ca: trustme.CA
) -> None:
    server, _ = pair
    await client.send_all(b"PROXY UNKNOWN\r\n")

    async def serve() -> None:
        assert await server.receive_some(15) == b"PROXY UNKNOWN\r\n"
        await server.start_tls(server_context(ca), server_side=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await client.start_tls(trusting_context(ca), server_side=False, server_hostname="gateway.test")
    await client.send_all(b"after")
    assert await server.receive_some() == b"after"


async def test_tls_over_bytes_already_read_is_refused(pair: tuple[Channel, socket.socket], ca: trustme.CA) -> None:
    channel, _ = pair
    channel.push_back(b"\x16")
    with pytest.raises(RuntimeError, match="read past"):
        await channel.start_tls(server_context(ca), server_side=True)


async def test_something_that_is_not_tls_is_a_named_failure(
    pair: tuple[Channel, socket.socket], ca: trustme.CA
) -> None:
    channel, peer = pair
    peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(TlsFailure, match="http request"):
        await channel.start_tls(server_context(ca), server_side=True)


async def test_a_peer_that_hangs_up_in_the_handshake_is_a_named_failure(
    pair: tuple[Channel, socket.socket], ca: trustme.CA
) -> None:
    channel, peer = pair
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(TlsFailure, match="hung up"):
        await channel.start_tls(server_context(ca), server_side=True)


async def test_a_certificate_for_another_name_is_not_accepted(
    pair: tuple[Channel, socket.socket], client: Channel, ca: trustme.CA
) -> None:
    server, _ = pair

    async def serve() -> None:
        with pytest.raises(TlsFailure, match="bad certificate"):
            await server.start_tls(server_context(ca, "other.test"), server_side=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(TlsFailure, match=r"certificate not accepted: .*gateway\.test"):
            await client.start_tls(trusting_context(ca), server_side=False, server_hostname="gateway.test")
        client.close()


async def test_a_name_that_cannot_be_asked_for_is_a_named_failure(client: Channel, ca: trustme.CA) -> None:
    with pytest.raises(TlsFailure, match=r"no TLS with '\.gateway\.test'"):
        await client.start_tls(trusting_context(ca), server_side=False, server_hostname=".gateway.test")


async def test_sending_nothing_is_fine(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    await channel.send_all(b"")
    await channel.send_all(b"something")
    assert peer.recv(100) == b"something"


async def test_a_reset_stays_an_oserror(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.close()
    with pytest.raises(ConnectionResetError):
        await channel.receive_some()


async def test_a_cancelled_receive_loses_nothing(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    with trio.CancelScope() as scope:
        scope.cancel()
        peer.sendall(b"kept")
        await channel.receive_some()
    assert scope.cancelled_caught
    assert await channel.receive_some() == b"kept"


async def test_release_gives_an_open_socket_and_disables_the_channel(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    with channel.release() as sock:
        peer.sendall(b"x")
        await trio.lowlevel.wait_readable(sock)
        assert sock.recv(10) == b"x"
        assert not sock.getblocking()
        assert channel.closed
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive_some()
        channel.close()
        assert sock.fileno() >= 0


@pytest.mark.parametrize("action", ["close", "release"])
async def test_closing_wakes_the_task_that_waits(pair: tuple[Channel, socket.socket], action: str) -> None:
    channel, _ = pair
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await channel.receive_some()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        if action == "close":
            channel.close()
            channel.close()
        else:
            channel.release().close()


async def test_finish_lets_a_peer_that_is_still_sending_read_the_answer(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    peer.sendall(b"x" * 10_000)
    await channel.send_all(b"431")
    peer.shutdown(socket.SHUT_WR)
    await channel.finish()
    assert channel.closed
    assert peer.recv(10) == b"431"  # a plain close with unread bytes would have reset the connection
    assert peer.recv(10) == b""


async def test_finish_gives_up_on_a_peer_that_never_ends(
    pair: tuple[Channel, socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    channel, _ = pair
    before = trio.current_time()
    await channel.finish(linger_seconds=2)
    assert channel.closed
    assert trio.current_time() - before == pytest.approx(2)


async def test_finish_gives_up_on_a_peer_that_never_stops(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    flooding = Channel(peer)

    async def flood() -> None:
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            await flooding.send_all(bytes(64 * LINGER_BYTES))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await channel.finish(linger_seconds=60)
    assert channel.closed


async def test_finish_does_not_mind_a_peer_that_is_gone(pair: tuple[Channel, socket.socket]) -> None:
    channel, peer = pair
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.close()
    await channel.finish()
    assert channel.closed
    await channel.finish()


async def test_finish_under_tls_says_so_to_the_peer(
    pair: tuple[Channel, socket.socket], client: Channel, ca: trustme.CA
) -> None:
    server, _ = pair
    await shake_hands(server, client, server_context(ca), trusting_context(ca))
    take_only_a_close_notify_for_the_end(client)
    await client.send_all(b"unread" * 1000)
    await server.send_all(b"answer")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.finish)
        assert await receive_all(client) == b"answer"
        client.close()
