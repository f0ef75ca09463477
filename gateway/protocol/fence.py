"""Ping fences: evidence of how far a WebSocket peer has read, without its application's help.

A fence is a Ping sent behind messages; its Pong proves that the peer's WebSocket stack has read all that came before
it (rung `reached`), because a stack answers in order. Invariant: only a Pong with the payload of the fence in flight
proves anything. Unsolicited Pongs are legal (RFC 6455 section 5.5.3) and say nothing, hence the nonce; a peer may
answer only the newest of several Pings, hence one fence at a time.
"""

import os
import struct
from typing import Final

_PAYLOAD: Final = struct.Struct("!Q8s")

NONCE_BYTES: Final = 8

FENCE_BYTES: Final = _PAYLOAD.size
"""Payload of a fence: an 8-byte sequence and an 8-byte nonce."""


class _Nonces:
    """Random bytes for the fences of all connections, drawn for 512 at a time: os.urandom costs a system call."""

    __slots__ = ("_at", "_drawn")

    def __init__(self) -> None:
        self._drawn = b""
        self._at = 0

    def take(self) -> bytes:
        """Eight bytes that nobody has been given before."""
        if self._at == len(self._drawn):
            self._drawn = os.urandom(NONCE_BYTES * 512)
            self._at = 0
        begin = self._at
        self._at = begin + NONCE_BYTES
        return self._drawn[begin : self._at]


_nonces: Final = _Nonces()


class Fence:
    """The fences of one connection; it doubles as the keepalive. All times are seconds on the caller's clock."""

    __slots__ = ("_covers", "_payload", "sent_at")

    def __init__(self) -> None:
        self._payload: bytes | None = None
        self._covers = 0
        self.sent_at = 0.0
        """When the fence in flight, or else the last one, was sent."""

    @property
    def in_flight(self) -> bool:
        """True while a Pong is awaited."""
        return self._payload is not None

    def raise_(self, covers: int, *, now: float) -> bytes:
        """The payload of the Ping to send now; its Pong will prove that message number `covers` has been reached.

        Raises RuntimeError while another fence is in flight: that is the caller's bug.
        """
        if self._payload is not None:
            raise RuntimeError("a fence is in flight already")
        self._payload = _PAYLOAD.pack(covers, _nonces.take())
        self._covers = covers
        self.sent_at = now
        return self._payload

    def again(self) -> bytes:
        """The payload of the fence in flight, for another Ping: whichever of them is answered, it proves as much."""
        assert self._payload is not None, "a fence is in flight"
        return self._payload

    def answered(self, payload: bytes) -> int | None:
        """Takes a Pong's payload: the number of the last message that it proves reached, None if it proves nothing."""
        if self._payload is None or payload != self._payload:
            return None
        self._payload = None
        return self._covers
