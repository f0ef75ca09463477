"""The dashboard *Delivery*: what is in flight, what became of it, what is held up and why, who came back."""

from typing import Final

from deploy.grafana.panels import RED, YELLOW, Dashboard, Panel, Query, Row, Series, Stat, Threshold
from deploy.grafana.selection import (
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

_FRESH: Final = f'{ON_ROUTE}, outcome=~"unknown|expired|refused"'
"""Tokens after which the client got a fresh session."""


def _increase(metric: str, by: str) -> str:
    return f"sum by ({by}) ({increase(metric)})"


def _in_range(metric: str) -> list[Query]:
    return [Query(expr=in_range(metric))]


_RANGE: Final = Row(
    title="In the chosen time",
    panels=[
        Stat(
            title="Settled",
            description="Messages settled, of those that were accepted and whose fate is decided.",
            unit="percentunit",
            minimum=None,
            queries=[
                Query(
                    expr=f"{in_range('kakitome_settled_messages_total')} / ("
                    f"{in_range('kakitome_settled_messages_total')}"
                    f" + {in_range('kakitome_unknown_messages_total')}"
                    f" + {in_range('kakitome_never_forwarded_messages_total')})"
                )
            ],
        ),
        Stat(
            title="Unknown",
            description="Messages that were sent and whose session ended without evidence of them.",
            thresholds=[Threshold(value=1, colour=YELLOW)],
            queries=_in_range("kakitome_unknown_messages_total"),
        ),
        Stat(
            title="Never forwarded",
            description="Messages that were accepted and whose session ended before a byte of them was sent on.",
            thresholds=[Threshold(value=1, colour=YELLOW)],
            queries=_in_range("kakitome_never_forwarded_messages_total"),
        ),
        Stat(
            title="Rejected",
            description="Messages that the receiving application refused; they count as settled.",
            thresholds=[Threshold(value=1, colour=YELLOW)],
            queries=_in_range("kakitome_rejected_messages_total"),
        ),
        Stat(
            title="Sent again",
            description="Messages that were sent again after a connection was made anew.",
            queries=_in_range("kakitome_replayed_messages_total"),
        ),
        Stat(
            title="Duplicates dropped",
            description="Messages that arrived again and went no further, because they had been accepted before.",
            queries=_in_range("kakitome_duplicate_messages_total"),
        ),
    ],
)

_IN_FLIGHT: Final = Row(
    title="In flight",
    panels=[
        Series(
            title="Messages in flight",
            description="Messages accepted and not settled.",
            queries=[
                Query(
                    expr=f"sum by (route, direction) (kakitome_in_flight_messages{{{ON_ROUTE}}})",
                    legend="{{route}} {{direction}}",
                )
            ],
        ),
        Series(
            title="Bytes in flight",
            description="Payload bytes of the messages accepted and not settled.",
            unit="bytes",
            queries=[
                Query(
                    expr=f"sum by (route, direction) (kakitome_in_flight_bytes{{{ON_ROUTE}}})",
                    legend="{{route}} {{direction}}",
                )
            ],
        ),
        Series(
            title="Oldest in flight",
            description="Age of the oldest message that is not settled. Downstream it may be as old as the route's "
            "`grace`, while the message waits for a client that is away.",
            unit="s",
            thresholds=[Threshold(value=60, colour=YELLOW), Threshold(value=300, colour=RED)],
            queries=[
                Query(
                    expr=f"max by (route, direction) (kakitome_oldest_in_flight_seconds{{{ON_ROUTE}}})",
                    legend="{{route}} {{direction}}",
                )
            ],
        ),
    ],
)


def _settle_time(share: float, words: str) -> Series:
    return Series(
        title=f"Settle latency, {words}",
        description="From a message's acceptance to its settling, by direction and by the rung that was evidenced.",
        unit="s",
        width=12,
        queries=[
            Query(
                expr=quantile(share, "direction, rung", "kakitome_delivery_seconds"),
                legend="{{direction}} {{rung}}",
            )
        ],
    )


_ENDS: Final = Row(
    title="What became of messages",
    panels=[
        _settle_time(0.5, "median"),
        _settle_time(0.99, "99 %"),
        Series(
            title="Unknown messages",
            description="Messages that were sent and whose session ended without evidence of them, by direction and by "
            "how it ended.",
            stacked=True,
            queries=[
                Query(
                    expr=_increase("kakitome_unknown_messages_total", "direction, reason"),
                    legend="{{direction}} {{reason}}",
                )
            ],
        ),
        Series(
            title="Messages never forwarded",
            description="Messages that were accepted and whose session ended before a byte of them was sent on: safe "
            "to send again.",
            stacked=True,
            queries=[
                Query(
                    expr=_increase("kakitome_never_forwarded_messages_total", "route, direction"),
                    legend="{{route}} {{direction}}",
                )
            ],
        ),
        Series(
            title="Messages rejected",
            description="Messages that the receiving application refused with a REJECT record.",
            stacked=True,
            queries=[
                Query(
                    expr=_increase("kakitome_rejected_messages_total", "route, direction"),
                    legend="{{route}} {{direction}}",
                )
            ],
        ),
    ],
)


def _paused(direction: str, words: str) -> Panel:
    return Series(
        title=f"Paused, {direction}",
        description=f"Seconds a second in which {words} were not read from, by cause: how many connections waited on "
        "average. `receiver` and `buffer`: the next hop does not take more; `window`: it takes, and does not settle; "
        "`rate`: the client is over its limit; `redial` and `parked`: one side is away.",
        width=12,
        stacked=True,
        queries=[
            Query(
                expr=f"sum by (cause) ({rate('kakitome_paused_seconds_total', towards(direction))})",
                legend="{{cause}}",
            )
        ],
    )


_PAUSES: Final = Row(
    title="What is held up", panels=[_paused("upstream", "clients"), _paused("downstream", "backends")]
)

_SESSIONS: Final = Row(
    title="Sessions",
    panels=[
        Series(
            title="Sessions",
            description="Sessions that have a client connection, and sessions that wait, parked, for theirs.",
            queries=[Query(expr=f"sum by (state) (kakitome_sessions{{{ON_ROUTE}}})", legend="{{state}}")],
        ),
        Series(
            title="Resumes",
            description="Session tokens presented by clients that return, by what became of them. After `unknown`, "
            "`expired` and `refused` the client got a fresh session.",
            stacked=True,
            queries=[Query(expr=_increase("kakitome_resumes_total", "outcome"), legend="{{outcome}}")],
        ),
        Series(
            title="Resumes that failed",
            description="The part of the presented tokens after which the client got a fresh session.",
            unit="percentunit",
            maximum=1,
            thresholds=[Threshold(value=0.1, colour=YELLOW)],
            queries=[
                Query(
                    expr=f"sum by (route) ({rate('kakitome_resumes_total', _FRESH)})"
                    f" / sum by (route) ({rate('kakitome_resumes_total')})",
                    legend="{{route}}",
                )
            ],
        ),
        Series(
            title="Parked sessions",
            description="Sessions that wait for their client, by route.",
            stacked=True,
            queries=[
                Query(
                    expr=f'sum by (route) (kakitome_sessions{{{ON_ROUTE}, state="parked"}})',
                    legend="{{route}}",
                )
            ],
        ),
        Series(
            title="Messages sent again",
            description="Messages that were sent again after a connection was made anew.",
            queries=[
                Query(
                    expr=_increase("kakitome_replayed_messages_total", "route, direction"),
                    legend="{{route}} {{direction}}",
                )
            ],
        ),
        Series(
            title="Duplicate messages dropped",
            description="Messages that arrived again and went no further, because they had been accepted before.",
            queries=[
                Query(
                    expr=_increase("kakitome_duplicate_messages_total", "route, direction"),
                    legend="{{route}} {{direction}}",
                )
            ],
        ),
    ],
)

DELIVERY: Final = Dashboard(
    uid=DELIVERY_UID,
    title="Kakitome / Delivery",
    description="What is in flight, what became of it, what is held up and why, and who came back.",
    variables=VARIABLES,
    links=[("Overview", OVERVIEW_UID)],
    rows=[_RANGE, _IN_FLIGHT, _ENDS, _PAUSES, _SESSIONS],
)
