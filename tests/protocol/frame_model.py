"""A frame decoder as plain as RFC 6455 reads, slow and whole-input, to check the codecs against."""

from dataclasses import dataclass, field

from gateway.errors import ConnectionFault, InvalidUtf8, MessageTooBig, ProtocolViolation
from gateway.protocol.pieces import COMPRESSED, FIRST, LAST, Piece


def _unfinished_characters() -> frozenset[bytes]:
    """Every proper, non-empty prefix of a character's UTF-8, by encoding one of each 64 that share a prefix."""
    found: set[bytes] = set()
    for code_point in [*range(0x80, 0xD800, 0x40), *range(0xE000, 0x110000, 0x40)]:
        encoded = chr(code_point).encode()
        found.update(encoded[:size] for size in range(1, len(encoded)))
    return frozenset(found)


UNFINISHED = _unfinished_characters()


def utf8_verdict(text: bytes) -> tuple[int | None, bool]:
    """The index of the first byte that no text can have there, if any, and whether `text` ends with a character."""
    at = 0
    while at < len(text):
        for size in (1, 2, 3, 4):
            try:
                text[at : at + size].decode()
            except UnicodeDecodeError:
                continue
            break
        else:
            beginnings = (text[at : at + size] for size in (1, 2, 3))
            possible = max((len(beginning) for beginning in beginnings if beginning in UNFINISHED), default=0)
            if at + possible == len(text):
                return None, False
            return at + possible, False
        at += min(size, len(text) - at)
    return None, True


@dataclass
class Verdict:
    """What a decoder must come to."""

    pieces: list[Piece] = field(default_factory=list)
    error: type[ConnectionFault] | None = None
    closed: bool = False
    in_message: bool = False


class _NotAllThere(Exception):
    pass


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        if len(self.data) - self.at < size:
            raise _NotAllThere
        self.at += size
        return self.data[self.at - size : self.at]

    def take_up_to(self, size: int) -> bytes:
        return self.take(min(size, len(self.data) - self.at))


def decode(data: bytes, *, masked: bool = True, message_bytes: int | None = None, compression: bool = False) -> Verdict:
    """What the whole of `data` decodes to, one piece for each frame."""
    verdict = Verdict()
    try:
        _decode(_Reader(data), verdict, masked, message_bytes, compression)
    except _NotAllThere:
        pass
    except ConnectionFault as fault:
        verdict.error = type(fault)
    return verdict


def _decode(reader: _Reader, verdict: Verdict, masked: bool, message_bytes: int | None, compression: bool) -> None:
    message_opcode, message_compressed, message_size, begun, text = 0, False, 0, False, b""
    while True:
        (byte,) = reader.take(1)
        is_final, rsv1, rsv2, rsv3 = (bool(byte & bit) for bit in (0x80, 0x40, 0x20, 0x10))
        opcode = byte & 0x0F
        if rsv2 or rsv3 or opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
            raise ProtocolViolation
        if rsv1 and not (compression and opcode in (1, 2)):
            raise ProtocolViolation
        is_control = opcode in (8, 9, 10)
        if is_control and not is_final:
            raise ProtocolViolation
        if not is_control and verdict.in_message != (opcode == 0):
            raise ProtocolViolation

        (byte,) = reader.take(1)
        if (byte >= 128) != masked:
            raise ProtocolViolation
        length = byte % 128
        if is_control and length > 125:
            raise ProtocolViolation
        if length == 126:
            length = int.from_bytes(reader.take(2), "big")
            if length <= 125:
                raise ProtocolViolation
        elif length == 127:
            length = int.from_bytes(reader.take(8), "big")
            if length <= 65535 or length >= 2**63:
                raise ProtocolViolation
        if not is_control:
            if opcode:
                message_opcode, message_compressed, message_size, text = opcode, rsv1, 0, b""
            message_size += length
            if message_bytes is not None and message_size > message_bytes and not message_compressed:
                raise MessageTooBig
        key = reader.take(4) if masked else b"\0\0\0\0"

        if is_control:
            payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(reader.take(length)))
            verdict.pieces.append((opcode, payload, FIRST | LAST))
            if opcode == 8:
                verdict.closed = True
                return
            continue

        if opcode:
            verdict.in_message, begun = True, False
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(reader.take_up_to(length)))
        ends = is_final and len(payload) == length
        error = None
        if message_opcode == 1 and not message_compressed:
            before, text = len(text), text + payload
            impossible, complete = utf8_verdict(text)
            if impossible is not None:
                payload, ends, error = payload[: impossible - before], False, InvalidUtf8()
            elif ends and not complete:
                ends, error = False, InvalidUtf8()
        if payload or ends:
            flags = (0 if begun else FIRST) | (LAST if ends else 0) | (COMPRESSED if message_compressed else 0)
            verdict.pieces.append((message_opcode, payload, flags))
            begun = True
        if error is not None:
            raise error
        if ends:
            verdict.in_message = False


def merged(pieces: list[Piece]) -> list[Piece]:
    """The pieces with those of one message joined where nothing stands between them: the same however it arrived."""
    joined: list[Piece] = []
    for opcode, payload, flags in pieces:
        if joined and opcode < 8 and not flags & FIRST and joined[-1][0] < 8:
            before = joined.pop()
            joined.append((opcode, before[1] + payload, before[2] | flags))
        else:
            joined.append((opcode, payload, flags))
    return joined
