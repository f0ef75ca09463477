"""Repeated lines are folded: the first are written, the others told in one line."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.folding import KEPT, Folding, source_of


def refused(address: str = "192.0.2.1:5", **rest: object) -> dict[str, object]:
    return {"event": "refused", "address": address, "level": "info", "status": 403, **rest}


def test_the_first_lines_are_written_and_the_others_told_with_how_many_they_were() -> None:
    folding = Folding(burst=2, interval_seconds=10)
    written = [folding.writes(refused(f"192.0.2.1:{port}"), 100.0 + port) for port in range(5)]
    assert written == [True, True, False, False, False]
    assert folding.due(109.0) == []
    assert folding.due(110.0) == [
        {
            "event": "lines_folded",
            "of": "refused",
            "source": "192.0.2.1",
            "level": "info",
            "status": 403,
            "lines": 3,
            "first": 102.0,
            "last": 104.0,
        }
    ]
    assert folding.due(200.0) == []
    assert folding.writes(refused(), 200.0)


def test_another_source_is_written() -> None:
    folding = Folding(burst=1)
    assert folding.writes(refused("192.0.2.1:1"), 100.0)
    assert not folding.writes(refused("192.0.2.1:2"), 100.0)
    assert folding.writes(refused("[2001:db8::1]:1"), 100.0)


def test_many_sources_write_no_more_than_a_kind_may() -> None:
    folding = Folding(burst=5, kind_burst=20)
    written = sum(folding.writes(refused(f"192.0.{number >> 8}.{number & 255}:1"), 100.0) for number in range(5000))
    assert written == 20
    told = folding.due(200.0)
    assert sum(int(str(line["lines"])) for line in told) == 5000 - 20
    assert len(told) <= KEPT + 1


def test_what_no_peer_can_cause_at_will_is_always_written() -> None:
    folding = Folding(burst=1)
    assert all(folding.writes({"event": "session_ended", "session": "a"}, 100.0) for _ in range(100))


def test_whom_a_line_is_about() -> None:
    assert source_of({"address": "[2001:db8::1]:80"}) == "[2001:db8::1]"
    assert source_of({"address": "unix"}) == "unix"
    assert source_of({"endpoint": "tcp://a:1"}) == "tcp://a:1"
    assert source_of({}) == ""


@given(st.lists(st.tuples(st.sampled_from(["a:1", "b:1", "c:1"]), st.floats(0, 5)), max_size=200))
def test_every_line_is_written_or_told(steps: list[tuple[str, float]]) -> None:
    folding = Folding(burst=2, kind_burst=5, interval_seconds=10)
    now, accounted = 1000.0, 0
    for address, pause in steps:
        now += pause
        accounted += folding.writes(refused(address), now)
        accounted += sum(int(str(line["lines"])) for line in folding.due(now))
    accounted += sum(int(str(line["lines"])) for line in folding.due(now + 11))
    assert accounted == len(steps)
