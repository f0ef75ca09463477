"""What a fuzz target is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

MAX_INPUT_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A core under attack. To add one: a module beside this one with a `TARGET`, named in `targets.TARGETS`."""

    name: str
    check: Callable[[bytes], None]
    """Feeds one input to the core, and raises whatever it likes where the core misbehaves."""
    seeds: tuple[bytes, ...]
    """Inputs that reach deep, to begin mutating from."""
    tokens: tuple[bytes, ...] = ()
    """Byte strings that the core treats in a way of its own."""
    peak_bytes: int
    """What `check` may have allocated at once, for an input of up to `MAX_INPUT_BYTES`."""


def split(data: bytes, choice: int) -> list[bytes]:
    """The input cut into reads, in a way that `choice` (0 to 255) tells: whole, byte by byte, or in between."""
    if choice < 128:
        return [data]
    if choice < 144:
        return [data[at : at + 1] for at in range(len(data))]
    size = choice - 142
    return [data[at : at + size] for at in range(0, len(data), size)]
