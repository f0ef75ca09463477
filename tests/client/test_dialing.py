"""From a URL to an open connection, and the words for what goes wrong on the way."""

import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
import trio
from anyio.abc import SocketStream
from trio.testing import MockClock

from gateway.client.dialing import Dialed, Target, dial
from gateway.client.faults import (
    ConnectionFailed,
    ConnectionTimeout,
    HandshakeFailed,
    HandshakeRejected,
    Untrusted,
)
from gateway.protocol.negotiation import ExtensionOffer
from tests.client.runtimes import on_both_runtimes
from tests.client.websockets_server import running
from tests.support.certificates import Certificates
from tests.support.network import free_port
from tests.support.peers.gateway_double import listening


def target(url: str, *, ssl_context: ssl.SSLContext | None = None, compression: bool = False) -> Target:
    return Target.of(url, subprotocols=(), headers=(), origin=None, ssl_context=ssl_context, compression=compression)


async def dial_once(url: str, ssl_context: ssl.SSLContext | None = None, *, compression: bool = False) -> Dialed:
    """Dials and closes what came of it."""
    dialed = await dial(target(url, ssl_context=ssl_context, compression=compression), timeout_seconds=20)
    await anyio.aclose_forcefully(dialed.stream)
    return dialed


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "is no WebSocket URL"),
        ("ws://example.com/#part", "has a fragment"),
        ("ws://user@example.com/", "user information"),
    ],
)
def test_a_url_that_cannot_be_is_named(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        target(url)


@pytest.mark.parametrize("header", [("Upgrade", "h2c"), ("X-A", "a\r\nX-B: b")])
def test_a_header_that_cannot_be_is_refused_before_anything_is_sent(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"belongs to the handshake|cannot be sent"):
        Target.of("ws://example.com/", subprotocols=(), headers=[header], origin=None, ssl_context=None)


@on_both_runtimes
async def test_the_request_carries_what_was_asked_for() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        wanted = Target.of(
            double.url + "?q=1",
            subprotocols=("chat", "echo"),
            headers=[("X-Who", "me")],
            origin="https://app.example.com",
            ssl_context=None,
        )
        answers: list[Dialed] = []

        async def connect() -> None:
            answers.append(await dial(wanted, timeout_seconds=20))

        tasks.start_soon(connect)
        peer = await double.accept("echo")
        assert (peer.request.path, peer.request.query) == ("/path", "q=1")
        assert peer.request.get("x-who") == "me"
        assert peer.request.get("origin") == "https://app.example.com"
        assert peer.request.get("sec-websocket-protocol") == "chat, echo"
    assert answers[0].accepted.subprotocol == "echo"
    await anyio.aclose_forcefully(answers[0].stream)


@on_both_runtimes
async def test_nobody_listening_is_told_with_host_port_and_reason() -> None:
    port = free_port()
    with pytest.raises(ConnectionFailed) as caught:
        await dial_once(f"ws://127.0.0.1:{port}/")
    assert str(caught.value) == f"cannot connect to 127.0.0.1 port {port}: Connection refused"


@on_both_runtimes
async def test_a_name_that_is_not_known_is_told() -> None:
    with pytest.raises(ConnectionFailed, match=r"cannot connect to nobody\.invalid port 80: "):
        await dial_once("ws://nobody.invalid/")


@on_both_runtimes
async def test_a_refusal_carries_status_headers_and_body() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        tasks.start_soon(double.refuse, 503, "come back later", [("Retry-After", "7")])
        with pytest.raises(HandshakeRejected, match=r"the server answered 503 .*come back later") as caught:
            await dial_once(double.url)
    assert caught.value.status == 503
    assert ("retry-after", "7") in caught.value.headers


@on_both_runtimes
async def test_a_connection_that_is_cut_in_the_handshake_is_no_answer_that_is_wrong() -> None:
    async with listening() as double, anyio.create_task_group() as tasks:
        tasks.start_soon(double.hang_up)
        with pytest.raises(ConnectionFailed, match="before it had answered"):
            await dial_once(double.url)


async def answering(answer: Callable[[SocketStream], object], work: Callable[[str], object]) -> None:
    """Runs `work` with the URL of a server that does what `answer` says with each connection."""
    multi = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = multi.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
    async with multi, anyio.create_task_group() as tasks:
        tasks.start_soon(multi.serve, answer)
        await work(f"127.0.0.1:{port}/")  # type: ignore[misc]
        tasks.cancel_scope.cancel()


async def say_hello(stream: SocketStream) -> None:
    async with stream:
        await stream.receive()
        await stream.send(b"220 mail.example.com ESMTP\r\n\r\n")


@on_both_runtimes
async def test_a_server_that_speaks_something_else_is_not_tried_again() -> None:
    async def work(address: str) -> None:
        with pytest.raises(HandshakeFailed, match=r"does not answer as HTTP/1\.1 demands"):
            await dial_once(f"ws://{address}")

    await answering(say_hello, work)


@on_both_runtimes
async def test_tls_with_a_server_that_has_none_is_told_in_words() -> None:
    async def work(address: str) -> None:
        with pytest.raises(
            ConnectionFailed, match=r"no TLS with 127.0.0.1:\d+: (wrong version number|record layer)"
        ) as caught:
            await dial_once(f"wss://{address}")
        assert str(caught.value).endswith(f"; what listens there does not speak TLS: try ws://{address}")

    await answering(say_hello, work)


@on_both_runtimes
@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 45\r\n\r\nThe plain HTTP request was sent to HTTPS port",
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    ],
    ids=["an alert", "nginx", "Go"],
)
async def test_a_plain_request_to_a_port_that_speaks_tls_is_told_what_to_try(answer: bytes) -> None:
    async def refuse(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer)

    async def work(address: str) -> None:
        with pytest.raises(HandshakeFailed, match=f"try wss://{address}$"):
            await dial_once(f"ws://{address}")

    await answering(refuse, work)


