"""What RFC 6455 section 5 allows in a frame, once for both codecs, with the words a peer gets when it broke it.

Invariant: the rules are checked in the order of the bytes they look at, so which fault a bad frame ends in does not
depend on how it was cut into reads.
"""

from typing import Final

from gateway.errors import InvalidUtf8, MessageTooBig, ProtocolViolation
from gateway.protocol.pieces import Opcode

MAX_CONTROL_BYTES: Final = 125
"""RFC 6455 section 5.5."""

MAX_LENGTH: Final = 2**63 - 1
"""RFC 6455 section 5.2: the most significant bit of a 64-bit length must be 0."""

FIN: Final = 0x80
"""Of a frame's first byte: it is the message's last frame."""
RSV1: Final = 0x40
"""Of the first byte: the message is compressed (RFC 7692 section 6)."""
RSV2_RSV3: Final = 0x30
"""Of the first byte: for what is not defined."""
OPCODE: Final = 0x0F
"""Of the first byte."""
MASKED: Final = 0x80
"""Of the second byte: a masking key follows the length."""
LENGTH: Final = 0x7F
"""Of the second byte; 126 and 127 stand for the two longer forms."""

DEFINED: Final = {int(opcode) for opcode in Opcode}


def first_byte_fault(byte: int, *, compression: bool, in_message: bool) -> ProtocolViolation | None:
    """What is wrong with a frame's first byte (FIN, RSV1 to RSV3, opcode), or None.

    `in_message` says that a data message has begun and not ended.
    """
    opcode = byte & OPCODE
    control = opcode >= Opcode.CLOSE
    if byte & RSV2_RSV3:
        return ProtocolViolation("frame has the reserved bit RSV2 or RSV3 set")
    if opcode not in DEFINED:
        return ProtocolViolation(f"frame has the reserved opcode 0x{opcode:X}")
    name = Opcode(opcode).name
    if byte & RSV1:
        if not compression:
            return ProtocolViolation("frame has RSV1 set, but no extension that uses it was negotiated")
        # RFC 7692 section 6.1: only the first frame of a data message may carry it.
        if opcode not in (Opcode.TEXT, Opcode.BINARY):
            return ProtocolViolation(f"{name} frame has RSV1 set")
    if control:
        return None if byte & FIN else ProtocolViolation(f"{name} frame is fragmented")
    if opcode == Opcode.CONTINUATION and not in_message:
        return ProtocolViolation("CONTINUATION frame without a message to continue")
    if opcode != Opcode.CONTINUATION and in_message:
        return ProtocolViolation(f"{name} frame inside an unfinished message")
    return None


def _legal_first_bytes(*, compression: bool, in_message: bool) -> bytes:
    return bytes(first_byte_fault(byte, compression=compression, in_message=in_message) is None for byte in range(256))


LEGAL_FIRST_BYTES: Final = tuple(
    (
        _legal_first_bytes(compression=compression, in_message=False),
        _legal_first_bytes(compression=compression, in_message=True),
    )
    for compression in (False, True)
)
"""`LEGAL_FIRST_BYTES[compression][in_message][byte]` is 1 where the first byte is allowed, else 0."""


def masking_fault(*, expected: bool) -> ProtocolViolation:
    """RFC 6455 section 5.1: a client masks every frame, a server none."""
    return ProtocolViolation("frame from a client is not masked" if expected else "frame from a server is masked")


def control_length_fault(opcode: int) -> ProtocolViolation:
    """RFC 6455 section 5.5: no control frame carries more than 125 bytes."""
    return ProtocolViolation(f"{Opcode(opcode).name} frame announces more than {MAX_CONTROL_BYTES} bytes")


def length_fault(length: int) -> ProtocolViolation:
    """RFC 6455 section 5.2: 63 bits at most, in the shortest of the three forms."""
    if length > MAX_LENGTH:
        return ProtocolViolation("frame announces a length with its most significant bit set")
    return ProtocolViolation(f"frame announces its length of {length} bytes not in the shortest form")


def size_fault(size: int, limit: int) -> MessageTooBig:
    """`size` is what the message comes to with the frame just announced."""
    return MessageTooBig(f"message of {size} bytes or more exceeds the limit of {limit} bytes")


def utf8_fault(offset: int) -> InvalidUtf8:
    """RFC 6455 section 8.1; `offset` is that of the first impossible byte in its message."""
    return InvalidUtf8(f"text message is not UTF-8 at byte {offset}")


def utf8_end_fault() -> InvalidUtf8:
    """The last byte of a text message leaves a character unfinished."""
    return InvalidUtf8("text message ends inside a UTF-8 character")
