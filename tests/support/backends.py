"""TCP backends for tests, in threads of this process: what a real service would do, and no more."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

_Server = TypeVar("_Server", bound=socketserver.BaseServer)

Conversation = Callable[[socket.socket], None]
"""What a backend does with one connection, which is closed when it returns."""


class Backend(socketserver.ThreadingTCPServer):
    """One thread a connection; threads that still wait when the test is over end with their sockets."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: broken connections are what many tests are about."""


@contextmanager
def serving(server: _Server) -> Iterator[_Server]:
    """Runs a server of the standard library's in a thread, and closes it at the end."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serve(converse: Conversation) -> Iterator[int]:
    """Runs `converse` for each connection, each in a thread; gives the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            converse(self.request)

    with serving(Backend(("127.0.0.1", 0), Handler)) as backend:
        yield backend.server_address[1]


def tcp_echo() -> AbstractContextManager[int]:
    """A service that sends back what it receives, until the other side ends."""

    def echo(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            connection.sendall(data)

    return serve(echo)


def greeter(greeting: bytes) -> AbstractContextManager[int]:
    """A service that says one thing and ends."""
    return serve(lambda connection: connection.sendall(greeting))
