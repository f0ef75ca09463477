"""Durations and sizes as people write them: `5s`, `1h30m`, `64KiB`.

Invariant: what `format_duration` and `format_size` print, `parse_duration` and `parse_size` read back unchanged.
Every parser raises ValueError with a text that says what to write instead.
"""

import re
from decimal import Decimal
from itertools import pairwise
from typing import Final

_DURATION_UNITS: Final = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
"""Milliseconds of each unit, largest first: the order in which a duration must name them."""

_SIZE_UNITS: Final = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "GB": 10**9, "MB": 10**6, "kB": 10**3, "B": 1}
"""Bytes of each unit. `K` and `KB` are not here: nobody can tell which of 1000 and 1024 their author meant."""

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"

# Both patterns go into the JSON Schema, so they keep to what every regular expression engine knows: no lookahead.
DURATION_PATTERN: Final = f"^(?:{_NUMBER}(?:{'|'.join(_DURATION_UNITS)}))+$"
SIZE_PATTERN: Final = f"^{_NUMBER} ?(?:{'|'.join(_SIZE_UNITS)})$"

_DURATION_PART: Final = re.compile(f"({_NUMBER})(ms|[dhms])")
_DURATION: Final = re.compile(DURATION_PATTERN)
_SIZE: Final = re.compile(f"({_NUMBER}) ?([A-Za-z]*)")


def parse_duration(text: str) -> float:
    """Seconds, more than 0, from `250ms`, `5s`, `1.5m` or `1h30m`."""
    if not _DURATION.fullmatch(text):
        hint = f"; write {text}s for seconds" if re.fullmatch(_NUMBER, text) else ""
        raise ValueError(f'"{text}" is not a duration such as 250ms, 5s, 2m or 1h30m{hint}')
    parts = [(Decimal(number), _DURATION_UNITS[unit]) for number, unit in _DURATION_PART.findall(text)]
    if any(unit <= following for (_, unit), (_, following) in pairwise(parts)):
        raise ValueError(f'"{text}" must name each unit once, the largest first, as in 1h30m')
    milliseconds = sum((number * unit for number, unit in parts), Decimal())
    if not milliseconds:
        raise ValueError(f'a duration must be longer than 0, not "{text}"; null switches it off where that is allowed')
    return float(milliseconds / 1000)


def format_duration(seconds: float) -> str:
    """The shortest text for `seconds`, to the millisecond, which is 1 at least."""
    rest = max(round(seconds * 1000), 1)
    parts = []
    for unit, milliseconds in _DURATION_UNITS.items():
        count, rest = divmod(rest, milliseconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(text: str) -> int:
    """Bytes from `65536`, `64KiB`, `1.5MiB` or `500kB`."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f'"{text}" is not a size such as 65536, 64KiB, 1MiB or 500kB')
    number, unit = found.groups()
    if unit and unit not in _SIZE_UNITS:
        wanted = [known for known in _SIZE_UNITS if known != "B" and known[0].upper() == unit[0].upper()]
        hint = " or ".join(f"{number}{known}" for known in wanted) or "one of " + ", ".join(_SIZE_UNITS)
        raise ValueError(f'"{text}" has the unknown unit "{unit}"; write {hint}')
    size = Decimal(number) * _SIZE_UNITS[unit or "B"]
    if size != size.to_integral_value():
        raise ValueError(f'"{text}" is not a whole number of bytes')
    return int(size)


def format_size(size: int) -> str:
    """The shortest exact text: the largest unit, binary before decimal, that divides `size`."""
    for unit, factor in _SIZE_UNITS.items():
        if size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"
