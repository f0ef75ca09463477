"""The trial's clients: each sends its numbered messages, takes its own, and enters what it was told of them.

Invariant: a client does what a careful application would, and no more. One that speaks records leaves resuming to the
session and sends nothing twice; a plain one connects again and goes on with the next message, for it knows no better.
"""

import math
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import trio

from gateway.client import (
    Acknowledged,
    Connection,
    ConnectionClosed,
    ConnectionFailed,
    Event,
    Fate,
    HandshakeFailed,
    Lost,
    MessagesLost,
    Opened,
    Receipt,
    Session,
    SessionEnded,
    Settings,
    Timeouts,
    connect,
    open_session,
)
from gateway.trial.claims import signature
from gateway.trial.faults import Direction
from gateway.trial.tally import Books, Told, Witness
from gateway.trial.traffic import GREETING, LineReader, Traffic

TIMEOUTS: Final = Timeouts(connect=5.0, keepalive=2.0, close=1.0, settle=5.0)
"""Short, so that black holes are noticed within the trial."""

FIRST_DELAY, LONGEST_DELAY = 0.05, 0.5
"""Between attempts to connect, in seconds: the gateway is never gone for long."""

WINDOW_MESSAGES: Final = 256
"""Smaller than the default, so that a trial is not over in a few bursts."""


class Pace:
    """How far each client's streams may get for now."""

    def __init__(self) -> None:
        self.limit = math.inf
        """The part of a stream, 0 to 1; infinite: all of it, and clients may leave."""
        self._raised = trio.Event()

    def set(self, limit: float) -> None:
        """Lets those go on that may."""
        self.limit = limit
        self._raised.set()
        self._raised = trio.Event()

    async def wait(self, done: int, total: int) -> None:
        """Waits until a stream of which `done` messages of `total` are done may go on."""
        while done >= self.limit * total:
            await self._raised.wait()

    async def wait_free(self) -> None:
        """Waits until there is no limit."""
        while self.limit != math.inf:
            await self._raised.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one client has to do."""

    url: str
    signed: bool
    """Plain clients add to the URL who they are and on which connection, for the gateway's log."""
    client: int
    books: Books
    traffic: Traffic
    pace: Pace
    framed: bool
    """Downstream one WebSocket message is one message, else a part of a stream."""
    lossless: bool
    """Nothing may get lost, so all messages are waited for."""
    quiet_seconds: float
    """Where losses are possible: once all is sent, how long nothing has to come until nothing more is awaited."""


class RecordsParticipant:
    """Speaks `kakitome.v1`."""

    def __init__(self, task: Task) -> None:
        self.resumes = 0
        self.connections = 0
        self.settled = 0
        """Messages of which all is known that will be, those of greeting included."""
        self.most_unknown = 0
        """The most messages that were told unknown at once."""
        self._task = task
        self._up = task.books.up[task.client]
        self._down = task.books.down[task.client]
        self._receipts: list[tuple[int, Receipt]] = []
        self._lines = LineReader()
        self._must_greet = False
        self._was_open = False
        self._changed = trio.Event()

    async def run(self) -> None:
        try:
            while True:
                if await self._converse():
                    return
                await trio.sleep(random.uniform(0, LONGEST_DELAY))
        finally:
            self._enter_receipts()

    async def _converse(self) -> bool:
        """One session; whether all is done."""
        settings = Settings(
            wait_open=False,
            window_messages=WINDOW_MESSAGES,
            first_delay=FIRST_DELAY,
            longest_delay=LONGEST_DELAY,
            timeouts=TIMEOUTS,
        )
        done = False
        self._must_greet, self._was_open = True, False
        async with open_session(self._task.url, settings=settings, on_event=self._on_event) as session:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, session, nursery.cancel_scope)
                nursery.start_soon(self._send, session)
                done = await self._wait_done(session)
                nursery.cancel_scope.cancel()
            self.resumes += session.resumes
        return done

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Opened):
            self.connections += 1
            # What was posted before a session was there goes out in it, the greeting first.
            self._must_greet = self._must_greet or (self._was_open and not event.resumed)
            self._was_open = True
        elif isinstance(event, Acknowledged) and event.settled:
            self.settled += event.last - event.first + 1
            self._up.progress(trio.current_time())
        elif isinstance(event, MessagesLost):
            lost = len(event.unknown) + len(event.never_forwarded)
            self.settled += lost
            self.most_unknown = max(self.most_unknown, len(event.unknown))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _send(self, session: Session) -> None:
        task, tally = self._task, self._up
        with suppress(SessionEnded):
            while True:
                if not self._must_greet and tally.sent < tally.total:
                    await task.pace.wait(tally.sent, tally.total)
                if self._must_greet:  # perhaps since just now
                    self._must_greet = False
                    await session.post(task.traffic.message(Direction.UPSTREAM, task.client, GREETING))
                elif tally.sent < tally.total:
                    number = tally.sent + 1
                    message = task.traffic.message(Direction.UPSTREAM, task.client, number)
                    receipt = await session.post(message if number % 2 else message.decode())
                    tally.sent = number
                    self._receipts.append((number, receipt))
                else:
                    await self._changed.wait()

    async def _receive(self, session: Session, conversation: trio.CancelScope) -> None:
        task = self._task
        with suppress(SessionEnded):
            async for message in session:
                data = message.encode() if isinstance(message, str) else bytes(message)
                if task.framed:
                    _enter(task, [data])
                else:
                    if message.seq == 1:
                        self._lines = LineReader()  # a new session has a new connection of the backend's
                    _enter(task, self._lines.feed(data))
                self._wake()
                await task.pace.wait(self._down.newest, self._down.total)
        conversation.cancel()

    async def _wait_done(self, session: Session) -> bool:
        up, down = self._up, self._down
        while up.sent < up.total or not session.is_settled:
            await self._changed.wait()
        while down.arrived < down.total:
            if self._task.lossless:
                await self._changed.wait()
                continue
            moved = True
            await self._task.pace.wait_free()
            with trio.move_on_after(self._task.quiet_seconds) as quiet:
                await self._changed.wait()
            moved = not quiet.cancelled_caught
            if not moved and down.sent == down.total:
                break
        await self._task.pace.wait_free()
        return True

    def _enter_receipts(self) -> None:
        fates = {Fate.UNKNOWN: Told.UNKNOWN, Fate.NEVER_FORWARDED: Told.NEVER_FORWARDED}
        for number, receipt in self._receipts:
            told = Told.SETTLED if receipt.is_settled else Told.NOTHING
            if isinstance(receipt.failure, Lost):
                told = fates[receipt.failure.fate]
            self._task.books.tell(Direction.UPSTREAM, Witness.RECORDS, self._task.client, number, told)


