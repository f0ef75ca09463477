"""`kakitome connect`: a WebSocket connection, or a session, talked to from a terminal or a pipe.

Invariant: standard output carries the messages that came and nothing else; whatever is said about them goes to standard
error. What a server sends cannot steer the terminal: control characters are shown, not obeyed.
"""

import os
import signal
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

import click
import trio

from gateway.client.connection import Connection, Data, Timeouts, connect
from gateway.client.delivered import Message
from gateway.client.events import (
    Acknowledged,
    Event,
    MessageRejected,
    MessagesLost,
    Opened,
    SessionState,
    StateChanged,
)
from gateway.client.faults import ConnectionClosed, SessionEnded, system_text
from gateway.client.session import Session, open_session
from gateway.client.upkeep import Settings
from gateway.errors import Blame, KakitomeError
from gateway.protocol.records import Rung

READ_BYTES: Final = 64 * 1024
"""What is read from standard input at a time; with `--binary` the largest message."""

MAX_LINE_BYTES: Final = 16 << 20
"""The longest line that is gathered."""

STDIN, STDOUT = 0, 1

RUNGS_BELOW: Final = frozenset({Rung.ACCEPTED, Rung.WRITTEN, Rung.REACHED})


class Outcome(Enum):
    """How a talk ended."""

    DONE = "done"
    UNSETTLED = "unsettled"
    """The session ended in good order, but not every message of ours was settled."""
    OUTPUT_CLOSED = "output_closed"
    """Nobody reads what comes any more."""
    INTERRUPTED = "interrupted"


class InputFault(KakitomeError):
    """What was typed or piped in cannot be sent."""

    blame = Blame.OPERATOR
    reason = "input"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Where to connect to and how to talk."""

    url: str
    session: bool = False
    """Speak `kakitome.v1`."""
    binary: bool = False
    """Bytes in, bytes out: each read of standard input is one message. Otherwise each line is one, as text."""
    subprotocols: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    origin: str | None = None
    ssl_context: ssl.SSLContext | None = None
    keepalive_seconds: float | None = 20.0
    one: bool = False
    """End after the first message that comes."""
    linger_seconds: float | None = None
    """After the end of the input, how long nothing has to come until it is over; None for what suits the input."""
    quiet: bool = False
    """Say nothing but what is wrong."""


DEFAULT_LINGER_SECONDS: Final = 1.0


def trusting(ca: Path | None, *, insecure: bool) -> ssl.SSLContext:
    """A context for wss: certificates of the system's authorities, or of those in `ca`, or any if `insecure`.

    Raises InputFault for a file that holds no certificates.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise InputFault(f"{ca}: no certificates to be read: {system_text(error)}") from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


# --- standard input and output ------------------------------------------------------------------------------------


class Lines:
    """Lines out of bytes that come in pieces."""

    __slots__ = ("_held", "_number")

    def __init__(self) -> None:
        self._held = b""
        self._number = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes, without their ends. Raises InputFault."""
        *lines, self._held = (self._held + data).split(b"\n") if b"\n" in data else [self._held + data]
        if len(self._held) > MAX_LINE_BYTES:
            raise InputFault(f"line {self._number + len(lines) + 1} is longer than {MAX_LINE_BYTES} bytes")
        return [self._text(line) for line in lines]

    def feed_eof(self) -> list[str]:
        """What stands behind the last line's end, if anything."""
        return [self._text(self._held)] if self._held else []

    def _text(self, line: bytes) -> str:
        self._number += 1
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise InputFault(f"line {self._number} of the input is not UTF-8; --binary sends any bytes") from None


async def read_input(*, binary: bool) -> AsyncGenerator[Data, None]:
    """The messages on standard input, until it ends. Raises InputFault."""
    lines = Lines()
    while True:
        # Files can be read, but not waited for, so a thread reads; it is left behind when nobody waits for it any more.
        try:
            data = await trio.to_thread.run_sync(os.read, STDIN, READ_BYTES, abandon_on_cancel=True)
        except OSError as error:
            raise InputFault(f"standard input cannot be read: {error.strerror}") from None
        if binary:
            if data:
                yield data
        else:
            for line in lines.feed(data) if data else lines.feed_eof():
                yield line
        if not data:
            return


