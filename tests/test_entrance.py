"""From the accepted socket to a session or an answer: requests that become no WebSocket, and those who wait."""

from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from gateway.config import TcpAddress
from gateway.server import Server
from gateway.telemetry.metrics import HandshakeOutcome
from tests.sessions.harness import config_of, running, tcp_echo, until
from tests.sessions.routes import stream_route
from tests.support.asking import ask, page_config, upgrade
from tests.support.certificates import Certificates
from tests.support.peers.client import PATIENCE_SECONDS


@pytest.mark.parametrize(("method", "body"), [("GET", "nothing is served at this host and path\n"), ("HEAD", "")])
async def test_a_refused_head_request_gets_the_head_only(tmp_path: Path, method: str, body: str) -> None:
    async with running(config_of(page_config(tmp_path))) as server:
        head, got, stream = await ask(server, f"{method} /elsewhere HTTP/1.1\nHost: x")
        await stream.aclose()
    assert head.startswith("HTTP/1.1 404 ")
    assert "Content-Length: 40" in head
    assert got == body


async def test_the_body_of_a_refusal_after_a_head_request_is_not_left_out(tmp_path: Path) -> None:
    async with running(config_of(page_config(tmp_path))) as server:
        _, got, stream = await ask(server, "HEAD /novnc/ HTTP/1.1\nHost: x\n\nGET /novnc/ HTTP/1.1")
        await stream.aclose()
    assert got.startswith("HTTP/1.1 400 ")
    assert got.partition("\r\n\r\n")[2].startswith("malformed request head")


# --- folders ------------------------------------------------------------------------------------------------------


async def test_a_folder_of_pages_without_its_slash_leads_to_it(tmp_path: Path) -> None:
    async with running(config_of(page_config(tmp_path))) as server:
        head, _, stream = await ask(server, "GET /novnc?autoconnect=1 HTTP/1.1\nHost: x\nConnection: close")
        await stream.aclose()
    assert head.startswith("HTTP/1.1 308 ")
    assert "Location: /novnc/?autoconnect=1\r\n" in head + "\r\n"


async def test_pages_of_a_wider_route_do_not_hide_the_folder_but_a_route_of_its_own_does(tmp_path: Path) -> None:
    wide = {"name": "wide", "match": {"path": "/*"}, "files": str(tmp_path)}
    own = {"name": "own", "match": {"path": "/own"}, "files": str(tmp_path)}
    below = {"name": "below", "match": {"path": "/own/*"}, "files": str(tmp_path)}
    routes = [{"name": "pages", **page_config(tmp_path)}, wide, own, below]
    async with running(config_of({}, routes=routes)) as server:
        statuses = []
        for path in ("/novnc", "/own", "/other"):
            head, _, stream = await ask(server, f"GET {path} HTTP/1.1\nHost: x\nConnection: close")
            await stream.aclose()
            statuses.append(head.split()[1])
    assert statuses == ["308", "404", "404"]


async def test_a_backend_s_prefix_does_not_take_the_path_without_its_slash() -> None:
    async with tcp_echo() as port, running(config_of({**stream_route(port), "match": {"path": "/chat/*"}})) as server:
        head, _, stream = await ask(server, "GET /chat HTTP/1.1\nHost: x")
        await stream.aclose()
    assert head.startswith("HTTP/1.1 404 ")


# --- the log ------------------------------------------------------------------------------------------------------


async def test_a_proxy_whose_headers_are_not_believed_is_named_once_and_not_with_every_request(tmp_path: Path) -> None:
    config = config_of(page_config(tmp_path), trusted_proxies=["127.0.0.1/32"])
    with capture_logs() as entries:
        async with running(config) as server:
            for _ in range(3):
                request = "GET /novnc/ HTTP/1.1\nHost: x\nX-Forwarded-For: nonsense\nConnection: close"
                await (await ask(server, request))[2].aclose()
    (entry,) = [entry for entry in entries if entry["event"] == "forwarded_headers_ignored"]
    assert entry["requests"] == 1
    assert "127.0.0.1" in entry["problem"]


