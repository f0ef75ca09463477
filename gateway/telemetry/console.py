"""A log line for people: the hour, what happened, and what is known of it, in the order in which it was given.

    02:17:08.091 warning backend_unreachable: Connection refused  route=dead address=127.0.0.1  [server]
        hint: is it running?

What is nothing (None, empty text, no loss) is left out, and mappings are taken apart. That every text is safe for a
terminal its caller has seen to.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

_PLACED: Final = frozenset({"timestamp", "level", "event", "logger", "problem", "hint", "exception"})
_DIM, _BOLD, _CYAN, _RESET = "\x1b[2m", "\x1b[1m", "\x1b[36m", "\x1b[0m"
_LEVELS: Final = {"debug": _DIM, "info": "\x1b[32m", "warning": "\x1b[33m", "error": "\x1b[31m"}


def render_console(line: Mapping[str, object], *, colours: bool) -> str:
    """The line, and below it what takes more than one: its hint, its traceback. No newline at the end."""

    def tinted(text: str, colour: str) -> str:
        return f"{colour}{text}{_RESET}" if colours else text

    level = str(line.get("level", "info"))
    parts = [
        tinted(_hour(line.get("timestamp")), _DIM),
        tinted(f"{level:<7}", _LEVELS.get(level, "")),
        tinted(str(line.get("event", "")), _BOLD) + (f": {line['problem']}" if line.get("problem") else ""),
    ]
    known = [
        f"{tinted(name, _CYAN)}={value}"
        for key, given in line.items()
        if key not in _PLACED
        for name, value in _told(key, given)
    ]
    text = " ".join(parts) + ("  " + " ".join(known) if known else "")
    if line.get("logger"):
        text += "  " + tinted(f"[{line['logger']}]", _DIM)
    if line.get("hint"):
        text += f"\n    hint: {line['hint']}"
    if line.get("exception"):
        text += f"\n{line['exception']}"
    return text


def _hour(timestamp: object) -> str:
    """Of this machine's zone: whoever looks at a terminal looks at the clock beside it."""
    try:
        moment = datetime.fromisoformat(str(timestamp))
    except ValueError:
        return str(timestamp or "")
    return moment.astimezone().isoformat(sep=" ", timespec="milliseconds")[11:23]


def _told(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Names and values of what there is to tell."""
    match value:
        case None | "" | []:
            return
        case Mapping():
            for inner, within in value.items():
                yield from _told(f"{name}.{inner}", within)
        case list():
            yield name, ",".join(_word(item) for item in value)
        case _:
            yield name, _word(value)


def _word(value: object) -> str:
    """A text that could be taken for several stands in quotes."""
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return "..".join(_word(item) for item in value)
        case str() if not value or set(value) & set(' "=,'):
            return '"' + value.replace('"', '\\"') + '"'
        case _:
            return str(value)
