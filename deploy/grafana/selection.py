"""What both dashboards choose by: the variables, and the label matchers that apply them."""

from typing import Final

from deploy.grafana.panels import Variable

OVERVIEW_UID: Final = "kakitome-overview"
DELIVERY_UID: Final = "kakitome-delivery"

BY_INSTANCE: Final = 'instance=~"$instance"'
BY_PROCESS: Final = f'job="kakitome", {BY_INSTANCE}'
"""For what every Python process exports under the same names."""
ON_ROUTE: Final = f'route=~"$route", {BY_INSTANCE}'

VARIABLES: Final = (
    Variable(
        name="instance", label="Gateway", metric="kakitome_build_info", description="Gateway processes, as scraped."
    ),
    Variable(
        name="route",
        label="Route",
        metric="kakitome_connections",
        description="Routes of the configuration; All includes requests that matched none.",
    ),
)


def towards(direction: str) -> str:
    """`ON_ROUTE`, and one direction."""
    return f'{ON_ROUTE}, direction="{direction}"'


def quantile(share: float, by: str, metric: str, matchers: str = ON_ROUTE) -> str:
    """The value that the `share` of a histogram's observations does not exceed, by labels; `by` may be empty."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({rate(f'{metric}_bucket', matchers)}))"


def rate(metric: str, matchers: str = ON_ROUTE) -> str:
    """How fast a counter grows, by the second."""
    return f"rate({metric}{{{matchers}}}[$__rate_interval])"


def increase(metric: str, matchers: str = ON_ROUTE) -> str:
    """How much a counter grows from one point of the graph to the next."""
    return f"increase({metric}{{{matchers}}}[$__rate_interval])"


def in_range(metric: str, matchers: str = ON_ROUTE) -> str:
    """How much a counter grew, all series together, in the time that the dashboard shows."""
    return f"sum(increase({metric}{{{matchers}}}[$__range]))"
