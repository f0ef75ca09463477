"""Reading and writing of plain sockets by their descriptors, in the fastest form that is there.

Invariant: the compiled form `_sockets` and its pure twin `_sockets_py` behave alike; the tests run on both.
`KAKITOME_PURE_CODEC=1` in the environment forces the pure one, as it does for the frame codec.
"""

from gateway.protocol.frames import CODEC

try:
    if CODEC == "pure":
        raise ImportError("the pure form was asked for, or nothing is compiled here")
    from gateway.relay._sockets import ReadBuffer, acked_bytes, send
except ImportError:
    from gateway.relay._sockets_py import ReadBuffer, acked_bytes, send

__all__ = ["ReadBuffer", "acked_bytes", "send"]
