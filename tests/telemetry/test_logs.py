"""Log lines read back from the descriptor they were written to."""

import json
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry import logs
from gateway.telemetry.folding import Folding
from gateway.telemetry.logs import Format, Level, Sink, configure, get_logger
from tests.support.tools import REPOSITORY


class Reader:
    """The other end of the log's pipe."""

    def __init__(self) -> None:
        self.descriptor, self.written_to = os.pipe()
        os.set_blocking(self.descriptor, False)

    def read(self) -> str:
        """All that was written since the last time."""
        parts = []
        while True:
            try:
                part = os.read(self.descriptor, 65536)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
        return b"".join(parts).decode()

    def lines(self) -> list[dict[str, Any]]:
        """The lines as objects; each is one line that ends in a newline."""
        text = self.read()
        assert text == "" or text.endswith("\n")
        return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.fixture
def reader() -> Iterator[Reader]:
    root = logging.getLogger()
    before = (root.level, root.handlers[:])
    found = Reader()
    yield found
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:] = before[1]
    root.setLevel(before[0])
    os.close(found.descriptor)
    os.close(found.written_to)


def test_a_line_is_one_object_with_event_level_and_utc_timestamp(reader: Reader) -> None:
    configure(descriptor=reader.written_to)
    earliest = datetime.now(UTC)
    get_logger("relay").info("session_end", code=1000, settled=None, ratio=0.5, clean=True)
    (line,) = reader.lines()
    assert earliest <= datetime.fromisoformat(line.pop("timestamp")) <= datetime.now(UTC)
    assert line == {
        "level": "info", "event": "session_end", "logger": "relay",
        "code": 1000, "settled": None, "ratio": 0.5, "clean": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_lines_below_the_level_are_not_written(reader: Reader, level: Level, written: list[str]) -> None:
    configure(level=level, descriptor=reader.written_to)
    log = get_logger("relay")
    log.debug("x")
    log.info("x")
    log.warning("x")
    log.error("x")
    assert [line["level"] for line in reader.lines()] == written


def test_loggers_made_before_follow_a_later_configuration(reader: Reader) -> None:
    log = get_logger("relay")
    configure(level="error", descriptor=reader.written_to)
    log.info("hidden")
    configure(level="info", descriptor=reader.written_to)
    log.info("shown")
    assert [line["event"] for line in reader.lines()] == ["shown"]


def test_bound_fields_are_on_every_line_of_the_logger(reader: Reader) -> None:
    configure(descriptor=reader.written_to)
    log = get_logger("session").bind(session="a1")
    log.info("parked")
    log.info("resumed", session="a2")
    assert [(line["event"], line["session"]) for line in reader.lines()] == [("parked", "a1"), ("resumed", "a2")]


def test_a_logger_without_a_name_writes_none(reader: Reader) -> None:
    configure(descriptor=reader.written_to)
    structlog.get_logger().info("ready")
    (line,) = reader.lines()
    assert "logger" not in line


def test_a_traceback_is_a_field_of_text(reader: Reader) -> None:
    configure(descriptor=reader.written_to)
    try:
        raise ExceptionGroup("crashed", [ValueError("inner\x1b[31m")])
    except ExceptionGroup:
        get_logger("relay").exception("relay_failed")
    (line,) = reader.lines()
    assert line["level"] == "error"
    assert "ExceptionGroup: crashed (1 sub-exception)" in line["exception"]
    assert "test_a_traceback_is_a_field_of_text" in line["exception"]
    assert "exc_info" not in line


@given(st.text(), st.binary(), st.text(min_size=1))
@pytest.mark.parametrize("format", ["json", "console"])
def test_nothing_a_peer_sends_can_forge_a_line_or_control_a_terminal(
    format: Format, text: str, data: bytes, inner: str
) -> None:
    reader = Reader()
    try:
        configure(format=format, descriptor=reader.written_to)
        get_logger("relay").info("refused", origin=text, data=data, nested={"list": [inner]}, path=Path("/x"))
        written = reader.read()
    finally:
        structlog.reset_defaults()
        os.close(reader.descriptor)
        os.close(reader.written_to)
    assert written.endswith("\n")
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]", written[:-1])
    if format == "json":
        line = json.loads(written)
        assert line["origin"].encode("utf-8", "surrogatepass") == text.encode("utf-8", "surrogatepass")
        assert line["nested"] == {"list": [inner]}
        assert line["data"] == data.decode("utf-8", "backslashreplace")
        assert line["path"] == "/x"


def test_text_is_logged_in_its_own_script(reader: Reader) -> None:
    configure(descriptor=reader.written_to)
    get_logger("relay").info("どやさ")
    assert '"event":"どやさ"' in reader.read()


def test_console_lines_are_plain_where_there_is_no_terminal(reader: Reader) -> None:
    configure(format="console", descriptor=reader.written_to)
    get_logger("relay").warning("backend_down", endpoint="tcp://a:1", dials=3, up=False)
    text = reader.read()
    assert "\x1b" not in text
    assert re.search(r"^[\d:.]{12} warning backend_down  endpoint=tcp://a:1 dials=3 up=no  \[relay\]\n$", text)


