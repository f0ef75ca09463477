"""Texts that are no YAML: what is wrong, and the line to look at, in words of ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.document import read_document

QUOTE = 'a value that has ": " in it needs quotes'
BEGIN = "it must begin where one of them does"
NO_COLON = 'the line is no "key: value": it lacks a colon with a space behind it'


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "a:\n  b: 1\n c: 2\n",
            3,
            f"the line is indented by 1 space, less than line 2 (2 spaces), more than line 1 (0 spaces); {BEGIN}",
        ),
        (
            "listeners:\n  - bind: x\n    tls: y\n\n   # why not\n   mode: z\n",
            6,
            f"the line is indented by 3 spaces, less than line 3 (4 spaces), more than line 2 (2 spaces); {BEGIN}",
        ),
        (
            "a:\n   b: 1\n    c: 2\n",
            3,
            "the line is indented by 4 spaces, more than line 2 (3 spaces), which does not end in a colon",
        ),
        (
            "a: x # why\n  b: 1\n",
            2,
            "the line is indented by 2 spaces, more than line 1 (0 spaces), which does not end in a colon",
        ),
        ("a:\n\tb: 1\n", 2, "the line has a tab where it is indented; write spaces"),
        ("a: @x\n", 1, "a value cannot begin with @; put it in quotes"),
        ("a: %x\n", 1, "a value cannot begin with %; put it in quotes"),
        ("a: [1, 2\nb: 3\n", 1, "the [ that is opened here is not closed by a ], and before that : has no place"),
        ("a: {b: 1\nc: 2\n", 1, "the { that is opened here is not closed by a }, and before that : has no place"),
        ("a: 1\nb: 'x\nc: 1\n", 2, "the quote (') that is opened here is never closed"),
        ('a: "x\\d"\n', 1, "\\d means nothing in double quotes; use single ones, or write \\\\"),
        ("a: b: c\n", 1, QUOTE),
        ("a:\n  - b: c: d\n", 2, QUOTE),
        ("key\nb: 1\n", 1, NO_COLON),
        ("a: 1\nkey\nb: 1\n", 2, NO_COLON),
        ("a: *x\n", 1, "*x refers to a value named &x, and there is none above; or did it need quotes?"),
        (
            "origins: [*.example.com]\n",
            1,
            "a value that begins with * needs quotes; without them it would be a reference (an alias)",
        ),
        ("a: !foo!bar x\n", 1, "a value that begins with ! needs quotes"),
        ("a: - b\n", 1, "an item with a dash cannot stand here; a list begins in the line after its key"),
        ("a:\n  - x\n  b: 1\n", 3, "the list of line 2 cannot go on like this: its items all begin with a dash"),
    ],
)
def test_a_fault_is_told_with_the_line_to_look_at(text: str, line: int, message: str) -> None:
    (finding,) = read_document(text, environment={}).findings
    assert (finding.line, finding.message) == (line, f"is not YAML: {message}")


@given(st.text(alphabet="ab:-[]{}'\"#&*!%@`|>,? \t\n\\", max_size=40))
def test_no_text_has_a_fault_without_a_line_of_it(text: str) -> None:
    for finding in read_document(text, environment={}).findings:
        assert finding.line is None or 1 <= finding.line <= max(text.count("\n") + 1, 1)
