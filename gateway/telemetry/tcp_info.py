"""What the kernel knows about a TCP connection's delivery: the evidence for backends that know nothing of Kakitome.

Invariant: nothing here blocks or changes the socket, and what the kernel cannot tell is None, never a guess.

A number of acknowledged bytes proves that the far *host* has them, not that the far application read them.
`bytes_acked` counts the SYN of the connecting side and the FIN as one byte each, so take a baseline once connected.
After a reset the counts stand still: what was not acknowledged by then stays unknown.
"""

import errno
import os
import socket
import struct
import termios
from dataclasses import dataclass
from fcntl import ioctl
from typing import Final

# struct tcp_info of linux/tcp.h grows at its end only, so that these offsets hold for every kernel; an older one
# returns a shorter structure. Offset, field, first kernel:
#     0  u8   tcpi_state          (all)
#     3  u8   tcpi_probes         (all)
#    24  u32  tcpi_unacked        (all)
#    56  u32  tcpi_last_ack_recv  (all)
#   120  u64  tcpi_bytes_acked    4.1
#   144  u32  tcpi_notsent_bytes  4.6
#   176  u64  tcpi_rwnd_limited   4.9
_ACKED: Final = struct.Struct("=120xQ")
_SAMPLE: Final = struct.Struct("=B2xB20xI28xI60xQ16xI28xQ")

_MICROSECONDS: Final = 1_000_000
_MILLISECONDS: Final = 1000
_QUEUE_SIZE: Final = struct.Struct("=i")
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)

TCP_CLOSE: Final = 7
"""`TcpSample.state` of a connection that was reset, timed out or has ended in both directions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSample:
    """One TCP_INFO reading."""

    state: int
    """The kernel's TCP state; see `TCP_CLOSE`."""
    bytes_acked: int
    """Bytes that the far host acknowledged since the connection began, SYN and FIN included."""
    unanswered: int
    """Segments under way and probes of a closed window: a far host that is there answers each within a round trip."""
    since_ack_seconds: float
    """Since the last acknowledgement of any kind, also of a probe."""
    notsent_bytes: int
    """Bytes in the send buffer that were never sent: the far host, or the way to it, takes no more at present."""
    rwnd_limited_seconds: float
    """Time in which sending waited for the far host's receive window alone: its application was not reading."""


def _tcp_info(sock: socket.socket, size: int) -> bytes:
    """The first `size` bytes of tcp_info or fewer; b"" for a socket that is not TCP."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    except OSError:
        if sock.fileno() < 0:
            raise
        return b""


def parse_acked_bytes(info: bytes) -> int | None:
    """`tcpi_bytes_acked` out of a tcp_info structure; None where the structure ends before it."""
    if len(info) < _ACKED.size:
        return None
    (acked,) = _ACKED.unpack_from(info)
    return int(acked)


def parse_sample(info: bytes) -> TcpSample | None:
    """The fields of a tcp_info structure; None where it ends before the last of them."""
    if len(info) < _SAMPLE.size:
        return None
    state, probes, unacked, since_ack, acked, notsent, rwnd_limited = _SAMPLE.unpack_from(info)
    return TcpSample(
        state=state,
        bytes_acked=acked,
        unanswered=unacked + probes,
        since_ack_seconds=since_ack / _MILLISECONDS,
        notsent_bytes=notsent,
        rwnd_limited_seconds=rwnd_limited / _MICROSECONDS,
    )


def acked_bytes(sock: socket.socket) -> int | None:
    """The bytes that the far host acknowledged, SYN and FIN included: the cheap sample, 1 to 2 µs.

    None for a socket that is not TCP and for kernels before 4.1. Raises OSError for a closed socket.
    """
    return parse_acked_bytes(_tcp_info(sock, _ACKED.size))


def sample(sock: socket.socket) -> TcpSample | None:
    """A full reading; None for a socket that is not TCP and for kernels before 4.9. Raises OSError for a closed one."""
    return parse_sample(_tcp_info(sock, _SAMPLE.size))


def queued_output(sock: socket.socket) -> int:
    """What the send buffer holds (SIOCOUTQ): of TCP the bytes not acknowledged, of a Unix socket memory not yet read.

    Raises OSError for a closed socket.
    """
    if sock.fileno() < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    (queued,) = _QUEUE_SIZE.unpack(ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_QUEUE_SIZE.size)))
    return int(queued)


def queued_input(sock: socket.socket) -> int:
    """Bytes that have come and were not read (SIOCINQ). Raises OSError for a closed socket."""
    if sock.fileno() < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    (queued,) = _QUEUE_SIZE.unpack(ioctl(sock.fileno(), termios.FIONREAD, bytes(_QUEUE_SIZE.size)))
    return int(queued)


def unacked_output(sock: socket.socket) -> int | None:
    """Bytes in the send buffer that the far host has not acknowledged (SIOCOUTQ); 0: it has all that was written.

    The evidence under TLS, where offsets in the plaintext are not those on the wire. An unacknowledged FIN counts as
    one byte. None for a socket that is not TCP: there the number means memory in use. Raises OSError for a closed one.
    """
    queued = queued_output(sock)
    return queued if sock.family in _INTERNET and sock.type == socket.SOCK_STREAM else None