# --- requests that came to the wrong port, or are large -----------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "HEAD", "CONNECT"])
async def test_a_plain_request_to_a_tls_port_is_answered_with_a_sentence(tmp_path: Path, method: str) -> None:
    certificates = Certificates.issue(tmp_path)
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    config = config_of(page_config(tmp_path), listeners=[{"bind": "127.0.0.1:0", "tls": tls}])
    async with running(config) as server:
        head, body, stream = await ask(server, f"{method} / HTTP/1.1\nHost: x\nCookie: {'c' * 20_000}")
        await stream.aclose()
        assert server.metrics.unrouted.refusals["malformed"] == 1
    assert head.startswith("HTTP/1.1 400 ")
    assert body == "this is a plain request, but this port speaks TLS: use wss:// or https:// here\n"


async def test_the_limits_of_a_request_s_head_can_be_set(tmp_path: Path) -> None:
    cookies = "\n".join(f"Cookie: c{number}={'x' * 4000}" for number in range(5))
    request = f"GET /novnc/?{'q' * 9000} HTTP/1.1\nHost: x\nConnection: close\n"
    for requests, line, head_status in (({}, 414, 431), ({"head_bytes": "64KiB", "line_bytes": "32KiB"}, 200, 200)):
        async with running(config_of(page_config(tmp_path), requests=requests)) as server:
            head, _, stream = await ask(server, request.removesuffix("\n"))
            await stream.aclose()
            assert head.startswith(f"HTTP/1.1 {line} ")
            head, _, stream = await ask(server, f"GET /novnc/ HTTP/1.1\nHost: x\nConnection: close\n{cookies}")
            await stream.aclose()
            assert head.startswith(f"HTTP/1.1 {head_status} ")


async def test_an_absolute_target_is_routed_by_its_authority(tmp_path: Path) -> None:
    page = {**page_config(tmp_path), "match": {"host": "pages.example", "path": "/*"}}
    async with running(config_of(page)) as server:
        for target, host, status in (
            ("http://pages.example/index.html", "other.example", 200),
            ("http://other.example/index.html", "pages.example", 404),
        ):
            head, _, stream = await ask(server, f"GET {target} HTTP/1.1\nHost: {host}\nConnection: close")
            await stream.aclose()
            assert head.startswith(f"HTTP/1.1 {status} ")


# --- memory -----------------------------------------------------------------------------------------------------


async def test_short_of_memory_newcomers_are_to_come_back_at_different_times() -> None:
    async with tcp_echo() as port, running(config_of(stream_route(port), memory="1MiB")) as server:
        filler = server.account.open("somebody else", 1 << 20)
        asked_for = set()
        for _ in range(20):
            head, stream = await upgrade(server)
            await stream.aclose()
            assert head.startswith("HTTP/1.1 503 ")
            asked_for.add(head.partition("Retry-After: ")[2].split("\r\n")[0])
        assert server.metrics.route("test").refusals == {"overload": 20}
        filler.close()
        head, stream = await upgrade(server)
        await stream.aclose()
        assert head.startswith("HTTP/1.1 101 ")
    assert len(asked_for) > 1
    assert all(2 <= int(seconds) <= 10 for seconds in asked_for)


# --- faults of a set-up that a browser keeps to itself ------------------------------------------------------------

