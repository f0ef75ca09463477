"""The schema of the chart's values: that of values.yaml and of the gateway, and no more."""

from typing import Any

import jsonschema
import pytest

from gateway.config.reference import EXAMPLE
from gateway.config.schema import schema as config_schema
from helm.__main__ import CHART
from helm.schema import PARTICULARS, chart_config_schema, values_schema
from helm.values import Section, Value, read_values
from tests.helm.chart import chart

SECTIONS = read_values((CHART / "values.yaml").read_text())


def section_of(*values: Value) -> tuple[Section, ...]:
    return (Section(name="A", description="", values=values),)


def at(schema: dict[str, Any], key: str) -> dict[str, Any]:
    for part in key.split("."):
        schema = schema["properties"][part]
    return schema


def test_it_is_a_schema_that_the_defaults_satisfy() -> None:
    schema = values_schema(SECTIONS)
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(chart().values, schema)


def test_helm_reads_the_same() -> None:
    assert chart().schema == values_schema(SECTIONS)


def test_every_value_has_its_type_and_its_description() -> None:
    schema = values_schema(SECTIONS)
    for section in SECTIONS:
        for value in section.values:
            if value.path[0] != "config":
                found = at(schema, value.key)
                assert found["description"] == value.description
                assert "type" in found


def test_every_section_of_the_values_is_closed_and_needed() -> None:
    schema = values_schema(SECTIONS)
    for key in ("", "image", "tls", "tls.certManager", "networkPolicy.egress"):
        found = at(schema, key) if key else schema
        assert found["additionalProperties"] is False
    assert set(schema["required"]) >= {"image", "tls", "networkPolicy", "config", "replicaCount"}


def test_the_gateways_schema_is_in_it_but_for_what_the_chart_adds() -> None:
    embedded, own = chart_config_schema(), config_schema()
    for key in ("listeners", "routes"):
        assert own["properties"][key].pop("minItems") == 1
    with_tls: dict[str, Any] = {"bind": "0.0.0.0:9090"}
    jsonschema.validate(with_tls, embedded["properties"]["admin"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(None, embedded["properties"]["admin"])
    for changed in ("admin",):
        del embedded["properties"][changed], own["properties"][changed]
    del own["$schema"]
    assert embedded == own


def test_it_accepts_the_gateways_documented_example() -> None:
    import yaml

    jsonschema.validate(yaml.safe_load(EXAMPLE), chart_config_schema())


def test_particulars_of_a_value_that_does_not_exist_are_a_fault() -> None:
    only = Value(path=("count",), default=1, description="How many.", default_text=None)
    with pytest.raises(AssertionError, match=next(iter(sorted(PARTICULARS)))):
        values_schema(section_of(only))
