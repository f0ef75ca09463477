"""`kakitome connect`: a WebSocket connection, or a session, talked to from a terminal or a pipe.

Invariant: standard output carries the messages that came and nothing else; whatever is said about them goes to standard
error. What a server sends cannot steer the terminal: control characters are shown, not obeyed.
"""

import math
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

import trio

from gateway.client.connection import Connection, Timeouts, connect
from gateway.client.console import (
    STDIN,
    STDOUT,
    InputFault,
    Lines,
    Notes,
    missing,
    read_input,
    shown,
    visible,
    write_output,
)
from gateway.client.delivered import Message
from gateway.client.faults import ConnectionClosed, SessionEnded, system_text
from gateway.client.session import Session, open_session
from gateway.client.upkeep import Settings
from gateway.ends.messages import Data
from gateway.errors import NOT_ENDED, Blame, KakitomeError
from gateway.protocol.records import Rung

RUNGS_BELOW: Final = frozenset({Rung.ACCEPTED, Rung.WRITTEN, Rung.REACHED})


class Outcome(Enum):
    """How a talk ended."""

    DONE = "done"
    UNSETTLED = "unsettled"
    """The session ended in good order, but not every message of ours was settled."""
    OUTPUT_CLOSED = "output_closed"
    """Nobody reads what comes any more."""
    INTERRUPTED = "interrupted"
    """By SIGINT, as the next two by SIGTERM and SIGHUP."""
    TERMINATED = "terminated"
    HUNG_UP = "hung_up"


class NothingCame(KakitomeError):
    """An answer was to be expected, and the peer has ended the connection in good order without one."""

    blame = Blame.BACKEND
    reason = "no_answer"


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

LAST_WORDS_SECONDS: Final = 60.0
"""After our Close: how long a service may be silent before it says more, or closes."""

GOODBYE_SECONDS: Final = 5.0
"""The same where nobody wants to hear more."""

FENCE_SECONDS: Final = 0.5
"""What a gateway has to ask whether its last messages have reached us, before we close."""

SIGNALS: Final = {
    signal.SIGINT: Outcome.INTERRUPTED,
    signal.SIGTERM: Outcome.TERMINATED,
    signal.SIGHUP: Outcome.HUNG_UP,
}
"""What closes in good order: Ctrl-C, and what ends a ProxyCommand of ssh's."""


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


# --- talking ------------------------------------------------------------------------------------------------------


class Peer(Protocol):
    """Who is talked to."""

    async def say(self, data: Data) -> None:
        """Sends a message. Raises ConnectionClosed, SessionEnded."""

    async def settle(self) -> None:
        """Waits until all that can be known of what was sent is known."""

    def finish(self) -> bool:
        """Says that nothing more will be sent; whether answers to that may come."""

    def messages(self) -> AsyncIterator[Data]:
        """What comes. Raises ConnectionClosed, SessionEnded for an end that is not in order."""


@dataclass(frozen=True, slots=True)
class _Plain:
    connection: Connection

    async def say(self, data: Data) -> None:
        await self.connection.send(data)

    async def settle(self) -> None:
        """Nothing is to be known."""

    def finish(self) -> bool:
        self.connection.finish_sending()
        return True

    def messages(self) -> AsyncIterator[Data]:
        return self.connection


