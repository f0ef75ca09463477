"""Reads a chart's values.yaml with its comments: what each value means, and what it is by default.

The comments are those of helm-docs: `# -- TEXT` above a key describes it and all below it, further comment lines go
on; `@default -- TEXT` at the end says what an empty default stands for. `# @section NAME` begins a section, and
`# @description TEXT` says something about it.

Invariant: every scalar and every empty list or mapping is described by its own key or by one above it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

KeyPath = tuple[str, ...]

_SECTION: Final = "@section "
_DESCRIPTION: Final = "@description "
_DEFAULT: Final = re.compile(r"\s*@default -- (.*)$")


class UndescribedValueError(Exception):
    """A value that no comment describes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A described key."""

    path: KeyPath
    default: Any
    description: str
    default_text: str | None
    """What to show in place of `default`."""

    @property
    def key(self) -> str:
        """The path as it is written after `--set`."""
        return ".".join(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Values that belong together, in their order."""

    name: str
    description: str
    values: tuple[Value, ...]


def read_values(text: str) -> tuple[Section, ...]:
    """The sections of a values.yaml. Raises UndescribedValueError."""
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    described = list(_values(root, (), lines, yaml.safe_load(text)))
    headings = [
        (number, line.removeprefix("# ").removeprefix(_SECTION))
        for number, line in enumerate(lines)
        if line.startswith("# " + _SECTION)
    ]
    ends = [number for number, _ in headings[1:]] + [len(lines)]
    return tuple(
        Section(
            name=name,
            description=_section_description(lines[begin:end]),
            values=tuple(value for line, value in described if begin < line < end),
        )
        for (begin, name), end in zip(headings, ends, strict=True)
    )


def _values(node: yaml.MappingNode, above: KeyPath, lines: list[str], defaults: Any) -> Iterator[tuple[int, Value]]:
    """Each described key below `node`, with its line."""
    for key_node, value_node in node.value:
        key = str(key_node.value)
        path = (*above, key)
        line = key_node.start_mark.line
        description = _description(lines, line)
        if description is not None:
            found = _DEFAULT.search(description)
            yield (
                line,
                Value(
                    path=path,
                    default=defaults[key],
                    description=_DEFAULT.sub("", description).strip(),
                    default_text=None if found is None else found[1],
                ),
            )
        elif isinstance(value_node, yaml.MappingNode) and value_node.value:
            yield from _values(value_node, path, lines, defaults[key])
        else:
            raise UndescribedValueError(f"{'.'.join(path)} in line {line + 1} has no `# --` comment above it")


def _description(lines: list[str], line: int) -> str | None:
    """The `# --` comment that ends just above `line`."""
    texts: list[str] = []
    for above in reversed(lines[:line]):
        comment = above.strip()
        if not comment.startswith("#"):
            return None
        text = comment.removeprefix("#").strip()
        if text.startswith("-- "):
            return " ".join([text.removeprefix("-- "), *reversed(texts)])
        texts.append(text)
    return None


def _section_description(lines: list[str]) -> str:
    """The `@description` comment up to its end."""
    texts: list[str] = []
    for line in lines:
        text = line.removeprefix("#").strip()
        if text.startswith(_DESCRIPTION):
            texts.append(text.removeprefix(_DESCRIPTION))
        elif texts and line.startswith("#"):
            texts.append(text)
        elif texts:
            break
    return " ".join(texts)
