"""A case: values, and what they must make."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.helm.chart import Values

CONTAINER: Final = "Deployment: spec.template.spec.containers[name=kakitome]."
POD: Final = "Deployment: spec.template.spec."
ROUTES: Final = [{"name": "chat", "match": {"path": "/chat"}, "backend": {"endpoints": ["tcp://chat:9000"]}}]
DIGEST: Final = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Values, and what they make."""

    values: Values = field(default_factory=dict)
    expected: Mapping[str, Any]
    """By `Object: path`, as `tests.helm.chart` has both; `Object` alone, `...` for whatever it is; `config` is the
    gateway's configuration."""
    name: str = "kakitome"
    """Of the release."""
    fullname: str = "kakitome"


def routed(**config: Any) -> dict[str, Any]:
    """Values with a route, so that the demonstration is off."""
    return {"config": {"routes": ROUTES, **config}}
