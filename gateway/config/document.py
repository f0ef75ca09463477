"""A YAML text as plain values, with the line of every key and item.

Invariant: a fault of the text is a `Finding` and not an exception, and what is not faulty is read all the same, so that
one run names everything that is wrong. Scalars follow YAML 1.2's core schema: `yes` is text, `1:30` is no number.

The node tree is walked here rather than by PyYAML's constructor, which forgets the lines and lets a second key of the
same name silently win.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import yaml

from gateway.config.yaml_faults import explain

KeyPath = tuple[str | int, ...]
"""From the root: a key of a mapping, an index of a list."""

MAX_NODES: Final = 100_000
"""Aliases of aliases can stand for more values than there is memory (the "billion laughs")."""

_TAG: Final = "tag:yaml.org,2002:"
_REFERENCE: Final = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}|(?P<broken>\$\{)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A fault at a path; its line is looked up when all are known, unless it has one of its own."""

    path: KeyPath
    message: str
    line: int | None = None
    also: tuple[KeyPath, ...] = ()
    """Other paths whose values make this a fault; where one of them is not known, it may be none."""
    see: KeyPath | None = None
    """What stands against it: the message ends by pointing there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a text says."""

    value: dict[str, object]
    lines: Mapping[KeyPath, int]
    """From 1. For a key of a mapping, where the key stands; for an item of a list, where the item begins."""
    findings: tuple[Finding, ...] = ()
    unread: frozenset[KeyPath] = frozenset()
    """Paths whose value is not known, because of a finding; they are null in `value`."""

    def line_of(self, path: KeyPath) -> int:
        """The line of `path`, or of the nearest thing around it that stands in the text."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Loader(yaml.SafeLoader):
    """PyYAML with the implicit types of YAML 1.2's core schema (section 10.3.2)."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own shape


