"""The chart's README: every value in a row, links and examples that hold."""

import re

from helm.__main__ import CHART
from helm.readme import readme
from helm.values import Section, Value, read_values

SECTIONS = read_values((CHART / "values.yaml").read_text())


def rows_of(*values: Value) -> list[str]:
    page = readme((Section(name="A", description="About.", values=values),))
    return [line for line in page.splitlines() if line.startswith("| `") and "healthz" not in line]


def value(default: object, *, description: str = "What.", default_text: str | None = None) -> Value:
    return Value(path=("a", "b"), default=default, description=description, default_text=default_text)


def test_every_value_has_a_row_in_order() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \|", readme(SECTIONS), flags=re.MULTILINE)
    assert rows == [value.key for section in SECTIONS for value in section.values]


def test_rows_tell_type_and_default() -> None:
    assert rows_of(
        value(True),
        value(1),
        value("x"),
        value([]),
        value({"c": [1]}),
        value(None),
        value("", default_text="the other"),
        value(1, description="one|two"),
    ) == [
        "| `a.b` | bool | `true` | What. |",
        "| `a.b` | int | `1` | What. |",
        '| `a.b` | string | `"x"` | What. |',
        "| `a.b` | list | `[]` | What. |",
        '| `a.b` | object | `{"c": [1]}` | What. |',
        "| `a.b` | int | `null` | What. |",
        "| `a.b` | string | the other | What. |",
        "| `a.b` | int | `1` | one\\|two |",
    ]


def test_every_row_has_four_cells() -> None:
    for row in readme(SECTIONS).splitlines():
        if row.startswith("| `"):
            assert len(re.findall(r"(?<!\\)\|", row)) == 5, row


def test_values_that_the_text_names_exist() -> None:
    text = readme(SECTIONS).partition("## Values")[0]
    keys = {value.key for section in SECTIONS for value in section.values}
    sections = {key.split(".")[0] for key in keys}
    named = [name for name in re.findall(r"`([a-zA-Z]+(?:\.[a-zA-Z]+)*)`", text) if name.split(".")[0] in sections]
    assert len(named) > 10
    for name in named:
        known = any(key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.") for key in keys)
        assert known or name.startswith("config."), name
