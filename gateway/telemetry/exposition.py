"""What a scrape returns: all declared metrics as Prometheus text or OpenMetrics, written straight from the counters.

Invariant: no slice of the work between two checkpoints holds up the event loop for more than a few milliseconds,
however many routes there are. The client library's families and encoder took 280 ms for 100 routes (16,000 lines),
150 ms of them in one piece; this writer takes a sixth of it. The library still does what is small: the negotiation of
the format, and the metrics of the process.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

import trio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from gateway.telemetry.declarations import DECLARATIONS, PREFIX, Declaration, Reading
from gateway.telemetry.metrics import Exemplar, Histogram, Metrics

_SLICE_READINGS: Final = 50
"""Readings written between two checkpoints: at most 1,000 lines, some 3 ms, as each may be a histogram."""

FEW_BOUNDS: Final = frozenset({0.01, 0.1, 1.0, 10.0, "+Inf"})
"""The alerts ask for one second; a decade to each side tells whether it is a little or much."""

_END_OF_OPENMETRICS: Final = b"# EOF\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposition:
    """A scrape's answer."""

    content_type: str
    body: bytes


class Exporter:
    """Answers scrapes of `metrics` and of the process: memory, CPU, descriptors, garbage collection, platform."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    async def expose(self, accept: str = "") -> Exposition:
        """All metrics, in the format that `accept`, a request's Accept header, asks for; Prometheus text by default."""
        encode, content_type = choose_encoder(accept)
        is_openmetrics = content_type.startswith("application/openmetrics-text")
        parts = [encode(self._process).removesuffix(_END_OF_OPENMETRICS)]
        for declaration in DECLARATIONS:
            # Read as a whole before the first checkpoint: the counters' dicts may grow while others run.
            readings = list(declaration.read(self._metrics))
            parts.append(_head(declaration, is_openmetrics=is_openmetrics).encode())
            for start in range(0, len(readings), _SLICE_READINGS):
                some = readings[start : start + _SLICE_READINGS]
                few = self._metrics.detail.few_buckets
                written = lines(
                    declaration, some, few_buckets=few, epoch=self._metrics.epoch if is_openmetrics else None
                )
                parts.append("".join(written).encode())
                await trio.lowlevel.checkpoint()
        if is_openmetrics:
            parts.append(_END_OF_OPENMETRICS)
        return Exposition(content_type=content_type, body=b"".join(parts))


def _head(declaration: Declaration, *, is_openmetrics: bool) -> str:
    """A family's comment lines; OpenMetrics names a counter's family without `_total`, and a unit if it is a suffix."""
    family = PREFIX + declaration.name
    unit = ""
    if is_openmetrics:
        family = family.removesuffix("_total")
        if family.endswith("_" + declaration.unit):
            unit = f"# UNIT {family} {declaration.unit}\n"
    return f"# HELP {family} {declaration.help}\n# TYPE {family} {declaration.kind}\n{unit}"


def lines(
    declaration: Declaration, readings: Sequence[Reading], *, few_buckets: bool = False, epoch: float | None = None
) -> Iterator[str]:
    """A line for each series of these readings; `few_buckets`: of a histogram by route only those of `FEW_BOUNDS`.

    `epoch`, that of the metrics: exemplars that were kept are told too, which only OpenMetrics can.
    """
    few_buckets = few_buckets and "route" in declaration.labels
    name = PREFIX + declaration.name
    for values, value in readings:
        labels = ",".join(
            [f'{label}="{_escape(text)}"' for label, text in zip(declaration.labels, values, strict=True)]
        )
        if isinstance(value, Histogram):
            yield from _histogram_lines(name, labels, value, few_buckets=few_buckets, epoch=epoch)
        else:
            yield f"{name}{{{labels}}} {value}\n" if labels else f"{name} {value}\n"


def _histogram_lines(
    name: str, labels: str, histogram: Histogram, *, few_buckets: bool, epoch: float | None
) -> Iterator[str]:
    before = f'{name}_bucket{{{labels}{"," if labels else ""}le="'
    suffix = f"{{{labels}}}" if labels else ""
    count = 0
    named = None if epoch is None else histogram.exemplars
    told: Exemplar | None = None
    for index, (bound, count) in enumerate(zip((*histogram.bounds, "+Inf"), accumulate(histogram.counts), strict=True)):
        if named is not None:
            told = named[index] or told  # of buckets that are told as one, the slowest
        if not few_buckets or bound in FEW_BOUNDS:
            yield f'{before}{bound}"}} {count}{"" if told is None or epoch is None else _exemplar(told, epoch)}\n'
            told = None
    yield f"{name}_count{suffix} {count}\n{name}_sum{suffix} {histogram.total}\n"


def _exemplar(exemplar: Exemplar, epoch: float) -> str:
    return f' # {{session="{exemplar.session}"}} {exemplar.value} {exemplar.at + epoch:.3f}'


def _escape(text: str) -> str:
    """Text as a label value holds it, in either format."""
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
