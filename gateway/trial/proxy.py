"""A TCP proxy that does to connections what networks do to them, on schedule.

Invariant: until a fault strikes bytes pass unchanged and in order; a connection that one has ended never carries
another byte.
"""

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from gateway.trial.faults import Direction, Fault, FaultKind, FaultSchedule, Hop

CHUNK_BYTES: Final = 4 * 1024
"""What is carried at a time; a fault strikes within one, so smaller ones give it more places."""

TRICKLE_BYTES: Final = 7
"""Fewer than a frame's or a record's header has."""
TRICKLE_SECONDS: Final = 0.004
"""Between two drops of a trickle."""

LAST_WORDS_SECONDS: Final = 0.5
"""After a FIN both sides may still be sending: what comes is dropped so long, lest a reset overtake the FIN."""

RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)

ACCEPT_PAUSE_SECONDS: Final = 0.05


class FaultProxy:
    """Carries connections to `host` and `port`, with the faults that `schedule` has for `hop`."""

    def __init__(self, schedule: FaultSchedule, hop: Hop, *, host: str, port: int) -> None:
        self._schedule = schedule
        self._hop = hop
        self._host = host
        self._port = port
        self.connections = 0
        """How many came in."""

    async def serve(
        self, bind: tuple[str, int], *, task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves until cancelled; the port as started. Raises OSError if it cannot listen."""
        listeners = await trio.open_tcp_listeners(bind[1], host=bind[0], backlog=1024)
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                nursery.start_soon(self._accept, listener, nursery)
            task_status.started(listeners[0].socket.getsockname()[1])

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError:  # no descriptors left: other connections end
                    await trio.sleep(ACCEPT_PAUSE_SECONDS)
                    continue
                self.connections += 1
                nursery.start_soon(self._carry, stream.socket)

    async def _carry(self, near: trio.socket.SocketType) -> None:
        with near:
            try:
                far = (await trio.open_tcp_stream(self._host, self._port)).socket
            except OSError:
                _reset(near)  # as from a host on which nothing listens
                return
            with far:
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await _Link(self._schedule, self._hop, near, far).run()


class _Link:
    """One connection through the proxy: `near` is who connected, `far` who was connected to."""

    def __init__(
        self, schedule: FaultSchedule, hop: Hop, near: trio.socket.SocketType, far: trio.socket.SocketType
    ) -> None:
        self._schedule = schedule
        self._hop = hop
        self._sockets = (near, far)
        self._goes_on_at = 0.0
        """A stall holds everything until then."""
        self._trickles_until = 0.0
        self._swallows: set[Direction] = set()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery

    async def run(self) -> None:
        """Carries until both sides have ended, or a fault has ended the connection."""
        near, far = self._sockets
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                async with trio.open_nursery() as pipes:
                    pipes.start_soon(self._pipe, near, far, Direction.UPSTREAM)
                    pipes.start_soon(self._pipe, far, near, Direction.DOWNSTREAM)
                self._nursery.cancel_scope.cancel()

    async def _pipe(self, source: trio.socket.SocketType, target: trio.socket.SocketType, direction: Direction) -> None:
        try:
            while data := await source.recv(CHUNK_BYTES):
                fault = self._schedule.strike(self._hop)
                if fault is None:
                    await self._pass_on(target, data, direction)
                    continue
                end = int(len(data) * fault.place)
                await self._pass_on(target, data[:end], direction)
                await self._apply(fault, target, direction)
                await self._pass_on(target, data[end:], direction)
            if direction not in self._swallows:
                target.shutdown(socket.SHUT_WR)
        except (OSError, trio.ClosedResourceError):
            self._reset()  # one side broke: the other is to see the same

    async def _pass_on(self, target: trio.socket.SocketType, data: bytes, direction: Direction) -> None:
        while data and direction not in self._swallows:
            now = trio.current_time()
            if now < self._goes_on_at:
                await trio.sleep_until(self._goes_on_at)
                continue
            size = len(data)
            if now < self._trickles_until:
                await trio.sleep(TRICKLE_SECONDS)
                size = TRICKLE_BYTES
            sent = await target.send(data[:size])
            data = data[sent:]

    async def _apply(self, fault: Fault, target: trio.socket.SocketType, direction: Direction) -> None:
        now = trio.current_time()
        match fault.kind:
            case FaultKind.STALL:
                self._goes_on_at = now + fault.seconds
            case FaultKind.TRICKLE:
                self._trickles_until = now + fault.seconds
            case FaultKind.RESET:
                self._reset()
            case FaultKind.CUT:
                await self._cut()
            case FaultKind.BLACK_HOLE:
                self._swallows = set(Direction)
                self._nursery.start_soon(self._end_later, fault.seconds, self._reset)
            case FaultKind.HALF_CLOSE:
                self._swallows.add(direction)
                target.shutdown(socket.SHUT_WR)
                self._nursery.start_soon(self._cut_later, fault.seconds)
            case FaultKind.KILL_GATEWAY | FaultKind.KILL_BACKEND:
                raise ValueError(f"{fault.kind} is nothing that a connection can do")

    async def _cut(self) -> None:
        """FIN to both sides, and no byte more."""
        self._swallows = set(Direction)
        for sock in self._sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        self._nursery.start_soon(self._end_later, LAST_WORDS_SECONDS, self._scope.cancel)

    async def _cut_later(self, seconds: float) -> None:
        await trio.sleep(seconds)
        await self._cut()

    async def _end_later(self, seconds: float, end: Callable[[], None]) -> None:
        await trio.sleep(seconds)
        end()

    def _reset(self) -> None:
        for sock in self._sockets:
            _reset(sock)
        self._scope.cancel()


def _reset(sock: trio.socket.SocketType) -> None:
    """Closes with RST instead of FIN."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
    sock.close()
