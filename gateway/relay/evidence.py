"""How much of what we sent the backend's host has acknowledged, asked of our own kernel.

Invariant: never more is claimed than the kernel says; where it says nothing the answer is None, and the caller falls
back to the rung `written`. After a reset the kernel's numbers are those of the moment before it: the tail is unknown.
"""

import socket
import ssl
from typing import Final

from gateway.protocol.records import Rung
from gateway.relay.sockets import acked_bytes
from gateway.telemetry.tcp_info import sample, unacked_output

_IP_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


class Evidence:
    """The acknowledged bytes of one socket since this object was made; offsets count plaintext bytes from there."""

    __slots__ = ("_baseline", "_rwnd_limited_seconds", "_sock", "settles_at")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._baseline = 0
        self._rwnd_limited_seconds = 0.0
        self.settles_at = Rung.REACHED
        """The highest rung that this socket can prove."""
        if sock.family not in _IP_FAMILIES:
            self.settles_at = Rung.WRITTEN
        elif not isinstance(sock, ssl.SSLSocket):
            acked = acked_bytes(sock)
            if acked is None:
                self.settles_at = Rung.WRITTEN
            else:
                # SYN, PROXY header: what was sent before us, acknowledged or not, is not ours to count.
                self._baseline = acked + (unacked_output(sock) or 0)

    def is_receiver_slow(self) -> bool:
        """The kernel holds bytes back because the far host's window is closed: its application does not read.

        The time in which that was so grows while it is; asked when the buffer is full, any growth since the last time
        says so.
        """
        reading = sample(self._sock) if self._sock.family in _IP_FAMILIES and self._sock.fileno() >= 0 else None
        if reading is None:
            return False
        before, self._rwnd_limited_seconds = self._rwnd_limited_seconds, reading.rwnd_limited_seconds
        return reading.rwnd_limited_seconds > before

    def reached_offset(self, written: int) -> int | None:
        """Bytes that the peer's host has acknowledged; `written` is how many the kernel has taken. None: unknown."""
        sock = self._sock
        if self.settles_at is not Rung.REACHED:
            return None
        if isinstance(sock, ssl.SSLSocket):
            # Ciphertext offsets are not plaintext offsets: all is acknowledged, or nothing can be said.
            return written if not unacked_output(sock) else None
        acked = acked_bytes(sock)
        return None if acked is None else min(acked - self._baseline, written)
