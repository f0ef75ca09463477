"""Inputs for a run without coverage: random ones, and seeds changed a little."""

import random
from collections.abc import Iterator

from tests.fuzz.target import MAX_INPUT_BYTES, Target

_EDGES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\x7e",
    b"\xfe",
    b"\x00\x7d",
    b"\x00\x7e",
    b"\xff\xff",
    bytes(8),
    b"\xff" * 8,
)


def inputs(target: Target, rng: random.Random) -> Iterator[bytes]:
    """Endless inputs for `target`, the same for the same state of `rng`; the seeds come first."""
    yield from target.seeds
    tokens = target.tokens + _EDGES
    while True:
        if rng.random() < 0.05:
            yield rng.randbytes(rng.randrange(200))
            continue
        data = bytearray(rng.choice(target.seeds))
        for _ in range(rng.choice((1, 1, 2, 3, 5, 10))):
            _mutate(data, rng, tokens, target.seeds)
        yield bytes(data[:MAX_INPUT_BYTES])


def _mutate(data: bytearray, rng: random.Random, tokens: tuple[bytes, ...], seeds: tuple[bytes, ...]) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 64)))
    match rng.randrange(8):
        case 0 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 1 if data:
            data[at % len(data)] = rng.randrange(256)
        case 2:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16, 150)))
        case 3:
            del data[at:end]
        case 4:
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
        case 5:
            token = rng.choice(tokens)
            data[at : at + rng.choice((0, len(token)))] = token
        case 6:
            other = rng.choice(seeds)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        case _:
            del data[at:]
