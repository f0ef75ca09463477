"""The messages of one lane that are not settled, kept to be sent again when the next hop is made anew.

What is kept is charged to the session's tab.

Invariant: `pieces` begins with the first piece of message `settled` + 1 and leaves nothing out, unless `is_cut`. It is
sent again as fast as the new hop takes it (`Replay`), and nothing is added before all of it has gone out.
"""

from collections.abc import Sequence
from typing import Final

from mypy_extensions import i64

from gateway.memory.account import Charge, Tab
from gateway.memory.costs import GATHERED_BYTES, PIECE_BYTES, cost_of
from gateway.protocol.pieces import FIRST, LAST, LAST_BIT, Piece
from gateway.protocol.sequencing import DataSender

REPLAY_BYTES: Final = 64 * 1024
"""Of what is sent again so much is handed over at once, and a piece."""


class Retained:
    """Bounded by the window: what is settled leaves it, and a message that exceeds it while it comes in is not kept."""

    __slots__ = ("_charge", "_cut_seq", "_limit_bytes", "_newest", "_unfinished_bytes", "bytes", "pieces", "settled")

    def __init__(self, tab: Tab, *, limit_bytes: int, start: int = 0) -> None:
        self._charge = Charge(tab)
        self.pieces: list[Piece] = []
        self.bytes = 0
        self.settled = start
        self._newest = start
        self._cut_seq = 0
        self._limit_bytes = limit_bytes
        self._unfinished_bytes = 0

    @property
    def is_cut(self) -> bool:
        """A message that is not settled was too large to be kept: from here it cannot be sent again."""
        return self._cut_seq > self.settled

    def add(self, pieces: Sequence[Piece]) -> None:
        """Keeps what is being sent."""
        kept = self.pieces
        for opcode, payload, flags in pieces:
            if self._cut_seq > self._newest:  # its end is kept, so that messages can be counted
                if flags & LAST:
                    self._newest += 1
                    kept.append((opcode, b"", FIRST | LAST))
                continue
            if not flags & FIRST and kept and len(kept[-1][1]) < GATHERED_BYTES:
                before = kept[-1]  # of the same message
                kept[-1] = (opcode, before[1] + payload, before[2] | flags)
            else:
                kept.append((opcode, payload, flags))
            self.bytes += len(payload)
            if flags & LAST:
                self._newest += 1
                self._unfinished_bytes = 0
                continue
            self._unfinished_bytes += len(payload)
            if self._unfinished_bytes > self._limit_bytes:
                self._cut()
        self._reckon()

    def _reckon(self) -> None:
        size: i64 = self.bytes
        self._charge.set_to(size + PIECE_BYTES * len(self.pieces))

    def settle(self, seq: int) -> None:
        """Messages up to `seq` need not be kept any more."""
        count = seq - self.settled
        if count <= 0:
            return
        self.settled = seq
        pieces = self.pieces
        for index, (_, payload, flags) in enumerate(pieces):
            if not count:
                del pieces[:index]
                break
            self.bytes -= len(payload)
            count -= flags >> LAST_BIT & 1
        else:
            pieces.clear()
        self._reckon()

    def _cut(self) -> None:
        """Gives the unfinished message up: its memory must not grow with it."""
        self._cut_seq = self._newest + 1
        self._unfinished_bytes = 0
        while self.pieces and not self.pieces[-1][2] & LAST:
            self.bytes -= len(self.pieces.pop()[1])


class Replay:
    """What is retained, on its way out once more.

    A message that has begun goes on to its end, though it be settled meanwhile; one that has settled before it began
    stays behind.
    """

    __slots__ = ("_charge", "_left", "_rest", "_retained")

    def __init__(self, retained: Retained, tab: Tab) -> None:
        self._retained = retained
        self._left = len(retained.pieces)
        """So many pieces, the last ones retained, have not gone out and are not in `_rest`."""
        self._rest: list[Piece] = []
        """What is left of the message that has begun."""
        self._charge = Charge(tab)

    def take(self, sender: DataSender) -> list[Piece]:
        """The next pieces, some `REPLAY_BYTES` of them, for `sender` to number; none once all has gone out."""
        pieces = self._rest or self._next_messages(sender)
        size, count = 0, 0
        for _, payload, _ in pieces:
            count += 1
            size += len(payload)
            if size >= REPLAY_BYTES:
                break
        self._rest = pieces[count:]
        self._charge.set_to(cost_of(self._rest))
        return pieces[:count]

    def _next_messages(self, sender: DataSender) -> list[Piece]:
        """Whole messages of `REPLAY_BYTES` or more, or all that is left."""
        retained = self._retained
        pieces = retained.pieces
        if self._left >= len(pieces):  # none has gone out of those that are not settled by now
            self._left = len(pieces)
            sender.rewind(retained.settled)
        begin = end = len(pieces) - self._left
        size = 0
        while end < len(pieces):
            _, payload, flags = pieces[end]
            end += 1
            size += len(payload)
            if size >= REPLAY_BYTES and flags & LAST:
                break
        self._left = len(pieces) - end
        return pieces[begin:end]

    def drop(self) -> None:
        """Its hop is over, or all has gone out."""
        self._rest = []
        self._left = 0
        self._charge.set_to(0)
