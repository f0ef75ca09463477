"""The permessage-deflate extension (RFC 7692): what is agreed in the handshake, and the two directions of it.

Invariant: inflating hands out no more than it is asked for, whatever the compressed bytes expand to, and what it holds
between two calls is the input it was given.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import ProtocolViolation
from gateway.protocol.negotiation import ExtensionOffer

EXTENSION: Final = "permessage-deflate"

TAIL: Final = b"\x00\x00\xff\xff"
"""Ends a flushed DEFLATE stream; it is taken off a message's end and put back (RFC 7692 sections 7.2.1 and 7.2.2)."""

MIN_DEFLATE_WINDOW_BITS: Final = 9
"""zlib makes no raw stream for a window of 256 bytes. Where 8 bits are agreed for what we send, it goes uncompressed,
which RFC 7692 section 6 leaves to the sender, message by message."""

LEVEL: Final = 1
"""Of zlib's levels the fastest, as nginx has it by default: a relay compresses while somebody waits, and what higher
levels save on messages of a few hundred bytes is not worth their time."""

INPUT_SLICE_BYTES: Final = 4096
"""zlib copies what it leaves of its input, so a read that inflates a thousandfold would be copied a thousand times."""

FINAL_BLOCK_COST_BYTES: Final = 1024
"""What a block with BFINAL costs of the output asked for: a read may be thousands of empty ones, each a new stream."""

_WINDOW_BITS: Final = {str(bits): bits for bits in range(8, 16)}
_FLAGS: Final = ("server_no_context_takeover", "client_no_context_takeover")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeflateParameters:
    """What a connection agreed on, or what one side of a handshake is ready for (RFC 7692 section 7.1).

    The bits are the base-2 logarithm of the window each side compresses with, 8 to 15.
    """

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int = 15
    client_max_window_bits: int = 15


MODEST: Final = DeflateParameters(server_max_window_bits=12, client_max_window_bits=12)
"""Windows of 4 KiB: some 50 KiB a connection with `MEMORY_LEVEL` instead of 310, and small messages hardly larger."""

MEMORY_LEVEL: Final = 5
"""zlib's hash table and buffers in 16 KiB; its default of 8 takes 128."""


def negotiate(
    offers: Sequence[ExtensionOffer], wanted: DeflateParameters = MODEST
) -> tuple[DeflateParameters, ExtensionOffer] | None:
    """The server's side: the first offer that can be accepted, as parameters and as the answer to send; None if none.

    An offer with a parameter that is unknown, doubled or out of range is declined (RFC 7692 section 7), as are other
    extensions. `wanted` caps both windows and asks for no context takeover; a client's window is capped only if it
    said that it can be.
    """
    for offer in offers:
        if offer.name != EXTENSION:
            continue
        try:
            offered = _Parameters.parse(offer, window_needs_value=False)
        except ValueError:
            continue
        server_bits = min(offered.server_max_window_bits or 15, wanted.server_max_window_bits)
        client_bits = 15
        if offered.caps_client:
            client_bits = min(offered.client_max_window_bits or 15, wanted.client_max_window_bits)
        agreed = DeflateParameters(
            server_no_context_takeover=offered.server_no_context_takeover or wanted.server_no_context_takeover,
            client_no_context_takeover=offered.client_no_context_takeover or wanted.client_no_context_takeover,
            server_max_window_bits=server_bits,
            client_max_window_bits=client_bits,
        )
        # A server that accepts a limit of its window says so, even if it is 15 (section 7.1.2.1).
        says_server_bits = server_bits < 15 or offered.server_max_window_bits is not None
        return agreed, _extension(agreed, server_bits=says_server_bits, client_bits=client_bits < 15)
    return None


def offer(wanted: DeflateParameters = MODEST) -> tuple[ExtensionOffer, ...]:
    """The client's side: what to offer, in order of preference."""
    extension = _extension(
        wanted, server_bits=wanted.server_max_window_bits < 15, client_bits=wanted.client_max_window_bits < 15
    )
    if wanted.client_max_window_bits == 15:
        # Without a value: the server may choose (section 7.1.2.2).
        return (ExtensionOffer(name=EXTENSION, parameters=(*extension.parameters, ("client_max_window_bits", None))),)
    return (extension,)