@dataclass(frozen=True, slots=True)
class _Registered:
    session: Session

    async def say(self, data: Data) -> None:
        await self.session.post(data)

    async def settle(self) -> None:
        await self.session.drain()

    def finish(self) -> bool:
        # The end of a session ends both directions.
        return False

    def messages(self) -> AsyncIterator[Message]:
        return self.session


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
        self._lines = None if call.binary else Lines()
        self._said = self._got = 0
        """Messages."""
        self._saw_binary = False
        self._ended_by_peer = self._is_cut_short = False
        self._waits_in_vain = ""
        """What the gateway said of a service that has not ended at the end of the input; there may have been more."""

    async def run(self) -> Outcome:
        """Connects, talks, and closes.

        Raises InputFault, ConnectionClosed and SessionEnded for an end that is not in order, what `connect` and
        `open_session` raise.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self._watch_signals)
            try:
                with self._everything:
                    await (self._talk_registered() if self._call.session else self._talk_plainly())
            except (KakitomeError, ValueError) as failure:
                self._failure = failure
            nursery.cancel_scope.cancel()
        if self._failure is None and self._outcome is Outcome.DONE:
            self._failure = self._unsent() or self._unanswered()
        if self._failure is not None:
            raise self._failure
        return self._outcome

    def _unsent(self) -> InputFault | None:
        """What is wrong with an end of the peer's that is in order, but came before all of the input was sent."""
        if not self._ended_by_peer:
            return None
        held = 0 if self._lines is None else self._lines.held_bytes
        if held:
            return InputFault(
                f"the connection ended over {held} bytes of the input that have no line end, so they were not sent;"
                " --binary sends bytes as they come"
            )
        return InputFault("the connection ended before all of the input was sent") if self._is_cut_short else None

    def _unanswered(self) -> NothingCame | None:
        """What is wrong with the same where nothing at all has come."""
        if self._got or not self._ended_by_peer:
            return None
        hint = ""
        if self._lines is not None and self._said:
            # A service of bytes waits for ever for the ends of our lines.
            hint = "; each line went as a text message, without its end: --binary is for services of bytes"
        if self._call.one:
            return NothingCame(f"the connection ended before a message came{hint}")
        if self._call.session:
            return None  # it is known what became of each message
        if self._waits_in_vain and self._call.linger_seconds != 0:
            return NothingCame(f"nothing came back: {self._waits_in_vain}{hint}")
        if hint and self._call.linger_seconds != 0 and not os.isatty(STDIN):
            return NothingCame(f"nothing came back{hint}; with --linger 0 no answer is expected")
        return None

    async def _watch_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The first signal closes in good order, a second one at once; `nohup` means what it says."""
        wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        with trio.open_signal_receiver(*wanted) as signals:
            task_status.started()
            async for number in signals:
                self._outcome = SIGNALS[signal.Signals(number)]
                self._everything.deadline = trio.current_time() + GOODBYE_SECONDS
                self._talking.cancel()

    def _connection(self) -> AbstractAsyncContextManager[Connection]:
        call = self._call
        return connect(
            call.url,
            subprotocols=call.subprotocols,
            headers=call.headers,
            origin=call.origin,
            ssl_context=call.ssl_context,
            timeouts=Timeouts(keepalive=call.keepalive_seconds, close=LAST_WORDS_SECONDS, close_total=math.inf),
        )

    async def _talk_plainly(self) -> None:
        async with self._connection() as connection:
            if os.isatty(STDIN):
                chosen = "" if connection.subprotocol is None else f" with subprotocol {connection.subprotocol}"
                self._notes.say(f"connected{chosen}; Ctrl-D ends the connection")
            await self._talk(_Plain(connection))
            with trio.move_on_after(FENCE_SECONDS):
                await connection.wait_fenced()
            self._everything.deadline = min(self._everything.deadline, trio.current_time() + GOODBYE_SECONDS)
        reason = connection.close_reason or ""
        if reason.startswith(NOT_ENDED) and self._failure is None and self._outcome is Outcome.DONE:
            self._waits_in_vain = visible(reason)
            if self._got and self._call.linger_seconds != 0:
                self._notes.warn(f"{reason}; more may have been to come")

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
                former = session.report
        finally:
            if self._notes.was_open:
                self._notes.sum_up()
        if self._outcome is not Outcome.DONE or self._failure is not None:
            return
        report = session.report
        is_news = report is not None and report is not former and not call.one
        unheard = missing(report.downstream) if report is not None and is_news else 0
        if unheard:
            self._notes.warn(
                f"{unheard} of the service's messages came too late to be heard: the end of a session ends both ways;"
                " --linger SECONDS waits longer before it, and without --session the answer to an end is heard"
            )
        if unheard or not self._notes.is_settled:
            self._outcome = Outcome.UNSETTLED

    async def _talk(self, peer: Peer) -> None:
        """Until one side has ended, or the user has had enough."""
        with trio.CancelScope() as self._talking:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive, peer, nursery.cancel_scope)
                try:
                    async with aclosing(read_input(self._lines)) as messages:
                        async for message in messages:
                            await self._say(peer, message)
                    await peer.settle()
                    await self._linger()
                    if peer.finish():
                        await trio.sleep_forever()  # the receiving task ends it when the peer does
                except InputFault as fault:
                    self._failure = fault
                except (ConnectionClosed, SessionEnded):
                    await trio.sleep_forever()  # the receiving task tells why, after what came before
                nursery.cancel_scope.cancel()
        self._talking = self._everything

    async def _say(self, peer: Peer, message: Data) -> None:
        try:
            await peer.say(message)
        except (ConnectionClosed, SessionEnded):
            self._is_cut_short = True
            raise
        self._said += 1

    async def _receive(self, peer: Peer, talking: trio.CancelScope) -> None:
        call = self._call
        on_terminal = os.isatty(STDOUT)
        try:
            async for message in peer.messages():
                self._got += 1
                if not (call.binary or isinstance(message, str) or self._saw_binary):
                    self._saw_binary = True
                    self._notes.say(
                        "the service sends binary messages, each shown as a line: --binary passes bytes as they are",
                        "yellow",
                    )
                await write_output(shown(message, binary=call.binary, on_terminal=on_terminal))
                self._heard.set()
                self._heard = trio.Event()
                if call.one:
                    break
            else:
                self._ended_by_peer = True
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
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            # It was closed, and its number would be given to the next socket. Writing to this one fails, as it should.
            os.open(os.devnull, os.O_RDONLY if number < 2 else os.O_WRONLY)
        elif number < 2:
            os.set_blocking(number, True)  # whoever had the terminal before may have left it otherwise
    return trio.run(Talk(call).run)
