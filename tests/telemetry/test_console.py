"""Lines for people, by what they look like."""

import re
import time
from collections.abc import Iterator

import pytest

from gateway.telemetry.console import render_console

STAMP = "2026-11-29T02:17:08.091041Z"


@pytest.fixture(autouse=True)
def _here_is_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


def line(**fields: object) -> str:
    return render_console({"timestamp": STAMP, "level": "info", **fields}, colours=False)


def test_it_begins_with_the_hour_here_the_level_and_what_happened() -> None:
    assert line(event="ready", logger="server") == "11:17:08.091 info    ready  [server]"


def test_what_was_wrong_stands_behind_what_happened_and_the_hint_below() -> None:
    text = line(event="backend_down", level="warning", problem="Connection refused", route="a", hint="does it run?")
    assert text.splitlines() == [
        "11:17:08.091 warning backend_down: Connection refused  route=a",
        "    hint: does it run?",
    ]


def test_fields_keep_their_order_and_what_is_nothing_is_left_out() -> None:
    text = line(event="refused", zone="b", address="192.0.2.1", origin=None, reason="", routes=[], status=404, ok=True)
    assert text.endswith("refused  zone=b address=192.0.2.1 status=404 ok=yes")


def test_accounts_are_taken_apart() -> None:
    upstream = {"messages": 2, "settled": 1, "unknown": [2, 2], "never_forwarded": None}
    text = line(event="session_ended", upstream=upstream, routes=["a", "b"])
    assert text.endswith("upstream.messages=2 upstream.settled=1 upstream.unknown=2,2 routes=a,b")


@pytest.mark.parametrize(
    ("value", "shown"),
    [("two words", '"two words"'), ('say "x"', '"say \\"x\\""'), ("a=b", '"a=b"'), ("plain", "plain"), (0.5, "0.5")],
)
def test_a_text_that_could_be_taken_for_several_stands_in_quotes(value: object, shown: str) -> None:
    assert line(event="x", value=value).endswith(f"value={shown}")


def test_a_traceback_follows_as_it_is() -> None:
    text = line(event="internal_fault", exception="Traceback:\n  it broke")
    assert text.endswith("internal_fault\nTraceback:\n  it broke")


def test_colours_are_for_terminals_and_leave_the_words_as_they_are() -> None:
    fields = {"timestamp": STAMP, "level": "error", "event": "x", "route": "a", "logger": "server"}
    coloured = render_console(fields, colours=True)
    assert "\x1b[31m" in coloured
    assert re.sub("\x1b\\[[0-9]*m", "", coloured) == render_console(fields, colours=False)


def test_a_timestamp_that_is_none_is_shown_as_it_is() -> None:
    assert render_console({"event": "x", "timestamp": "?"}, colours=False).startswith("? info")