def check_answer(answers: Sequence[ExtensionOffer], wanted: DeflateParameters = MODEST) -> DeflateParameters | None:
    """The client's side: what the server agreed to of `offer(wanted)`; None if it declined.

    Raises ValueError, saying what is wrong, for an answer that is none to the offer: the connection must be failed.
    """
    accepted = [answer for answer in answers if answer.name == EXTENSION]
    if not accepted:
        return None
    if len(accepted) > 1:
        raise ValueError(f"{EXTENSION} was accepted more than once")
    answer = _Parameters.parse(accepted[0], window_needs_value=True)
    if wanted.server_no_context_takeover and not answer.server_no_context_takeover:
        raise ValueError("server_no_context_takeover was offered but not accepted")
    if wanted.server_max_window_bits < (answer.server_max_window_bits or 15):
        raise ValueError(f"server_max_window_bits must be {wanted.server_max_window_bits} or less")
    if wanted.client_max_window_bits < (answer.client_max_window_bits or 0):
        raise ValueError(f"client_max_window_bits must be {wanted.client_max_window_bits} or less")
    return DeflateParameters(
        server_no_context_takeover=answer.server_no_context_takeover,
        client_no_context_takeover=answer.client_no_context_takeover or wanted.client_no_context_takeover,
        server_max_window_bits=answer.server_max_window_bits or 15,
        client_max_window_bits=answer.client_max_window_bits or wanted.client_max_window_bits,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameters:
    """The parameters as they stand in a header; None where one does not."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int | None
    client_max_window_bits: int | None
    caps_client: bool

    @classmethod
    def parse(cls, extension: ExtensionOffer, *, window_needs_value: bool) -> "_Parameters":
        given = dict(extension.parameters)
        if len(given) < len(extension.parameters):
            raise ValueError("a parameter stands there more than once")
        for name in _FLAGS:
            if given.get(name) is not None:
                raise ValueError(f"{name} takes no value")
        for name in given.keys() - {*_FLAGS, "server_max_window_bits", "client_max_window_bits"}:
            raise ValueError(f"unknown parameter {name}")
        return cls(
            server_no_context_takeover="server_no_context_takeover" in given,
            client_no_context_takeover="client_no_context_takeover" in given,
            server_max_window_bits=_window_bits(given, "server_max_window_bits", needs_value=True),
            client_max_window_bits=_window_bits(given, "client_max_window_bits", needs_value=window_needs_value),
            caps_client="client_max_window_bits" in given,
        )


def _window_bits(given: dict[str, str | None], name: str, *, needs_value: bool) -> int | None:
    if name not in given or (given[name] is None and not needs_value):
        return None
    # Decimal, without leading zeros (section 7.1.2).
    bits = _WINDOW_BITS.get(given[name] or "")
    if bits is None:
        raise ValueError(f"{name} must be 8 to 15")
    return bits


def _extension(parameters: DeflateParameters, *, server_bits: bool, client_bits: bool) -> ExtensionOffer:
    items: list[tuple[str, str | None]] = [(name, None) for name in _FLAGS if getattr(parameters, name)]
    if server_bits:
        items.append(("server_max_window_bits", str(parameters.server_max_window_bits)))
    if client_bits:
        items.append(("client_max_window_bits", str(parameters.client_max_window_bits)))
    return ExtensionOffer(name=EXTENSION, parameters=tuple(items))


class Inflater:
    """Inflates the messages of one direction, in steps: `feed` compressed payload, then `read` while it `has_more`.

    A block with BFINAL ends a DEFLATE stream, and the next byte begins a new one with an empty window. A message that
    ends inside a block is not noticed: zlib does not tell, and the damage is the sender's own.
    """

    __slots__ = ("_input", "_inside", "_is_last", "_position", "_takes_over", "_window_bits", "_zlib", "has_more")

    def __init__(self, *, window_bits: int, no_context_takeover: bool) -> None:
        self.has_more = False
        """The payload fed last may yield more."""
        self._window_bits = window_bits
        self._takes_over = not no_context_takeover
        self._zlib: zlib._Decompress | None = None
        self._input = b""
        self._position = 0
        self._is_last = False
        self._inside = False  # there was payload since the message began, or since a block with BFINAL

    def feed(self, payload: bytes, *, last: bool) -> None:
        """Takes the next compressed payload of a message; `last` says that it ends it. Only when nothing is left."""
        if self.has_more:
            raise RuntimeError("payload fed before all of the last one was read")
        self._inside = self._inside or bool(payload)
        # Without payload there is no block for the tail to end: an empty message, or one that BFINAL has ended.
        self._input = payload + TAIL if last and self._inside else payload
        self._position = 0
        self._is_last = last
        self.has_more = True

    def read(self, max_bytes: int) -> bytes:
        """The next 0 to `max_bytes` (1 or more) inflated bytes. Raises ProtocolViolation for what is no DEFLATE."""
        parts: list[bytes] = []
        room = max_bytes
        while room > 0 and self.has_more:
            if self._zlib is None:
                self._zlib = zlib.decompressobj(-self._window_bits)
            piece = self._input[self._position : self._position + INPUT_SLICE_BYTES]
            try:
                inflated = self._zlib.decompress(piece, room)
            except zlib.error as error:
                raise ProtocolViolation(f"compressed message is not valid DEFLATE data ({error})") from None
            # At a stream's end zlib may leave the rest in both; it is unused then.
            rest = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail
            self._position += len(piece) - len(rest)
            parts.append(inflated)
            room -= len(inflated)
            if self._zlib.eof:
                self._begin_stream()
                room -= FINAL_BLOCK_COST_BYTES
            # zlib may keep output back when it fills the room exactly: only a shorter one shows that there is none.
            if self._position >= len(self._input) and room > 0:
                self._end_payload()
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _begin_stream(self) -> None:
        self._zlib = None
        rest = len(self._input) - self._position
        self._inside = rest > 0
        if self._is_last and rest == len(TAIL):
            # Section 7.2.3.4: after BFINAL the sender adds a byte for the tail to complete. This one did not.
            self._position = len(self._input)

    def _end_payload(self) -> None:
        self.has_more = False
        self._input = b""
        if self._is_last:
            self._inside = False
            if not self._takes_over:
                self._zlib = None


class Deflater:
    """Deflates the messages of one direction. It takes memory from its first message on: 38 KiB with `MODEST`."""

    __slots__ = ("_level", "_takes_over", "_window_bits", "_zlib")

    def __init__(self, *, window_bits: int, no_context_takeover: bool, level: int = LEVEL) -> None:
        """`window_bits` is 9 to 15, see `MIN_DEFLATE_WINDOW_BITS`."""
        if not MIN_DEFLATE_WINDOW_BITS <= window_bits <= 15:
            raise ValueError(f"zlib deflates with a window of 9 to 15 bits, not {window_bits}")
        self._window_bits = window_bits
        self._takes_over = not no_context_takeover
        self._level = level
        self._zlib: zlib._Compress | None = None

    def deflate(self, payload: bytes, *, last: bool, flush: bool) -> bytes:
        """The compressed form of the next payload of a message; may be empty until `flush` or `last`.

        `flush`: everything given so far can be inflated from what was returned so far. `last`: the message ends.
        """
        if self._zlib is None:
            self._zlib = zlib.compressobj(self._level, zlib.DEFLATED, -self._window_bits, MEMORY_LEVEL)
        deflated = self._zlib.compress(payload)
        if not last:
            return deflated + self._zlib.flush(zlib.Z_SYNC_FLUSH) if flush else deflated
        deflated += self._zlib.flush(zlib.Z_SYNC_FLUSH)
        if not self._takes_over:
            self._zlib = None
        # An empty block (section 7.2.3.6), should zlib not repeat a flush with nothing since the last one.
        return deflated[: -len(TAIL)] or b"\x00"
