"""Reading and writing of plain sockets in pure Python: the twin of `_sockets`, and its documentation."""

import os
from typing import Final

from gateway.protocol.pieces import Buffer
from gateway.telemetry.tcp_info import acked_bytes

__all__ = ["ReadBuffer", "acked_bytes", "send"]

SMALL_BYTES: Final = 4096
"""Up to this much is copied out of the buffer at once, which costs less than a view of it."""


class ReadBuffer:
    """One buffer of `size` bytes that all connections read into, one after the other."""

    __slots__ = ("view",)

    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))
        """All of it."""

    def receive(self, fd: int, most: int = 1 << 30) -> Buffer:
        """So many bytes of a non-blocking socket at most, none at the end of input; a view holds until the next read.

        Raises BlockingIOError when there is nothing, OSError when the connection is broken.
        """
        count = os.readv(fd, [self.view if most >= len(self.view) else self.view[:most]])
        return bytes(self.view[:count]) if count <= SMALL_BYTES else self.view[:count]


def send(fd: int, data: bytes) -> int:
    """Hands bytes to the kernel, how many it has taken. Raises BlockingIOError for none, OSError for a broken one."""
    return os.write(fd, data)