for _name, _pattern, _first in (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    # Numbers of more digits than any setting needs are read as float: int() refuses thousands of digits.
    ("int", r"^(?:[-+]?[0-9]{1,18}|0x[0-9a-fA-F]{1,15}|0o[0-7]{1,20})$", list("-+0123456789")),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", list("-+.0123456789")),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(_pattern), _first)


def read_document(text: str, *, environment: Mapping[str, str]) -> Document:
    """The values of `text`, `${NAME}` replaced from `environment`; a text that is no YAML gives one finding."""
    try:
        root = _Loader(text).get_single_node()
        if root is None or (isinstance(root, yaml.ScalarNode) and root.value == ""):
            return _unreadable("is empty; listeners and routes are required", 1)
        if not isinstance(root, yaml.MappingNode):
            return _unreadable("must be a mapping: keys such as listeners and routes", root.start_mark.line + 1)
        return _Reader(environment).read(root)
    except yaml.MarkedYAMLError as fault:
        return _unreadable(*explain(fault, text))
    except yaml.reader.ReaderError as fault:
        line = text.count("\n", 0, fault.position) + 1
        return _unreadable(f"is not YAML: the character U+{fault.character:04X} is not allowed", line)
    except RecursionError:
        return _unreadable("is nested too deeply", 1)


def _unreadable(message: str, line: int) -> Document:
    finding = Finding(path=(), message=message, line=line)
    return Document(value={}, lines={}, findings=(finding,), unread=frozenset({()}))


class _Reader:
    """Walks a node tree once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._lines: dict[KeyPath, int] = {}
        self._findings: list[Finding] = []
        self._unread: set[KeyPath] = set()
        self._inside: list[yaml.Node] = []
        self._nodes = 0

    def read(self, root: yaml.MappingNode) -> Document:
        value = self._mapping(root, ())
        return Document(value=value, lines=self._lines, findings=tuple(self._findings), unread=frozenset(self._unread))

    def _fault(self, path: KeyPath, message: str, *, node: yaml.Node | None = None) -> None:
        line = None if node is None else node.start_mark.line + 1
        self._findings.append(Finding(path=path, message=message, line=line))

    def _lose(self, path: KeyPath, message: str) -> None:
        self._unread.add(path)
        self._fault(path, message)

    def _may_open(self, node: yaml.Node, path: KeyPath) -> bool:
        """Whether `node` may be read at `path`; aliases can make a tree endless or immense."""
        self._nodes += 1
        if any(node is outer for outer in self._inside):
            self._lose(path, "contains itself by an alias")
            return False
        if self._nodes > MAX_NODES:
            if self._nodes == MAX_NODES + 1:
                self._fault(path, f"stands for more than {MAX_NODES} values by its aliases")
            self._unread.add(path)
            return False
        return True

    def _value(self, node: yaml.Node, path: KeyPath) -> object:
        if not self._may_open(node, path):
            return None
        self._inside.append(node)
        try:
            match node:
                case yaml.MappingNode():
                    return self._mapping(node, path)
                case yaml.SequenceNode():
                    return self._sequence(node, path)
                case _:
                    return self._scalar(node, path)
        finally:
            self._inside.pop()

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[object]:
        values = []
        for index, item in enumerate(node.value):
            self._lines[*path, index] = item.start_mark.line + 1
            values.append(self._value(item, (*path, index)))
        return values

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, object]:
        values: dict[str, object] = {}
        merged: list[yaml.Node] = []
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TAG + "str", _TAG + "merge"):
                self._fault(path, "has a key that is no text; put it in quotes", node=key)
            elif key.value == "<<" and key.style is None:
                merged.extend(item.value if isinstance(item, yaml.SequenceNode) else [item])
            elif key.value in values:
                first = self._lines[*path, key.value]
                self._fault((*path, key.value), f"stands here again; line {first} has it already", node=key)
            else:
                self._lines[*path, key.value] = key.start_mark.line + 1
                values[key.value] = self._value(item, (*path, key.value))
        for other in merged:
            self._merge(other, path, values)
        return values

    def _merge(self, node: yaml.Node, path: KeyPath, values: dict[str, object]) -> None:
        """Adds the keys of `node` that `values` has not (YAML's merge key: explicit keys win, earlier merges too)."""
        if not isinstance(node, yaml.MappingNode):
            self._fault(path, "can merge (<<) only mappings", node=node)
            return
        if not self._may_open(node, path):
            return
        known = [(key, item) for key, item in node.value if not (isinstance(key.value, str) and key.value in values)]
        addition = yaml.MappingNode(node.tag, known, node.start_mark, node.end_mark)
        self._inside.append(node)
        try:
            values.update(self._mapping(addition, path))
        finally:
            self._inside.pop()

    def _scalar(self, node: yaml.Node, path: KeyPath) -> object:
        text = str(node.value)
        match node.tag.removeprefix(_TAG):
            case "str":
                return self._text(text, path, plain=isinstance(node, yaml.ScalarNode) and node.style is None)
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                return int(text, 0) if text.startswith("0") and text[1:2] in ("x", "o") else int(text)
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            case tag:
                self._lose(path, f"has the tag {tag}, which means nothing here")
                return None

    def _text(self, text: str, path: KeyPath, *, plain: bool) -> str | None:
        faults: list[str] = []

        def replacement(found: re.Match[str]) -> str:
            if found["broken"]:
                faults.append("has a broken ${; write ${NAME}, ${NAME:-default}, or $$ for a dollar sign")
                return ""
            if found["name"] is None:
                return "$"
            value = self._environment.get(found["name"])
            if found["default"] is not None:
                return value or found["default"][2:]
            if value is None:
                name = found["name"]
                faults.append(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
                return ""
            return value

        result = _REFERENCE.sub(replacement, text)
        for fault in faults:
            self._lose(path, fault)
        if faults or (plain and result == "null"):
            # ${NAME:-null} without quotes: what reads as null in the file is null from the environment too.
            return None
        return result
