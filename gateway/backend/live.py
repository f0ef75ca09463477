"""A session that is in memory: its conversation, who waits for it, and its way into the store.

It stands between the handler, which has a `Session`, and the connections, which come and go.

Invariant: saves of all sessions of a store follow one another, and none falls into another's transaction.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
from trio.lowlevel import enable_ki_protection

from gateway.backend.conversation import Conversation
from gateway.backend.store import Store
from gateway.ends.wakeup import Signal
from gateway.protocol.outbox import Outbox
from gateway.protocol.records import Record


class Shelf:
    """A store and the lock under which it is written."""

    __slots__ = ("lock", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lock = anyio.Lock(fast_acquire=True)


class Admission:
    """Who sends next: first come, first served, so that a large message does not starve behind small ones.

    Replies of transactions are decided about when they are there already: they overtake those who wait, but no more of
    them than fill the window once.
    """

    __slots__ = ("_outbox", "_overtaken_bytes", "_overtaken_messages", "_turn")

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._turn = anyio.Lock(fast_acquire=True)
        self._overtaken_messages = self._overtaken_bytes = 0

    @property
    def is_awaited(self) -> bool:
        """Somebody waits for room already."""
        return self._turn.locked()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Within, it is the caller's turn; one at a time."""
        async with self._turn:
            self._overtaken_messages = self._overtaken_bytes = 0
            yield

    @property
    def may_overtake(self) -> bool:
        """A transaction may begin, though it may have replies."""
        outbox = self._outbox
        if outbox.is_overfull:
            return False
        return not self.is_awaited or (
            self._overtaken_messages < outbox.window_messages and self._overtaken_bytes < outbox.window_bytes
        )

    def overtook(self, replies: Sequence[tuple[bool, bytes]]) -> None:
        """These replies were sent ahead of those who wait."""
        if self.is_awaited:
            self._overtaken_messages += len(replies)
            self._overtaken_bytes += sum(len(payload) for _, payload in replies)


class LiveSession:
    """One session in memory. All methods are to be called on the event loop's thread."""

    __slots__ = ("admission", "arrived", "changed", "conversation", "id", "moved", "retired", "shelf")

    def __init__(self, session_id: str, conversation: Conversation, shelf: Shelf) -> None:
        self.id = session_id
        self.conversation = conversation
        self.shelf = shelf
        self.admission = Admission(conversation.outbox)
        self.arrived = Signal()
        """For the handler: a piece has come, or the end."""
        self.changed = Signal()
        """For the connection's writer: there may be something to save or to send."""
        self.moved = Signal()
        """For senders and the reader: messages were settled, sent or taken."""
        self.retired = False
        """It has ended and left memory: nothing more will be learned about it."""

    def receive(self, records: Sequence[Record]) -> None:
        """Takes records from the attached connection."""
        self.conversation.receive_records(records)
        self.wake()

    def wake(self) -> None:
        """Lets everybody look at the conversation again."""
        self.arrived.wake()
        self.changed.wake()
        self.moved.wake()

    @enable_ki_protection
    def commit(self, seq: int, replies: Sequence[tuple[bool, bytes]], commit: Callable[[], None]) -> None:
        """Ends a transaction of the store: message `seq` is consumed and `replies` (text, payload) are sent.

        To be called inside the transaction, which `commit` ends. Memory changes only when the store has: whatever the
        store raises leaves both as they were. An interrupt from the keyboard, which trio raises in the midst of a
        handler, comes before or behind it all.
        """
        changes = self.conversation.changes_with(seq, replies)
        self.shelf.store.save(self.id, changes)
        commit()
        self.conversation.complete(seq, replies, changes)
        self.admission.overtook(replies)

    async def save(self) -> None:
        """Saves what has changed. Raises what the store raises; then nothing is told to the peer."""
        if self.conversation.changes():
            async with self.shelf.lock:
                self.save_locked()

    @enable_ki_protection
    def save_locked(self) -> None:
        """The same for a caller that holds the lock, or is the only one left."""
        changes = self.conversation.changes()
        if changes:
            self.shelf.store.save(self.id, changes)
            self.conversation.mark_saved(changes)
