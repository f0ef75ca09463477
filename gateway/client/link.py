"""Carries one open WebSocket connection over a byte stream: a task reads, one writes, one watches the time.

Invariant: the tasks carry and decide nothing; what to do with what came, and what is to be sent, its `Traffic` says.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

import anyio
from anyio.abc import ByteStream

from gateway.client.exchange import Exchange
from gateway.client.progress import Progress
from gateway.ends.wakeup import Signal
from gateway.protocol.pieces import Piece

READ_BYTES: Final = 64 * 1024


class Traffic(Protocol):
    """What a link carries. All methods are called on the event loop's thread, and none of them waits."""

    def receive(self, pieces: Sequence[Piece]) -> None:
        """Takes data pieces; also called without any when the exchange has moved on."""

    def prepare(self) -> None:
        """Hands the exchange what is to be sent now, Close included."""

    @property
    def is_congested(self) -> bool:
        """Nothing more should be read for now."""


class Link:
    """One connection under way; takes over `stream`, which is closed when `run` returns."""

    __slots__ = (
        "_exchange",
        "_is_writing",
        "_paused",
        "_progress",
        "_rescheduled",
        "_stream",
        "changed",
        "moved",
    )

    def __init__(self, stream: ByteStream, exchange: Exchange) -> None:
        self._stream = stream
        self._exchange = exchange
        self._paused = False
        self._is_writing = False
        self._progress = Progress(stream)
        self._rescheduled = Signal()
        self.changed = Signal()
        """To be woken when there may be something to send."""
        self.moved = Signal()
        """Woken when something came or was sent; to be woken when there may be room again."""

    async def run(self, traffic: Traffic, *, early: bytes = b"") -> None:
        """Carries until the connection is over, then `exchange.ending` says how; `early` came behind the handshake.

        A cancellation drops the connection without a Close.
        """
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, traffic)
                tasks.start_soon(self._watch, tasks.cancel_scope)
                await self._read(traffic, early)
                tasks.cancel_scope.cancel()
        finally:
            self._exchange.receive_eof()
            await anyio.aclose_forcefully(self._stream)
            self.moved.wake()

    def reschedule(self) -> None:
        """The exchange's deadline may have come nearer."""
        self._rescheduled.wake()

    async def _read(self, traffic: Traffic, early: bytes) -> None:
        exchange = self._exchange
        data = early
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                if data:
                    traffic.receive(exchange.receive_data(data, now=anyio.current_time()))
                    self.changed.wake()
                    self.moved.wake()
                    if exchange.is_closing:
                        self._rescheduled.wake()
                # A server that has closed, or broken the protocol, is heard to its end, lest its socket be reset over
                # what we sent last.
                while traffic.is_congested and exchange.ending is None:
                    self._paused = True
                    await self.moved.wait()
                self._paused = False
                data = await self._stream.receive(READ_BYTES)
        exchange.receive_eof()
        traffic.receive(())

    async def _write(self, traffic: Traffic) -> None:
        exchange = self._exchange
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                traffic.prepare()
                data = exchange.data_to_send()
                if data:
                    self._is_writing = True
                    await self._stream.send(data)
                    self._is_writing = False
                    self.moved.wake()
                    if exchange.is_closing:
                        self._rescheduled.wake()
                elif not exchange.can_send:
                    return
                else:
                    await self.changed.wait()

    async def _watch(self, carrying: anyio.CancelScope) -> None:
        exchange = self._exchange
        progressed = False
        while True:
            with anyio.CancelScope(deadline=exchange.deadline):
                await self._rescheduled.wait()
            progressed |= self._progress.look(pending=self._is_writing)
            now = anyio.current_time()
            if now >= exchange.deadline:
                if exchange.check(now=now, paused=self._paused, progressed=progressed):
                    carrying.cancel()
                    return
                progressed = False
                self.changed.wake()
