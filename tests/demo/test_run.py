"""The demonstration as a whole: the gateway, the page at its root, and the backends behind it."""

import re
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from websockets.sync.client import connect

from gateway.config import TcpAddress, UnixAddress
from gateway.demo.run import demo_config, page_url
from gateway.server import Server
from tests.support.process import ServiceProcess
from tests.support.tools import REPOSITORY


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    argv = [sys.executable, "-m", "gateway", "demo", "--bind", "127.0.0.1:0"]
    with ServiceProcess(argv, name="the demo", started=r"(http://127\.0\.0\.1:\d+)", folder=REPOSITORY) as service:
        assert service.started_match is not None
        yield service.started_match[1]


def test_the_page_is_at_the_root_with_a_strict_policy(url: str) -> None:
    with urllib.request.urlopen(url, timeout=10) as answer:
        page = answer.read().decode()
        policy = answer.headers["Content-Security-Policy"]
    assert "<title>Kakitome 書留" in page
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for reference in re.findall(r'(?:src|href)="([^"]+)"', page):
        with urllib.request.urlopen(f"{url}/{reference}", timeout=10) as answer:
            assert answer.status == 200


def test_each_backend_answers_at_its_name(url: str) -> None:
    address = url.replace("http://", "ws://")
    with connect(f"{address}/hello", proxy=None) as hello:
        assert hello.recv(timeout=10) == "Hello Client, you connected to /hello"
        hello.send("どやさ")
        assert hello.recv(timeout=10) == "Pong: どやさ"
    with connect(f"{address}/doyasa", proxy=None) as doyasa:
        doyasa.send("どやさ")
        assert doyasa.recv(timeout=10) == "どやさ！（1回目）"
    with connect(f"{address}/chat?name=Hana", proxy=None) as chat:
        assert '"name": "Hana"' in str(chat.recv(timeout=10))
        chat.send("こんにちは")
        assert "こんにちは" in str(chat.recv(timeout=10))


def test_a_service_that_knows_nothing_of_us_is_reached_too(url: str) -> None:
    with connect(f"{url.replace('http://', 'ws://')}/echo", proxy=None) as echo:
        echo.send("どやさ")
        assert echo.recv(timeout=10) == "どやさ"


def test_a_wrong_bind_is_named() -> None:
    with pytest.raises(ValueError, match="has no port"):
        demo_config({}, bind="nowhere")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (TcpAddress(host="0.0.0.0", port=80), "http://127.0.0.1:80"),
        (TcpAddress(host="::", port=80), "http://[::1]:80"),
        (TcpAddress(host="192.0.2.1", port=8080), "http://192.0.2.1:8080"),
        (UnixAddress(path=Path("/run/k.sock")), "http+unix:///run/k.sock"),
    ],
)
def test_the_pages_url_is_one_that_this_machine_can_open(address: TcpAddress | UnixAddress, expected: str) -> None:
    assert page_url(cast("Server", SimpleNamespace(addresses=(address,)))) == expected
