"""What the kernel knows of a connection's way out: whether the far side acknowledges what was sent.

Invariant: where the system does not tell, nothing is claimed.
"""

import socket
import struct
from contextlib import suppress
from typing import Final

from anyio.abc import ByteStream, SocketAttribute

_UNACKED: Final = struct.Struct("=I")
_UNACKED_AT: Final = 24
_BYTES_ACKED: Final = struct.Struct("=Q")
_BYTES_ACKED_AT: Final = 120
_NOTSENT: Final = struct.Struct("=I")
_NOTSENT_AT: Final = 144
_INFO_BYTES: Final = 148
"""Linux's `struct tcp_info` up to `tcpi_notsent_bytes`, which came with Linux 4.6."""


class Progress:
    """Looks at a connection now and then."""

    __slots__ = ("_acknowledged", "_outstanding", "_socket")

    def __init__(self, stream: ByteStream) -> None:
        self._socket: socket.socket | None = stream.extra(SocketAttribute.raw_socket, None)
        self._acknowledged = 0
        self._outstanding = False

    def look(self, *, pending: bool) -> bool:
        """Whether some of what was outstanding at the last look has been acknowledged since.

        `pending`: there is more to be sent that the kernel has not taken yet.
        """
        option = getattr(socket, "TCP_INFO", None)
        if self._socket is None or option is None:
            return False
        info = b""
        with suppress(OSError):  # it is closed
            info = self._socket.getsockopt(socket.IPPROTO_TCP, option, _INFO_BYTES)
        if len(info) < _INFO_BYTES:
            return False
        (acknowledged,) = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_AT)
        (unacked,) = _UNACKED.unpack_from(info, _UNACKED_AT)
        (notsent,) = _NOTSENT.unpack_from(info, _NOTSENT_AT)
        progressed = self._outstanding and acknowledged > self._acknowledged
        self._acknowledged = acknowledged
        self._outstanding = pending or bool(unacked or notsent)
        return progressed