class PlainParticipant:
    """Speaks nothing but RFC 6455; believes that a message has arrived when its own kernel has taken it."""

    def __init__(self, task: Task) -> None:
        self.connections = 0
        self.numbers: list[list[int]] = []
        """For each attempt to connect: the numbers of the messages sent, in order, the greeting first.

        An attempt is numbered though it fails: the gateway may have opened what the client never saw open.
        """
        self.received: list[int] = []
        """For each attempt to connect: how many WebSocket messages came."""
        self._task = task
        self._up = task.books.up[task.client]
        self._down = task.books.down[task.client]

    @property
    def settled(self) -> int:
        """Messages that it takes care of no more."""
        return self._up.sent

    async def run(self) -> None:
        task = self._task
        while True:
            with suppress(ConnectionFailed, HandshakeFailed, ConnectionClosed):
                signed = signature(task.client, len(self.numbers)) if task.signed else ""
                self.numbers.append([])
                self.received.append(0)
                async with connect(task.url + signed, timeouts=TIMEOUTS) as connection:
                    if await self._converse(connection):
                        return
            await trio.sleep(random.uniform(0, LONGEST_DELAY))

    async def _converse(self, connection: Connection) -> bool:
        """One connection; whether all is done."""
        self.connections += 1
        numbers = self.numbers[-1]
        task, done = self._task, False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._receive, connection, nursery.cancel_scope)
            await self._send(connection, numbers)
            while connection.is_open and not done:
                await task.pace.wait_free()
                arrived = self._down.arrived
                await trio.sleep(task.quiet_seconds)
                # How much a backend that speaks records has sent is not known before the end: quiet has to do.
                is_all_sent = task.framed or self._down.sent == self._down.total
                done = is_all_sent and arrived == self._down.arrived
            if done:
                nursery.cancel_scope.cancel()
            # Else the connection is over: what came before its end is still to be taken.
        return done

    async def _send(self, connection: Connection, numbers: list[int]) -> None:
        task, tally = self._task, self._up
        with suppress(ConnectionClosed):
            numbers.append(GREETING)
            await connection.send(task.traffic.message(Direction.UPSTREAM, task.client, GREETING))
            while tally.sent < tally.total:
                await task.pace.wait(tally.sent, tally.total)
                tally.sent += 1
                number = tally.sent
                numbers.append(number)
                await connection.send(task.traffic.message(Direction.UPSTREAM, task.client, number))
                task.books.tell(Direction.UPSTREAM, Witness.SEND, task.client, number, Told.SETTLED)

    async def _receive(self, connection: Connection, conversation: trio.CancelScope) -> None:
        task, lines = self._task, LineReader()
        with suppress(ConnectionClosed):
            async for message in connection:
                self.received[-1] += 1
                _enter(task, lines.feed(message.encode() if isinstance(message, str) else message))
                await task.pace.wait(self._down.newest, self._down.total)
        conversation.cancel()


def _enter(task: Task, messages: Sequence[bytes]) -> None:
    """Enters what came downstream."""
    tally = task.books.down[task.client]
    for message in messages:
        numbered = task.traffic.read(message)
        if numbered is None or numbered[:2] != (Direction.DOWNSTREAM, task.client):
            tally.damaged += 1
        else:
            tally.progress(trio.current_time())
            tally.arrive(numbered.number)
