"""What a backend remembers of its sessions beyond their TCP connections: positions, outbox, and how they ended.

Invariant: whatever is told to the peer was saved before. A message's number is saved before its bytes leave, and a
consumed position before it is acknowledged; so a backend that is killed at any point takes up where its peer believes
it to be. The kit makes one `save` per session and turn of the event loop, and each `save` is atomic.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from gateway.protocol.outbox import OutgoingMessage
from gateway.protocol.rejections import RejectedRange

ENDED_SESSIONS_KEPT: Final = 1024
"""Ended sessions whose end is remembered, so that a gateway that missed it is told again instead of starting anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnd:
    """How a session ended for good."""

    code: int
    reason: str
    by_peer: bool
    """The peer ended it and takes nothing any more. If we did, what is unsettled is still sent again, then CLOSE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSession:
    """All that is needed to take a session up again."""

    epoch: int = 0
    consumed: int = 0
    """Highest message of the peer's that the handler has consumed."""
    sent: int = 0
    """Highest number this backend has given to a message of its own."""
    settled: int = 0
    """Highest message of ours that the peer has settled; the outbox holds those after it."""
    outbox: tuple[OutgoingMessage, ...] = ()
    rejected: tuple[RejectedRange, ...] = ()
    """What was refused lately of the peer's messages: (first, last, code, reason)."""
    end: SessionEnd | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What one turn changed of a session; None means unchanged."""

    epoch: int | None = None
    consumed: int | None = None
    sent: int | None = None
    settled: int | None = None
    appended: Sequence[OutgoingMessage] = ()
    """New messages of ours, up to number `sent`; one that is too large to be kept is left out."""
    rejected: Sequence[RejectedRange] | None = None
    """All that was refused lately, in place of what was saved before."""
    end: SessionEnd | None = None

    def __bool__(self) -> bool:
        return bool(self.appended) or any(
            value is not None for value in (self.epoch, self.consumed, self.sent, self.settled, self.rejected, self.end)
        )


class Store(Protocol):
    """Where sessions are kept. The kit calls it from one task at a time, on the event loop's thread: be brief."""

    durable: bool
    """The sessions survive this process.

    If so, a stopping service leaves them to be resumed. Else they are lost: it closes them with 1012, and their clients
    begin new ones.
    """

    def open_sessions(self) -> Sequence[str]:
        """The ids of the sessions that have not ended: each is forgotten if nobody resumes it within the grace."""

    def load(self, session_id: str) -> StoredSession | None:
        """The session, open or ended, or None if it is not known (any more)."""

    def save(self, session_id: str, changes: Changes) -> None:
        """Makes all of `changes` last, or none; creates the session if it is not known.

        An `end` closes the session: its outbox is dropped if the peer ended it, and ended sessions beyond
        `ENDED_SESSIONS_KEPT` are forgotten, the oldest first.
        """

    def transaction(self) -> AbstractContextManager[Any]:
        """All saves within become one with whatever is done through the object given.

        Whatever is raised within undoes them all, as does what this raises at its end, where they could not be made to
        last; the same can then be tried again. A store that may not have heard whether they last, such as one that is
        reached over a network, must find out before it raises.
        """

    def close(self) -> None:
        """Frees what the store holds open."""


class _Kept:
    """One session in memory; mutable, so that a save costs what changed and not what is kept."""

    __slots__ = ("consumed", "end", "epoch", "outbox", "rejected", "sent", "settled")

    def __init__(self) -> None:
        self.epoch = self.consumed = self.sent = self.settled = 0
        self.outbox: deque[OutgoingMessage] = deque()
        self.rejected: tuple[RejectedRange, ...] = ()
        self.end: SessionEnd | None = None

    def apply(self, changes: Changes) -> None:
        self.epoch = self.epoch if changes.epoch is None else changes.epoch
        self.consumed = self.consumed if changes.consumed is None else changes.consumed
        self.settled = self.settled if changes.settled is None else changes.settled
        self.rejected = self.rejected if changes.rejected is None else tuple(changes.rejected)
        self.end = changes.end or self.end
        self.outbox.extend(changes.appended)
        self.sent = self.sent if changes.sent is None else changes.sent
        while self.outbox and self.outbox[0].seq <= self.settled:
            self.outbox.popleft()
        if self.end is not None and self.end.by_peer:
            self.outbox.clear()

    @property
    def outbox_bytes(self) -> int:
        return sum(message.size for message in self.outbox)


class MemoryStore:
    """Sessions that live as long as this object: they outlive their connections, not the process.

    Of ended sessions it keeps at most `ENDED_SESSIONS_KEPT` and `ended_bytes` of their unsettled messages.
    """

    durable: bool = False

    def __init__(self, *, ended_bytes: int = 16 << 20) -> None:
        self._sessions: dict[str, _Kept] = {}
        self._ended: dict[str, int] = {}  # id -> bytes of its outbox, oldest first
        self._ended_bytes_limit = ended_bytes
        self._ended_bytes = 0
        self._staged: list[tuple[str, Changes]] | None = None

    def open_sessions(self) -> Sequence[str]:
        return [session_id for session_id, kept in self._sessions.items() if kept.end is None]

    def load(self, session_id: str) -> StoredSession | None:
        kept = self._sessions.get(session_id)
        if kept is None:
            return None
        return StoredSession(
            epoch=kept.epoch,
            consumed=kept.consumed,
            sent=kept.sent,
            settled=kept.settled,
            outbox=tuple(kept.outbox),
            rejected=kept.rejected,
            end=kept.end,
        )

    def save(self, session_id: str, changes: Changes) -> None:
        if self._staged is not None:
            self._staged.append((session_id, changes))
        else:
            self._apply(session_id, changes)

    def _apply(self, session_id: str, changes: Changes) -> None:
        kept = self._sessions.get(session_id)
        if kept is None:
            kept = self._sessions[session_id] = _Kept()
        kept.apply(changes)
        if kept.end is not None:
            self._bury(session_id, kept.outbox_bytes)

    def _bury(self, session_id: str, outbox_bytes: int) -> None:
        self._ended_bytes += outbox_bytes - self._ended.pop(session_id, 0)
        self._ended[session_id] = outbox_bytes
        while len(self._ended) > ENDED_SESSIONS_KEPT or self._ended_bytes > self._ended_bytes_limit:
            oldest = next(iter(self._ended))
            self._ended_bytes -= self._ended.pop(oldest)
            del self._sessions[oldest]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Yields None: memory has no effects of its own to share, but the saves within are still all or nothing."""
        if self._staged is not None:
            raise RuntimeError("a transaction of this store is open already")
        staged: list[tuple[str, Changes]] = []
        self._staged = staged
        try:
            yield
        finally:
            self._staged = None
        for session_id, changes in staged:
            self._apply(session_id, changes)

    def close(self) -> None:
        """Nothing is held open; the sessions stay, for a service that is started with this store again."""
