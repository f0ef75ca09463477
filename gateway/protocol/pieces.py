"""The currency between the two sides of the gateway: a `Piece`, part of a message.

Invariant: a message of any size flows as pieces in order, FIRST on its first one and LAST on its last one; a control
frame is one whole piece and may stand between the pieces of a message.
"""

from enum import IntEnum
from typing import Final, TypeAlias


class Opcode(IntEnum):
    """The opcodes RFC 6455 section 5.2 defines."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


FIRST: Final = 1
"""The piece begins a message."""
LAST: Final = 2
"""The piece ends a message."""
LAST_BIT: Final = 1
"""Where LAST stands: `flags >> LAST_BIT & 1` counts the ends of messages without a branch."""
COMPRESSED: Final = 4
"""The payload is DEFLATE data of a message whose first frame had RSV1 (RFC 7692)."""

Piece: TypeAlias = tuple[int, bytes, int]
"""`(opcode, payload, flags)`: the opcode is the *message's*, on every piece of it, never CONTINUATION.

A plain tuple and not a dataclass, because hundreds of thousands a second are made.
"""

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Contiguous bytes to read; they are copied before the call returns, so the caller may use the memory again."""