def test_console_lines_are_coloured_on_a_terminal(reader: Reader) -> None:
    leader, follower = os.openpty()
    try:
        configure(format="console", descriptor=follower)
        get_logger("relay").info("ready", origin="\x1b[2J")
        text = os.read(leader, 65536).decode()
    finally:
        os.close(leader)
        os.close(follower)
    assert "\x1b[" in text
    assert "\x1b[2J" not in text


def test_console_shows_a_traceback_over_several_lines_and_escapes_the_rest(reader: Reader) -> None:
    configure(format="console", descriptor=reader.written_to)
    try:
        raise ValueError("red \x1b[31m")
    except ValueError:
        get_logger("relay").exception("relay_failed")
    text = reader.read()
    assert "Traceback (most recent call last):\n" in text
    assert "ValueError: red \\u001b[31m" in text


def test_what_libraries_log_has_the_same_form(reader: Reader) -> None:
    configure(level="debug", descriptor=reader.written_to)
    library = logging.getLogger("some.library")
    library.debug("one")
    library.warning("two %s", "three")
    library.critical("four")
    library.log(5, "below debug")
    assert [(line["level"], line["event"], line["logger"]) for line in reader.lines()] == [
        ("debug", "one", "some.library"),
        ("warning", "two three", "some.library"),
        ("error", "four", "some.library"),
    ]


def test_warnings_are_logged(reader: Reader) -> None:
    configure(descriptor=reader.written_to)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("this goes away", DeprecationWarning, stacklevel=1)
    (line,) = reader.lines()
    assert line["level"] == "warning"
    assert "this goes away" in line["event"]


def _fill_pipe(reader: Reader) -> None:
    os.set_blocking(reader.written_to, False)
    try:
        while True:
            os.write(reader.written_to, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(reader.written_to, True)


def test_a_reader_that_does_not_read_stops_nobody_and_gets_the_backlog_later(reader: Reader) -> None:
    sink = Sink(reader.written_to)
    _fill_pipe(reader)
    sink.write_line('"one"')
    sink.write_line('"' + "2" * 10_000 + '"')
    assert reader.read().strip(".") == ""
    sink.write_line('"three"')
    assert reader.read().split("\n") == ['"one"', '"' + "2" * 10_000 + '"', '"three"', ""]


def test_lines_beyond_the_backlog_are_dropped_whole_and_counted(reader: Reader) -> None:
    sink = Sink(reader.written_to, backlog_bytes=100)
    _fill_pipe(reader)
    for _ in range(5):
        sink.write_line(json.dumps("x" * 37))
    reader.read()
    sink.write_line('"last"')
    assert reader.lines() == [
        "x" * 37,
        "x" * 37,
        {"event": "log_lines_dropped", "level": "warning", "lines": 3},
        "last",
    ]


def test_a_reader_that_has_gone_stops_nobody() -> None:
    reader = Reader()
    os.close(reader.descriptor)
    sink = Sink(reader.written_to)
    sink.write_line("one")
    os.close(reader.written_to)
    sink.write_line("two")


def test_the_default_is_json_on_standard_error(capfd: pytest.CaptureFixture[str], reader: Reader) -> None:
    configure()
    get_logger("relay").info("ready")
    assert json.loads(capfd.readouterr().err)["event"] == "ready"
    assert logs.STANDARD_ERROR == 2


def test_a_storm_of_one_kind_and_source_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    logs.configure(descriptor=writing)
    monkeypatch.setattr(logs, "_folding", Folding(burst=3))
    try:
        for port in range(1000):
            logs.get_logger("server").info("refused", address=f"192.0.2.1:{port}", route="chat", status=403)
        later = time.time() + 60
        monkeypatch.setattr(time, "time", lambda: later)
        logs.tell_folded()
    finally:
        logs.configure()
        os.close(writing)
    with open(reading) as pipe:
        lines = [json.loads(line) for line in pipe]
    assert [line["event"] for line in lines] == ["refused"] * 3 + ["lines_folded"]
    assert (lines[-1]["of"], lines[-1]["source"], lines[-1]["lines"]) == ("refused", "192.0.2.1", 997)
    assert (lines[-1]["logger"], lines[-1]["route"], lines[-1]["level"]) == ("server", "chat", "info")


def test_every_line_that_the_docs_name_is_written_somewhere() -> None:
    page = (REPOSITORY / "docs" / "logs.md").read_text()
    told = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", page)) | {"dialed", "upgraded", "request", "checked"}
    sources = "\n".join(path.read_text() for path in (REPOSITORY / "gateway").rglob("*.py"))
    settings = {"awaits_open"}
    missing = [name for name in told - settings if f'"{name}"' not in sources and f'"event":"{name}"' not in sources]
    assert missing == []
