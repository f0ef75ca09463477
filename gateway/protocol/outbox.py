"""Our messages of one session that the peer has not settled: kept, sent within its windows, sent again after a resume.

Invariant: a message keeps its number and its bytes until it is settled, messages leave in the order of their numbers,
and a whole message leaves only once it was saved. The one exception is a message sent in pieces that outgrew what is
kept: its bytes are dropped as they leave, so that a message of any size passes in bounded memory, and a connection that
breaks then cannot be healed.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.codes import INTERNAL
from gateway.errors import ConnectionFault, ProtocolViolation
from gateway.protocol.records import (
    DEFAULT_WINDOW_BYTES,
    DEFAULT_WINDOW_MESSAGES,
    FRAGMENT_BYTES,
    MORE_FLAG,
    TEXT_FLAG,
    RecordType,
    encode_prefixed_record,
)
from gateway.protocol.rejections import RejectedRange

PIECES_AHEAD_BYTES: Final = 256 * 1024
"""How far a message that is sent in pieces may be ahead of its connection: more would only fill memory."""

_DATA: Final = int(RecordType.DATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message of ours that the peer has not settled yet."""

    seq: int
    text: bool
    chunks: tuple[bytes, ...]
    """The payload, in order; how it is cut means nothing."""

    @property
    def size(self) -> int:
        """Bytes of the payload."""
        return sum(map(len, self.chunks))


class MessageNotKept(ConnectionFault):
    """A message that was sent in pieces was interrupted, and was too large to be kept for sending it again."""

    close_code = INTERNAL


class _Entry:
    """One message, as far as the application has handed it over."""

    __slots__ = ("begun", "chunks", "complete", "dropped", "sent_bytes", "seq", "settled", "size", "text")

    def __init__(self, seq: int, text: bool, chunks: list[bytes], size: int) -> None:
        self.seq = seq
        self.text = text
        self.chunks = chunks
        self.size = size
        self.sent_bytes = 0
        """What of it was sent on this connection."""
        self.begun = False
        """Its first byte was sent on this connection."""
        self.complete = True
        self.dropped = False
        """Bytes of it are gone, so it cannot be sent again."""
        self.settled = False
        """It is settled or rejected and counts no more; it is still here to be sent to its end."""


