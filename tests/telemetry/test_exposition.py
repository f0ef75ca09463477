"""What is written is what the formats' own parsers read back, and a scrape lets others run."""

from collections.abc import Callable, Iterable

import pytest
import trio
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.telemetry.declarations import DECLARATIONS, PREFIX
from gateway.telemetry.exposition import Exporter
from gateway.telemetry.metrics import REFUSAL_REASONS, ClosedBy, Detail, Metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
FORMATS = pytest.mark.parametrize(("accept", "parse"), [("", parse_text), (OPENMETRICS, parse_openmetrics)])
Parse = Callable[[str], Iterable[Metric]]


async def _families(metrics: Metrics, accept: str, parse: Parse) -> dict[str, Metric]:
    exposition = await Exporter(metrics).expose(accept)
    return {family.name: family for family in parse(exposition.body.decode())}


def _samples(family: Metric) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in family.samples}


@FORMATS
async def test_every_declared_family_is_exported_with_its_type_and_help(accept: str, parse: Parse) -> None:
    metrics = Metrics()
    metrics.route("chat")
    families = await _families(metrics, accept, parse)
    for declaration in DECLARATIONS:
        family = families[(PREFIX + declaration.name).removesuffix("_total")]
        assert (family.type, family.documentation) == (declaration.kind.value, declaration.help)


@FORMATS
async def test_histogram_is_exported_cumulatively_with_count_and_sum(accept: str, parse: Parse) -> None:
    metrics = Metrics()
    delivery = metrics.route("chat").upstream.delivery[3]
    delivery.observe(0.0004, 2)
    delivery.observe(0.02, 3)
    delivery.observe(1000.0)
    samples = _samples((await _families(metrics, accept, parse))["kakitome_delivery_seconds"])
    labels = {("route", "chat"), ("direction", "upstream"), ("rung", "reached")}

    def sample(suffix: str, **more: str) -> float:
        return samples["kakitome_delivery_seconds" + suffix, frozenset(labels | set(more.items()))]

    assert [sample("_bucket", le=bound) for bound in ("0.0005", "0.01", "0.025", "120.0", "+Inf")] == [2, 2, 5, 5, 6]
    assert sample("_count") == 6
    assert sample("_sum") == pytest.approx(1000.0608)


@FORMATS
async def test_histogram_without_labels_is_exported(accept: str, parse: Parse) -> None:
    metrics = Metrics()
    metrics.event_loop_lag_seconds.observe(0.3)
    samples = _samples((await _families(metrics, accept, parse))["kakitome_event_loop_lag_seconds"])
    assert samples["kakitome_event_loop_lag_seconds_count", frozenset()] == 1
    assert samples["kakitome_event_loop_lag_seconds_bucket", frozenset({("le", "0.25")})] == 0
    assert samples["kakitome_event_loop_lag_seconds_bucket", frozenset({("le", "0.5")})] == 1


@FORMATS
async def test_label_values_survive_quotes_backslashes_and_newlines(accept: str, parse: Parse) -> None:
    name = 'a "quoted" \\ name\nof two lines \\n, 書留'
    metrics = Metrics()
    metrics.route(name).connections = 3
    samples = _samples((await _families(metrics, accept, parse))["kakitome_connections"])
    assert samples["kakitome_connections", frozenset({("route", name)})] == 3


@FORMATS
async def test_counter_beyond_what_a_float_holds_exactly_is_written_in_full(accept: str, parse: Parse) -> None:
    metrics = Metrics()
    metrics.route("chat").upstream.bytes = 2**53 + 1
    body = (await Exporter(metrics).expose(accept)).body
    assert b'kakitome_bytes_total{route="chat",direction="upstream"} 9007199254740993\n' in body


@FORMATS
async def test_the_process_is_exported_too(accept: str, parse: Parse) -> None:
    families = await _families(Metrics(), accept, parse)
    assert families["process_resident_memory_bytes"].samples[0].value > 1_000_000
    assert "python_info" in families
    assert "python_gc_objects_collected" in families


async def test_openmetrics_has_units_and_ends_with_its_mark() -> None:
    exposition = await Exporter(Metrics()).expose(OPENMETRICS)
    assert exposition.content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert exposition.body.count(b"# EOF\n") == 1
    assert exposition.body.endswith(b"# EOF\n")
    assert b"# UNIT kakitome_delivery_seconds seconds\n" in exposition.body


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/html", "text/plain;version=0.0.4", "application/openmetrics-text;version=0.0.1", ";;=,"]
)
async def test_anything_but_openmetrics_gets_prometheus_text(accept: str) -> None:
    exposition = await Exporter(Metrics()).expose(accept)
    assert exposition.content_type.startswith("text/plain; version=0.0.4; charset=utf-8")
    assert b"# EOF" not in exposition.body


async def test_scrape_of_a_hundred_routes_lets_other_tasks_run_all_along() -> None:
    metrics = Metrics()
    for i in range(100):
        for direction in (metrics.route(f"route-{i}").upstream, metrics.route(f"route-{i}").downstream):
            direction.delivery[3].observe(0.1)
            direction.delivery[4].observe(0.1)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        exposition = await Exporter(metrics).expose()
        nursery.cancel_scope.cancel()
    lines = exposition.body.count(b"\n")
    assert lines > 10_000
    assert turns > lines / 1000


async def test_counters_that_appear_during_a_scrape_do_not_break_it() -> None:
    metrics = Metrics()
    route = metrics.route("chat")

    async def have_things_happen_for_the_first_time() -> None:
        for number, reason in enumerate(sorted(REFUSAL_REASONS)):
            await trio.lowlevel.checkpoint()
            metrics.route(f"route-{number}")
            route.count_refusal(reason)
            route.count_close(ClosedBy.CLIENT, 1000 + number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(have_things_happen_for_the_first_time)
        await Exporter(metrics).expose()
    assert len(route.refusals) == len(REFUSAL_REASONS)


@pytest.mark.parametrize("few_buckets", [False, True])
async def test_an_exemplar_stands_at_the_bucket_that_its_value_falls_in(few_buckets: bool) -> None:
    metrics = Metrics()
    metrics.detail = Detail(exemplars=True, few_buckets=few_buckets)
    delivery = metrics.route("chat").upstream.delivery[3]
    for value, session in ((0.0004, "quick"), (0.02, "slow"), (1000.0, "slowest")):
        delivery.observe(value)
        delivery.name(value, session, metrics.clock())
    families = await _families(metrics, OPENMETRICS, parse_openmetrics)
    found = {
        sample.labels["le"]: (sample.exemplar.labels, sample.exemplar.value)
        for family in families.values()
        for sample in family.samples
        if sample.exemplar is not None and sample.exemplar.timestamp is not None
    }
    assert found == {
        "0.01" if few_buckets else "0.0005": ({"session": "quick"}, 0.0004),
        "0.1" if few_buckets else "0.025": ({"session": "slow"}, 0.02),
        "+Inf": ({"session": "slowest"}, 1000.0),
    }


async def test_plain_text_has_no_exemplars_and_one_is_told_alike_at_each_scrape() -> None:
    metrics = Metrics()
    metrics.detail = Detail(exemplars=True)
    handshakes = metrics.route("chat").handshake_seconds
    handshakes.observe(0.2)
    handshakes.name(0.2, "hana-7", metrics.clock())
    assert b"hana-7" not in (await Exporter(metrics).expose("")).body
    first, second = [
        [line for line in (await Exporter(metrics).expose(OPENMETRICS)).body.splitlines() if b"hana-7" in line]
        for _ in range(2)
    ]
    assert len(first) == 1
    assert first == second
