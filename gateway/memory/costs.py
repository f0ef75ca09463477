"""What held things cost: payload and the objects around it, as CPython's allocator hands them out.

Invariant: what is charged is at least two thirds of what the objects take and at most one and a half times that,
whatever the pieces are (tests/memory/test_costs.py measures it). Payload bytes alone would be wrong by any factor: an
empty message has none, and takes 72 bytes.
"""

from collections.abc import Sequence
from typing import Final

from mypy_extensions import i64

from gateway.protocol.pieces import Piece

PIECE_BYTES: Final = 104
"""Around the payload of a piece: its tuple with the collector's header (64), its place in a list (8), and what a bytes
object has before its data (33; the empty one and those of one byte are shared)."""

BUFFER_BYTES: Final = 48
"""Around the bytes that wait in a write buffer: the object's head and rounding, and its place in the queue."""

GATHERED_BYTES: Final = 2048
"""A piece of an unfinished message that is held is joined with what follows it until it has this size, so that a peer
that sends byte by byte makes us hold bytes and not objects. More would be copied too often."""

VIEW_BYTES: Final = 200
"""A memoryview of the rest of a buffer of which the kernel took a part."""


def cost_of_buffer(data: bytes | memoryview) -> int:
    """What a buffer that waits to be written takes; a view keeps all that it is a view of."""
    if isinstance(data, bytes):
        return len(data) + BUFFER_BYTES
    return len(data.obj) + VIEW_BYTES  # type: ignore[arg-type] # always of bytes


def cost_of(pieces: Sequence[Piece]) -> int:
    """What the pieces take while they are kept."""
    size: i64 = 0
    for piece in pieces:
        size += len(piece[1])
    return size + PIECE_BYTES * len(pieces)
