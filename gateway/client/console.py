"""Standard input, output and error of `kakitome connect`: lines in, messages out, and what is said beside them.

Invariant: what a peer sends does nothing to a terminal: control characters are shown and not obeyed.
"""

import os
import select
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Final

import click
import trio

from gateway.client.events import (
    Acknowledged,
    Event,
    MessageRejected,
    MessagesLost,
    Opened,
    SessionState,
    StateChanged,
)
from gateway.ends.messages import Data
from gateway.errors import Blame, KakitomeError
from gateway.protocol.records import LossReport

READ_BYTES: Final = 64 * 1024
"""What is read from standard input at a time; with `--binary` the largest message."""

MAX_LINE_BYTES: Final = 16 << 20
"""The longest line that is gathered."""

STDIN, STDOUT = 0, 1


class InputFault(KakitomeError):
    """What was typed or piped in cannot be sent."""

    blame = Blame.OPERATOR
    reason = "input"


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
        held, self._held = self._held, b""
        return [self._text(held)] if held else []

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for the end of their line."""
        return len(self._held)

    def _text(self, line: bytes) -> str:
        self._number += 1
        try:
            return line.decode()
        except UnicodeDecodeError:
            raise InputFault(f"line {self._number} of the input is not UTF-8; --binary sends any bytes") from None


async def read_input(lines: Lines | None) -> AsyncGenerator[Data, None]:
    """The messages on standard input, until it ends: `lines`, or else bytes as they come. Raises InputFault."""
    while True:
        # Files can be read, but not waited for, so a thread reads; it is left behind when nobody waits for it any more.
        try:
            data = await trio.to_thread.run_sync(os.read, STDIN, READ_BYTES, abandon_on_cancel=True)
        except OSError as error:
            raise InputFault(f"standard input cannot be read: {error.strerror}") from None
        if lines is None:
            if data:
                yield data
        else:
            for line in lines.feed(data) if data else lines.feed_eof():
                yield line
        if not data:
            return


async def write_output(data: bytes) -> None:
    """Writes all of it, without keeping the connection waiting. Raises BrokenPipeError and other OSErrors.

    A cancellation leaves the thread behind: a reader that does not read must not keep us from ending.
    """

    def write() -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(STDOUT, rest) :]
            except BlockingIOError:  # whoever shares it with us may have made it so at any time
                select.select([], [STDOUT], [])

    await trio.to_thread.run_sync(write, abandon_on_cancel=True)


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


# --- what is said beside them -------------------------------------------------------------------------------------


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
            _write_note(text, colour)

    def warn(self, text: str) -> None:
        """One line about what may be wrong."""
        _write_note(text, "yellow")

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


def _write_note(text: str, colour: str | None) -> None:
    # click takes the colours off where standard error is no terminal.
    allowed = None if not os.environ.get("NO_COLOR") else False
    click.echo(click.style(visible(text), fg=colour, dim=colour is None), err=True, color=allowed)


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


def missing(report: LossReport) -> int:
    """How many messages are not known to have been taken."""
    spans = [span for span in (report.unknown, report.never_forwarded) if span is not None]
    return sum(last - first + 1 for first, last in spans)
