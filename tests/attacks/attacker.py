"""The attackers: `python -m tests.attacks.attacker THREAT PORT SECONDS ADDRESSES [CONNECTIONS [HOST]]`, all bounded.

One epoll loop with raw sockets and bytes that are made once: an attack must cost its sender next to nothing. What it
did is printed as JSON at its end.
"""

import errno
import json
import os
import re
import select
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from tests.support.peers.wire import BINARY, CONTINUATION, PING, frame, record, unread, upgrade

CHUNK: Final = 256 * 1024
NEW_PER_TURN: Final = 64
"""Connections begun at once: the attacker's own backlog is no part of the attack."""

FILL_SECONDS: Final = 0.7
"""What the first connection of a session has for its window to fill."""

TOKEN: Final = re.compile(rb'"session": ?"([^"]+)"')

LOOK_SECONDS: Final = 0.1
"""How often it is looked whose next byte is due."""

RESET: Final = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Threat:
    """What each connection of an attacker does."""

    connections: int
    first: bytes = b""
    """Sent once connected."""
    waits_for: bytes = b""
    """What must come before the rest is sent."""
    second: bytes = b""
    """Sent once, then."""
    again: bytes = b""
    """Sent over and over, as fast as it is taken."""
    numbered: Callable[[int], bytes] | None = None
    """The same with what changes each time: its argument counts from 0 on each connection."""
    reads: bool = True
    receive_buffer: int = 0
    drip_seconds: float = 0.0
    """`again` at this interval, which is a byte, or what is `numbered`."""
    hangs_up: bool = False
    """As soon as all is sent once (or at the answer), and begins anew."""
    per_second: float = 0.0
    """How many connections are begun in a second at most; 0: as many as it can."""
    resumes: bool = False
    """All connections but the first take up the session that it began."""
    gives_up_bytes: int = 1 << 30
    """Of all that is sent."""


