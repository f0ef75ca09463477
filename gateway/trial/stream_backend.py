"""The trial's backend that knows nothing of records: a plain TCP service, or a WebSocket one, that keeps the books.

Invariant: a message has arrived when the *host* has it, that is when its kernel has acknowledged its bytes, whether or
not the service has read them. So a connection is ended in an order that leaves no doubt: first the socket is made deaf
(a filter drops what comes, so the kernel acknowledges no more), then what the kernel had taken is read to its end, then
the connection is closed. What a service's death does to its connections is done so too, for only from within can be
counted what reached it: with a reset where something was unread, with FIN elsewhere, as the kernel does. For the same
reason no task ever holds bytes that are neither in the kernel nor in the books while others run: sockets are the
standard library's, for trio's yield between receiving and returning.
"""

import ctypes
import math
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from gateway.codes import NORMAL
from gateway.errors import KakitomeError
from gateway.protocol.handshake import RequestReader, accept_response, check_upgrade
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Opcode
from gateway.trial.faults import Direction, Fault, FaultKind, FaultSchedule, Hop
from gateway.trial.proxy import RESET_AT_CLOSE
from gateway.trial.tally import Books, Told, Witness
from gateway.trial.traffic import GREETING, LineReader, Traffic

READ_BYTES: Final = 4 * 1024

TRICKLE_BYTES: Final = 7
TRICKLE_SECONDS: Final = 0.004

RESTART_SECONDS: Final = 0.3
"""How long nothing listens after the service was killed."""

SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
DROP_ALL: Final = struct.pack("HBBI", 0x06, 0, 0, 0)
"""Linux, socket(7): a classic BPF program of one instruction, `return 0`: nothing of a packet is kept."""

_WHOLE: Final = FIRST | LAST


class Codec(Protocol):
    """How a connection's bytes carry the stream."""

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """(bytes of the stream, answer to send) for what came."""

    def encode(self, data: bytes) -> bytes:
        """What to send for bytes of the stream."""


class PlainCodec:
    """The stream itself."""

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """All that comes is the stream."""
        return data, b""

    def encode(self, data: bytes) -> bytes:
        """All that goes is the stream."""
        return data


class WebSocketCodec:
    """The server's end of a WebSocket, for gateways that only pass WebSockets on."""

    def __init__(self) -> None:
        self._reader = RequestReader()
        self._ws: WebSocketConnection | None = None

    def receive(self, data: bytes) -> tuple[bytes, bytes]:
        """The handshake is answered, and so are pings and a Close."""
        answer = b""
        if self._ws is None:
            try:
                request = self._reader.feed(data)
                if request is None:
                    return b"", b""
                answer = accept_response(check_upgrade(request), subprotocol=None, extensions=())
            except KakitomeError:
                return b"", b""  # half a handshake, which a fault has cut: the connection will end
            data = self._reader.leftover
            self._ws = WebSocketConnection(client=False)
        stream = []
        for opcode, payload, _ in self._ws.receive_data(data):
            if opcode == Opcode.PING:
                answer += self._ws.send([(int(Opcode.PONG), payload, _WHOLE)])
            elif opcode < Opcode.CLOSE:
                stream.append(payload)
        if self._ws.close_received is not None:
            answer += self._ws.close(NORMAL)
        return b"".join(stream), answer

    def encode(self, data: bytes) -> bytes:
        """One binary message."""
        assert self._ws is not None, "nothing is sent before the client's first message"
        return self._ws.send([(int(Opcode.BINARY), data, _WHOLE)])


@dataclass(slots=True, eq=False)
class _Connection:
    """One connection of a gateway's."""

    sock: socket.socket
    """Non-blocking."""
    codec: Codec
    lines: LineReader = field(default_factory=LineReader)
    client: int | None = None
    """Whose it is, once the first message has said so."""
    reads_on_at: float = 0.0
    trickles_until: float = 0.0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    sends: trio.CancelScope = field(default_factory=trio.CancelScope)
    writing: trio.Lock = field(default_factory=trio.Lock)
    """Whoever sends: answers must not come into the midst of a message."""

    async def send_all(self, data: bytes) -> None:
        """Raises OSError, or ClosedResourceError when the connection has ended."""
        if data:
            async with self.writing:
                await _send_all(self.sock, data)


