"""The field types of the configuration's models: what a YAML scalar may be, and its JSON Schema.

Invariant: a value that came from a file keeps to the written forms (a duration has its unit); Python code that builds
models hands over the values themselves (seconds, bytes, paths). `Source`, the validation context, tells the two apart.
"""

import ipaddress
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)

from gateway.config.addresses import BindAddress, SystemdSocket, TcpAddress, UnixAddress, parse_bind, parse_endpoint
from gateway.config.addresses import Endpoint as EndpointValue
from gateway.config.units import (
    DURATION_PATTERN,
    SIZE_PATTERN,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from gateway.policy.forwarded import UNIX

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

SMALLEST_HEAD_BYTES: Final = 1024
LARGEST_HEAD_BYTES: Final = 2**20
"""What a client without any right can make us hold for `timeouts.handshake`, on each of its connections."""

_FILE_MODE: Final = re.compile(r"0?[0-7]{3}")

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
"""RFC 9110 section 5.6.2: what a header name and a subprotocol are made of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The file being validated: relative paths start at its folder."""

    folder: Path
    read_files: bool = True
    """False: secrets stay unread, for a check on a machine that has only the configuration."""
    files_read: set[Path] = field(default_factory=set)
    """Files whose text became a value (secrets): their change is a change of the configuration."""
    kept: dict[Path, bytes] = field(default_factory=dict)
    """What came from a pipe, which gives its content once: a later load of the same configuration takes it from
    here."""
    pipes: set[Path] = field(default_factory=set)
    """Those of `kept` that this configuration names."""

    def read(self, path: Path) -> bytes:
        """The content of the file, noted as read or kept. Raises OSError."""
        if path in self.kept:
            self.pipes.add(path)
            return self.kept[path]
        # Asked before it is read: what is there once a pipe has been emptied may be something else.
        is_regular = path.is_file()
        content = path.read_bytes()
        if is_regular:
            self.files_read.add(path)
        else:
            self.kept[path] = content
            self.pipes.add(path)
        return content


def _source(info: ValidationInfo) -> Source | None:
    return info.context if isinstance(info.context, Source) else None


def _duration(value: object, info: ValidationInfo) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a duration such as 250ms, 5s, 2m or 1h30m")
    if _source(info) is not None:
        raise ValueError(f"{value} has no unit; write {value}s for seconds, or {value}ms, {value}m, {value}h")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"a duration must be longer than 0, not {value}")
    return value


def _size(value: object) -> object:
    size = parse_size(value) if isinstance(value, str) else value
    if isinstance(size, bool) or not isinstance(size, int):
        raise ValueError("must be a size such as 65536, 64KiB, 1MiB or 500kB")
    if size < 1:
        raise ValueError(f"must be at least 1 byte, not {size}")
    return size


def _path(value: Path, info: ValidationInfo) -> Path:
    source = _source(info)
    return value if source is None else source.folder / value


def _bind(value: object, info: ValidationInfo) -> BindAddress:
    if isinstance(value, TcpAddress | UnixAddress | SystemdSocket):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("must be host:port, [v6]:port, unix:PATH or systemd:NAME")
    source = _source(info)
    return parse_bind(value) if source is None else parse_bind(value, base=source.folder)


def _endpoint(value: object) -> EndpointValue:
    if isinstance(value, EndpointValue):
        return value
    if not isinstance(value, str):
        raise ValueError("must be tcp://host:port, tls://host:port or unix:///path")
    return parse_endpoint(value)


def _trusted_peer(value: object) -> IpNetwork | Literal["unix"]:
    if isinstance(value, IpNetwork):
        return value
    if value == UNIX:
        return "unix"
    try:
        return ipaddress.ip_network(str(value))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError(f'"{value}" is not a network such as 10.0.0.0/8 or fd00::/8, nor unix') from None
    raise ValueError(f'"{value}" has bits set beyond its mask; write {meant}')


def _secret(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str):
        return value
    if value.startswith("file:"):
        source = _source(info)
        path = Path(value.removeprefix("file:"))
        if source is not None:
            if not source.read_files:
                return value
            path = source.folder / path
            if path.is_file():
                source.files_read.add(path)  # also where it cannot be read: a change may mend that
        try:
            content = path.read_bytes() if source is None else source.read(path)
            value = content.decode().rstrip("\r\n")
        except OSError as fault:
            raise ValueError(f"cannot read the secret from {path}: {fault.strerror}") from None
        except UnicodeDecodeError:
            raise ValueError(f"the secret in {path} is not UTF-8 text") from None
        if not value:
            raise ValueError(f"the secret in {path} is empty")
    if not value:
        raise ValueError("is empty; null means none")
    return value


