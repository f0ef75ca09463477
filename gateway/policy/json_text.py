"""JSON that somebody else wrote: how deep it may nest is ours to say, and the same on every Python."""

import json
from typing import Any, Final

MAX_NESTING: Final = 64
"""Arrays and objects within each other. Python's own limit is somewhere from 1,000 up, by its version; what is read is
looked through and written again by others, each with a limit of its own."""


def read_json(text: str | bytes, **hooks: Any) -> Any:
    """The value, as by `json.loads`; ValueError for what is no JSON, or nests deeper than MAX_NESTING."""
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level = [value]
    for _ in range(MAX_NESTING):
        level = [inner for outer in level for inner in _within(outer) if isinstance(inner, (dict, list))]
        if not level:
            return value
    raise ValueError(_TOO_DEEP)


_TOO_DEEP: Final = f"it nests deeper than {MAX_NESTING} levels"


def _within(value: Any) -> Any:
    if isinstance(value, list):
        return value
    return value.values() if isinstance(value, dict) else ()
