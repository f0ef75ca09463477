"""The dashboard *Overview*: who is connected, what goes through, what is refused, and how the process fares."""

from typing import Final

from deploy.grafana.panels import (
    GREEN,
    RED,
    YELLOW,
    Dashboard,
    Heatmap,
    Query,
    Row,
    Series,
    Stat,
    States,
    Threshold,
)
from deploy.grafana.selection import (
    BY_INSTANCE,
    DELIVERY_UID,
    ON_ROUTE,
    OVERVIEW_UID,
    VARIABLES,
    in_range,
    increase,
    quantile,
    rate,
    towards,
)

_NOW: Final = Row(
    title="Now",
    panels=[
        Stat(
            title="Gateways",
            description="Gateway processes that Prometheus sees.",
            queries=[Query(expr=f"count(kakitome_build_info{{{BY_INSTANCE}}})")],
        ),
        Stat(
            title="Connections",
            description="Upgraded client connections at this moment.",
            queries=[Query(expr=f"sum(kakitome_connections{{{ON_ROUTE}}})")],
        ),
        Stat(
            title="Messages",
            description="Messages accepted a second, both ways together.",
            unit="mps",
            queries=[Query(expr=f"sum({rate('kakitome_messages_total')})")],
        ),
        Stat(
            title="Oldest in flight",
            description="Age of the oldest message, in any session, that is accepted and not settled.",
            unit="s",
            thresholds=[Threshold(value=10, colour=YELLOW), Threshold(value=60, colour=RED)],
            queries=[Query(expr=f"max(kakitome_oldest_in_flight_seconds{{{ON_ROUTE}}})")],
        ),
        Stat(
            title="Unknown",
            description="Messages in the chosen time that were sent and whose session ended without evidence of them.",
            thresholds=[Threshold(value=1, colour=YELLOW)],
            queries=[Query(expr=in_range("kakitome_unknown_messages_total"))],
        ),
        Stat(
            title="Endpoints down",
            description="Endpoints of backends that do not answer at least one gateway.",
            thresholds=[Threshold(value=1, colour=RED)],
            queries=[
                Query(
                    expr=f"sum(1 - min by (namespace, route, endpoint) (kakitome_backend_up{{{ON_ROUTE}}})) "
                    "or vector(0)"
                ),
            ],
        ),
    ],
)

_CONNECTIONS: Final = Row(
    title="Connections",
    panels=[
        Series(
            title="Connections by route",
            description="Upgraded client connections at this moment.",
            stacked=True,
            queries=[Query(expr=f"sum by (route) (kakitome_connections{{{ON_ROUTE}}})", legend="{{route}}")],
        ),
        Series(
            title="Limit used",
            description="Connections as a part of the route's limits.connections, at the fullest gateway. At 100 % "
            "more clients are answered with HTTP 503. Routes without a limit are not shown.",
            unit="percentunit",
            thresholds=[Threshold(value=0.8, colour=YELLOW), Threshold(value=1, colour=RED)],
            queries=[
                Query(
                    expr=f"max by (route) (kakitome_connections{{{ON_ROUTE}}}"
                    f" / kakitome_connections_limit{{{ON_ROUTE}}})",
                    legend="{{route}}",
                )
            ],
        ),
        Series(
            title="Handshakes",
            description="Connections a second by how their way to the upgrade ended.",
            unit="cps",
            stacked=True,
            queries=[
                Query(
                    expr=f"sum by (outcome) ({rate('kakitome_handshakes_total')})",
                    legend="{{outcome}}",
                )
            ],
        ),
        Series(
            title="Refusals",
            description="Requests a second that were answered with an HTTP error instead of an upgrade, by reason.",
            unit="cps",
            stacked=True,
            queries=[
                Query(
                    expr=f"sum by (reason) ({rate('kakitome_refusals_total')})",
                    legend="{{reason}}",
                )
            ],
        ),
        Series(
            title="Closes",
            description="Connections a second that ended, by close code and by who ended them. 1000 and 1001 are "
            "ordinary; 1006 is an end without a Close frame, 1012 a restart of the gateway, 1014 a broken backend.",
            unit="cps",
            stacked=True,
            queries=[
                Query(
                    expr=f"sum by (code, by) ({rate('kakitome_closes_total')})",
                    legend="{{code}} by {{by}}",
                )
            ],
        ),
        Series(
            title="Time to connect",
            description="From a connection's acceptance to the 101, with TLS and the dialling of the backend.",
            unit="s",
            queries=[
                Query(
                    expr=quantile(share, "", "kakitome_handshake_seconds"),
                    legend=legend,
                )
                for share, legend in ((0.5, "median"), (0.99, "99 %"))
            ],
        ),
    ],
)


