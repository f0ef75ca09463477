"""values.yaml with its comments: what is read from it, and what it may not lack."""

import pytest

from helm.__main__ import CHART
from helm.values import UndescribedValueError, read_values

TEXT = """\
# A comment of nobody.

# @section One
# @description What these are,
# in two lines.

# -- How many.
count: 1
image:
  # -- Where from,
  # in two lines. @default -- the chart's version
  tag: ""
  # no description of this one, but of the next
  # -- As a mapping.
  pull: {policy: Always}

# @section Two
# -- A list
# of several.
hosts:
  - name: a
"""


def test_values_come_in_order_with_their_descriptions() -> None:
    one, two = read_values(TEXT)
    assert [(value.key, value.default, value.description) for value in one.values] == [
        ("count", 1, "How many."),
        ("image.tag", "", "Where from, in two lines."),
        ("image.pull", {"policy": "Always"}, "As a mapping."),
    ]
    assert [(value.key, value.default, value.description) for value in two.values] == [
        ("hosts", [{"name": "a"}], "A list of several."),
    ]


def test_sections_have_names_and_descriptions() -> None:
    assert [(section.name, section.description) for section in read_values(TEXT)] == [
        ("One", "What these are, in two lines."),
        ("Two", ""),
    ]


def test_a_default_may_be_told_in_words() -> None:
    one, _ = read_values(TEXT)
    assert [value.default_text for value in one.values] == [None, "the chart's version", None]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("# @section A\ncount: 1\n", "count in line 2"),
        ("# @section A\n# plain comment\ncount: 1\n", "count in line 3"),
        ("# @section A\n# -- Not of this one.\n\ncount: 1\n", "count in line 4"),
        ("# @section A\nimage:\n  # -- Described.\n  tag: 1\n  digest: 2\n", "image.digest in line 5"),
        ("# @section A\nlabels: {}\n", "labels in line 2"),
    ],
)
def test_a_value_that_nobody_describes_is_a_fault(text: str, key: str) -> None:
    with pytest.raises(UndescribedValueError, match=key):
        read_values(text)


def test_every_value_of_the_chart_stands_in_a_section() -> None:
    text = (CHART / "values.yaml").read_text()
    listed = sum(len(section.values) for section in read_values(text))
    assert listed == text.count("# -- ")
    assert listed > 150
