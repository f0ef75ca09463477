"""The JSON Schema: a valid, self-contained schema that agrees with the gateway on examples."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from gateway.config.model import Config
from gateway.config.reference import EXAMPLE
from gateway.config.schema import schema

SCHEMA = schema()
ROUTE: dict[str, object] = {"name": "chat", "backend": {"endpoints": ["tcp://127.0.0.1:9000"]}}
GOOD: dict[str, object] = {"listeners": [{"bind": "127.0.0.1:8080"}], "routes": [ROUTE]}


def is_valid(config: object) -> bool:
    return bool(jsonschema.Draft7Validator(SCHEMA).is_valid(config))


def nodes(value: object) -> Iterator[dict[str, Any]]:
    match value:
        case dict():
            yield value
            for inner in value.values():
                yield from nodes(inner)
        case list():
            for inner in value:
                yield from nodes(inner)


def route(**keys: object) -> dict[str, object]:
    return GOOD | {"routes": [ROUTE | keys]}


@pytest.mark.parametrize("draft", [jsonschema.Draft7Validator, jsonschema.Draft202012Validator])
def test_it_is_a_valid_schema_without_references(draft: Any) -> None:
    draft.check_schema(SCHEMA)
    assert not any("$ref" in node or "$defs" in node for node in nodes(SCHEMA))
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_it_accepts_the_documented_example_and_a_config_written_out() -> None:
    example = yaml.safe_load(EXAMPLE)
    jsonschema.validate(example, SCHEMA)
    jsonschema.validate(GOOD, SCHEMA)
    # As a whole, with every default in it; what the route is not for are the only nulls that `oneOf` minds.
    whole = Config.model_validate(GOOD).model_dump(mode="json")
    del whole["routes"][0]["files"], whole["routes"][0]["logout"]
    jsonschema.validate(whole, SCHEMA)


def test_each_call_gives_a_schema_of_its_own() -> None:
    schema()["properties"].clear()
    assert schema() == SCHEMA


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"listeners": [], "routes": []},
        GOOD | {"trusted_proxys": []},
        GOOD | {"log": {"level": "loud"}},
        GOOD | {"admin": {"bind": 9090}},
        GOOD | {"listeners": [{"bind": "nowhere"}]},
        GOOD | {"listeners": [{"bind": "127.0.0.1:80", "tls": {"minimum_version": "1.1"}}]},
        GOOD | {"routes": [{"name": "chat"}]},
        GOOD | {"routes": [{"name": "a b", "files": "."}]},
        route(files="."),
        route(timeouts={"close": 5}),
        route(timeouts={"close": "5"}),
        route(timeouts={"close": None}),
        route(delivery={"window_bytes": "4M"}),
        route(delivery={"window_messages": 0}),
        route(limits={"messages_per_second": 0}),
        route(require_origin="maybe"),
        route(origins="*"),
        route(subprotocols=["a b"]),
        route(backend={"endpoints": ["http://a"]}),
        route(backend={"endpoints": []}),
        route(backend={"endpoints": ["tcp://a:1"], "proxy_protocol": "v1"}),
    ],
)
def test_it_refuses_what_the_gateway_refuses(config: dict[str, object]) -> None:
    assert not is_valid(config)


@pytest.mark.parametrize(
    "config",
    [
        GOOD | {"admin": None},
        GOOD | {"routes": [{"name": "pages", "files": "/srv"}]},
        route(timeouts={"close": "1h30m", "idle": None}),
        route(delivery={"window_bytes": 65536, "grace": "${GRACE:-2m}"}),
        route(limits={"message_bytes": "64 KiB", "connections": "${CONNECTIONS}"}),
        route(require_origin="${STRICT:-false}"),
        route(backend={"endpoints": ["tcp://${HOST}:9000", "${OTHER}", "unix:///run/a.sock"]}),
    ],
)
def test_it_accepts_what_the_gateway_accepts(config: dict[str, object]) -> None:
    assert is_valid(config)


def test_defaults_and_descriptions_are_those_of_the_files_words() -> None:
    delivery = SCHEMA["properties"]["routes"]["items"]["properties"]["delivery"]["properties"]
    assert delivery["grace"]["default"] == "2m"
    assert delivery["window_bytes"]["default"] == "4MiB"
    assert "resumed" in delivery["grace"]["description"]
    keys = [inner for node in nodes(SCHEMA) if "properties" in node for inner in node["properties"].values()]
    assert len(keys) > 60
    assert all(key["description"] and "\n" not in key["description"] for key in keys)
