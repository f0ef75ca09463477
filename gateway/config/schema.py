"""The JSON Schema of the configuration file, made from the models.

Invariant: it holds no `$ref`, so that it can be put anywhere in another schema (a Helm chart's values), and only what
drafts 7 to 2020-12 have in common. It knows each key, and each value's type, range and written form; what only parsing,
several keys together or the machine can tell is left to `kakitome check`.
"""

from typing import Any, Final

from gateway.config.model import Config
from gateway.config.section import Section, section_in

Schema = dict[str, Any]

FROM_ENVIRONMENT: Final = {"title": "reference", "type": "string", "pattern": r"\$\{"}
"""`${NAME}` may stand for any value; which one is not known before the gateway runs."""

_CONSTRAINED: Final = frozenset({"pattern", "enum", "const"})


def schema() -> Schema:
    """The schema of the whole file, as a new dict."""
    raw = Config.model_json_schema()
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | _section(Config, raw, raw.get("$defs", {}))


def _section(model: type[Section], raw: Schema, definitions: Schema) -> Schema:
    result = {key: value for key, value in raw.items() if key not in ("properties", "$defs")}
    result["description"] = _one_line(raw["description"])
    result["properties"] = {}
    defaults = model.model_construct().model_dump(mode="json", warnings=False)
    for name, field in model.model_fields.items():
        inner = section_in(field.annotation)
        property_ = dict(raw["properties"][name])
        if property_.get("title") == name.replace("_", " ").title():
            del property_["title"]  # pydantic's own, which says nothing that the key does not
        value = _value(property_, inner, definitions)
        value["description"] = _one_line(field.description or (inner.__doc__ if inner else None) or "")
        if name in defaults:
            value["default"] = defaults[name]
        result["properties"][name] = value
    return result


def _value(raw: Schema, inner: type[Section] | None, definitions: Schema) -> Schema:
    """`raw` with its references resolved, and `${NAME}` allowed where the text of a value is constrained."""
    if "$ref" in raw:
        assert inner is not None
        name = raw.pop("$ref").rpartition("/")[2]
        return raw | _section(inner, definitions[name], definitions)
    if "items" in raw:
        return raw | {"items": _value(raw["items"], inner, definitions)}
    if "anyOf" in raw:
        choices = [_value(choice, inner, definitions) for choice in raw["anyOf"]]
        flat = [part for choice in choices for part in (choice["anyOf"] if set(choice) == {"anyOf"} else [choice])]
        return raw | {"anyOf": [choice for index, choice in enumerate(flat) if choice not in flat[:index]]}
    if raw["type"] in ("integer", "number", "boolean") or (raw["type"] == "string" and _CONSTRAINED & raw.keys()):
        outer = {key: raw.pop(key) for key in ("default", "description") if key in raw}
        return outer | {"anyOf": [raw, dict(FROM_ENVIRONMENT)]}
    return raw


def _one_line(text: str) -> str:
    return " ".join(text.split())