class StreamBackend:
    """Takes every client's numbered messages down and sends it its own, a new connection going on where one ended."""

    def __init__(
        self, schedule: FaultSchedule, traffic: Traffic, books: Books, *, codec: Callable[[], Codec] = PlainCodec
    ) -> None:
        self._schedule = schedule
        self._traffic = traffic
        self._books = books
        self._codec = codec
        self._connections: set[_Connection] = set()
        self._by_client: dict[int, _Connection] = {}
        self._listening = trio.CancelScope()
        self._listens_on_at = -math.inf

    async def serve(
        self, bind: tuple[str, int], *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves until cancelled; the port as started. Raises OSError if it cannot listen."""
        async with trio.open_nursery() as nursery:
            host, port = bind
            while True:
                (listener,) = await trio.open_tcp_listeners(port, host=host, backlog=1024)
                port = listener.socket.getsockname()[1]
                task_status.started(port)
                task_status = trio.TASK_STATUS_IGNORED
                with trio.CancelScope() as self._listening:
                    async with listener:
                        while True:
                            stream = await listener.accept()
                            sock = socket.socket(fileno=stream.socket.detach())
                            sock.setblocking(False)
                            nursery.start_soon(self._converse, sock)
                await trio.sleep_until(self._listens_on_at)

    def kill(self) -> None:
        """What SIGKILL does to the service: all its connections end at once, and for a moment nothing listens."""
        self._listens_on_at = trio.current_time() + RESTART_SECONDS
        self._listening.cancel()
        for connection in tuple(self._connections):
            self._end(connection, reset=False)

    # --- one connection -------------------------------------------------------------------------------------------

    async def _converse(self, sock: socket.socket) -> None:
        connection = _Connection(sock, self._codec())
        self._connections.add(connection)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with connection.scope:
                async with trio.open_nursery() as nursery:
                    await self._read(connection, nursery)
                    nursery.cancel_scope.cancel()
        finally:
            self._end(connection, reset=False)

    async def _read(self, connection: _Connection, nursery: trio.Nursery) -> None:
        """Reads to the end of the client's stream."""
        with suppress(OSError, trio.ClosedResourceError):
            while True:
                size = READ_BYTES
                now = trio.current_time()
                if now < connection.reads_on_at:
                    await trio.sleep_until(connection.reads_on_at)
                elif now < connection.trickles_until:
                    await trio.sleep(TRICKLE_SECONDS)
                    size = TRICKLE_BYTES
                data = await _receive(connection.sock, size)
                if not data:
                    return
                before = connection.client
                answer = self._take(connection, data)
                await connection.send_all(answer)
                if before is None and connection.client is not None:
                    nursery.start_soon(self._send, connection, connection.client)
                fault = self._schedule.strike(Hop.BACK)
                if fault is not None:
                    await self._apply(connection, fault)

    def _take(self, connection: _Connection, data: bytes) -> bytes:
        """Enters what came; what is to be answered."""
        stream, answer = connection.codec.receive(data)
        now = trio.current_time()
        for line in connection.lines.feed(stream):
            numbered = self._traffic.read(line)
            if numbered is None or numbered.direction is not Direction.UPSTREAM:
                if connection.client is not None:
                    self._books.up[connection.client].damaged += 1
                continue
            if connection.client is None:
                self._adopt(connection, numbered.client)
            if numbered.client != connection.client:
                self._books.up[numbered.client].damaged += 1
            elif numbered.number != GREETING:
                tally = self._books.up[numbered.client]
                tally.progress(now)
                tally.arrive(numbered.number)
        return answer

    def _adopt(self, connection: _Connection, client: int) -> None:
        connection.client = client
        former = self._by_client.get(client)
        if former is not None:
            former.sends.cancel()  # what it would still be sent nobody will read
        self._by_client[client] = connection

    async def _send(self, connection: _Connection, client: int) -> None:
        tally = self._books.down[client]
        with connection.sends, suppress(OSError, trio.ClosedResourceError):
            while tally.sent < tally.total and self._by_client[client] is connection:
                tally.sent += 1
                number = tally.sent
                data = connection.codec.encode(self._traffic.message(Direction.DOWNSTREAM, client, number))
                await trio.sleep_until(connection.reads_on_at)
                await connection.send_all(data)
                self._books.tell(Direction.DOWNSTREAM, Witness.SEND, client, number, Told.SETTLED)

    async def _apply(self, connection: _Connection, fault: Fault) -> None:
        now = trio.current_time()
        match fault.kind:
            case FaultKind.STALL | FaultKind.BLACK_HOLE:
                connection.reads_on_at = now + fault.seconds
            case FaultKind.TRICKLE:
                connection.trickles_until = now + fault.seconds
            case FaultKind.HALF_CLOSE:
                connection.sends.cancel()
                connection.sock.shutdown(socket.SHUT_WR)
            case FaultKind.CUT:
                self._end(connection, reset=False)
            case FaultKind.RESET:
                self._end(connection, reset=True)
            case FaultKind.KILL_GATEWAY | FaultKind.KILL_BACKEND:
                raise ValueError(f"{fault.kind} is nothing that a connection can do")

    def _end(self, connection: _Connection, *, reset: bool) -> None:
        """Ends a connection, having taken all that reached this host; as the death of the service would, or a reset."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        sock = connection.sock
        with suppress(OSError):
            _deafen(sock)
        for data in _rest(sock):
            reset = True  # the kernel resets a connection that is closed over unread bytes
            self._take(connection, data)
        with suppress(OSError):
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
            else:
                sock.shutdown(socket.SHUT_RDWR)  # from here on Linux answers data with a reset
                sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
        trio.lowlevel.notify_closing(sock)
        sock.close()
        connection.scope.cancel()


async def _receive(sock: socket.socket, size: int) -> bytes:
    """What came, at most `size` bytes; nobody else runs between the kernel's giving it and its return."""
    while True:
        _check_open(sock)
        await trio.lowlevel.wait_readable(sock)
        with suppress(BlockingIOError):
            return sock.recv(size)


async def _send_all(sock: socket.socket, data: bytes) -> None:
    while data:
        _check_open(sock)
        await trio.lowlevel.wait_writable(sock)
        with suppress(BlockingIOError):
            data = data[sock.send(data) :]


def _check_open(sock: socket.socket) -> None:
    """Raises ClosedResourceError: a connection may have ended while its task was on its way."""
    if sock.fileno() < 0:
        raise trio.ClosedResourceError("the connection has ended")


def _deafen(sock: socket.socket) -> None:
    """What comes from now on is dropped and not acknowledged."""
    program = ctypes.create_string_buffer(DROP_ALL)
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def _rest(sock: socket.socket) -> Iterator[bytes]:
    """What the kernel has taken and nobody has read."""
    with suppress(OSError):
        while data := sock.recv(READ_BYTES):
            yield data
