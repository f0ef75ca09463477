"""What a client does through a gateway in a container: the demonstration's backends answer."""

import contextlib
import ssl
import threading
import urllib.request
from typing import Final, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

TIMEOUT_SECONDS: Final = 30.0


def converse(url: str, tls: ssl.SSLContext | None = None) -> None:
    """Greets the *hello* backend, text in several scripts and sizes, and hears each answer."""
    with connect(f"{url}/hello", ssl=tls, proxy=None, open_timeout=TIMEOUT_SECONDS) as client:
        expect(client, "Hello Client, you connected to /hello")
        for text in ("ping", "どやさ", "x" * 100_000):
            client.send(text)
            expect(client, f"Pong: {text}")


def expect(client: ClientConnection, text: str) -> None:
    """The next message is this text."""
    received = client.recv(timeout=TIMEOUT_SECONDS)
    assert received == text, f"expected {text[:60]!r}, received {received[:60]!r}"


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
            clients = [
                stack.enter_context(connect(f"{url}/hello", ssl=tls, proxy=None, open_timeout=TIMEOUT_SECONDS))
                for _ in range(count)
            ]
            for client in clients:
                expect(client, "Hello Client, you connected to /hello")
            self._stack = stack.pop_all()
        self._threads = [threading.Thread(target=self._listen, args=(client,)) for client in clients]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        self.join()

    def _listen(self, client: ClientConnection) -> None:
        try:
            client.recv()
        except ConnectionClosed as closed:
            self._codes.append(closed.rcvd.code if closed.rcvd is not None else 1006)

    def join(self) -> list[int]:
        """Waits until all are closed and returns the close codes they saw (1006: none)."""
        for thread in self._threads:
            thread.join(TIMEOUT_SECONDS)
            assert not thread.is_alive(), "a client was never closed"
        return self._codes
