"""Which messages were refused lately, so that a refusal is not lost with the connection that carried its REJECT.

Invariant: a refusal is remembered until its sender must have heard of it, or as many newer ones need the room. Whoever
refused tells what is remembered whenever a connection is made anew, in OPEN, in OPENED and in loss reports.

When has a sender heard? It hears of refusals in the order in which they were made: on one connection by their REJECTs,
on a new one by the list. So one that has not heard of this refusal has heard of none after it, and of no ACK that
covers what came after it: it has this message, and all that it sent since, unsettled. Once it has sent a window full of
messages more than it had when the refusal was made, it must have heard.

That is not all that it takes. While a message before it is not consumed, a refused message comes again with every new
connection, whoever knows of the refusal: it must not be handed out, nor count in the window, by a process that was
started since. So what lies beyond the consumed position is remembered in any case.
"""

import json
from collections.abc import Iterable
from typing import Final, TypeAlias

from gateway.codes import NO_CODE

RejectedRange: TypeAlias = tuple[int, int, int, str]
"""(first, last, code, reason): messages `first` to `last` were rejected with this code and reason."""

REJECTIONS_BYTES: Final = 24 * 1024
"""What the list may take as JSON: a body has 64 KiB, for both directions in a report, and headers in OPEN.

What its sender has not heard of is among the messages that it may have unsettled. Of a window of 1024 no more than 512
refusals can stand apart, and these fit without their reasons; so none is forgotten too early."""

LEAST_WINDOW_MESSAGES: Final = 1024
"""A sender is taken to have this window at the least. Between it and us there may be a gateway that passes on what fits
a smaller one of ours, and then the sender may have more unsettled than we can see."""


def tells_of(ranges: Iterable[RejectedRange], seq: int) -> bool:
    """Whether message `seq` stands in such a list."""
    return any(first <= seq <= last for first, last, *_ in ranges)


class _Run:
    """Messages that follow one another and were rejected for the same reason."""

    __slots__ = ("code", "first", "forgotten_at", "last", "reason", "size")

    def __init__(self, first: int, last: int, code: int, reason: str, forgotten_at: int) -> None:
        self.first = first
        self.last = last
        self.code = code
        self.reason = reason
        self.forgotten_at = forgotten_at
        """Forgotten when so many messages have come."""
        self.size = 0
        self.measure()

    def measure(self) -> None:
        """Takes note of how large it is as JSON, the comma behind it included."""
        self.size = len(json.dumps([self.first, self.last, self.code, self.reason], ensure_ascii=False).encode()) + 1


class Rejections:
    """The messages of one direction of a session that were refused, and that their sender may not know of.

    `ranges` is what an earlier process, or another gateway, has kept; `accepted` is how many messages have come since.
    """

    __slots__ = ("_bytes", "_runs", "version")

    def __init__(self, ranges: Iterable[RejectedRange] = (), *, accepted: int = 0, window_messages: int = 0) -> None:
        forgotten_at = accepted + max(window_messages, LEAST_WINDOW_MESSAGES)
        self._runs = [_Run(*each, forgotten_at) for each in ranges]
        self._bytes = sum(run.size for run in self._runs)
        self.version = 0
        """Rises with each new rejection."""
        self._shorten()

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __contains__(self, seq: int) -> bool:
        return any(run.first <= seq <= run.last for run in self._runs)

    @property
    def ranges(self) -> tuple[RejectedRange, ...]:
        """What is remembered, in the order in which it was made."""
        return tuple((run.first, run.last, run.code, run.reason) for run in self._runs)

    def add(self, seq: int, code: int, reason: str, *, accepted: int, consumed: int, window_messages: int) -> None:
        """Message `seq` was refused when the newest that had come was `accepted`; again does nothing.

        All up to `consumed` are consumed; `window_messages` is how many messages its sender may have unsettled.
        """
        self.forget(accepted, consumed)
        if seq in self:
            return
        self.version += 1
        newest = self._runs[-1] if self._runs else None
        if newest is not None and (newest.last + 1, newest.code, newest.reason) == (seq, code, reason):
            self._bytes -= newest.size
            newest.last = seq
            newest.measure()
        else:
            newest = _Run(seq, seq, code, reason, 0)
            self._runs.append(newest)
        newest.forgotten_at = accepted + max(window_messages, LEAST_WINDOW_MESSAGES)
        self._bytes += newest.size
        self._shorten()

    def remember(self, ranges: Iterable[RejectedRange], *, accepted: int, window_messages: int) -> None:
        """Takes over what another end has kept, but for what is known already."""
        forgotten_at = accepted + max(window_messages, LEAST_WINDOW_MESSAGES)
        for first, last, code, reason in ranges:
            if not (first in self and last in self):
                self.version += 1
                self._runs.append(_Run(first, last, code, reason, forgotten_at))
                self._bytes += self._runs[-1].size
        self._shorten()

    def forget(self, accepted: int, consumed: int) -> None:
        """The newest message that has come is `accepted`: forgets what its sender has heard of, up to `consumed`."""
        kept = [run for run in self._runs if run.forgotten_at > accepted or run.last > consumed]
        if len(kept) < len(self._runs):
            self._runs = kept
            self._bytes = sum(run.size for run in kept)

    def _shorten(self) -> None:
        """Keeps to the size: the oldest lose their reasons, then neighbours their codes, then they are forgotten."""
        for run in self._runs:
            if self._bytes <= REJECTIONS_BYTES:
                return
            if run.reason:
                self._bytes -= run.size
                run.reason = ""
                run.measure()
                self._bytes += run.size
        if self._bytes > REJECTIONS_BYTES:
            self._join_neighbours()
        while self._bytes > REJECTIONS_BYTES:
            self._bytes -= self._runs.pop(0).size

    def _join_neighbours(self) -> None:
        """Makes one run of those that follow one another, whatever their codes; none has a reason any more."""
        joined: list[_Run] = []
        for run in sorted(self._runs, key=lambda run: run.first):
            before = joined[-1] if joined else None
            if before is None or before.last + 1 < run.first:
                joined.append(run)
                continue
            if before.code != run.code:
                before.code = NO_CODE
            before.last = max(before.last, run.last)
            before.forgotten_at = max(before.forgotten_at, run.forgotten_at)
            before.measure()
        self._runs = joined
        self._bytes = sum(run.size for run in joined)
