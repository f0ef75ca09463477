"""What the gateway's routes lead to: `python -m tests.attacks.backends KIND…` prints the port of each kind as JSON.

One epoll loop. `echo` sends back what comes, `hole` takes connections and never reads, `fire` sends without end,
`lines` is a hole for whole lines, `pinging` speaks records: it opens the session, then sends PINGs without end and does
not read what it is answered. `decoy` stands where a gateway would, in control runs: it answers whatever an attacker
waits for and reads nothing more. On SIGUSR1 all connections are ended, as by backends that restart, and another line of
JSON says of each kind what was sent to the gateway since the last, and what had come and was not read.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Final

from tests.support.peers.wire import unread

CHUNK: Final = 65536
PINGS: Final = (struct.pack("!I", 10 + 64) + struct.pack("!BBQ", 7, 0, 0) + bytes(64)) * 500
OPENED_BODY: Final = b'{"resumed": false}'
OPENED: Final = struct.pack("!I", 10 + len(OPENED_BODY)) + struct.pack("!BBQ", 2, 0, 0) + OPENED_BODY

DECOY: Final = (
    b"HTTP/1.1 101 HTTP/1.1 200 HTTP/1.1 404 \r\n\r\n\x16\x03\x03"
    b'"session": "0123456789abcdef0123456789abcdef" "window_bytes"'
)
"""Something of everything that an attacker waits for."""


class Peer:
    """One connection of a backend's."""

    def __init__(self, sock: socket.socket, kind: str) -> None:
        self.sock = sock
        self.kind = kind
        self.rest = memoryview(bytes(CHUNK)) if kind == "fire" else memoryview(b"")
        self.opened = False
        self.sent = 0

    @property
    def mask(self) -> int:
        reads = self.kind == "echo" or (self.kind in ("pinging", "decoy") and not self.opened)
        return (select.EPOLLIN if reads and not self.rest else 0) | (select.EPOLLOUT if self.rest else 0)

    def on_events(self, mask: int) -> None:
        if mask & select.EPOLLIN:
            data = self.sock.recv(CHUNK)
            if not data:
                raise ConnectionResetError
            if self.kind == "pinging":
                self.opened = True
                self.rest = memoryview(OPENED)
            elif self.kind == "decoy":
                self.opened = True
                self.rest = memoryview(DECOY)
            else:
                self.rest = memoryview(data)
        if self.rest:
            sent = self.sock.send(self.rest)
            self.sent += sent
            self.rest = self.rest[sent:]
            if not self.rest and self.kind == "fire":
                self.rest = memoryview(bytes(CHUNK))
            if not self.rest and self.kind == "pinging":
                self.rest = memoryview(PINGS)


def serve(kinds: tuple[str, ...], told: Callable[[dict[str, int]], None]) -> None:
    """Serves until it is killed, or its parent is; `told` gets the port of each kind, then what each has done."""
    parent = os.getppid()
    epoll = select.epoll()
    listeners: dict[int, tuple[socket.socket, str]] = {}
    for kind in kinds:
        listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        listener.setblocking(False)
        listeners[listener.fileno()] = (listener, kind)
        epoll.register(listener.fileno(), select.EPOLLIN)
    told({kind: listener.getsockname()[1] for listener, kind in listeners.values()})
    peers: dict[int, Peer] = {}
    done: Counter[str] = Counter()
    is_asked_to_hang_up = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_asked_to_hang_up
        is_asked_to_hang_up = True

    signal.signal(signal.SIGUSR1, ask)
    while os.getppid() == parent:
        if is_asked_to_hang_up:
            is_asked_to_hang_up = False
            for fd, peer in peers.items():
                done[f"{peer.kind}_sent"] += peer.sent
                done[f"{peer.kind}_unread"] += unread(peer.sock)
                epoll.unregister(fd)
                peer.sock.close()
            peers.clear()
            told(dict(done))
            done.clear()
        for fd, mask in epoll.poll(0.1):
            if fd in listeners:
                listener, kind = listeners[fd]
                try:
                    sock, _ = listener.accept()
                except OSError:
                    continue
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peers[sock.fileno()] = Peer(sock, kind)
                epoll.register(sock.fileno(), peers[sock.fileno()].mask)
                continue
            peer = peers[fd]
            try:
                peer.on_events(mask)
                if mask & (select.EPOLLERR | select.EPOLLHUP) and not mask & select.EPOLLIN:
                    raise ConnectionResetError
            except BlockingIOError:
                pass
            except OSError:
                epoll.unregister(fd)
                del peers[fd]
                done[f"{peer.kind}_sent"] += peer.sent
                done[f"{peer.kind}_unread"] += unread(peer.sock)
                peer.sock.close()
                continue
            epoll.modify(fd, peer.mask)


def print_line(numbers: dict[str, int]) -> None:
    """One line, at once."""
    os.write(1, (json.dumps(numbers) + "\n").encode())


if __name__ == "__main__":
    serve(tuple(sys.argv[1:]), lambda ports: print_line(ports))
