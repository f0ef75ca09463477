"""The log: one JSON object a line (or text for people) on standard error.

Invariant: nothing a peer sends can forge a line or reach a terminal as a control character. A reader of the log that
has stopped reading never stops the gateway: what its pipe does not take waits in a bounded backlog, and what that does
not take is dropped and counted.

No context variables: what a line should say is given where it is logged, or bound to the logger there.
"""

import json
import logging
import os
import re
import select
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Final, Literal, assert_never, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from gateway.telemetry.console import render_console
from gateway.telemetry.folding import Folding

Format = Literal["json", "console"]
Level = Literal["debug", "info", "warning", "error"]

STANDARD_ERROR: Final = 2

BACKLOG_BYTES: Final = 1 << 20
"""What is kept for a reader that is slow: some thousands of lines, and all that a gateway should spend on it."""

_PIECE_BYTES: Final = 4096
"""A pipe that polls as writable takes this much without blocking (PIPE_BUF on Linux, pipe(7))."""

_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, what reorders text on a terminal, and surrogates, which UTF-8 cannot hold."""

_UNSAFE_IN_TRACEBACK: Final = re.compile(_UNSAFE.pattern.replace("\x00-\x1f", "\x00-\x08\x0b-\x1f"))
"""The same but tab and newline."""

_FIRST: Final = ("timestamp", "level", "event", "logger")


class Sink:
    """Writes lines to a descriptor without ever blocking; may be used from several threads."""

    def __init__(self, descriptor: int, *, backlog_bytes: int = BACKLOG_BYTES) -> None:
        """Borrows `descriptor`, which stays blocking: it may be a terminal that others share."""
        self._descriptor = descriptor
        self._backlog_bytes = backlog_bytes
        self._backlog = bytearray()
        self._dropped = 0
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def write_line(self, line: str) -> None:
        """Write `line` or keep it for later; dropped when the backlog is full, which the next line kept then tells."""
        data = line.encode() + b"\n"
        with self._lock:
            self._flush()
            if len(self._backlog) + len(data) > self._backlog_bytes:
                self._dropped += 1
                return
            if self._dropped:
                self._backlog += b'{"event":"log_lines_dropped","level":"warning","lines":%d}\n' % self._dropped
                self._dropped = 0
            self._backlog += data
            self._flush()

    def _flush(self) -> None:
        while self._backlog and self._is_writable():
            try:
                written = os.write(self._descriptor, self._backlog[:_PIECE_BYTES])
            except OSError:
                # Nobody reads the log any more, and there is nowhere to say so.
                self._backlog.clear()
                return
            del self._backlog[:written]

    def _is_writable(self) -> bool:
        # A reader that has gone is reported as POLLERR without POLLOUT; the write then says so at once.
        return bool(self._poll.poll(0))


class _Logger:
    """What structlog's loggers end in: the sink, and the name that `get_logger` was given."""

    def __init__(self, sink: Sink, name: str | None) -> None:
        self.name = name
        self._sink = sink

    def msg(self, line: str) -> None:
        self._sink.write_line(line)

    debug = info = warning = warn = error = critical = exception = msg


def _add_logger_name(logger: WrappedLogger, _: str, event_dict: EventDict) -> EventDict:
    name = getattr(logger, "name", None)
    if name is not None:
        event_dict["logger"] = name
    return event_dict


def _text_of(value: object) -> str:
    """A value that JSON has no form for."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode("utf-8", "backslashreplace")
    return str(value)


_encode: Final = json.JSONEncoder(default=_text_of, ensure_ascii=False, separators=(",", ":")).encode
"""`json.dumps` would make an encoder for each line."""


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _render_json(_: WrappedLogger, __: str, event_dict: EventDict) -> str:
    ordered = {key: event_dict[key] for key in _FIRST if key in event_dict}
    ordered.update(event_dict)
    # All that is unsafe stands inside JSON strings, where these escapes mean the character itself.
    return _UNSAFE.sub(_escape, _encode(ordered))


def _make_safe_for_console(_: WrappedLogger, __: str, event_dict: EventDict) -> Mapping[str, Any]:
    def safe(key: str, value: object) -> object:
        if isinstance(value, bool | int | float | None):
            return value
        if isinstance(value, Mapping):
            return {safe("", inner): safe("", within) for inner, within in value.items()}
        if isinstance(value, list | tuple):
            return [safe("", within) for within in value]
        return (_UNSAFE_IN_TRACEBACK if key == "exception" else _UNSAFE).sub(_escape, _text_of(value))

    return {key: safe(key, value) for key, value in event_dict.items()}


def _render_console(_: WrappedLogger, __: str, event_dict: EventDict, *, colours: bool) -> str:
    return render_console(event_dict, colours=colours)


class _StandardLibraryBridge(logging.Handler):
    """Takes in what libraries say through `logging` and `warnings`, so that every line has the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass `record` on, at the nearest of our levels below its own."""
        level = min(max(record.levelno // 10 * 10, logging.DEBUG), logging.ERROR)
        get_logger(record.name).log(level, record.getMessage(), exc_info=record.exc_info)


_severity = logging.NOTSET
"""The least that is written, since `set_level` was called last."""

_folding = Folding()
"""Of all lines of this process, since `configure` was called last."""


def _fold(_: WrappedLogger, __: str, event_dict: EventDict) -> EventDict:
    if not _folding.writes(event_dict, time.time()):
        raise structlog.DropEvent
    return event_dict


def tell_folded() -> None:
    """Writes the lines that stand for those that were folded; to be called once a second or so."""
    for line in _folding.due(time.time()):
        level, name = str(line.pop("level", "info")), str(line.pop("logger", "log"))
        getattr(get_logger(name), level)(**line)


def configure(*, format: Format = "json", level: Level = "info", descriptor: int = STANDARD_ERROR) -> None:
    """From now on all loggers, also those made before, write lines from `level` up to `descriptor`.

    Each line has `event`, `level`, `timestamp` (ISO 8601, UTC), `logger` if it is named, and `exception`, a traceback
    as text, for what was logged with one.
    """
    global _folding
    _folding = Folding()
    sink = Sink(descriptor)
    renderer: tuple[Any, ...]
    match format:
        case "json":
            renderer = (_render_json,)
        case "console":
            renderer = (
                _make_safe_for_console,
                partial(_render_console, colours=os.isatty(descriptor)),
            )
        case never:
            assert_never(never)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _add_logger_name,
            _fold,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *renderer,
        ],
        logger_factory=lambda name=None: _Logger(sink, name),
        # A cached logger would keep the level and the sink it was first used with.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_StandardLibraryBridge()], force=True)
    logging.captureWarnings(True)
    set_level(level)


def set_level(level: Level) -> None:
    """From now on all loggers, also those made before, write lines from `level` up; where to stays as it is."""
    global _severity
    _severity = severity = getattr(logging, level.upper())
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(severity))
    logging.getLogger().setLevel(severity)


def tells_debug() -> bool:
    """Whether lines at `debug` are written: where each connection has some, none is made up to be thrown away."""
    return _severity <= logging.DEBUG


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `logger: name`; it follows `configure`, whenever that is called."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))
