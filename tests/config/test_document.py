"""YAML as values with lines: substitution, merges, and every fault of the text itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.document import MAX_NODES, Document, read_document

UNCLOSED = (
    "is not YAML: the [ that is opened here is not closed by a ], and before that { has no place; "
    'inside [] and {}, "${NAME}" needs quotes'
)


ENVIRONMENT = {"HOST": "chat-0", "EMPTY": "", "NULL": "null", "MANY": "a\nb\nc", "DOLLAR": "${HOST}"}


def read(text: str) -> Document:
    return read_document(text, environment=ENVIRONMENT)


def value_of(scalar: str) -> object:
    document = read(f"key: {scalar}")
    assert not document.findings
    return document.value["key"]


def findings_of(text: str) -> list[tuple[int, str]]:
    document = read(text)
    return [(finding.line or document.line_of(finding.path), finding.message) for finding in document.findings]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("text", "text"),
        ("12", 12),
        ("-3", -3),
        ("010", 10),
        ("0x10", 16),
        ("0o17", 15),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("9" * 5000, float("9" * 5000)),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ('""', ""),
        ('"12"', "12"),
        ("!!str 12", "12"),
        # YAML 1.1 made these a boolean, a number of minutes and a date.
        ("no", "no"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("[1, {a: b}]", [1, {"a": "b"}]),
    ],
)
def test_scalars_are_those_of_the_core_schema(scalar: str, value: object) -> None:
    assert value_of(scalar) == value


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("tcp://${HOST}:9000", "tcp://chat-0:9000"),
        ("${HOST}${HOST}", "chat-0chat-0"),
        ('"${HOST}"', "chat-0"),
        ("${EMPTY}", ""),
        ("${EMPTY:-default}", "default"),
        ("${MISSING:-}", ""),
        ("${MISSING:-tcp://a:1}", "tcp://a:1"),
        ("${MISSING:-12}", "12"),
        ("${MISSING:-null}", None),
        ("${NULL}", None),
        ('"${NULL}"', "null"),
        ("$$", "$"),
        ("$${HOST}", "${HOST}"),
        ("a$b", "a$b"),
        # What the environment holds is not looked into again.
        ("${DOLLAR}", "${HOST}"),
        ("|\n  ${HOST}\n", "chat-0\n"),
    ],
)
def test_environment_variables_are_replaced(scalar: str, value: object) -> None:
    assert value_of(scalar) == value


def test_lines_are_those_of_keys_and_items_also_after_a_value_of_several_lines() -> None:
    document = read("a: ${MANY}\nb:\n  - x\n  -\n    c: |\n      one\n      two\n    d: {e: [1,\n 2]}\n")
    assert document.lines == {
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 1): 5,
        ("b", 1, "c"): 5,
        ("b", 1, "d"): 8,
        ("b", 1, "d", "e"): 8,
        ("b", 1, "d", "e", 0): 8,
        ("b", 1, "d", "e", 1): 9,
    }


def test_a_path_that_is_not_there_has_the_line_of_what_is_around_it() -> None:
    document = read("a: 1\nb:\n  c: 1\n")
    assert document.line_of(("b", "d", 0)) == 2
    assert document.line_of(("x",)) == 1


def test_aliases_and_merge_keys_are_followed() -> None:
    document = read(
        "base: &base\n  a: 1\n  b: 1\nmore: &more {b: 2, c: 2}\none:\n  <<: *base\n  a: 3\n"
        "both:\n  <<: [*base, *more]\nsame: *base\n"
    )
    assert not document.findings
    assert document.value["one"] == {"a": 3, "b": 1}
    assert document.value["both"] == {"a": 1, "b": 1, "c": 2}
    assert document.value["same"] == {"a": 1, "b": 1}
    assert document.line_of(("one", "a")) == 7
    assert document.line_of(("one", "b")) == 3


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("", [(1, "is empty; listeners and routes are required")]),
        ("# nothing\n", [(1, "is empty; listeners and routes are required")]),
        ("- a\n", [(1, "must be a mapping: keys such as listeners and routes")]),
        ("\n\nword\n", [(3, "must be a mapping: keys such as listeners and routes")]),
        ("a: 1\nb: [1,\n", [(2, "is not YAML: something is opened here that is never closed; is a ] or } missing?")]),
        ("a: 1\nb: c: d\n", [(2, 'is not YAML: a value that has ": " in it needs quotes')]),
        ("a: 1\n---\nb: 1\n", [(2, "is not YAML: a second document begins here (---); a configuration is one")]),
        ("a: 1\nb: \x07\n", [(2, "is not YAML: the character U+0007 is not allowed")]),
        (
            "a: 1\nb: [${HOST}]\n",
            [
                (
                    2,
                    UNCLOSED,
                )
            ],
        ),
        ("a: 1\nb: 2\na: 3\n", [(3, "stands here again; line 1 has it already")]),
        ("8080: 1\n", [(1, "has a key that is no text; put it in quotes")]),
        ("? [a]\n: 1\n", [(1, "has a key that is no text; put it in quotes")]),
        ("a: !!timestamp 2024-01-01\n", [(1, "has the tag timestamp, which means nothing here")]),
        ("a: !!python/name:os.system x\n", [(1, "has the tag python/name:os.system, which means nothing here")]),
        ("a: &a\n  b: *a\n", [(2, "contains itself by an alias")]),
        ("a: &a\n  <<: *a\n", [(1, "contains itself by an alias")]),
        ("a:\n  <<: 5\n", [(2, "can merge (<<) only mappings")]),
        (
            "a: ${MISSING}\nb:\n  - ${HOST}\n  - x ${GONE} ${LOST}\n",
            [
                (1, "the environment variable MISSING is not set; set it, or write ${MISSING:-default}"),
                (4, "the environment variable GONE is not set; set it, or write ${GONE:-default}"),
                (4, "the environment variable LOST is not set; set it, or write ${LOST:-default}"),
            ],
        ),
        ("a: ${1}\n", [(1, "has a broken ${; write ${NAME}, ${NAME:-default}, or $$ for a dollar sign")]),
        ("a: ${HOST\n", [(1, "has a broken ${; write ${NAME}, ${NAME:-default}, or $$ for a dollar sign")]),
        ("[" * 500, [(1, "is nested too deeply")]),
    ],
)
def test_faults_of_the_text_have_their_line(text: str, findings: list[tuple[int, str]]) -> None:
    assert findings_of(text) == findings


def test_a_key_that_stands_twice_keeps_its_first_value() -> None:
    assert read("a: 1\na: 2\n").value == {"a": 1}


def test_values_that_could_not_be_read_are_named() -> None:
    document = read("a: ${MISSING}\nb: [1, !x 2]\n")
    assert document.unread == {("a",), ("b", 1)}
    assert document.value == {"a": None, "b": [1, None]}


@pytest.mark.parametrize("reference", ["[*x{0}, *x{0}]", "{{<<: [*x{0}, *x{0}]}}"], ids=["aliases", "merges"])
def test_aliases_of_aliases_are_bounded(reference: str) -> None:
    lines = ["x0: &x0 {}"] + [f"x{i + 1}: &x{i + 1} {reference.format(i)}" for i in range(40)]
    messages = [message for _, message in findings_of("\n".join(lines))]
    assert messages == [f"stands for more than {MAX_NODES} values by its aliases"]


@given(st.text(alphabet="ab:-[]{}&*<!|>\"'$#%~ \n\t0x?,é\x00", max_size=60))
def test_any_text_gives_values_or_findings(text: str) -> None:
    document = read(text)
    assert document.findings or document.value or text.strip()
    for finding in document.findings:
        line = finding.line or document.line_of(finding.path)
        assert 1 <= line <= text.count("\n") + 2