def _traffic(metric: str, direction: str, words: str, unit: str) -> Series:
    return Series(
        title=f"{words}, {direction}",
        description=f"{words} a second {_WAYS[direction]}, by route.",
        unit=unit,
        width=12,
        stacked=True,
        queries=[
            Query(
                expr=f"sum by (route) ({rate(metric, towards(direction))})",
                legend="{{route}}",
            )
        ],
    )


_WAYS: Final = {"upstream": "from clients to backends", "downstream": "from backends to clients"}

_TRAFFIC: Final = Row(
    title="Traffic",
    panels=[
        _traffic("kakitome_messages_total", "upstream", "Messages", "mps"),
        _traffic("kakitome_messages_total", "downstream", "Messages", "mps"),
        _traffic("kakitome_bytes_total", "upstream", "Bytes", "Bps"),
        _traffic("kakitome_bytes_total", "downstream", "Bytes", "Bps"),
    ],
)


def _rungs(direction: str) -> Series:
    return Series(
        title=f"Rungs, {direction}",
        description=f"Messages settled a second {_WAYS[direction]}, by the rung that was evidenced: written, reached "
        "(the far host's stack has them) or consumed (the far application said so).",
        unit="mps",
        width=12,
        stacked=True,
        queries=[
            Query(
                expr=f"sum by (rung) ({rate('kakitome_settled_messages_total', towards(direction))})",
                legend="{{rung}}",
            )
        ],
    )


def _latency(direction: str) -> Heatmap:
    return Heatmap(
        title=f"Settle latency, {direction}",
        description=f"Messages {_WAYS[direction]} by the time from their acceptance to their settling.",
        queries=[Query(expr=f"sum by (le) ({increase('kakitome_delivery_seconds_bucket', towards(direction))})")],
    )


_LADDER: Final = Row(
    title="How far messages got",
    panels=[_rungs("upstream"), _rungs("downstream"), _latency("upstream"), _latency("downstream")],
)

_BACKENDS: Final = Row(
    title="Backends",
    panels=[
        States(
            title="Endpoints",
            description="Whether an endpoint answers all gateways: by the last dial or health check; an endpoint of "
            "which nothing is known yet is not shown.",
            width=12,
            texts=[(1, "up", GREEN), (0, "down", RED)],
            thresholds=[],
            queries=[
                Query(
                    expr=f"min by (route, endpoint) (kakitome_backend_up{{{ON_ROUTE}}})",
                    legend="{{route}} {{endpoint}}",
                )
            ],
        ),
        Series(
            title="Dials",
            description="Attempts a second to connect to an endpoint, by outcome; health checks are not among them.",
            unit="cps",
            width=12,
            queries=[
                Query(
                    expr=f"sum by (route, outcome) ({rate('kakitome_backend_dials_total')})",
                    legend="{{route}} {{outcome}}",
                )
            ],
        ),
    ],
)

