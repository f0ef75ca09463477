"""The configuration reference, docs/configuration.md, made from the models: `kakitome schema --markdown`.

Invariant: every key of every section is in it, in the models' order and words.
"""

from collections.abc import Iterator
from typing import Any, Final

from gateway.config.model import RESTART_KEYS, Config
from gateway.config.schema import FROM_ENVIRONMENT, schema
from gateway.config.section import Section, section_in

EXAMPLE: Final = """\
listeners:
  - bind: 0.0.0.0:8080
  - bind: 0.0.0.0:8443
    tls: {certificate: tls.crt, key: tls.key}
trusted_proxies: [10.0.0.0/8]
routes:
  - name: chat
    match: {host: chat.example.com, path: /chat}
    origins: [https://app.example.com, "https://*.example.com"]
    backend:
      endpoints: [tcp://chat-0:9000, tls://chat-1:9443]
      framing: records
    delivery: {grace: 5m}
    limits: {message_bytes: 256KiB, messages_per_second: 50}
  - name: vnc
    match: {path: /websockify}
    subprotocols: [binary]
    backend:
      endpoints: [unix:///run/vnc.sock]
    timeouts: {idle: 1h}
  - name: pages
    match: {path: "/*"}
    files: /usr/share/novnc
timeouts: {drain: 25s}
admin: {bind: 0.0.0.0:9090, token: "file:/run/secrets/admin-token"}
log: {level: "${LOG_LEVEL:-info}"}
"""
"""Shown at the top of the page. A test loads it, so it stays true."""

_INTRODUCTION: Final = f"""\
# Configuration

Kakitome is configured by one YAML file: `kakitome serve --config FILE`, or `KAKITOME_CONFIG=FILE kakitome serve`.
`kakitome check FILE` names everything that is wrong with a file, each fault with its line, and exits with 2.
`kakitome schema` prints the JSON Schema, for editors and charts. Two keys are required: `listeners` and `routes`.

```yaml
{EXAMPLE}```

## How values are written

- **Durations** have a unit: `250ms`, `5s`, `2m`, `1h30m`, `1d`. A number without a unit is refused.
- **Sizes** are bytes, or have a unit: `65536`, `64KiB`, `1MiB`, `500kB` (`Ki` is 1024, `k` is 1000).
- **`null`** switches a limit or a timeout off where the table says that it may be null.
- **Paths** (certificates, folders, sockets) are relative to the folder of the configuration file.
- **Environment variables**: `${{NAME}}`, or `${{NAME:-default}}` for one that may be missing or empty; a missing one
  without a default is an error. They stand in values, not in keys; `$$` is a dollar sign. Inside `[]` and `{{}}` they
  need quotes.
- **Secrets** may be `file:PATH`: the text of that file, without the line break at its end.
- **Unknown keys** are errors, and so is a key that stands twice. Anchors and merge keys (`<<`) work.

## When a change takes effect

The file, and the files of its secrets, are read again when they change and at SIGHUP. A file with faults changes
nothing: the faults are logged, counted in `kakitome_config_reloads_total`, and the gateway goes on as it was.
Certificates are watched by themselves. What came from a pipe is read once: at SIGHUP the log says so
(`config_not_read_again`), and where it is the configuration itself, the reload counts as rejected.

What changes then holds for connections that are made afterwards; `log.level` holds at once. These keys are read at the
start only, and wait for a restart, which the log says (`restart_needed`):
{", ".join(f"`{key}`" for key in RESTART_KEYS)}.

## Keys

"""


def reference() -> str:
    """The whole page, in Markdown."""
    return _INTRODUCTION + "\n".join(_tables(Config, schema(), ""))


def _tables(model: type[Section], described: dict[str, Any], path: str) -> Iterator[str]:
    """A table for the section at `path`, then those of the sections in it."""
    yield f"### {f'`{path}`' if path else 'Top level'}\n"
    yield " ".join((model.__doc__ or "").split()) + "\n"
    yield "| Key | Value | Default | Meaning |"
    yield "| --- | --- | --- | --- |"
    inner: list[tuple[type[Section], dict[str, Any], str]] = []
    for name, field in model.model_fields.items():
        value = described["properties"][name]
        required = name in described.get("required", ())
        section = section_in(field.annotation)
        if section is None:
            kind, default = _kind(value), "required" if required else _literal(value["default"])
        else:
            is_list = value.get("type") == "array"
            below = f"{path}.{name}".removeprefix(".") + ("[]" if is_list else "")
            inner.append((section, _section_schema(value), below))
            kind = f"{'list of ' if is_list else ''}[`{below}`](#{_anchor(below)})"
            kind += " or `null`" if _may_be_null(value) else ""
            default = "required" if required else _section_default(value["default"])
        yield f"| `{name}` | {kind} | {default} | {_cell(value['description'])} |"
    yield ""
    for section, section_schema, below in inner:
        yield from _tables(section, section_schema, below)


def _section_schema(value: dict[str, Any]) -> dict[str, Any]:
    if "items" in value:
        return dict(value["items"])
    return next((choice for choice in value.get("anyOf", ()) if "properties" in choice), value)


def _section_default(default: object) -> str:
    """A section that may be left out has its own defaults below; only none at all is worth a word here."""
    return "none" if default in (None, []) else "see there"


def _kind(value: dict[str, Any]) -> str:
    """What may be written: a word for the type, or the values themselves."""
    if "anyOf" in value:
        if "title" in value:
            return str(value["title"])
        kinds = [_kind(choice) for choice in value["anyOf"] if choice != FROM_ENVIRONMENT]
        return " or ".join(dict.fromkeys(kinds))
    if value.get("type") == "array":
        return f"list of {_kind(value['items'])}s"
    if "enum" in value:
        return ", ".join(f"`{choice}`" for choice in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "null":
        return "`null`"
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    return str(value.get("title") or words[value["type"]])


def _may_be_null(value: dict[str, Any]) -> bool:
    return {"type": "null"} in value.get("anyOf", ())


def _literal(default: object) -> str:
    match default:
        case None:
            return "`null`"
        case bool():
            return f"`{str(default).lower()}`"
        case list():
            return f"`[{', '.join(map(str, default))}]`"
        case _:
            return f"`{default}`"


def _anchor(path: str) -> str:
    """As GitHub makes it of a heading: only letters, digits, hyphens and underscores stay."""
    return "".join(character for character in path if character.isalnum() or character in "-_")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
