"""The counting objects: sums that never fall, labels that stay in their closed sets, routes that survive a reload."""

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telemetry.metrics import (
    CLOSE_CODE_LABELS,
    REFUSAL_REASONS,
    ClosedBy,
    Detail,
    Exemplar,
    Histogram,
    Metrics,
    PausedTime,
    RouteMetrics,
    close_code_label,
)


def test_route_counters_are_the_same_object_however_often_they_are_asked_for() -> None:
    metrics = Metrics()
    before_reload = metrics.route("chat")
    before_reload.upstream.messages += 3
    assert metrics.route("chat") is before_reload
    assert metrics.route("vnc") is not before_reload
    assert [route.name for route in metrics.routes] == ["chat", "vnc"]


def test_counters_of_two_routes_and_directions_share_nothing() -> None:
    metrics = Metrics()
    one, other = metrics.route("one"), metrics.route("other")
    one.upstream.settled[3] += 1
    one.upstream.delivery[3].observe(0.1)
    assert other.upstream.settled[3] == one.downstream.settled[3] == 0
    assert other.upstream.delivery[3].count == one.downstream.delivery[3].count == one.upstream.delivery[4].count == 0


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (1.0, 0), (1.0001, 1), (2.0, 1), (5.0, 2), (6.0, 3)])
def test_histogram_counts_a_value_in_the_first_bucket_that_is_not_below_it(value: float, bucket: int) -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    histogram.observe(value)
    assert histogram.counts == [int(i == bucket) for i in range(4)]


@given(st.lists(st.tuples(st.integers(0, 700), st.integers(0, 50))))
def test_histogram_of_many_at_once_is_the_histogram_of_each(observations: list[tuple[int, int]]) -> None:
    at_once, one_by_one = Histogram((1.0, 2.5, 500.0)), Histogram((1.0, 2.5, 500.0))
    for value, count in observations:
        at_once.observe(value, count)
        for _ in range(count):
            one_by_one.observe(value)
    assert at_once.counts == one_by_one.counts
    assert at_once.total == one_by_one.total == sum(value * count for value, count in observations)
    assert at_once.count == sum(count for _, count in observations)


@given(
    st.lists(st.tuples(st.floats(1e5, 1e5 + 1e4), st.floats(0.0, 300.0)), max_size=20),
    st.lists(st.floats(1e5, 1e5 + 2e4), min_size=1, max_size=10),
)
def test_paused_time_is_the_sum_of_all_pauses_at_every_moment_and_never_falls(
    pauses: list[tuple[float, float]], scrapes: list[float]
) -> None:
    paused = PausedTime()
    intervals = [(begin, begin + length) for begin, length in pauses]
    changes = sorted([(begin, paused.begin) for begin, _ in intervals] + [(end, paused.end) for _, end in intervals],
                     key=lambda change: change[0])  # fmt: skip
    before = 0.0
    for now in sorted(scrapes):
        due = bisect_left(changes, now, key=lambda change: change[0])
        for at, change in changes[:due]:
            change(at)
        del changes[:due]
        expected = sum(max(0.0, min(end, now) - begin) for begin, end in intervals)
        assert paused.seconds(now) == pytest.approx(expected, abs=1e-6)
        assert paused.seconds(now) >= before
        before = paused.seconds(now)


@given(st.integers(-(2**70), 2**70))
def test_any_close_code_has_a_label_of_the_closed_set(code: int) -> None:
    assert close_code_label(code) in CLOSE_CODE_LABELS


@pytest.mark.parametrize(
    ("code", "label"),
    [
        (999, "other"), (1000, "1000"), (1015, "1015"), (1016, "other"), (2999, "other"), (3000, "3xxx"),
        (3999, "3xxx"), (4000, "4xxx"), (4999, "4xxx"), (5000, "other"), (-1, "other"),
    ],
)  # fmt: skip
def test_close_codes_are_labelled_by_code_where_registered_and_by_range_elsewhere(code: int, label: str) -> None:
    route = RouteMetrics("chat")
    route.count_close(ClosedBy.CLIENT, code)
    route.count_close(ClosedBy.CLIENT, code)
    assert route.closes == {(ClosedBy.CLIENT, label): 2}


def test_an_undeclared_refusal_reason_is_counted_as_other() -> None:
    route = RouteMetrics("chat")
    route.count_refusal("no_route")
    route.count_refusal("x" * 1000)
    route.count_refusal("another")
    assert route.refusals == {"no_route": 1, "other": 2}
    assert route.refusals.keys() <= REFUSAL_REASONS


def test_an_exemplar_stays_a_second_in_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.keep_exemplars(True)
    for value, session, now in (
        (1.0, "a", 10.0),
        (0.5, "b", 10.9),
        (2.5, "c", 11.0),
        (0.7, "d", 11.0),
        (1.5, "e", 12.0),
    ):
        histogram.name(value, session, now)
    assert histogram.exemplars == [Exemplar(0.7, "d", 11.0), Exemplar(1.5, "e", 12.0), Exemplar(2.5, "c", 11.0)]
    histogram.keep_exemplars(True)
    assert histogram.exemplars[0] is not None
    histogram.keep_exemplars(False)
    assert histogram.exemplars is None


def test_exemplars_are_kept_on_every_route_from_when_they_are_wanted() -> None:
    metrics = Metrics()
    before = metrics.route("before")
    assert all(histogram.exemplars is None for histogram in before.histograms)
    metrics.detail = Detail(exemplars=True)
    after = metrics.route("after")
    assert all(histogram.exemplars is not None for histogram in (*before.histograms, *after.histograms))
    metrics.detail = Detail()
    assert all(histogram.exemplars is None for histogram in (*before.histograms, *after.histograms))