async def test_a_server_that_never_answers_is_given_up(autojump_clock: MockClock) -> None:
    async def be_silent(stream: SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    async def work(address: str) -> None:
        with pytest.raises(ConnectionTimeout, match=r"did not answer within 20 s"):
            await dial_once(f"ws://{address}")

    await answering(be_silent, work)
    assert trio.current_time() >= 20


@on_both_runtimes
async def test_a_server_that_ends_the_connection_instead_of_speaking_tls_is_told() -> None:
    async def end(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()

    async def work(address: str) -> None:
        with pytest.raises(ConnectionFailed, match=r"no TLS with 127.0.0.1:\d+: the server closed the connection"):
            await dial_once(f"wss://{address}")

    await answering(end, work)


async def test_a_server_that_is_silent_within_tls_is_given_up(autojump_clock: MockClock) -> None:
    async def be_silent(stream: SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    async def work(address: str) -> None:
        with pytest.raises(ConnectionTimeout, match="TLS and handshake included"):
            await dial_once(f"wss://{address}")

    await answering(be_silent, work)


@on_both_runtimes
async def test_a_connection_that_is_reset_in_the_handshake_may_be_tried_again() -> None:
    async def reset(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async def work(address: str) -> None:
        with pytest.raises(ConnectionFailed, match="broke in the handshake"):
            await dial_once(f"ws://{address}")

    await answering(reset, work)


@on_both_runtimes
async def test_an_answer_on_compression_that_is_none_to_our_offer_is_refused() -> None:
    extension = ExtensionOffer(name="permessage-deflate", parameters=(("server_max_window_bits", "15"),))
    async with listening() as double, anyio.create_task_group() as tasks:
        tasks.start_soon(double.accept, None, [extension])
        with pytest.raises(HandshakeFailed, match="the server's answer on compression is none to the offer"):
            await dial_once(double.url, compression=True)


# --- TLS, with a server that is not ours --------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.issue(tmp_path)


@pytest.fixture
def tls_url(certificates: Certificates) -> Iterator[str]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with running(tls=context, compression=None) as url:
        yield url


@on_both_runtimes
async def test_a_server_is_verified_by_the_authorities_given(tls_url: str, certificates: Certificates) -> None:
    dialed = await dial_once(tls_url, certificates.client_context())
    assert dialed.accepted.subprotocol is None


@on_both_runtimes
async def test_a_certificate_of_an_unknown_authority_is_told_and_not_tried_again(tls_url: str) -> None:
    with pytest.raises(Untrusted, match=r"the certificate of 127.0.0.1:\d+ cannot be trusted: "):
        await dial_once(tls_url)


@on_both_runtimes
async def test_compression_is_agreed_on_only_where_both_want_it(tls_url: str, certificates: Certificates) -> None:
    dialed = await dial_once(tls_url, certificates.client_context(), compression=True)
    assert dialed.deflate is None


@on_both_runtimes
async def test_tls_begins_with_the_name_that_is_asked_for() -> None:
    heard: list[bytes] = []

    async def listen(stream: SocketStream) -> None:
        async with stream:
            heard.append(await stream.receive())

    async def work(address: str) -> None:
        with pytest.raises(ConnectionFailed):
            await dial_once(f"wss://localhost:{address.rpartition(':')[2]}")

    await answering(listen, work)
    # In the clear in the first message of TLS, behind its length (RFC 6066 section 3).
    assert b"\x00\x09localhost" in heard[0]
