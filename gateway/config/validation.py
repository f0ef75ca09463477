"""From a document's values to a `Config`, and from pydantic's errors to what an operator should read.

Invariant: one fault does not hide another. pydantic stops at the fields; so that rules on several keys are tried in the
same run, faulty values are cut out and the rest is validated again, until it holds. What only the cutting broke is not
reported.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.document import Document, Finding, KeyPath
from gateway.config.fields import Source
from gateway.config.model import Config, Listener, Route
from gateway.config.section import Section, section_in

Rule = Callable[[Config], Iterable[Finding]]


class _Excerpt(Config):
    """What is left of a faulty configuration: perhaps no listener, perhaps no route."""

    listeners: tuple[Listener, ...] = ()
    routes: tuple[Route, ...] = ()


def validate(document: Document, source: Source, rules: Iterable[Rule]) -> tuple[Config | None, list[Finding]]:
    """The config, None if anything is wrong, and all findings: the document's, the models', those of `rules`."""
    findings = list(document.findings)
    cut = _Cut(document)
    config: Config | None = None
    model: type[Config] = Config
    is_changed = () not in cut.out
    while config is None and is_changed:
        try:
            config = model.model_validate(cut.value, context=source)
        except ValidationError as fault:
            errors = fault.errors(include_url=False)
            if model is Config:
                findings += (_finding(error, cut) for error in errors if not cut.explains(error))
            is_changed = cut.remove(errors)
        model = _Excerpt
    if config is None:
        return None, findings
    for rule in rules:
        for finding in rule(config):
            path, *others = map(cut.original, (finding.path, *finding.also))
            if not any(map(cut.touches, (path, *others))):
                see = None if finding.see is None else cut.original(finding.see)
                findings.append(Finding(path=path, message=finding.message, see=see))
    return (None if findings else config), findings


_STAND_INS: Final[Mapping[str, object]] = {
    "name": "stand-in",
    "bind": "127.0.0.1:0",
    "endpoints": ("tcp://127.0.0.1:1",),
}
"""For required keys that are missing or faulty, so that the section around them can be judged."""


class _Cut:
    """The document without its faulty parts; knows which original item each remaining one is."""

    def __init__(self, document: Document) -> None:
        self._whole = document.value
        self._indices: dict[KeyPath, list[int]] = {}
        self.out = set(document.unread)
        self._stood_in_for: set[KeyPath] = set()
        self._rebuild()

    def _rebuild(self) -> None:
        self._indices.clear()
        self.value = self._without(self._whole, ())

    def _without(self, value: object, path: KeyPath) -> object:
        match value:
            case dict():
                kept_items = {
                    key: self._without(item, (*path, key))
                    for key, item in value.items()
                    if (*path, key) not in self.out
                }
                return kept_items | {key: _STAND_INS[key] for key in _STAND_INS if (*path, key) in self._stood_in_for}
            case list():
                kept = [index for index in range(len(value)) if (*path, index) not in self.out]
                self._indices[path] = kept
                return [self._without(value[index], (*path, index)) for index in kept]
            case _:
                return value

    def original(self, path: KeyPath) -> KeyPath:
        """The path in the document of a path in the cut value."""
        original: KeyPath = ()
        for part in path:
            indices = self._indices.get(original)
            original += (indices[part] if isinstance(part, int) and indices else part,)
        return original

    def touches(self, path: KeyPath) -> bool:
        """Whether something at, below or around `path` was cut out."""
        return any(out[: len(path)] == path[: len(out)] for out in self.out)

    def explains(self, error: ErrorDetails) -> bool:
        """Whether `error` is there only because of what was cut out, or beside an item's own error."""
        if error["type"] == "too_short":
            # pydantic counts only the valid items; the others have errors of their own.
            return self.touches(self.original(error["loc"])) or bool(error["input"])
        return error["type"] == "missing" and self.original(error["loc"]) in self.out

    def remove(self, errors: Iterable[ErrorDetails]) -> bool:
        """Cuts out what `errors` complain about; False when all of that is out already."""
        before = len(self.out) + len(self._stood_in_for)
        for error in errors:
            if error["type"] == "too_short" and error["input"]:
                continue  # only for its faulty items, which are cut out themselves
            path = self.original(error["loc"])
            # The top level stays as it is: an excerpt requires nothing.
            lacking = error["type"] == "missing" and len(path) > 1
            if lacking and path[-1] in _STAND_INS:
                # Faults of what stands beside it are to be found as well, and those of the value itself are not.
                self.out.add(path)
                self._stood_in_for.add(path)
            else:
                # A mapping that lacks a required key cannot stay.
                self.out.add(path[:-1] if lacking else path)
        self._rebuild()
        return len(self.out) + len(self._stood_in_for) > before


# --- wording ------------------------------------------------------------------------------------------------------

_MESSAGES: Final[Mapping[str, str]] = {
    "missing": "is required",
    "too_short": "must have at least one item",
    "tuple_type": "must be a list",
    "model_type": "must be a mapping",
    "string_type": "must be text; put it in quotes",
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "path_type": "must be a path",
}


def _finding(error: ErrorDetails, cut: _Cut) -> Finding:
    return Finding(path=cut.original(error["loc"]), message=_message(error))


def _message(error: ErrorDetails) -> str:
    context: dict[str, Any] = error.get("ctx", {})
    given = error["input"]
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "extra_forbidden":
            return _unknown_key(error["loc"])
        case "literal_error":
            expected = context["expected"].replace("'", "").replace(" or ", ", ")
            near = get_close_matches(str(given), expected.split(", "), n=1)
            only = "must be" if "," not in expected else "must be one of"
            return f"{only} {expected}, not {_shown(given)}{_did_you_mean(near)}"
        case "greater_than_equal":
            return f"must be at least {context['ge']:g}, not {_shown(given)}"
        case "greater_than":
            return f"must be more than {context['gt']:g}, not {_shown(given)}"
        case "string_pattern_mismatch":
            return f"must be letters, digits, and _ . - after the first, not {_shown(given)}"
        case "string_too_long":
            return f"must be at most {context['max_length']} characters"
        case kind if kind in _MESSAGES:
            # Text is not shown where text was wanted: it may be a secret that lacks its quotes.
            tells = kind.endswith(("_parsing", "_type", "_float")) and kind != "string_type"
            return f"{_MESSAGES[kind]}, not {_shown(given)}" if tells else _MESSAGES[kind]
        case _:
            return error["msg"]


def _shown(given: object) -> str:
    match given:
        case bool():
            return str(given).lower()
        case None:
            return "null"
        case str():
            return f'"{given}"' if len(given) <= 60 else f'"{given[:60]}..."'
        case int() | float():
            return str(given)
        case dict():
            return "a mapping"
        case _:
            return "a list"


def _unknown_key(path: tuple[int | str, ...]) -> str:
    """Names the nearest key of that section, or the section beneath it that has a key of this very name."""
    section: type[Section] = Config
    for part in path[:-1]:
        if isinstance(part, str):
            inner = section_in(section.model_fields[part].annotation)
            assert inner is not None  # only sections forbid keys
            section = inner
    key, known = str(path[-1]), list(section.model_fields)
    near = get_close_matches(key, known, n=1) or list(_beneath(section, key))
    return f"is not a known key{_did_you_mean(near) or '; known here: ' + ', '.join(known)}"


def _beneath(section: type[Section], key: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not None and key in inner.model_fields:
            yield f"{name}.{key}"


def _did_you_mean(near: list[str]) -> str:
    return f"; did you mean {near[0]}?" if near else ""
