"""A session that is in memory: its conversation, who waits for it, and its way into the store.

It stands between the handler, which has a `Session`, and the connections, which come and go.

Invariant: saves of all sessions of a store follow one another, and none falls into another's transaction.
"""

from collections.abc import Callable, Sequence

import anyio
from trio.lowlevel import enable_ki_protection

from gateway.backend.conversation import Conversation
from gateway.backend.store import Store
from gateway.protocol.records import Record
from gateway.wakeup import Signal


class Shelf:
    """A store and the lock under which it is written."""

    __slots__ = ("lock", "store")

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lock = anyio.Lock(fast_acquire=True)


class LiveSession:
    """One session in memory. All methods are to be called on the event loop's thread."""

    __slots__ = ("arrived", "changed", "conversation", "id", "moved", "retired", "shelf")

    def __init__(self, session_id: str, conversation: Conversation, shelf: Shelf) -> None:
        self.id = session_id
        self.conversation = conversation
        self.shelf = shelf
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