class Outbox:
    """The messages after `settled`, of which the store had `messages`; `sent` is the last number that was given.

    A message between them that the store does not have was too large to be kept. `kept_bytes` is how much of a message
    that is sent in pieces is kept. `encode` makes the records, as they stand on TCP or as WebSocket messages.
    """

    __slots__ = (
        "_chunk_at",
        "_chunk_offset",
        "_current",
        "_encode",
        "_entries",
        "_flight_bytes",
        "_flight_messages",
        "_growing",
        "_kept_bytes",
        "_next",
        "_saved",
        "_skip_bytes",
        "begun",
        "carried",
        "sent",
        "settled",
        "unsent_bytes",
        "unsettled_bytes",
        "unsettled_messages",
        "window_bytes",
        "window_messages",
    )

    def __init__(
        self,
        *,
        settled: int = 0,
        sent: int = 0,
        messages: Iterable[OutgoingMessage] = (),
        kept_bytes: int,
        encode: Callable[[int, int, int, bytes], bytes] = encode_prefixed_record,
    ) -> None:
        self.settled = settled
        """All messages up to this one are settled (or rejected)."""
        self.sent = sent
        """The last number given to a whole message."""
        self.window_messages = DEFAULT_WINDOW_MESSAGES
        self.window_bytes = DEFAULT_WINDOW_BYTES
        self.unsettled_messages = sent - settled
        self.unsettled_bytes = 0
        """Payload bytes of what is not settled."""
        self._kept_bytes = kept_bytes
        self._saved = sent
        self.begun = sent  # before a restart all of them may have left
        """The newest message of which a byte may have left on any connection."""
        self.carried = sent
        """The newest message that may have left whole."""
        self._encode = encode
        self._entries = {message.seq: _entry_of(message) for message in messages}
        for seq in range(settled + 1, sent + 1):
            if seq not in self._entries:
                self._entries[seq] = lost = _Entry(seq, False, [], 0)
                lost.dropped = True
        self._growing: _Entry | None = None
        self._skip_bytes = 0
        """What is still to come again of the bytes that the growing message had."""
        self.unsettled_bytes = sum(entry.size for entry in self._entries.values())
        self.unsent_bytes = self.unsettled_bytes
        """Payload bytes that wait to be sent on this connection."""
        self._next = settled + 1
        self._current: _Entry | None = None
        """The message of which a part was sent; `_chunk_at` and `_chunk_offset` tell where it goes on."""
        self._chunk_at = 0
        self._chunk_offset = 0
        self._flight_messages = 0
        self._flight_bytes = 0

    # --- the application's side -------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether a message of `size` bytes fits the peer's windows; one that is larger than the window fits alone."""
        return not self.unsettled_messages or (
            self.unsettled_messages < self.window_messages and self.unsettled_bytes + size <= self.window_bytes
        )

    @property
    def is_overfull(self) -> bool:
        """More is unsettled than fits the peer's windows, by what was appended without asking for room."""
        return self.unsettled_messages > self.window_messages or (
            self.unsettled_messages > 1 and self.unsettled_bytes > self.window_bytes
        )

    def has_room_for_piece(self, size: int) -> bool:
        """Whether a piece fits: a message that has begun goes on to its end, as fast as the connection takes it."""
        if self.unsent_bytes and self.unsent_bytes + size > PIECES_AHEAD_BYTES:
            return False
        return self._growing is not None or self.has_room(0)

    @property
    def in_pieces(self) -> bool:
        """A message is being sent in pieces: the next piece goes on with it."""
        return self._growing is not None

    def numbered(self, messages: Iterable[tuple[bool, bytes]]) -> Sequence[OutgoingMessage]:
        """(text, payload) of each as the messages that `append` would make of them now, and none of them taken.

        Raises RuntimeError as `append`.
        """
        numbered = [
            OutgoingMessage(seq=seq, text=text, chunks=(payload,))
            for seq, (text, payload) in enumerate(messages, self.sent + 1)
        ]
        if numbered:
            self._check_whole()
        return numbered

    def _check_whole(self) -> None:
        if self._growing is not None:
            raise RuntimeError("a message is being sent in pieces: end it with its last piece first")

    def append(self, *, text: bool, payload: bytes) -> int:
        """Takes a whole message, room or not; its number. Raises RuntimeError while one is being sent in pieces."""
        self._check_whole()
        self.sent += 1
        self._entries[self.sent] = _Entry(self.sent, text, [payload], len(payload))
        self.unsettled_messages += 1
        self._count(len(payload))
        return self.sent

    def append_piece(self, *, text: bool, data: bytes, last: bool) -> int:
        """Takes a piece, the first or the next of its message; the message's number.

        Raises ValueError for a piece of the other kind than the message it goes on with, and for an end before the
        bytes that the message had before `restart_pieces`.
        """
        entry = self._growing
        if entry is None:
            entry = self._growing = self._entries[self.sent + 1] = _Entry(self.sent + 1, text, [], 0)
            entry.complete = False
            self.unsettled_messages += 1
        elif entry.text is not text:
            raise ValueError("all pieces of a message are text, or all are binary")
        if self._skip_bytes:
            if last and len(data) < self._skip_bytes:
                missing = self._skip_bytes - len(data)
                raise ValueError(f"the message ends {missing} bytes before the {entry.size} that were sent of it")
            skipped = min(self._skip_bytes, len(data))
            self._skip_bytes -= skipped
            data = data[skipped:]
        if data:
            entry.chunks.append(data)
            entry.size += len(data)
            if entry.settled:
                self.unsent_bytes += len(data)
            else:
                self._count(len(data))
        if last:
            entry.complete = True
            self._growing = None
            self.sent += 1
        return entry.seq

    def restart_pieces(self) -> None:
        """Whoever sends a message in pieces begins it again: pieces of what was taken before are skipped.

        A message of which no byte has left is forgotten instead, with its number.
        """
        entry = self._growing
        if entry is None:
            return
        if entry.seq > self.begun:
            self._growing = None
            self._skip_bytes = 0
            self._uncount(self._entries.pop(entry.seq))
            self.unsent_bytes -= entry.size
        else:
            self._skip_bytes = entry.size

    def _count(self, size: int) -> None:
        self.unsettled_bytes += size
        self.unsent_bytes += size

    def unsettled(self) -> Sequence[OutgoingMessage]:
        """The whole messages that are neither settled nor rejected, in order; those that are not kept are left out."""
        return [
            OutgoingMessage(seq=seq, text=entry.text, chunks=tuple(entry.chunks))
            for seq in range(self.settled + 1, self.sent + 1)
            if (entry := self._entries.get(seq)) is not None and not (entry.settled or entry.dropped)
        ]

    def withdraw(self, seqs: Collection[int]) -> dict[int, int]:
        """Takes back whole messages of which no byte has left, and all after them move up; their new numbers.

        The result has each that stays of those without a byte gone, by its old number. All unsettled is unsaved then.
        """
        moved: dict[int, int] = {}
        for old in range(self.begun + 1, self.sent + 1):
            entry = self._entries.pop(old)
            if old in seqs:
                self._forget(entry)
                continue
            entry.seq = moved[old] = self.begun + len(moved) + 1
            self._entries[entry.seq] = entry
        self.sent = self.begun + len(moved)
        self._next = min(self._next, self.begun + 1)
        self._saved = self.settled
        return moved

    # --- the store's side -------------------------------------------------------------------------------------------

    def unsaved(self) -> Sequence[OutgoingMessage]:
        """The whole messages to save before they may leave; those that are not kept are left out."""
        return [
            OutgoingMessage(seq=seq, text=entry.text, chunks=tuple(entry.chunks))
            for seq in range(self._saved + 1, self.sent + 1)
            if (entry := self._entries.get(seq)) is not None and not entry.dropped
        ]

    def mark_saved(self, sent: int) -> None:
        """The store has all messages up to `sent`."""
        self._saved = sent

    # --- the connection's side --------------------------------------------------------------------------------------

    def resume(self, position: int, rejected: Sequence[RejectedRange] = ()) -> Sequence[tuple[int, int, str]]:
        """A new connection: the peer has all up to `position`, what follows is sent again.

        `rejected` is what the peer has refused lately; (number, code, reason) of what is news of it. Raises
        ProtocolViolation for positions that cannot be, MessageNotKept for a message that cannot be sent again.
        """
        refused_last = any(first <= self.begun <= last for first, last, *_ in rejected)
        newest = self.begun if refused_last else self.carried  # one can be refused before it was sent to its end
        if not self.settled <= position <= newest:
            raise ProtocolViolation(f"OPEN at {position}, expected {self.settled} to {newest}")
        self._current = None
        news = self.refuse(rejected)
        self.settle(max(self.settled, min(position, self.carried)))
        self._pass_rejected()
        for entry in self._entries.values():
            if entry.dropped and not entry.settled:
                raise MessageNotKept(f"message {entry.seq} was interrupted and is too large to be sent again")
            entry.begun = False
            entry.sent_bytes = 0
        self._next = self.settled + 1
        self._chunk_at = self._chunk_offset = 0
        self._flight_messages = self._flight_bytes = 0
        self.unsent_bytes = sum(entry.size for entry in self._entries.values())
        return news

    def refuse(self, rejected: Sequence[RejectedRange]) -> Sequence[tuple[int, int, str]]:
        """The peer's list of what it has refused lately: (number, code, reason) of what is news, which settles it.

        Raises ProtocolViolation for a message that was never sent.
        """
        news = []
        for first, last, code, reason in rejected:
            if last > self.begun:
                raise ProtocolViolation(f"rejects message {last}, expected at most {self.begun}, the last message sent")
            for seq in range(max(first, self.settled + 1), last + 1):
                entry = self._entries.get(seq)
                if entry is not None and not entry.settled:
                    self._uncount(entry)
                    news.append((seq, code, reason))
        return news

    def settle(self, seq: int) -> bool:
        """All messages up to `seq` are settled; whether that is news. Raises ProtocolViolation beyond what was sent."""
        if seq > self.carried:
            raise ProtocolViolation(f"ACK {seq}, expected at most {self.carried}, the last message sent")
        if seq <= self.settled:
            return False
        for settled in range(self.settled + 1, seq + 1):
            self._forget(self._entries.pop(settled))
        self.settled = seq
        self._pass_rejected()
        return True

    def reject(self, seq: int) -> bool:
        """One message was refused and counts as settled; whether that is news. Raises ProtocolViolation as `settle`."""
        current = self._current
        if seq > self.carried and (current is None or seq != current.seq):
            raise ProtocolViolation(f"REJECT {seq}, expected at most {self.carried}, the last message sent")
        entry = self._entries.get(seq)
        if entry is None or entry.settled:
            return False
        self._uncount(entry)
        self._pass_rejected()
        return True

    def pull(self, max_bytes: int) -> list[bytes]:
        """Records to send now, as they stand on TCP, within the windows; some `max_bytes` in all."""
        records: list[bytes] = []
        while max_bytes > 0:
            entry = self._current or self._begin()
            if entry is None or (entry.complete and entry.seq > self._saved):
                break
            record = self._next_record(entry)
            if record is None:
                break
            records.append(record)
            max_bytes -= len(record)
        return records

    @property
    def is_drained(self) -> bool:
        """All that was handed over was sent on this connection, if not settled."""
        return self._next > self.sent and not self.unsent_bytes and self._current in (None, self._growing)

    def _begin(self) -> _Entry | None:
        """The next message, if the windows have room for it."""
        entry = self._entries.get(self._next)
        if entry is None or not (entry.chunks or entry.complete):
            return None
        if entry.complete and entry.seq > self._saved:
            return None
        if not entry.settled:
            if self._flight_messages and (
                self._flight_messages >= self.window_messages or self._flight_bytes + entry.size > self.window_bytes
            ):
                return None
            self._flight_messages += 1
        entry.begun = True
        self.begun = max(self.begun, entry.seq)
        self._next += 1
        self._current = entry
        self._chunk_at = self._chunk_offset = 0
        return entry

    def _next_record(self, entry: _Entry) -> bytes | None:
        """The next DATA of the current message; None while its application has not handed over more."""
        body = b""
        if self._chunk_at < len(entry.chunks):
            chunk = entry.chunks[self._chunk_at]
            if len(chunk) <= FRAGMENT_BYTES:
                body = chunk
                self._chunk_at += 1
            else:
                end = self._chunk_offset + FRAGMENT_BYTES
                body = chunk[self._chunk_offset : end]
                self._chunk_offset = end
                if end >= len(chunk):
                    self._chunk_at += 1
                    self._chunk_offset = 0
        elif not entry.complete:
            return None
        last = entry.complete and self._chunk_at == len(entry.chunks)
        if self._chunk_at and (entry.dropped or (entry.size > self._kept_bytes and entry is self._growing)):
            del entry.chunks[: self._chunk_at]
            self._chunk_at = 0
            entry.dropped = True
        entry.sent_bytes += len(body)
        self.unsent_bytes -= len(body)
        if not entry.settled:
            self._flight_bytes += len(body)
        if last:
            self._current = None
            self.carried = max(self.carried, entry.seq)
            self._pass_rejected()
        flags = (TEXT_FLAG if entry.text else 0) | (0 if last else MORE_FLAG)
        return self._encode(_DATA, flags, entry.seq, body)

    # --- settling ---------------------------------------------------------------------------------------------------

    def _uncount(self, entry: _Entry) -> None:
        entry.settled = True
        self.unsettled_messages -= 1
        self.unsettled_bytes -= entry.size
        if entry.begun:
            self._flight_messages -= 1
            self._flight_bytes -= entry.sent_bytes

    def _forget(self, entry: _Entry) -> None:
        """Let go of a message; one that is being sent again goes on to its end, lest the peer wait for the rest."""
        if not entry.settled:
            self._uncount(entry)
        if entry is not self._current:
            self.unsent_bytes -= entry.size - entry.sent_bytes
        self._next = max(self._next, entry.seq + 1)

    def _pass_rejected(self) -> None:
        """Move the settled position on over rejected messages that were sent to their end."""
        while (
            self.settled < self.carried and (entry := self._entries.get(self.settled + 1)) is not None and entry.settled
        ):
            self._forget(self._entries.pop(entry.seq))
            self.settled = entry.seq


def _entry_of(message: OutgoingMessage) -> _Entry:
    return _Entry(message.seq, message.text, list(message.chunks), message.size)