async def write_output(data: bytes) -> None:
    """Writes all of it, without keeping the connection waiting. Raises BrokenPipeError and other OSErrors."""

    def write() -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(STDOUT, rest) :]

    await trio.to_thread.run_sync(write)


def shown(message: Data, *, binary: bool, on_terminal: bool) -> bytes:
    """What a message looks like on standard output."""
    if binary and not on_terminal:
        return message.encode() if isinstance(message, str) else bytes(message)
    if isinstance(message, str):
        return (visible(message) if on_terminal else message).encode() + b"\n"
    if on_terminal:
        return f"[{len(message)} bytes] {bytes(message[:64]).hex(' ')}{' ...' if len(message) > 64 else ''}\n".encode()
    return bytes(message) + b"\n"


def visible(text: str) -> str:
    """The text with control characters shown instead of obeyed: a server must not steer the terminal."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or 0x20 <= code < 0x7F or code >= 0xA0:
        return character
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else f"\\x{code:02x}"


# --- talking ------------------------------------------------------------------------------------------------------


class Peer(Protocol):
    """Who is talked to."""

    async def say(self, data: Data) -> None:
        """Sends a message. Raises ConnectionClosed, SessionEnded."""

    async def settle(self) -> None:
        """Waits until all that can be known of what was sent is known."""

    def messages(self) -> AsyncIterator[Data]:
        """What comes. Raises ConnectionClosed, SessionEnded for an end that is not in order."""


@dataclass(frozen=True, slots=True)
class _Plain:
    connection: Connection

    async def say(self, data: Data) -> None:
        await self.connection.send(data)

    async def settle(self) -> None:
        """Nothing is to be known."""

    def messages(self) -> AsyncIterator[Data]:
        return self.connection


@dataclass(frozen=True, slots=True)
class _Registered:
    session: Session

    async def say(self, data: Data) -> None:
        await self.session.post(data)

    async def settle(self) -> None:
        await self.session.drain()

    def messages(self) -> AsyncIterator[Message]:
        return self.session


@dataclass(slots=True)
class Notes:
    """What is said on standard error about a session, and the account of its messages."""

    quiet: bool
    settled: int = 0
    unknown: int = 0
    never_forwarded: int = 0
    rejected: int = 0
    was_open: bool = field(default=False, init=False)
    """The gateway has opened the session."""

    @property
    def is_settled(self) -> bool:
        """All that was sent is settled, and nothing was rejected."""
        return not (self.unknown or self.never_forwarded or self.rejected)

    def say(self, text: str, colour: str | None = None) -> None:
        """One line, unless only what is wrong is wanted."""
        if not self.quiet:
            # click takes the colours off where standard error is no terminal.
            allowed = None if not os.environ.get("NO_COLOR") else False
            click.echo(click.style(visible(text), fg=colour, dim=colour is None), err=True, color=allowed)

    def tell(self, event: Event) -> None:
        """Says what has happened in a session."""
        match event:
            case StateChanged(state=SessionState.WAITING, cause=cause, delay_seconds=delay):
                self.say(f"{cause}; trying again in {delay or 0:.1f} s", "yellow")
            case StateChanged():
                pass
            case Opened(resumed=True, replayed=replayed):
                self.say(f"session resumed, {replayed} messages are sent again", "yellow")
            case Opened():
                self.say("the gateway has begun a new session" if self.was_open else "session open")
                self.was_open = True
            case Acknowledged(first=first, last=last, count=count, rung=rung, settled=settled):
                self.settled += count if settled else 0
                if count:
                    self.say(f"{_range(first, last)} {rung.name.lower()}", "green" if settled else None)
            case MessageRejected(seq=seq, code=code, reason=reason):
                self.rejected += 1
                self.say(f"{seq} rejected: {code} {reason}".rstrip(), "red")
            case MessagesLost(unknown=unknown, never_forwarded=never_forwarded):
                self.unknown += len(unknown)
                self.never_forwarded += len(never_forwarded)
                for words, messages in (("unknown", unknown), ("never forwarded", never_forwarded)):
                    if messages:
                        self.say(f"{_range(messages[0].seq, messages[-1].seq)} {words}", "red")

    def sum_up(self) -> None:
        """The account at the end."""
        text = f"{self.settled} settled, {self.unknown} unknown, {self.never_forwarded} never forwarded"
        if self.rejected:
            text += f", {self.rejected} rejected"
        self.say(text, None if self.is_settled else "red")


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


class Talk:
    """One run of the command."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._notes = Notes(call.quiet)
        self._outcome = Outcome.DONE
        self._failure: Exception | None = None
        self._heard = trio.Event()
        self._everything = trio.CancelScope()
        self._talking = self._everything
        """What the next Ctrl-C ends."""

    async def run(self) -> Outcome:
        """Connects, talks, and closes.

        Raises InputFault, ConnectionClosed and SessionEnded for an end that is not in order, what `connect` and
        `open_session` raise.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_interrupts)
            try:
                with self._everything:
                    await (self._talk_registered() if self._call.session else self._talk_plainly())
            except (KakitomeError, ValueError) as failure:
                self._failure = failure
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        return self._outcome

    async def _watch_interrupts(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The first Ctrl-C closes in good order, a second one at once."""
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            task_status.started()
            async for _ in signals:
                self._outcome = Outcome.INTERRUPTED
                self._talking.cancel()

    def _connection(self) -> AbstractAsyncContextManager[Connection]:
        call = self._call
        return connect(
            call.url,
            subprotocols=call.subprotocols,
            headers=call.headers,
            origin=call.origin,
            ssl_context=call.ssl_context,
            timeouts=Timeouts(keepalive=call.keepalive_seconds),
        )

    async def _talk_plainly(self) -> None:
        async with self._connection() as connection:
            if os.isatty(STDIN):
                chosen = "" if connection.subprotocol is None else f" with subprotocol {connection.subprotocol}"
                self._notes.say(f"connected{chosen}; Ctrl-D ends the connection")
            await self._talk(_Plain(connection))

    async def _talk_registered(self) -> None:
        call = self._call
        settings = Settings(receipts=RUNGS_BELOW, timeouts=Timeouts(keepalive=call.keepalive_seconds))
        opening = open_session(
            call.url,
            headers=call.headers,
            origin=call.origin,
            ssl_context=call.ssl_context,
            settings=settings,
            on_event=self._notes.tell,
        )
        try:
            async with opening as session:
                await self._talk(_Registered(session))
        finally:
            if self._notes.was_open:
                self._notes.sum_up()
        if not self._notes.is_settled and self._outcome is Outcome.DONE:
            self._outcome = Outcome.UNSETTLED

    async def _talk(self, peer: Peer) -> None:
        """Until one side has ended, or the user has had enough."""
        with trio.CancelScope() as self._talking:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, peer, nursery.cancel_scope)
                try:
                    async with aclosing(read_input(binary=self._call.binary)) as messages:
                        async for message in messages:
                            await peer.say(message)
                    await peer.settle()
                    await self._linger()
                except InputFault as fault:
                    self._failure = fault
                except (ConnectionClosed, SessionEnded):
                    await trio.sleep_forever()  # the receiving task tells why, after what came before
                nursery.cancel_scope.cancel()
        self._talking = self._everything

    async def _receive(self, peer: Peer, talking: trio.CancelScope) -> None:
        call = self._call
        on_terminal = os.isatty(STDOUT)
        try:
            async for message in peer.messages():
                await write_output(shown(message, binary=call.binary, on_terminal=on_terminal))
                self._heard.set()
                self._heard = trio.Event()
                if call.one:
                    break
        except (ConnectionClosed, SessionEnded) as end:
            self._failure = end
        except OSError:
            self._outcome = Outcome.OUTPUT_CLOSED
        talking.cancel()

    async def _linger(self) -> None:
        """After the end of the input: waits until answers have ceased to come."""
        seconds = self._call.linger_seconds
        if seconds is None:
            if self._call.one:
                await trio.sleep_forever()
            seconds = 0.0 if os.isatty(STDIN) else DEFAULT_LINGER_SECONDS
        is_quiet = False
        while not is_quiet:
            with trio.move_on_after(seconds) as patience:
                await self._heard.wait()
            is_quiet = patience.cancelled_caught


def run(call: Call) -> Outcome:
    """Talks as `call` says, see `Talk.run`; raises ValueError for a URL or header that cannot be."""
    if sys.stdin is None:
        # It was closed, and its number would be given to the next socket.
        os.open(os.devnull, os.O_RDONLY)
    else:
        os.set_blocking(STDIN, True)  # whoever had the terminal before may have left it otherwise
    return trio.run(Talk(call).run)
