"""The peer's messages of one session: what has come in, what waits for the application, what that has consumed.

Invariant: a byte that the application has been given is never given again while this process lives, however often the
peer sends it. A message whose connection broke half-way is taken up where the application left off, or forgotten whole
if it has seen nothing of it.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.errors import PolicyViolation
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import Record
from gateway.protocol.rejections import RejectedRange
from gateway.protocol.sequencing import DataReceiver

_TEXT: Final = int(Opcode.TEXT)


class IncomingPiece(NamedTuple):
    """A part of one of the peer's messages; a piece of text may end inside a character."""

    seq: int
    text: bool
    data: bytes
    first: bool
    """It begins its message."""
    last: bool
    """It ends its message."""


class WholeMessage(NamedTuple):
    """One message of the peer's."""

    seq: int
    data: str | bytes


class OversizeMessage(NamedTuple):
    """A message that grew beyond what may be gathered, in place of its content."""

    seq: int


class _Taken:
    """What the application has of one message that it has not consumed."""

    __slots__ = ("pieces", "size")

    def __init__(self) -> None:
        self.pieces: list[IncomingPiece] | None = []
        """None once there was more of it than is kept."""
        self.size = 0


class Inbox:
    """What has come in and is not consumed. The windows are those that the peer was told (messages, payload bytes).

    `consumed` is the position to start from: messages up to it are dropped when they come again. What the application
    has taken is kept until it is consumed, so that it can be put back; of a message that is taken in pieces no more
    than `kept_bytes`. None keeps nothing. What an earlier process has refused, `rejected`, is dropped when it comes.
    """

    __slots__ = (
        "_consumed_ahead",
        "_discarded",
        "_kept_bytes",
        "_queue",
        "_receiver",
        "_rejected",
        "_sizes",
        "_taken",
        "_unfinished_taken",
        "consumed",
        "queued_bytes",
        "unconsumed_bytes",
        "window_bytes",
        "window_messages",
    )

    def __init__(
        self,
        *,
        consumed: int,
        window_messages: int,
        window_bytes: int,
        kept_bytes: int | None = None,
        rejected: Sequence[RejectedRange] = (),
    ) -> None:
        self.consumed = consumed
        """All messages up to this one are consumed (or rejected)."""
        self.queued_bytes = 0
        """Payload bytes that wait for the application."""
        self.unconsumed_bytes = 0
        """Payload bytes of all messages that came and are not consumed."""
        self.window_messages = window_messages
        self.window_bytes = window_bytes
        self._receiver = DataReceiver(start=consumed)
        self._queue: deque[IncomingPiece] = deque()
        self._kept_bytes = kept_bytes
        self._rejected = [(first, last) for first, last, *_ in rejected if last > consumed]
        self._taken: dict[int, _Taken] = {}
        self._sizes: dict[int, int] = {}
        """Bytes that came of each message that is not consumed."""
        self._consumed_ahead: set[int] = set()
        """Consumed messages that come after one that is not."""
        self._discarded = 0
        """The message that was rejected and is still coming in, 0 for none."""
        self._unfinished_taken = False
        """The application has a part of a message that is still coming in."""

    @property
    def accepted(self) -> int:
        """The newest message that is here whole."""
        return self._receiver.accepted

    @property
    def duplicates(self) -> int:
        """Whole messages that came again and were dropped."""
        return self._receiver.duplicates

    # --- receiving ------------------------------------------------------------------------------------------------

    def receive(self, records: Sequence[Record]) -> list[Record]:
        """Takes the DATA records; the others, in their order.

        Raises ConnectionFault for what breaks the protocol, and for a message that began although the window was full.
        """
        seq = self._receiver.accepted + 1
        pieces, others = self._receiver.receive(records)
        for piece in pieces:
            self._add(seq, piece)
            if piece[2] & LAST:
                seq += 1
        if self._receiver.error is not None:
            raise self._receiver.error
        return others

    def _add(self, seq: int, piece: Piece) -> None:
        opcode, data, flags = piece
        last = bool(flags & LAST)
        if flags & FIRST and seq != self._discarded and any(first <= seq <= end for first, end in self._rejected):
            self._sizes[seq] = 0
            self._mark_consumed(seq)
            self._discarded = seq
        if seq == self._discarded:
            if last:
                self._discarded = 0
            return
        if flags & FIRST:
            self._check_window(seq)
            self._sizes[seq] = 0
        if last:
            self._unfinished_taken = False
        self._sizes[seq] += len(data)
        self.unconsumed_bytes += len(data)
        self.queued_bytes += len(data)
        self._queue.append(IncomingPiece(seq, opcode == _TEXT, data, bool(flags & FIRST), last))

    def _check_window(self, seq: int) -> None:
        """Refuse a message that begins while the window is full; one that has begun may go on to its end."""
        if len(self._sizes) >= self.window_messages:
            raise PolicyViolation(f"DATA {seq} exceeds the window of {self.window_messages} messages")
        if self.unconsumed_bytes >= self.window_bytes:
            raise PolicyViolation(f"DATA {seq} exceeds the window of {self.window_bytes} bytes")

    def interrupt(self) -> None:
        """The connection broke: a message that is here in part is going to be sent again from its first byte."""
        receiver = self._receiver
        if self._unfinished_taken and not self._discarded:
            receiver.interrupt()
            return
        receiver.forget_unfinished()
        seq = receiver.accepted + 1
        while self._queue and self._queue[-1].seq == seq:
            self.queued_bytes -= len(self._queue.pop().data)
        self.unconsumed_bytes -= self._sizes.pop(seq, 0)
        if seq <= self.consumed:
            # It was rejected before it was whole. As it counts as consumed it will not come again.
            receiver.accepted = self.consumed
            self._discarded = 0
        self._unfinished_taken = False

    # --- the application's side -----------------------------------------------------------------------------------

    def take_piece(self) -> IncomingPiece | None:
        """The next piece, or None while there is none."""
        if not self._queue:
            return None
        piece = self._queue.popleft()
        self.queued_bytes -= len(piece.data)
        self._unfinished_taken = piece.seq > self.accepted
        if self._kept_bytes is not None:
            self._keep(piece.seq, [piece], self._kept_bytes)
        return piece

    def _keep(self, seq: int, pieces: Sequence[IncomingPiece], limit: int) -> None:
        taken = self._taken.get(seq)
        if taken is None:
            taken = self._taken[seq] = _Taken()
        taken.size += sum(len(piece.data) for piece in pieces)
        if taken.size > limit:
            taken.pieces = None
        elif taken.pieces is not None:
            taken.pieces.extend(pieces)

    def take_message(self, max_bytes: int) -> WholeMessage | OversizeMessage | None:
        """The next message once it is whole, or that it is larger than `max_bytes` (then reject it); None before.

        Not to be called after `take_piece` has given only a part of a message.
        """
        if not self._queue:
            return None
        seq = self._queue[0].seq
        if self._sizes[seq] > max_bytes:
            return OversizeMessage(seq)
        if seq > self.accepted:
            return None
        pieces = []
        while True:
            piece = self._queue.popleft()
            pieces.append(piece)
            if piece.last:
                break
        if self._kept_bytes is not None:
            self._keep(seq, pieces, max_bytes)
        parts = [piece.data for piece in pieces]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.queued_bytes -= len(data)
        return WholeMessage(seq, data.decode() if piece.text else data)

    @property
    def in_hand(self) -> int | None:
        """The first message that the application has taken, in part at least, and not consumed; None for none."""
        return min(self._taken, default=None)

    @property
    def is_empty(self) -> bool:
        """Nothing waits to be taken."""
        return not self._queue

    def put_back(self) -> Sequence[int]:
        """The application has lost what it took: what it has not consumed of it is to be taken again.

        Returns the messages of which too much was taken to be kept. They do not come again: discard them.
        """
        taken, self._taken = self._taken, {}
        pieces = [piece for seq in sorted(taken) for piece in taken[seq].pieces or ()]
        lost = [seq for seq in sorted(taken) if taken[seq].pieces is None]
        self._queue.extendleft(reversed(pieces))
        self.queued_bytes += sum(len(piece.data) for piece in pieces)
        self._unfinished_taken = bool(lost) and lost[-1] > self.accepted
        return lost

    def consumed_after(self, seq: int) -> int:
        """Where the position would be if `seq` were consumed. Raises ValueError as `consume`."""
        self._check_whole(seq)
        position = self.consumed
        while position + 1 == seq or position + 1 in self._consumed_ahead:
            position += 1
        return position

    def consume(self, seq: int) -> None:
        """Marks one message as consumed; the position moves once all before it are. Again does nothing.

        Raises ValueError for a message that has not come whole.
        """
        self._check_whole(seq)
        self._mark_consumed(seq)

    def _check_whole(self, seq: int) -> None:
        if seq > self.accepted:
            raise ValueError(f"message {seq} has not come whole, only those up to {self.accepted} have")

    def discard(self, seq: int) -> bool:
        """Marks one message as consumed, and forgets what waits or is still to come of it; False if it was before.

        Raises ValueError for a message that has not begun.
        """
        if seq > self.accepted:
            if seq not in self._sizes and seq != self._discarded:
                raise ValueError(f"message {seq} has not come")
            self._discarded = seq
        if not self._mark_consumed(seq):
            return False
        kept = [piece for piece in self._queue if piece.seq != seq]
        if len(kept) < len(self._queue):
            self.queued_bytes = sum(len(piece.data) for piece in kept)
            self._queue = deque(kept)
        return True

    def _mark_consumed(self, seq: int) -> bool:
        """False if it was before."""
        size = self._sizes.pop(seq, None)
        if size is None:
            return False
        self._taken.pop(seq, None)
        self.unconsumed_bytes -= size
        self._consumed_ahead.add(seq)
        while self.consumed + 1 in self._consumed_ahead:
            self.consumed += 1
            self._consumed_ahead.remove(self.consumed)
        return True
