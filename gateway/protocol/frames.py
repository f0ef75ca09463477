"""WebSocket frames (RFC 6455 section 5): bytes to pieces and pieces to bytes, by the fastest codec that is there.

Invariant: the compiled codec `_frames` and its pure twin `_frames_py` behave alike to the byte; the suite runs on both.
`KAKITOME_PURE_CODEC=1` in the environment forces the pure one.
"""

import os
from typing import Final

from gateway.protocol.pieces import COMPRESSED, FIRST, LAST, Buffer, Opcode, Piece

try:
    if os.environ.get("KAKITOME_PURE_CODEC") == "1":
        raise ImportError("the pure codec was asked for")
    from gateway.protocol._frames import FrameDecoder, Utf8Validator, encode_pieces, message_ends
except ImportError:
    from gateway.protocol._frames_py import FrameDecoder, Utf8Validator, encode_pieces, message_ends

CODEC: Final = "pure" if FrameDecoder.__module__.endswith("_frames_py") else "compiled"

__all__ = [
    "CODEC",
    "COMPRESSED",
    "FIRST",
    "LAST",
    "Buffer",
    "FrameDecoder",
    "Opcode",
    "Piece",
    "Utf8Validator",
    "encode_pieces",
    "message_ends",
]
