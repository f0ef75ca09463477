"""The admin server over loopback: keep-alive, bounds, and requests that are none."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import h11
import pytest
import trio
from pydantic import SecretStr
from trio.testing import MockClock

from gateway.admin import server
from gateway.admin.app import AdminApp
from gateway.admin.response import Response
from gateway.admin.server import AdminServer
from gateway.config import Address, Admin, TcpAddress, UnixAddress
from gateway.errors import StartupError
from gateway.protocol.http import Request
from gateway.telemetry.metrics import Metrics

LOOPBACK = TcpAddress(host="127.0.0.1", port=0)


class FakeGateway:
    """A gateway that is ready."""

    def __init__(self) -> None:
        self.metrics = Metrics()

    def readiness(self) -> Mapping[str, object]:
        return {}


class Client:
    """An HTTP/1.1 client on one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._connection = h11.Connection(h11.CLIENT)

    async def request(self, target: str, *, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        fields = [("Host", "gateway.test"), *headers.items()]
        await self._send(h11.Request(method=method, target=target, headers=fields))
        await self._send(h11.EndOfMessage())
        response = await self._receive()
        assert isinstance(response, h11.Response)
        body = b""
        while isinstance(event := await self._receive(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage)
        if self._connection.our_state is h11.DONE and self._connection.their_state is h11.DONE:
            self._connection.start_next_cycle()
        return response.status_code, {name.decode(): value.decode() for name, value in response.headers}, body

    async def _send(self, event: h11.Event) -> None:
        await self.stream.send_all(self._connection.send(event) or b"")

    async def _receive(self) -> h11.Event:
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await self.stream.receive_some())
        assert isinstance(event, h11.Event)
        return event


@asynccontextmanager
async def _serving(app: AdminApp | None = None, bind: Address = LOOPBACK) -> AsyncIterator[Address]:
    async with trio.open_nursery() as nursery:
        admin = AdminServer(Admin(bind=bind), app or AdminApp(FakeGateway()))
        yield await nursery.start(admin.serve)
        nursery.cancel_scope.cancel()


async def _connect(address: Address) -> trio.SocketStream:
    match address:
        case TcpAddress():
            return await trio.open_tcp_stream(address.host, address.port)
        case UnixAddress():
            sock = trio.socket.socket(trio.socket.AF_UNIX)
            await sock.connect(str(address.path))
            return trio.SocketStream(sock)


async def _receive_all(stream: trio.SocketStream) -> bytes:
    return b"".join([part async for part in stream])


async def test_several_requests_are_answered_on_one_connection() -> None:
    async with _serving() as address, await _connect(address) as stream:
        client = Client(stream)
        assert (await client.request("/healthz"))[0] == 200
        status, headers, body = await client.request("/readyz")
        assert (status, headers["content-type"], json.loads(body)) == (200, "application/json", {"ready": True})
        status, _, body = await client.request("/metrics", **{"Accept-Encoding": "identity"})
        assert status == 200
        assert b"# TYPE kakitome_connections gauge\n" in body
        assert b"process_resident_memory_bytes" in body


async def test_head_has_the_length_and_no_body() -> None:
    async with _serving() as address, await _connect(address) as stream:
        client = Client(stream)
        _, headers, body = await client.request("/healthz", method="HEAD")
        assert (headers["content-length"], body) == ("3", b"")
        _, headers, body = await client.request("/nowhere", method="HEAD")
        assert int(headers["content-length"]) > 0
        assert body == b""


async def test_requests_sent_ahead_are_answered_in_turn() -> None:
    async with _serving() as address, await _connect(address) as stream:
        head = b" HTTP/1.1\r\nHost: x\r\n"
        await stream.send_all(b"GET /healthz" + head + b"\r\nGET /readyz" + head + b"Connection: close\r\n\r\n")
        answers = await _receive_all(stream)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert answers.index(b"ok\n") < answers.index(b'{"ready": true}')


async def test_a_client_that_asks_for_it_has_its_connection_closed() -> None:
    async with _serving() as address:
        for request in (
            b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            b"GET /healthz HTTP/1.0\r\n\r\n",
        ):
            async with await _connect(address) as stream:
                await stream.send_all(request)
                assert (await _receive_all(stream)).endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"PATCH /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"405"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"413"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"413"),
        (b"GET /" + b"x" * 9000, b"414"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * 20000, b"431"),
        (b"GET /%2e%2e/etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", b"404"),
    ],
)
async def test_a_bad_request_is_answered_and_ends_its_connection_alone(sent: bytes, status: bytes) -> None:
    async with _serving() as address:
        async with await _connect(address) as stream:
            await stream.send_all(sent)
            assert (await _receive_all(stream)).startswith(b"HTTP/1.1 " + status)
        async with await _connect(address) as stream:
            assert (await Client(stream).request("/healthz"))[0] == 200


