"""Receipts: what a sender has in hand for each message it sent.

Invariant: a receipt only climbs, and ends once: settled, rejected or lost.
"""

import logging
from collections.abc import Callable
from typing import Final

import anyio

from gateway.client.faults import Lost, Rejected
from gateway.protocol.records import Rung

logger: Final = logging.getLogger("kakitome.client")


class Receipt:
    """Stands for one message that was sent."""

    __slots__ = ("_callbacks", "_ended", "failure", "is_settled", "rung", "seq")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        """The message's number in its session; another one if it was carried over into a new session."""
        self.rung: Rung | None = None
        """The highest rung that the message is known to be at; those below the settling one only if asked for."""
        self.is_settled = False
        """The far side told that the message is where it can be proven to be; a rejected or lost one never is."""
        self.failure: Rejected | Lost | None = None
        """Why the message will not be settled."""
        self._callbacks: list[Callable[[Receipt], None]] = []
        self._ended: anyio.Event | None = None

    def __repr__(self) -> str:
        rung = "sent" if self.rung is None else self.rung.name.lower()
        state = "settled" if self.is_settled else "under way" if self.failure is None else type(self.failure).__name__
        return f"<Receipt of message {self.seq}: {rung}, {state}>"

    @property
    def has_ended(self) -> bool:
        """Nothing more will be learned about the message."""
        return self.is_settled or self.failure is not None

    def on_change(self, callback: Callable[["Receipt"], None]) -> None:
        """Calls `callback` with this receipt whenever the message has climbed or ended. It must be brief."""
        self._callbacks.append(callback)

    async def settled(self) -> Rung:
        """Waits until the message is settled; the rung that proves it. Raises Rejected, Lost."""
        if not self.has_ended:
            if self._ended is None:
                self._ended = anyio.Event()
            await self._ended.wait()
        if self.failure is not None:
            # A new one each time: whoever raises an exception adds to its traceback.
            raise self.failure.again()
        assert self.rung is not None
        return self.rung

    # --- the session's side -----------------------------------------------------------------------------------------

    def climb(self, rung: Rung) -> None:
        """The message is known to be at `rung`."""
        if self.rung is None or rung > self.rung:
            self.rung = rung
            self._tell()

    def settle(self, rung: Rung) -> None:
        """The message is settled at `rung`."""
        self.rung = rung
        self.is_settled = True
        self._end()

    def fail(self, failure: Rejected | Lost) -> None:
        """The message will not be settled."""
        self.failure = failure
        self._end()

    def _end(self) -> None:
        if self._ended is not None:
            self._ended.set()
        self._tell()

    def _tell(self) -> None:
        for callback in self._callbacks:
            try:
                callback(self)
            except Exception:
                logger.exception("the callback of a receipt failed")
