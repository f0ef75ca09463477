"""From values to a configuration: no fault hides another, and what only the cutting out broke is not reported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config
from gateway.config.checks import find_disagreements
from gateway.config.document import Document, Finding
from gateway.config.fields import Source
from gateway.config.loading import dotted
from gateway.config.validation import validate

BACKEND = {"endpoints": ["tcp://127.0.0.1:9000"]}
LISTENERS = [{"bind": "127.0.0.1:0"}]


def judged(value: dict[str, Any], **document: Any) -> tuple[Config | None, list[str]]:
    given = Document(value=value, lines={}, **document)
    config, findings = validate(given, Source(folder=Path("/nowhere")), [find_disagreements])
    return config, [f"{dotted(finding.path)}: {finding.message}" for finding in findings]


def faults(routes: list[Any], **rest: Any) -> list[str]:
    config, found = judged({"listeners": LISTENERS, "routes": routes, **rest})
    assert (config is None) == bool(found)
    return found


def route(name: str = "chat", **changes: Any) -> dict[str, Any]:
    return {"name": name, "match": {"path": f"/{name}"}, "origins": ["*"], "backend": BACKEND, **changes}


def test_what_is_good_is_a_config() -> None:
    config, found = judged({"listeners": LISTENERS, "routes": [route()]})
    assert config is not None
    assert (config.routes[0].name, found) == ("chat", [])


def test_a_faulty_value_does_not_hide_what_several_keys_disagree_about() -> None:
    """The two routes of one name are told of, although there is a fault in each of them."""
    found = faults([route(timeouts={"close": "soon"}), route(match={"path": "/b"}, limits={"connections": -1})])
    assert len(found) == 3
    assert [line.partition(":")[0] for line in found] == [
        "routes[0].timeouts.close",
        "routes[1].limits.connections",
        "routes[1].name",
    ]


def test_indices_are_those_of_the_file_though_items_before_were_cut_out() -> None:
    found = faults(["no route at all", route("a"), 7, route("b", match={"path": "/a"})])
    assert [line.partition(":")[0] for line in found] == ["routes[0]", "routes[2]", "routes[3].match"]


def test_what_only_the_cutting_broke_is_not_reported() -> None:
    """A route without its faulty backend would have none at all; a list whose only item is faulty would be empty."""
    assert [line.partition(":")[0] for line in faults([route(backend={"endpoints": ["nowhere"]})])] == [
        "routes[0].backend.endpoints[0]"
    ]
    config, found = judged({"listeners": ["nothing"], "routes": [route()]})
    assert config is None
    assert [line.partition(":")[0] for line in found] == ["listeners[0]"]


def test_a_section_without_a_required_key_is_judged_all_the_same() -> None:
    nameless = route(limits={"connections": -1})
    del nameless["name"]
    assert faults([nameless]) == [
        "routes[0].name: is required",
        "routes[0].limits.connections: must be at least 1, not -1",
    ]


def test_values_that_could_not_be_read_are_told_of_once() -> None:
    value = {"listeners": LISTENERS, "routes": [route(origins=None)]}
    path = ("routes", 0, "origins")
    finding = Finding(path=path, message="the variable PAGES is not set")
    config, found = judged(value, findings=(finding,), unread=frozenset([path]))
    assert config is None
    assert found == ["routes[0].origins: the variable PAGES is not set"]


def test_without_anything_to_judge_there_is_the_finding_alone() -> None:
    finding = Finding(path=(), message="is not YAML")
    assert judged({}, findings=(finding,), unread=frozenset([()])) == (None, [": is not YAML"])


def test_a_rule_is_asked_of_what_is_left() -> None:
    seen: list[int] = []

    def rule(config: Config) -> Iterator[Finding]:
        seen.append(len(config.routes))
        yield Finding(path=("routes", 0), message="is one too many")

    value = {"listeners": LISTENERS, "routes": ["no route", route()]}
    _, findings = validate(Document(value=value, lines={}), Source(folder=Path("/nowhere")), [rule])
    assert seen == [1]
    assert [(finding.path, finding.message) for finding in findings][1:] == [(("routes", 1), "is one too many")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"orgins": ["*"]}, "is not a known key; did you mean origins?"),
        ({"message_bytes": 5}, "is not a known key; did you mean limits.message_bytes?"),
        ({"zzz": 1}, "is not a known key; known here: name, match,"),
        ({"backend": {**BACKEND, "framing": "line"}}, 'not "line"; did you mean lines?'),
        ({"name": 7}, "must be text; put it in quotes"),
        ({"origins": "*"}, "must be a list"),
        ({"limits": ["connections"]}, "must be a mapping"),
        ({"limits": {"connections": "many"}}, 'must be a whole number, not "many"'),
        ({"limits": {"connections": 1.5}}, "must be a whole number, not 1.5"),
        ({"delivery": {"fence": "sometimes"}}, 'must be true or false, not "sometimes"'),
        ({"name": "x" * 500}, "must be at most"),
    ],
)
def test_each_fault_says_what_to_write(changes: dict[str, Any], words: str) -> None:
    found = faults([route(**changes)])
    assert words in found[0], found
