"""Renders the chart with Helm's own engine, and finds objects and values in what comes out."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

import helm_python
import yaml

from helm.__main__ import CHART

RELEASE: Final = "kakitome"
NAMESPACE: Final = "relay"

Object: TypeAlias = dict[str, Any]
Values: TypeAlias = Mapping[str, Any]

_NOTES: Final = "kakitome/templates/NOTES.txt"


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()
"""What `find` gives where there is nothing."""


@cache
def chart() -> helm_python.Chart:
    """The chart, read once."""
    return helm_python.Chart.load(CHART)


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What an installation would make."""

    objects: Mapping[str, Object]
    """By `Kind`, or `Kind/name` where the name is not the release's full name."""
    notes: str

    @property
    def config_text(self) -> str:
        """The gateway's configuration."""
        return str(self.objects["ConfigMap"]["data"]["kakitome.yaml"])

    @property
    def pod(self) -> Object:
        """The pod template's spec."""
        return dict(self.objects["Deployment"]["spec"]["template"]["spec"])

    @property
    def gateway(self) -> Object:
        """The gateway's container."""
        return dict(next(container for container in self.pod["containers"] if container["name"] == "kakitome"))


def render(values: Values | None = None, *, name: str = RELEASE, fullname: str = RELEASE) -> Release:
    """The objects that `values` give. Raises HelmError. Keys leave `fullname` out."""
    rendered = chart().render(dict(values or {}), name=name, namespace=NAMESPACE)
    objects: dict[str, Object] = {}
    for rendered_object in _objects(rendered):
        key = rendered_object["kind"]
        if rendered_object["metadata"]["name"] != fullname:
            key += "/" + rendered_object["metadata"]["name"].removeprefix(fullname)
        assert key not in objects, f"two objects are {key}"
        objects[key] = rendered_object
    return Release(objects=objects, notes=rendered[_NOTES])


def _objects(rendered: Mapping[str, str]) -> Iterator[Object]:
    for path, text in rendered.items():
        if path != _NOTES:
            yield from filter(None, yaml.load_all(text, Loader=_NoDuplicates))


class _NoDuplicates(yaml.SafeLoader):
    """YAML takes the last of two equal keys without a word; in a template that hides a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice{node.start_mark}"
        return super().construct_mapping(node, deep)


def find(value: Any, path: str) -> Any:
    """The value at `spec.ports[1].name`; `[name=config]` picks from a list; ABSENT where there is none.

    Keys with dots in them stand in quotes: `metadata.labels."app.kubernetes.io/name"`.
    """
    for quoted, key, index, label, wanted in re.findall(
        r'"([^"]+)"|([^.\[\]"]+)(?![^\[]*\])|\[(\d+)\]|\[(\w+)=([^\]]+)\]', path
    ):
        if index:
            value = value[int(index)] if isinstance(value, list) and int(index) < len(value) else ABSENT
        elif label:
            value = next((item for item in value if item.get(label) == wanted), ABSENT) if value else ABSENT
        else:
            value = value.get(quoted or key, ABSENT) if isinstance(value, dict) else ABSENT
        if value is ABSENT:
            return ABSENT
    return value