def _many(data: bytes) -> bytes:
    return data * max(1, CHUNK // len(data))


def _deflated(size: int) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = compressor.compress(bytes(size)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return data.removesuffix(b"\0\0\xff\xff")


def _hello() -> bytes:
    """A ClientHello of a real client's."""
    import ssl

    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def _data(start: int, count: int, body: bytes) -> bytes:
    return b"".join(record(3, 0, start + index, body) for index in range(count))


RECORDS: Final = "kakitome.v1"
OPEN: Final = record(1, 0, 0, b"{}")
OPENED: Final = b'"window_bytes"'
SWITCHED: Final = b"HTTP/1.1 101 "
FOUND: Final = b"HTTP/1.1 200 "
NOT_FOUND: Final = b"HTTP/1.1 404 "
SERVER_HELLO: Final = b"\x16\x03\x03"

THREATS: Final[Mapping[str, Callable[[], Threat]]] = {
    # Nothing but heads: 6 bytes each on the wire, and an object each in memory.
    "empty_messages": lambda: Threat(
        connections=8, first=upgrade("/hole"), waits_for=SWITCHED, again=_many(frame(BINARY))
    ),
    "one_byte_messages": lambda: Threat(
        connections=8, first=upgrade("/hole"), waits_for=SWITCHED, again=_many(frame(BINARY, b"x"))
    ),
    "one_byte_fragments": lambda: Threat(
        connections=8,
        first=upgrade("/lines"),
        waits_for=SWITCHED,
        second=frame(BINARY, b"x", fin=False),
        again=_many(frame(CONTINUATION, b"x", fin=False)),
    ),
    "pings": lambda: Threat(
        connections=8, first=upgrade("/echo"), waits_for=SWITCHED, again=_many(frame(PING, b"x" * 125)), reads=False
    ),
    "parked_sessions": lambda: Threat(
        connections=50,
        first=upgrade("/echo", subprotocol=RECORDS) + OPEN,
        waits_for=OPENED,
        hangs_up=True,
        per_second=2000,
    ),
    "unread_receipts": lambda: Threat(
        connections=8,
        first=upgrade("/echo", subprotocol=RECORDS) + record(1, 0, 0, b'{"receipts": ["written", "reached"]}'),
        waits_for=OPENED,
        # So slowly that its window has room, for it does not read what would tell it: who overruns it is ended.
        numbered=lambda turn: _data(1 + turn * 200, 200, b"x"),
        drip_seconds=0.2,
        reads=False,
        receive_buffer=4096,
    ),
    "unread_rejects": lambda: Threat(
        connections=8,
        first=upgrade("/lines", subprotocol=RECORDS) + OPEN,
        waits_for=OPENED,
        numbered=lambda turn: _data(1 + turn * 500, 500, b"x\ny"),
        reads=False,
        receive_buffer=4096,
    ),
    "deflate_bombs": lambda: Threat(
        connections=8,
        first=upgrade("/deflated", extensions="permessage-deflate"),
        waits_for=SWITCHED,
        again=_many(frame(BINARY, _deflated(1 << 20), rsv=4)),
    ),
    "slow_heads": lambda: Threat(connections=2000, first=b"GET / HTTP/1.1\r\nX: ", again=b"x", drip_seconds=1.0),
    "half_tls_handshakes": lambda: Threat(connections=2000, first=_hello()[:50]),
    "slow_readers": lambda: Threat(
        connections=100,
        first=upgrade("/fire"),
        waits_for=SWITCHED,
        reads=False,
        receive_buffer=4096,
    ),
    "slow_downloads": lambda: Threat(
        connections=300,
        first=b"GET /files/large HTTP/1.1\r\nHost: x\r\n\r\n",
        waits_for=FOUND,
        reads=False,
        receive_buffer=4096,
    ),
    "refused_handshakes": lambda: Threat(connections=50, first=upgrade("/nowhere"), waits_for=NOT_FOUND, hangs_up=True),
    "hello_and_hang_up": lambda: Threat(connections=50, first=_hello(), hangs_up=True, waits_for=SERVER_HELLO),
    "silent_connections": lambda: Threat(connections=4000),
    # Let in, and next to nothing said: what it costs to have very many.
    "relayed_connections": lambda: Threat(
        connections=4000, first=upgrade("/echo"), waits_for=SWITCHED, again=frame(BINARY, b"x"), drip_seconds=4.0
    ),
    # The first one's window fills; each resume has all of it sent again.
    "resumes": lambda: Threat(
        connections=100,
        first=upgrade("/fire", subprotocol=RECORDS) + OPEN,
        waits_for=OPENED,
        resumes=True,
        reads=False,
        receive_buffer=4096,
        per_second=200,
    ),
    "pinging_backend": lambda: Threat(connections=8, first=upgrade("/pinging"), waits_for=SWITCHED, reads=True),
}


class Connection:
    """One connection of the attacker's."""

    def __init__(self, threat: Threat, port: int, source: str, first: bytes) -> None:
        self.sock = socket.socket()
        self.sock.setblocking(False)
        if threat.receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, threat.receive_buffer)
        self.sock.bind((source, 0))
        self.sock.connect_ex(("127.0.0.1", port))
        self.threat = threat
        self.begun = time.monotonic()
        self.seen = b""
        self.answered = not threat.waits_for
        self.turn = 0
        self.dripped_at = 0.0
        self.is_done = False
        self.rest = memoryview(first)
        self.stage = 0

    @property
    def mask(self) -> int:
        listens = self.threat.reads or not self.answered
        return (select.EPOLLIN if listens else 0) | (select.EPOLLOUT if self.rest else 0)

    def receive(self) -> int:
        data = self.sock.recv(CHUNK)
        if not data:
            raise ConnectionResetError
        if not self.answered:
            self.seen = (self.seen + data)[-65536:]
            if self.threat.waits_for in self.seen:
                self.answered = True
                self.next()
        return len(data)

    def next(self) -> None:
        """What to send behind what was sent."""
        threat = self.threat
        if self.rest or not self.answered:
            return
        if self.stage == 0 and self.answered:
            self.stage = 1
            if threat.second:
                self.rest = memoryview(threat.second)
                return
        if threat.hangs_up:
            self.is_done = True
        elif threat.numbered is not None and not threat.drip_seconds:
            self.rest = memoryview(threat.numbered(self.turn))
            self.turn += 1
        elif threat.again and not threat.drip_seconds:
            self.rest = memoryview(threat.again)

    def send(self) -> int:
        sent = self.sock.send(self.rest)
        self.rest = self.rest[sent:]
        if not self.rest:
            self.next()
        return sent

    def drip(self, now: float) -> int:
        """What is due; how many bytes of it are sent already."""
        if not self.answered or self.rest or now - self.dripped_at < self.threat.drip_seconds:
            return 0
        self.dripped_at = now
        if self.threat.numbered is not None:
            self.rest = memoryview(self.threat.numbered(self.turn))
            self.turn += 1
            return 0
        return self.sock.send(self.threat.again)


def attack(
    name: str, port: int, seconds: float, addresses: int, connections: int | None = None, host: int = 1
) -> dict[str, int]:
    """Does it for so long; how much of what. `connections`: another number of them than the threat's own.

    `host`: which attacker it is, of several that have one address each.
    """
    threat = THREATS[name]()
    if connections is not None:
        threat = replace(threat, connections=connections)
    counts: Counter[str] = Counter()
    epoll = select.epoll()
    alive: dict[int, Connection] = {}
    masks: dict[int, int] = {}
    sources = _sources(addresses, host)
    first = threat.first
    pioneer: Connection | None = None
    end = time.monotonic() + seconds
    began = time.monotonic()
    drips_at = began

    def close(connection: Connection) -> None:
        fd = connection.sock.fileno()
        epoll.unregister(fd)
        del alive[fd], masks[fd]
        if threat.hangs_up:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.sock.close()

    while (now := time.monotonic()) < end and counts["sent"] < threat.gives_up_bytes:
        for _ in range(NEW_PER_TURN):
            is_early = threat.per_second and counts["connections"] >= 1 + (now - began) * threat.per_second
            if len(alive) >= threat.connections or is_early:
                break
            if pioneer is not None and threat.resumes and first is threat.first:
                token = TOKEN.search(pioneer.seen)
                if token is None or now - pioneer.begun < FILL_SECONDS:
                    break
                body = json.dumps({"session": token[1].decode()}).encode()
                first = upgrade("/fire", subprotocol=RECORDS) + record(1, 0, 0, body)
            try:
                connection = Connection(threat, port, next(sources), first)
                pioneer = pioneer or connection
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
                break
            fd = connection.sock.fileno()
            alive[fd], masks[fd] = connection, connection.mask | select.EPOLLOUT
            epoll.register(fd, masks[fd])
            counts["connections"] += 1
        for fd, mask in epoll.poll(0.01, 512):
            connection = alive[fd]
            try:
                if mask & select.EPOLLIN:
                    had_answer = connection.answered
                    counts["received"] += connection.receive()
                    counts["answered"] += connection.answered and not had_answer
                if mask & select.EPOLLOUT and connection.rest:
                    counts["sent"] += connection.send()
                if mask & (select.EPOLLERR | select.EPOLLHUP):
                    raise ConnectionResetError
            except BlockingIOError:
                pass
            except OSError:
                counts["ended"] += 1
                close(connection)
                continue
            if connection.is_done:
                close(connection)
            elif masks[fd] != connection.mask:
                masks[fd] = connection.mask
                epoll.modify(fd, masks[fd])
        if threat.drip_seconds and now >= drips_at:
            drips_at = now + LOOK_SECONDS
            for connection in list(alive.values()):
                try:
                    counts["dripped"] += connection.drip(now)
                except OSError:
                    counts["ended"] += 1
                    close(connection)
                    continue
                fd = connection.sock.fileno()
                if masks[fd] != connection.mask:
                    masks[fd] = connection.mask
                    epoll.modify(fd, masks[fd])
    counts["left"] = len(alive)
    counts["unread"] = sum(unread(connection.sock) for connection in alive.values())
    os.write(1, (json.dumps(counts) + "\n").encode())
    for connection in list(alive.values()):
        close(connection)
    return counts


def _sources(addresses: int, host: int) -> Iterator[str]:
    turn = 0
    while True:
        yield f"127.66.0.{host}" if addresses == 1 else f"127.66.1.{1 + turn % addresses}"
        turn += 1


if __name__ == "__main__":
    attack(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), *map(int, sys.argv[5:]))
