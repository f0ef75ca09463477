"""Durations and sizes: what is read, what is refused with which hint, and the round trip."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("0.5s", 0.5),
        ("2m", 120.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("1d2h3m4s5ms", 93784.005),
    ],
)
def test_durations_are_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("5", "write 5s for seconds"),
        ("", "not a duration"),
        ("5 s", "not a duration"),
        ("5 minutes", "not a duration"),
        ("5S", "not a duration"),
        ("-5s", "not a duration"),
        (".5s", "not a duration"),
        ("٥s", "not a duration"),
        ("5s\n", "not a duration"),
        ("30m1h", "the largest first"),
        ("1s1s", "name each unit once"),
        ("0s", "longer than 0"),
        ("0h0.0m", "longer than 0"),
    ],
)
def test_what_is_no_duration_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_duration(text)


@given(st.integers(min_value=1, max_value=10**12))
def test_a_duration_survives_being_written_and_read(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    text = format_duration(seconds)
    assert parse_duration(text) == seconds
    assert re.fullmatch(DURATION_PATTERN, text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5400, "1h30m"), (0.25, "250ms"), (86400, "1d"), (61.5, "1m1s500ms"), (0.0001, "1ms")]
)
def test_durations_are_written_with_the_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("0", 0),
        ("12B", 12),
        ("64KiB", 65536),
        ("1 MiB", 2**20),
        ("1.5MiB", 3 * 2**19),
        ("500kB", 500_000),
        ("2GB", 2 * 10**9),
        ("1GiB", 2**30),
    ],
)
def test_sizes_are_read_in_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("64K", 'unknown unit "K"; write 64KiB or 64kB'),
        ("64KB", "write 64KiB or 64kB"),
        ("1mb", "write 1MiB or 1MB"),
        ("1g", "write 1GiB or 1GB"),
        ("3bytes", "write one of GiB, MiB, KiB, GB, MB, kB, B"),
        ("1.5", "not a whole number of bytes"),
        ("0.3B", "not a whole number of bytes"),
        ("-1", "not a size"),
        ("", "not a size"),
        ("big", "not a size"),
    ],
)
def test_what_is_no_size_is_refused_with_a_hint(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_size(text)


@given(st.integers(min_value=0, max_value=2**60))
def test_a_size_survives_being_written_and_read(size: int) -> None:
    text = format_size(size)
    assert parse_size(text) == size
    assert re.fullmatch(SIZE_PATTERN, text)


@given(st.text())
def test_any_text_is_read_or_refused_but_never_breaks_the_parsers(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with suppress(ValueError):
            assert parse(text) >= 0
