"""The numbered messages of a trial: each says whose it is and which, and can be checked to the last byte.

Invariant: a message's bytes follow from the trial's seed, its stream and its number alone, so that both ends know them
without telling each other. Each ends with a newline and has no other, so that a stream of bytes is cut into them again.
"""

import random
from dataclasses import dataclass
from typing import Final, NamedTuple

from gateway.trial.faults import Direction

GREETING: Final = 0
"""The number of the message that begins every upstream of a connection or session: it says whose it is. Not counted."""

SMALL_BYTES: Final = 200
MIDDLE_BYTES: Final = 8 * 1024
LARGE_BYTES: Final = 200 * 1024
"""Beyond a record's fragment and most buffers."""

_LETTERS: Final = b"abcdefghijklmnopqrstuvwxyz0123456789"
_MIXER: Final = 2654435761
"""Knuth's multiplicative hash: neighbouring numbers get unlike sizes."""

_PREFIXES: Final = {Direction.UPSTREAM: b"u", Direction.DOWNSTREAM: b"d"}
_DIRECTIONS: Final = {prefix: direction for direction, prefix in _PREFIXES.items()}


class Numbered(NamedTuple):
    """What a message says of itself."""

    direction: Direction
    client: int
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large messages are; one in `middle_every` is of kilobytes, one in `large_every` of hundreds of them."""

    middle_every: int = 50
    large_every: int = 1000


class Traffic:
    """Makes and checks the messages of one trial."""

    def __init__(self, seed: int, shape: Shape = Shape()) -> None:
        self._seed = seed
        self._shape = shape
        self._filling = bytes(random.Random(seed).choices(_LETTERS, k=2 * LARGE_BYTES))

    def message(self, direction: Direction, client: int, number: int) -> bytes:
        """One message, its newline included."""
        mixed = ((number + 1) * _MIXER + client * 7919 + self._seed) & 0xFFFFFFFF
        if number == GREETING:
            size = 0
        elif number % self._shape.large_every == 0:
            size = LARGE_BYTES // 4 + mixed % (3 * LARGE_BYTES // 4)
        elif number % self._shape.middle_every == 0:
            size = mixed % MIDDLE_BYTES
        else:
            size = mixed % SMALL_BYTES
        begin = mixed % LARGE_BYTES
        return b"%s %d %d %s\n" % (_PREFIXES[direction], client, number, self._filling[begin : begin + size])

    def read(self, message: bytes) -> Numbered | None:
        """What the message says it is; None if it is not, to the last byte, a message of this trial."""
        parts = message.split(b" ", 3)
        if len(parts) != 4 or parts[0] not in _DIRECTIONS or not (parts[1].isdigit() and parts[2].isdigit()):
            return None
        numbered = Numbered(_DIRECTIONS[parts[0]], int(parts[1]), int(parts[2]))
        return numbered if self.message(*numbered) == message else None


class LineReader:
    """Cuts a stream of bytes into messages again. Holds at most one unfinished message."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes, newlines included."""
        lines = data.splitlines(keepends=True)
        if not lines:
            return lines
        if self._held:
            self._held.append(lines[0])
            if not lines[0].endswith(b"\n"):
                return []
            lines[0] = b"".join(self._held)
            self._held.clear()
        if not lines[-1].endswith(b"\n"):
            self._held.append(lines.pop())
        return lines
