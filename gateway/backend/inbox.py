"""The peer's messages of one session: numbered without a gap, taken once, and consumed in any order.

Invariant: a byte that the handler has been given is never given again while this process lives, however often the
peer sends it; a message whose connection broke half-way is taken up where the handler left off, or forgotten whole if
the handler has seen nothing of it.
"""

from collections import deque
from typing import NamedTuple

from gateway.errors import InvalidUtf8, PolicyViolation, ProtocolViolation
from gateway.protocol.records import MORE_FLAG, TEXT_FLAG


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


class Inbox:
    """What has come in and is not consumed. The windows are those that the peer was told (messages, payload bytes).

    `consumed` is the position to start from: messages up to it are dropped when they come again.
    """

    __slots__ = (
        "_consumed_ahead",
        "_discarded",
        "_partial_bytes",
        "_partial_text",
        "_queue",
        "_sizes",
        "_skip_bytes",
        "accepted",
        "consumed",
        "duplicates",
        "queued_bytes",
        "unconsumed_bytes",
        "window_bytes",
        "window_messages",
    )

    def __init__(self, *, consumed: int, window_messages: int, window_bytes: int) -> None:
        self.consumed = consumed
        """All messages up to this one are consumed (or rejected)."""
        self.accepted = consumed
        """The newest message that is here whole."""
        self.duplicates = 0
        """Whole messages that came again and were dropped."""
        self.queued_bytes = 0
        """Payload bytes that wait for the handler."""
        self.unconsumed_bytes = 0
        """Payload bytes of all messages that came and are not consumed."""
        self.window_messages = window_messages
        self.window_bytes = window_bytes
        self._queue: deque[IncomingPiece] = deque()
        self._sizes: dict[int, int] = {}
        """Bytes that came of each message that is not consumed."""
        self._consumed_ahead: set[int] = set()
        """Consumed messages that come after one that is not."""
        self._discarded: set[int] = set()
        """Rejected messages that are still coming in."""
        self._partial_text: bool | None = None
        """Kind of the message accepted+1, None while it has not begun."""
        self._partial_bytes = 0
        self._skip_bytes = 0
        """Bytes of it that came on an earlier connection and that the handler has."""

    # --- receiving ------------------------------------------------------------------------------------------------

    def receive(self, flags: int, seq: int, body: bytes) -> bool:
        """Takes one DATA record; whether there is anything new for the handler.

        Raises ProtocolViolation for a gap, a fragment of another kind or a message that came again shorter, and
        PolicyViolation for a message that began although the window was full.
        """
        text, more = bool(flags & TEXT_FLAG), bool(flags & MORE_FLAG)
        if seq <= self.accepted:
            self.duplicates += not more
            return False
        if seq != self.accepted + 1:
            raise ProtocolViolation(f"DATA {seq} after {self.accepted}, expected {self.accepted + 1}")
        if self._partial_text is None:
            self._check_window(seq)
            self._partial_text = text
            if seq not in self._discarded:
                self._sizes[seq] = 0
        elif self._partial_text is not text:
            raise ProtocolViolation(f"DATA {seq} goes on as {_kind(text)}, it began as {_kind(not text)}")
        if self._skip_bytes:
            skipped = min(self._skip_bytes, len(body))
            self._skip_bytes -= skipped
            body = body[skipped:]
            if self._skip_bytes and not more:
                raise ProtocolViolation(f"DATA {seq} came again {self._skip_bytes} bytes shorter than before")
            if more and not body:
                return False
        first = not self._partial_bytes
        self._partial_bytes += len(body)
        if not more:
            self.accepted = seq
            self._partial_text = None
            self._partial_bytes = 0
        if seq in self._discarded:
            if not more:
                self._discarded.remove(seq)
            return False
        self._sizes[seq] += len(body)
        self.unconsumed_bytes += len(body)
        if more and not body:
            return False
        self.queued_bytes += len(body)
        self._queue.append(IncomingPiece(seq=seq, text=text, data=body, first=first, last=not more))
        return True

    def _check_window(self, seq: int) -> None:
        """Refuse a message that begins while the window is full; one that has begun may go on to its end."""
        if len(self._sizes) >= self.window_messages:
            raise PolicyViolation(f"DATA {seq} exceeds the window of {self.window_messages} messages")
        if self.unconsumed_bytes >= self.window_bytes:
            raise PolicyViolation(f"DATA {seq} exceeds the window of {self.window_bytes} bytes")

    def interrupt(self) -> None:
        """The connection broke: a message that is here in part is going to be sent again from its first byte."""
        seq = self.accepted + 1
        if seq <= self.consumed:  # rejected before it was whole: it will not come again
            self.accepted = self.consumed
            self._discarded.clear()
            self._partial_text = None
            self._partial_bytes = self._skip_bytes = 0
            return
        if self._partial_text is None:
            return
        forgotten = 0
        while self._queue and self._queue[-1].seq == seq:
            forgotten += len(self._queue.pop().data)
        self.queued_bytes -= forgotten
        self.unconsumed_bytes -= forgotten
        taken = self._partial_bytes - forgotten
        if seq in self._discarded:
            taken = 0  # nobody wants its bytes, so none need be skipped
        self._partial_bytes = self._skip_bytes = taken
        if taken:
            self._sizes[seq] = taken
        else:
            self._partial_text = None
            self._sizes.pop(seq, None)

    # --- the handler's side ---------------------------------------------------------------------------------------

    def take_piece(self) -> IncomingPiece | None:
        """The next piece, or None while there is none."""
        if not self._queue:
            return None
        piece = self._queue.popleft()
        self.queued_bytes -= len(piece.data)
        return piece

    def take_message(self, max_bytes: int) -> WholeMessage | OversizeMessage | None:
        """The next message once it is whole, or that it is larger than `max_bytes` (then reject it); None before.

        The rest of a message that was begun with `take_piece` counts as one. Raises InvalidUtf8 for a text that is not.
        """
        if not self._queue:
            return None
        seq = self._queue[0].seq
        if self._sizes[seq] > max_bytes:
            return OversizeMessage(seq=seq)
        if seq > self.accepted:
            return None
        parts = []
        while True:
            piece = self._queue.popleft()
            parts.append(piece.data)
            if piece.last:
                break
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.queued_bytes -= len(data)
        if not piece.text:
            return WholeMessage(seq=seq, data=data)
        try:
            return WholeMessage(seq=seq, data=data.decode())
        except UnicodeDecodeError as error:
            raise InvalidUtf8(f"text message {seq} is not UTF-8 at byte {error.start}") from None

    def consume(self, seq: int) -> None:
        """Marks one message as consumed; the position moves once all before it are. Again does nothing.

        Raises ValueError for a message that has not come.
        """
        size = self._sizes.pop(seq, None)
        if size is None:
            if seq > self.accepted:
                raise ValueError(f"message {seq} has not come yet")
            return
        self.unconsumed_bytes -= size
        self._consumed_ahead.add(seq)
        while self.consumed + 1 in self._consumed_ahead:
            self.consumed += 1
            self._consumed_ahead.remove(self.consumed)

    def discard(self, seq: int) -> None:
        """Marks one message as consumed and forgets what waits or is still to come of it."""
        if self.accepted < seq and seq in self._sizes:
            self._discarded.add(seq)
        self.consume(seq)
        kept = [piece for piece in self._queue if piece.seq != seq]
        self.queued_bytes = sum(len(piece.data) for piece in kept)
        self._queue = deque(kept)

    @property
    def has_input(self) -> bool:
        """Something waits for the handler, if perhaps not yet a whole message."""
        return bool(self._queue)


def _kind(text: bool) -> str:
    return "text" if text else "binary"