async def test_the_token_is_asked_for() -> None:
    async with _serving(AdminApp(FakeGateway(), token=SecretStr("abc"))) as address:
        async with await _connect(address) as stream:
            status, headers, _ = await Client(stream).request("/metrics")
            assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="kakitome"')
        async with await _connect(address) as stream:
            assert (await Client(stream).request("/metrics", Authorization="Bearer abc"))[0] == 200


async def test_an_endpoint_that_fails_is_500_without_detail_and_others_are_served() -> None:
    class FailingApp(AdminApp):
        async def answer(self, request: Request) -> Response:
            if request.path == "/metrics":
                raise RuntimeError("the detail")
            return await super().answer(request)

    async with _serving(FailingApp(FakeGateway())) as address:
        async with await _connect(address) as stream:
            status, _, body = await Client(stream).request("/metrics")
            assert (status, body) == (500, b"internal error\n")
        async with await _connect(address) as stream:
            assert (await Client(stream).request("/healthz"))[0] == 200


async def test_a_request_head_that_never_ends_is_cut_at_the_deadline(autojump_clock: MockClock) -> None:
    async with _serving() as address, await _connect(address) as stream:
        began = trio.current_time()
        await stream.send_all(b"GET /healthz HTTP/1.1\r\n")
        assert (await _receive_all(stream)).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began >= server.HEAD_TIMEOUT_SECONDS


async def test_a_connection_that_stays_idle_is_closed_in_silence(autojump_clock: MockClock) -> None:
    async with _serving() as address, await _connect(address) as stream:
        client = Client(stream)
        await client.request("/healthz")
        assert await _receive_all(stream) == b""


async def test_a_probe_is_answered_however_many_say_nothing() -> None:
    async with _serving() as address:
        silent = [await _connect(address) for _ in range(server.MAX_CONNECTIONS)]
        half = [await _connect(address) for _ in range(5)]
        for stream in half:
            await stream.send_all(b"GET /healthz HTTP/1.1")
        for _ in range(server.MAX_CONNECTIONS + 5):
            async with await _connect(address) as stream:
                assert (await Client(stream).request("/healthz"))[0] == 200
        assert await _receive_all(silent[0]) == b""
        for stream in (*silent, *half):
            await stream.aclose()


async def test_a_client_that_does_not_take_its_answer_is_left(autojump_clock: MockClock) -> None:
    class EndlessApp(AdminApp):
        async def answer(self, request: Request) -> Response:
            return Response.make(bytes(64 << 20), content_type="application/octet-stream")

    async with _serving(EndlessApp(FakeGateway())) as address, await _connect(address) as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await trio.sleep(server.ANSWER_TIMEOUT_SECONDS + 1)
        received = 0
        with suppress(trio.BrokenResourceError):
            while part := await stream.receive_some(1 << 20):
                received += len(part)
        assert 0 < received < 64 << 20


async def test_beyond_the_bound_the_longest_silent_one_goes_and_others_are_served() -> None:
    async with _serving() as address:
        clients = []
        for _ in range(server.MAX_CONNECTIONS):
            clients.append(Client(await _connect(address)))
            assert (await clients[-1].request("/healthz"))[0] == 200
        assert (await clients[0].request("/healthz"))[0] == 200  # now the second one is
        clients.append(Client(await _connect(address)))
        assert (await clients[-1].request("/healthz"))[0] == 200
        assert await clients[1].stream.receive_some() == b""
        for client in (clients[0], *clients[2:]):
            assert (await client.request("/healthz"))[0] == 200
        for client in clients:
            await client.stream.aclose()


async def test_it_listens_on_a_unix_socket_too(tmp_path: Path) -> None:
    bind = UnixAddress(path=tmp_path / "admin.sock")
    async with _serving(bind=bind) as address:
        assert address == bind
        async with await _connect(address) as stream:
            assert (await Client(stream).request("/healthz"))[0] == 200
    assert not bind.path.exists()


async def test_a_port_in_use_is_one_line_that_says_what_to_do() -> None:
    async with _serving() as address:
        with pytest.raises(StartupError, match="the port is in use"):
            await AdminServer(Admin(bind=address), AdminApp(FakeGateway())).serve()
