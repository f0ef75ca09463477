"""What a client does through a gateway in a container: the demonstration's backends answer."""

import asyncio
import contextlib
import ssl
import threading
import urllib.request
from typing import Final, Self

# Not websockets.sync: it reads in one thread and writes in another, which OpenSSL does not allow on one connection.
from websockets.asyncio.client import connect

from tests.support.peers.raw_client import RawClient

TIMEOUT_SECONDS: Final = 60.0
GREETING: Final = "Hello Client, you connected to /hello"
CLOSE: Final = 8


def converse(url: str, tls: ssl.SSLContext | None = None) -> None:
    """Greets the *hello* backend, sends texts in several scripts and sizes, and hears each answer."""
    asyncio.run(_converse(f"{url}/hello", tls))


async def _converse(url: str, tls: ssl.SSLContext | None) -> None:
    async with asyncio.timeout(TIMEOUT_SECONDS), connect(url, ssl=tls, proxy=None) as client:
        assert await client.recv() == GREETING
        for text in ("ping", "どやさ", "x" * 100_000):
            await client.send(text)
            assert await client.recv() == f"Pong: {text}"


def fetch(url: str, tls: ssl.SSLContext | None = None) -> str:
    """The body of a page; raises for any status but 200 (urllib follows no error)."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=tls) as response:
        body: bytes = response.read()
        assert response.status == 200, response.status
    return body.decode()


class Crowd:
    """Clients that stay connected until the gateway closes them; gone at the end of the `with` block in any case."""

    def __init__(self, url: str, count: int, tls: ssl.SSLContext | None = None) -> None:
        self._codes: list[int] = []
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(RawClient(f"{url}/hello", tls=tls)) for _ in range(count)]
            for client in clients:
                assert client.receive_message().decode() == GREETING
                client.sock.settimeout(TIMEOUT_SECONDS)
            self._stack = stack.pop_all()
        self._threads = [threading.Thread(target=self._listen, args=(client,)) for client in clients]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _listen(self, client: RawClient) -> None:
        with contextlib.suppress(OSError):  # cut off instead of closed: `join` finds its code missing
            code, _ = client.receive_close()
            client.send(CLOSE, code.to_bytes(2))
            self._codes.append(code)

    def join(self) -> list[int]:
        """Waits until all are closed and returns the close codes they saw."""
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)
        return self._codes
