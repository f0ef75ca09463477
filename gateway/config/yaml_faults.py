"""What is wrong with a text that is no YAML, in words for somebody who wrote a configuration and never read YAML's.

Invariant: the line that is named is the one to look at: where something was opened that is never closed, and not the
end of the file, where a parser notices.
"""

import re
from collections.abc import Callable
from typing import Final

import yaml

_CANNOT_START: Final = re.compile(r"found character '(.+)' that cannot start any token")
_UNKNOWN_ESCAPE: Final = re.compile(r"found unknown escape character '?\"?(.)")
_UNDEFINED_ALIAS: Final = re.compile(r"found undefined alias '(.+)'")
_NO_KEY: Final = 'the line is no "key: value": it lacks a colon'
_FOUND: Final = re.compile(r"(?:but found|but got) '?(.+?)'?$")


def explain(fault: yaml.MarkedYAMLError, text: str) -> tuple[str, int]:
    """What is wrong, and the line to look at, from 1."""
    lines = text.splitlines()
    problem, context = fault.problem or "", fault.context or ""
    at = _Place(fault.problem_mark or fault.context_mark, lines)
    begun = _Place(fault.context_mark or fault.problem_mark, lines)
    for explanation in (_unclosed, _characters, _aliases, _indentation, _structure):
        found = explanation(problem, context, at, begun)
        if found is not None:
            message, place = found
            return f"is not YAML: {message}{_quoting_hint(place)}", place.number
    return f"is not YAML: {problem or context}{_quoting_hint(at)}", at.number


class _Place:
    """A line of the text, and where in it."""

    def __init__(self, mark: yaml.Mark | None, lines: list[str]) -> None:
        self.number = 1 if mark is None else mark.line + 1
        self.column = 0 if mark is None else mark.column
        self.line = lines[self.number - 1] if self.number <= len(lines) else ""
        self.lines = lines

    @property
    def indent(self) -> int:
        """Of the line, in spaces."""
        return len(self.line) - len(self.line.lstrip(" "))

    @property
    def is_end(self) -> bool:
        """Behind the last line."""
        return self.number > len(self.lines)

    def above(self) -> "_Place":
        """The nearest line above that says something."""
        place = _Place(None, self.lines)
        number = min(self.number, len(self.lines) + 1) - 1
        while number > 1 and not self.lines[number - 1].partition("#")[0].strip():
            number -= 1
        place.number = max(number, 1)
        place.line = self.lines[place.number - 1] if self.lines else ""
        return place


_Explanation = Callable[[str, str, _Place, _Place], tuple[str, _Place] | None]


def _unclosed(problem: str, context: str, at: _Place, begun: _Place) -> tuple[str, _Place] | None:
    if "quoted scalar" in context and ("end of stream" in problem or "document separator" in problem):
        return f"the quote ({begun.line[begun.column : begun.column + 1]}) that is opened here is never closed", begun
    for kind, opening, closing in (("flow sequence", "[", "]"), ("flow mapping", "{", "}")):
        if kind in context:
            found = _FOUND.search(problem)
            what = "" if found is None or found[1].startswith("<") else f", and before that {found[1]} has no place"
            return f"the {opening} that is opened here is not closed by a {closing}{what}", begun
    if "expected the node content" in problem and at.is_end:
        above = at.above()
        return "something is opened here that is never closed; is a ] or } missing?", above
    return None


def _characters(problem: str, _: str, at: _Place, __: _Place) -> tuple[str, _Place] | None:
    if found := _CANNOT_START.search(problem):
        if found[1] == "\\t":
            return "the line has a tab where it is indented; write spaces", at
        return f"a value cannot begin with {found[1]}; put it in quotes", at
    if found := _UNKNOWN_ESCAPE.search(problem):
        return f"\\{found[1]} means nothing in double quotes; use single ones, or write \\\\", at
    return None


def _aliases(problem: str, context: str, at: _Place, begun: _Place) -> tuple[str, _Place] | None:
    if "scanning an alias" in context:
        return "a value that begins with * needs quotes; without them it would be a reference (an alias)", begun
    if "scanning an anchor" in context:
        return "a value that begins with & needs quotes; without them it would be a name for references", begun
    if found := _UNDEFINED_ALIAS.search(problem):
        return f"*{found[1]} refers to a value named &{found[1]}, and there is none above; or did it need quotes?", at
    if "tag" in context or "tag" in problem:
        return "a value that begins with ! needs quotes", begun
    return None


def _indentation(problem: str, context: str, at: _Place, begun: _Place) -> tuple[str, _Place] | None:
    if "expected <block end>" not in problem:
        return None
    kind = "list" if "block collection" in context or "block sequence" in context else "mapping"
    above = at.above()
    if at.indent > above.indent:
        return _too_far(at, above), at
    if at.indent != begun.column:
        message = (
            f"the line is indented by {_spaces(at.indent)}, less than line {above.number} ({_spaces(above.indent)}), "
            f"more than line {begun.number} ({_spaces(begun.column)}); it must begin where one of them does"
        )
        return message, at
    if kind == "list":
        return f"the list of line {begun.number} cannot go on like this: its items all begin with a dash", at
    return "what stands here is no key with a colon, like the lines around it", at


def _structure(problem: str, _: str, at: _Place, begun: _Place) -> tuple[str, _Place] | None:
    above = at.above()
    if "mapping values are not allowed" in problem:
        if at.number == above.number or ": " in at.line[: at.column]:
            return 'a value that has ": " in it needs quotes', at
        if at.indent > above.indent:
            return _too_far(at, above), at
        return f"{_NO_KEY} with a space behind it", above
    if "sequence entries are not allowed" in problem:
        return "an item with a dash cannot stand here; a list begins in the line after its key", at
    if "could not find expected ':'" in problem:
        return f"{_NO_KEY} with a space behind it", begun
    if "found another document" in problem:
        return "a second document begins here (---); a configuration is one", at
    return None


def _too_far(at: _Place, above: _Place) -> str:
    return (
        f"the line is indented by {_spaces(at.indent)}, more than line {above.number} ({_spaces(above.indent)}), "
        "which does not end in a colon"
    )


def _spaces(count: int) -> str:
    return "1 space" if count == 1 else f"{count} spaces"


def _quoting_hint(place: _Place) -> str:
    """`[${A}]` is the usual way to meet a syntax error: braces have a meaning of their own inside brackets."""
    return '; inside [] and {}, "${NAME}" needs quotes' if "${" in place.line else ""