def _file_mode(value: object, info: ValidationInfo) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and _source(info) is None:
        return value
    if not isinstance(value, str):
        # Without quotes 0660 is the number 660 to YAML, and 0o660 is 432: which was written can no longer be told.
        raise ValueError('must be the digits of a file mode in quotes, as in "0660"')
    if not _FILE_MODE.fullmatch(value):
        raise ValueError(f'"{value}" is no file mode such as "0660": three digits from 0 to 7, after a 0 or none')
    return int(value, 8)


def _account(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else value


def _head_size(value: int) -> int:
    if not SMALLEST_HEAD_BYTES <= value <= LARGEST_HEAD_BYTES:
        raise ValueError(
            f"must be from {format_size(SMALLEST_HEAD_BYTES)} to {format_size(LARGEST_HEAD_BYTES)}, "
            f"not {format_size(value)}"
        )
    return value


def _token(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f'"{value}" must be letters, digits and !#$%&\'*+-.^_`|~ only')
    return value


def _number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


Count = Annotated[int, Field(ge=1), BeforeValidator(_number)]
"""A limit in whole things, at least 1."""

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_number)]
"""A limit in things a second, more than 0."""

Duration = Annotated[
    float,
    BeforeValidator(_duration),
    PlainSerializer(format_duration),
    WithJsonSchema({"type": "string", "title": "duration", "pattern": DURATION_PATTERN}),
]
"""Seconds, more than 0."""

Size = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(format_size),
    WithJsonSchema(
        {
            "title": "size",
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": SIZE_PATTERN}],
        }
    ),
]
"""Bytes, at least 1."""

HeadSize = Annotated[Size, AfterValidator(_head_size)]
"""Bytes of a request's head or line."""

FileMode = Annotated[
    int,
    BeforeValidator(_file_mode),
    PlainSerializer(lambda mode: f"{mode:04o}"),
    WithJsonSchema({"type": "string", "title": "file mode", "pattern": f"^{_FILE_MODE.pattern}$"}),
]
"""Permission bits."""

Account = Annotated[
    str,
    Field(min_length=1),
    BeforeValidator(_account),
    WithJsonSchema(
        {
            "title": "name or number",
            "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1}],
        }
    ),
]
"""A user or a group of this machine."""


def _size_or_auto(value: object) -> object:
    return value if value == "auto" else _size(value)


SizeOrAuto = Annotated[
    int | Literal["auto"],
    PlainValidator(_size_or_auto),
    PlainSerializer(lambda value: value if value == "auto" else format_size(value)),
    WithJsonSchema(
        {
            "title": "auto or size",
            "anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^auto$|{SIZE_PATTERN}"}],
        }
    ),
]
"""Bytes, or `auto`: what that is, its key says."""

LocalPath = Annotated[Path, AfterValidator(_path), WithJsonSchema({"type": "string", "title": "path", "minLength": 1})]
"""A path of this machine; in a file, relative to the file's folder."""

Bind = Annotated[
    BindAddress,
    PlainValidator(_bind),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "title": "address", "pattern": r"^(unix:.+|systemd:.+|.+:[0-9]{1,5})$"}),
]

Endpoint = Annotated[
    EndpointValue,
    PlainValidator(_endpoint),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "title": "endpoint", "pattern": "^((tcp|tls)://.+:[0-9]{1,5}/?|unix:///.+)$"}),
]

TrustedPeer = Annotated[
    IpNetwork | Literal["unix"],
    PlainValidator(_trusted_peer),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "title": "network", "minLength": 1}),
]
"""Whose word on its clients is taken: a network, or whoever connects to a Unix socket."""

Secret = Annotated[
    SecretStr, BeforeValidator(_secret), WithJsonSchema({"type": "string", "title": "secret", "minLength": 1})
]
"""Never printed; the text itself, or `file:PATH`."""

Token = Annotated[
    str, AfterValidator(_token), WithJsonSchema({"type": "string", "title": "token", "pattern": f"^{_TOKEN.pattern}$"})
]
"""RFC 9110's token: a header's name, a subprotocol."""
