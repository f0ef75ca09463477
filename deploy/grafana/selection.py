"""What both dashboards choose by: the variables, and the label matchers that apply them."""

from typing import Final

from deploy.grafana.panels import Variable

OVERVIEW_UID: Final = "kakitome-overview"
DELIVERY_UID: Final = "kakitome-delivery"

_IN_NAMESPACE: Final = 'namespace=~"$namespace"'
_OF_RELEASE: Final = f'{_IN_NAMESPACE}, job=~"$job"'
_IN_POD: Final = f'{_OF_RELEASE}, pod=~"$pod"'

BY_INSTANCE: Final = f'{_IN_POD}, instance=~"$instance"'
"""Also for what every Python process exports under the same names: `job` has those of gateways only."""
ON_ROUTE: Final = f'route=~"$route", {BY_INSTANCE}'

VARIABLES: Final = (
    Variable(
        name="namespace",
        label="Namespace",
        metric="kakitome_build_info",
        description="Namespaces of the cluster; nothing to choose outside of one.",
    ),
    Variable(
        name="job",
        label="Release",
        metric="kakitome_build_info",
        chosen_by=_IN_NAMESPACE,
        all_value=None,
        description="Installations, by the name of their scrape job: the chart's is the release's full name.",
    ),
    Variable(
        name="pod",
        label="Pod",
        metric="kakitome_build_info",
        chosen_by=_OF_RELEASE,
        description="Pods of the cluster; nothing to choose outside of one.",
    ),
    Variable(
        name="instance",
        label="Gateway",
        metric="kakitome_build_info",
        chosen_by=_IN_POD,
        description="Gateway processes, as scraped.",
    ),
    Variable(
        name="route",
        label="Route",
        metric="kakitome_connections",
        chosen_by=BY_INSTANCE,
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