HANDSHAKE = (
    "GET {path} HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13"
    "\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)


@pytest.mark.parametrize(
    ("spoken", "offered", "warned"),
    [
        ([], "mqtt", True),
        (["binary"], "mqtt, mqttv3.1", True),
        (["mqtt"], "mqttv3.1, mqtt", False),
        ([], None, False),
        (["binary"], None, False),
    ],
)
async def test_a_subprotocol_that_a_route_does_not_speak_is_warned_of_once(
    spoken: list[str], offered: str | None, warned: bool
) -> None:
    request = HANDSHAKE.format(path="/")
    if offered is not None:
        request += f"\nSec-WebSocket-Protocol: {offered}"
    with capture_logs() as entries:
        async with tcp_echo() as port, running(config_of({**stream_route(port), "subprotocols": spoken})) as server:
            for _ in range(2):
                head, _, stream = await ask(server, request, keep=True)
                assert head.startswith("HTTP/1.1 101 ")
                await stream.aclose()
    warnings = [entry for entry in entries if entry["event"] == "subprotocol_not_spoken"]
    assert len(warnings) == warned
    for warning in warnings:
        assert ", ".join(warning["offered"]) == offered
        assert "`subprotocols`" in warning["hint"]


async def test_a_websocket_to_a_path_of_files_is_told_so(tmp_path: Path) -> None:
    async with running(config_of(page_config(tmp_path))) as server:
        head, body, stream = await ask(server, HANDSHAKE.format(path="/novnc/index.html"))
        await stream.aclose()
        assert head.startswith("HTTP/1.1 404 ")
        assert body.startswith("files are served at this path, and no WebSocket")
        # Some proxies send Upgrade with every request.
        request = "GET /novnc/ HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade, close"
        head, body, stream = await ask(server, request)
        await stream.aclose()
    assert (head.split()[1], body) == ("200", "hello")


# --- those who are not admitted -----------------------------------------------------------------------------------


async def connect(server: Server, source: str) -> trio.SocketStream:
    (address,) = server.addresses
    assert isinstance(address, TcpAddress)
    return await trio.open_tcp_stream(address.host, address.port, local_address=source)


async def has_ended(stream: trio.SocketStream) -> bool:
    """Waits for its end, however it comes."""
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True


async def test_silent_connections_make_room_for_a_newcomer(tmp_path: Path) -> None:
    config = config_of(page_config(tmp_path), handshakes={"waiting": 3, "waiting_per_address": 2})
    async with running(config) as server:
        first, second = [await connect(server, "127.0.0.9") for _ in range(2)]
        await until(lambda: len(server.entrance.gatehouse.anteroom) == 2)
        third = await connect(server, "127.0.0.9")
        assert await has_ended(first)
        other = await connect(server, "127.0.0.8")
        head, _, stream = await ask(server, "GET /novnc/ HTTP/1.1\nHost: x", keep=True)
        assert head.startswith("HTTP/1.1 200 ")
        assert await has_ended(second)
        assert server.entrance.gatehouse.anteroom.sent_away == 2
        for end in (first, second, third, other, stream):
            await end.aclose()
        await until(lambda: not len(server.entrance.gatehouse.anteroom))
        assert server.metrics.unrouted.handshakes[HandshakeOutcome.TIMED_OUT] == 2


async def test_who_is_admitted_is_not_sent_away() -> None:
    async with tcp_echo() as port:
        config = config_of(stream_route(port), handshakes={"waiting": 2, "waiting_per_address": 1})
        async with running(config) as server:
            talking = [(await upgrade(server))[1] for _ in range(3)]
            await until(lambda: len(server.registry) == 3)
            assert not len(server.entrance.gatehouse.anteroom)
            silent = await connect(server, "127.0.0.1")
            await talking[0].send_all(b"\x82\x81\0\0\0\0x")
            assert await talking[0].receive_some()
            for end in (*talking, silent):
                await end.aclose()


async def test_behind_a_trusted_proxy_addresses_are_not_told_apart(tmp_path: Path) -> None:
    config = config_of(
        page_config(tmp_path),
        handshakes={"waiting": 10, "waiting_per_address": 1},
        trusted_proxies=["127.0.0.0/8"],
    )
    async with running(config) as server:
        streams = [await connect(server, "127.0.0.9") for _ in range(5)]
        await until(lambda: len(server.entrance.gatehouse.anteroom) == 5)
        assert server.entrance.gatehouse.anteroom.sent_away == 0
        for stream in streams:
            await stream.aclose()
