"""How many series a scrape has: what a route costs Prometheus, and what options spare it.

Counted, not reckoned: a gateway's counters are made up as after some use, and read as for a scrape.
"""

from typing import Final

from gateway.telemetry.declarations import DECLARATIONS
from gateway.telemetry.exposition import lines
from gateway.telemetry.metrics import BackendReading, ClosedBy, Detail, HandshakeOutcome, Metrics

BRIEF: Final = Detail(per_endpoint=False, few_buckets=True)


def series(*, routes: int, endpoints: int, detail: Detail, used: bool = True) -> int:
    """Of a gateway with so many routes, of so many endpoints each; those of the process itself are not among them.

    A used route has had a client whose messages settled in both directions, and which closed.
    """
    metrics = Metrics()
    metrics.detail = detail
    for number in range(routes):
        route = metrics.route(f"route-{number}")
        if used:
            route.handshakes[HandshakeOutcome.UPGRADED] = 1
            route.count_close(ClosedBy.CLIENT, 1000)
            for direction in (route.upstream, route.downstream):
                direction.delivery[3].observe(0.001)
    metrics.backends = lambda: [
        BackendReading(route=f"route-{number}", endpoint=f"tcp://backend-{place}:9000", up=True, dials={})
        for number in range(routes)
        for place in range(endpoints)
    ]
    return sum(
        text.count("\n")
        for declaration in DECLARATIONS
        for text in lines(declaration, list(declaration.read(metrics)), few_buckets=detail.few_buckets)
    )
