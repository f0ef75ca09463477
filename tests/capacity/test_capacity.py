"""docs/capacity.md: every row of its table is one that the command makes, and what can be computed is as computed."""

import re

from tests.capacity.__main__ import BEGIN, DESCRIPTOR_LIMITS, END, PAGE, computed

MEASURED = {
    "memory of an idle connection",
    "idle connections per GiB",
    "memory of an idle records session",
    "idle records sessions per GiB",
    "handshakes a second and core",
    "records sessions opened a second and core",
}
OF_THE_MACHINE = {"connections to one backend address", "clients that may wait to be accepted"}


def table() -> dict[str, str]:
    part = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    return dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", part, re.MULTILINE))


def test_the_table_has_the_rows_that_the_command_makes() -> None:
    assert set(table()) == MEASURED | {what for what, _, _ in computed()}, "run: make capacity"


def test_what_follows_from_constants_is_current() -> None:
    told = table()
    for what, much, _ in computed():
        if what not in OF_THE_MACHINE:
            assert told[what] == much, "run: make capacity"


def test_a_connection_takes_two_descriptors_and_the_last_are_kept_back() -> None:
    told = table()
    for limit in DESCRIPTOR_LIMITS:
        assert 0 < limit // 2 - int(told[f"connections with `LimitNOFILE={limit}`"].replace(",", "")) <= 64


def test_memory_per_connection_and_connections_per_gib_belong_together() -> None:
    told = table()
    for kind, plural in (("connection", "connections"), ("records session", "records sessions")):
        size = int(told[f"memory of an idle {kind}"].removesuffix(" bytes").replace(",", ""))
        assert (1 << 30) // size == int(told[f"idle {plural} per GiB"].replace(",", ""))
