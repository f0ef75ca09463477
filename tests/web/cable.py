"""A cable between a client and the gateway that a test can cut, leave cut, and turn into a black hole."""

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self, TypeAlias

CHUNK_BYTES: Final = 65536
PATIENCE_SECONDS: Final = 30.0

Link: TypeAlias = tuple[socket.socket, socket.socket]
"""Who connected, and the gateway."""

RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)


class Cable:
    """Carries connections to a port on this host while the `with` block lasts."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._holes: set[Link] = set()
        self._hung_up = threading.Event()
        self._is_down = False
        self._listener: socket.socket
        self.port = 0
        self.cuts = 0
        """How many connections were cut."""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # A shutdown wakes the thread that accepts; closing alone would leave it, and the port, behind.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    # --- what a test does -----------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Resets every connection; new ones are carried."""
        with self._lock:
            links, self._links = self._links, set()
        for link in links:
            self.cuts += 1
            for sock in link:
                _reset(sock)

    def take_down(self) -> None:
        """Resets every connection, and those that are tried."""
        self._is_down = True
        self.cut()

    def bring_up(self) -> None:
        """Carries new connections again."""
        self._is_down = False

    def swallow(self) -> None:
        """The connections there are take what is sent and pass nothing on, nor that one of their ends has hung up."""
        with self._lock:
            self._holes |= self._links

    def wait_hung_up(self) -> None:
        """Waits until the gateway has ended a connection that is swallowed."""
        assert self._hung_up.wait(PATIENCE_SECONDS), "the gateway has not hung up"

    # --- carrying -------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                if self._is_down:
                    _reset(near)
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    _reset(near)
                    continue
                link = (near, far)
                with self._lock:
                    self._links.add(link)
                for source, target in (link, link[::-1]):
                    threading.Thread(target=self._carry, args=(source, target, link), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, link: Link) -> None:
        with suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                if link not in self._holes:
                    target.sendall(data)
        if link not in self._holes:
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)
        elif source is link[1]:
            self._hung_up.set()


def _reset(sock: socket.socket) -> None:
    """Ends the connection with RST; a thread that reads from it is woken."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        sock.shutdown(socket.SHUT_RD)
    sock.close()