_PROCESS: Final = Row(
    title="Gateway processes",
    panels=[
        Series(
            title="Event loop lag",
            description="How late the event loop is, the slowest of a hundred samples. Every message waits as long; "
            "from a second on, deadlines are missed.",
            unit="s",
            width=6,
            thresholds=[Threshold(value=0.1, colour=YELLOW), Threshold(value=1, colour=RED)],
            queries=[
                Query(
                    expr=quantile(0.99, "instance", "kakitome_event_loop_lag_seconds", BY_INSTANCE),
                    legend="{{instance}}",
                )
            ],
        ),
        Series(
            title="CPU",
            description="Cores in use; the gateway is one thread, so that 1 is its limit.",
            width=6,
            thresholds=[Threshold(value=0.8, colour=YELLOW), Threshold(value=0.95, colour=RED)],
            queries=[
                Query(
                    expr=rate("process_cpu_seconds_total", BY_INSTANCE),
                    legend="{{instance}}",
                )
            ],
        ),
        Series(
            title="Memory",
            description="Resident memory of the process, what of it is held for clients and backends, and what may be.",
            unit="bytes",
            width=6,
            queries=[
                Query(expr=f"process_resident_memory_bytes{{{BY_INSTANCE}}}", legend="{{instance}} resident"),
                Query(expr=f"kakitome_memory_used_bytes{{{BY_INSTANCE}}}", legend="{{instance}} held"),
                Query(expr=f"kakitome_memory_limit_bytes{{{BY_INSTANCE}}}", legend="{{instance}} limit"),
            ],
        ),
        Series(
            title="Descriptors used",
            description="Open file descriptors as a part of the limit; a relayed connection takes two. Without one "
            "left no connection can be accepted.",
            unit="percentunit",
            width=6,
            thresholds=[Threshold(value=0.8, colour=YELLOW), Threshold(value=1, colour=RED)],
            queries=[
                Query(
                    expr=f"process_open_fds{{{BY_INSTANCE}}} / process_max_fds{{{BY_INSTANCE}}}",
                    legend="{{instance}}",
                )
            ],
        ),
        Stat(
            title="Certificates",
            description="Time until the certificate that ends first does.",
            unit="s",
            width=6,
            minimum=None,
            lowest=RED,
            thresholds=[
                Threshold(value=2 * 86400, colour=YELLOW),
                Threshold(value=14 * 86400, colour=GREEN),
            ],
            queries=[
                Query(
                    expr=f"min(kakitome_tls_certificate_expiry_timestamp_seconds{{{BY_INSTANCE}}}) - time()",
                )
            ],
        ),
        Stat(
            title="Configuration",
            description="Whether every gateway runs by the configuration that its file holds; rejected: a file had "
            "faults, the log names them, and the gateway goes on with the one before.",
            width=6,
            texts=[(1, "in use", GREEN), (0, "rejected", RED)],
            queries=[Query(expr=f"min(kakitome_config_last_reload_successful{{{BY_INSTANCE}}})")],
        ),
        Series(
            title="Reloads",
            description="Configurations that were loaded while running.",
            width=6,
            height=4,
            queries=[
                Query(
                    expr=f"sum by (outcome) ({increase('kakitome_config_reloads_total', BY_INSTANCE)})",
                    legend="{{outcome}}",
                )
            ],
        ),
        Series(
            title="Accept errors",
            description="Times that a listener could not accept a connection.",
            width=6,
            height=4,
            queries=[
                Query(
                    expr=f"sum by (reason) ({increase('kakitome_accept_errors_total', BY_INSTANCE)})",
                    legend="{{reason}}",
                )
            ],
        ),
    ],
)

OVERVIEW: Final = Dashboard(
    uid=OVERVIEW_UID,
    title="Kakitome / Overview",
    description="Who is connected, what goes through, what is refused, and how the gateway's processes fare.",
    variables=VARIABLES,
    links=[("Delivery", DELIVERY_UID)],
    rows=[_NOW, _CONNECTIONS, _TRAFFIC, _LADDER, _BACKENDS, _PROCESS],
)
