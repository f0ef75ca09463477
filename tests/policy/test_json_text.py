"""JSON of others: as deep as is read on every Python, and no deeper."""

import json

import pytest

from gateway.policy.json_text import MAX_NESTING, read_json


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")], ids=["arrays", "objects"])
@pytest.mark.parametrize("inner", [b"", b"1"], ids=["empty", "of a value"])
def test_it_may_nest_so_deep(opening: bytes, closing: bytes, inner: bytes) -> None:
    inner = inner or (b"" if opening == b"[" else b"{}")
    deep = MAX_NESTING - (inner == b"{}")
    value = read_json(opening * deep + inner + closing * deep)
    assert isinstance(value, list | dict)
    for more in (1, 1500, 200_000):
        with pytest.raises(ValueError, match="nests deeper than 64 levels"):
            read_json(opening * (deep + more) + inner + closing * (deep + more))


@pytest.mark.parametrize("value", [1, "text", None, [], {}, [[1], {"a": [2]}]])
def test_what_is_read_is_what_stands_there(value: object) -> None:

    assert read_json(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["", "{", '{"a"}', "nul", b"\xff"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_json(text)


def test_hooks_are_heard() -> None:
    assert read_json('{"a": 1, "a": 2}', object_pairs_hook=list) == [("a", 1), ("a", 2)]
