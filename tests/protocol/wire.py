"""What the codecs are tried with: streams of frames, mostly legal, cut anywhere; and their decoders' answers."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any

from hypothesis import strategies as st

from gateway.errors import ConnectionFault
from gateway.protocol.pieces import FIRST, LAST, Buffer, Piece
from tests.support.peers import wire as peers_wire
from tests.support.peers.wire import KEY

WHOLE = FIRST | LAST


def key() -> bytes:
    """A source of masking keys with nothing random in it."""
    return KEY


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = KEY,
    announced: int | None = None,
    width: int | None = None,
) -> bytes:
    """A frame as the wire has it, legal or not, masked with a key that changes each byte."""
    return peers_wire.frame(opcode, payload, fin=fin, rsv=rsv, mask=mask, announced=announced, width=width)


def decode(codec: ModuleType, reads: Iterable[Buffer], **options: Any) -> tuple[list[Piece], Any]:
    """The pieces in all of `reads`, and the decoder, which expects masked frames unless `options` say otherwise."""
    decoder = codec.FrameDecoder(**{"masked": True, **options})
    pieces = []
    for read in reads:
        pieces += decoder.feed(read)
    return pieces, decoder


def error_of(codec: ModuleType, data: bytes, **options: Any) -> ConnectionFault | None:
    """The fault that `data` ends in."""
    error: ConnectionFault | None = decode(codec, [data], **options)[1].error
    return error


def single_bytes(data: bytes) -> list[bytes]:
    """The data cut at every byte."""
    return [data[at : at + 1] for at in range(len(data))]


TEXT_PARTS = [b"a", b"z" * 20, "é".encode(), "書".encode(), "😀".encode(), b"\xe6", b"\x9b", b"\xf0\x9f", b"\xff"]
texts = st.lists(st.sampled_from(TEXT_PARTS)).map(b"".join)


@st.composite
def wire(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """Frames that are mostly a legal stream, with each kind of fault here and there, and decoder options."""
    masked = draw(st.booleans())
    rarely = st.integers(0, 15).map(lambda number: number == 0)
    stream = []
    in_message = False
    for _ in range(draw(st.integers(0, 8))):
        opcode = draw(st.sampled_from([0, 9, 10] if in_message else [1, 1, 2, 9, 10]))
        if draw(rarely):
            opcode = draw(st.integers(0, 15))
        control = opcode >= 8
        payload = draw(st.binary(max_size=140) if control or opcode == 2 else texts)
        payload = payload[:125] if control and not draw(rarely) else payload
        fin = draw(st.booleans()) or (control and not draw(rarely))
        rsv = draw(st.sampled_from([0, 0, 0, 4])) if opcode in (1, 2) else 0
        if draw(rarely):
            rsv = draw(st.integers(0, 7))
        width = 8 if draw(rarely) else 2 if draw(rarely) and len(payload) < 65536 else None
        announced = draw(st.integers(0, 2**64 - 1)) if draw(rarely) else None
        if announced is not None:
            width = 8
        key = draw(st.binary(min_size=4, max_size=4)) if masked != draw(rarely) else None
        stream.append(frame(opcode, payload, fin=fin, rsv=rsv, mask=key, width=width, announced=announced))
        if not control:
            in_message = not fin
    data = b"".join(stream)
    if draw(rarely):
        data = data[: draw(st.integers(0, len(data)))]
    options = {
        "masked": masked,
        "compression": draw(st.booleans()),
        "message_bytes": draw(st.sampled_from([None, None, 0, 1, 20, 300])),
    }
    return data, options


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """The data cut at these positions, in any order; those beyond its end are ignored."""
    bounds = sorted({0, len(data), *(at for at in cuts if at < len(data))})
    return [data[start:end] for start, end in pairwise(bounds)]
