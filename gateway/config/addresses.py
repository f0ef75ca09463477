"""Where to listen and whom to dial: binds and endpoints, parsed once and passed on as values.

Invariant: `str()` of a value is text that parses to an equal value. Every parser raises ValueError with a text that
says what to write instead.
"""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

MAX_UNIX_PATH_BYTES: Final = 107
"""`sun_path` has 108 bytes on Linux, the last of which ends the string (unix(7))."""

_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
"""Underscores are no letters of a host name by RFC 1123, but container networks hand them out."""

_SOCKET_NAME: Final = re.compile(r"[\w.@-]{1,255}", re.ASCII)
"""Of what FileDescriptorName= allows (systemd.socket(5)), what needs no quotes anywhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpAddress:
    """A host, by name or number, and a port."""

    host: str
    """Without brackets, also for IPv6."""
    port: int
    """0 to 65535; 0, in a bind, lets the kernel choose."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixAddress:
    """A Unix stream socket in the file system."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemdSocket:
    """A socket that systemd has bound and hands over (sd_listen_fds(3)), by its FileDescriptorName."""

    name: str

    def __str__(self) -> str:
        return f"systemd:{self.name}"


Address = TcpAddress | UnixAddress
BindAddress = Address | SystemdSocket


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One address that a backend listens at, and how to speak to it."""

    scheme: Literal["tcp", "tls", "unix"]
    address: Address

    @property
    def tls(self) -> bool:
        """The connection is encrypted and the backend's certificate verified."""
        return self.scheme == "tls"

    def __str__(self) -> str:
        match self.address:
            case TcpAddress():
                return f"{self.scheme}://{self.address}"
            case UnixAddress(path=path):
                return f"unix://{path}"


def parse_bind(text: str, *, base: Path = Path()) -> BindAddress:
    """The address to listen at from `host:port`, `[v6]:port`, `unix:PATH` (taken from `base`) or `systemd:NAME`."""
    if text.startswith("systemd:"):
        name = text.removeprefix("systemd:")
        if not _SOCKET_NAME.fullmatch(name):
            raise ValueError(f'"{text}" names no socket; write systemd:NAME, with the FileDescriptorName of its unit')
        return SystemdSocket(name=name)
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ValueError(f'"{text}" names no path; write unix:/run/kakitome.sock')
        return _unix(base / path)
    if "://" in text:
        raise ValueError(f'"{text}" is a URL; write host:port, [v6]:port or unix:PATH')
    if text.isascii() and text.isdigit():
        raise ValueError(f"{text} is only a port; write 127.0.0.1:{text} for this host, 0.0.0.0:{text} for all")
    return _tcp(text, lowest_port=0)


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint from `tcp://host:port`, `tls://host:port` or `unix:///path`."""
    scheme, separator, rest = text.partition("://")
    match scheme:
        case "tcp" | "tls" if separator:
            return Endpoint(scheme=scheme, address=_tcp(rest.removesuffix("/"), lowest_port=1))
        case "unix" if separator:
            if not rest.startswith("/"):
                raise ValueError(f'"{text}" must have an absolute path, as in unix:///run/chat.sock')
            return Endpoint(scheme="unix", address=_unix(Path(rest)))
        case _:
            raise ValueError(f'"{text}" must begin with tcp://, tls:// or unix://')


def _tcp(text: str, *, lowest_port: int) -> TcpAddress:
    host, separator, port = text.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit():
        raise ValueError(f'"{text}" has no port; write host:port or [v6]:port')
    if not lowest_port <= int(port) <= 65535:
        raise ValueError(f'"{text}" has the port {port}; ports go from {lowest_port} to 65535')
    return TcpAddress(host=_host(host, text), port=int(port))


def _host(host: str, text: str) -> str:
    if host in ("", "*"):
        raise ValueError(f'"{text}" names no host; 0.0.0.0 is every IPv4 address, [::] every address')
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f'"{text}" has no IPv6 address between its brackets') from None
    if ":" in host:
        raise ValueError(f'"{text}" must have its IPv6 address in brackets, as in [::1]:9000')
    if not _HOST_NAME.fullmatch(host):
        raise ValueError(f'"{text}" has no valid host: "{host}"')
    return host


def _unix(path: Path) -> UnixAddress:
    if len(bytes(path)) > MAX_UNIX_PATH_BYTES:
        raise ValueError(f'"{path}" is longer than the {MAX_UNIX_PATH_BYTES} bytes a Unix socket path may have')
    return UnixAddress(path=path)
