"""Asks a running gateway's admin listener how it does: the health check of a container, which has no curl.

Invariant: it needs nothing but the standard library and no configuration, because it is started anew every few seconds
beside a gateway that may be busy, and because a file that a reload refused must not make the gateway look ill.
"""

import http.client
import re
import socket
from dataclasses import dataclass
from typing import Final

PROBE_TIMEOUT_SECONDS: Final = 4.0
"""For each step: connecting, and each read. Below the 5 s that the image's health check is given as a whole."""

MAX_BODY_BYTES: Final = 64 * 1024
"""`/readyz` may name each route that keeps the gateway from being ready; what is beyond this is not shown."""

_TCP_ADDRESS: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:/@\[\]]+)):(?P<port>[0-9]{1,5})")
"""`gateway.config.addresses` has better words, but importing it takes half a second: the models come along."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What the gateway said of itself."""

    status: int
    text: str

    @property
    def good(self) -> bool:
        """It answered 200."""
        return self.status == http.client.OK


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, *, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(address: str, path: str, *, timeout: float = PROBE_TIMEOUT_SECONDS) -> Health:
    """GET of `path` from the admin listener at `host:port`, `[v6]:port` or `unix:PATH`.

    Raises ValueError for an address that is none of these, OSError where nobody answers in time, and
    http.client.HTTPException where what answers does not speak HTTP.
    """
    connection = _connection(address, timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return Health(status=response.status, text=response.read(MAX_BODY_BYTES).decode(errors="replace").strip())
    finally:
        connection.close()


def _connection(address: str, timeout: float) -> http.client.HTTPConnection:
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"), timeout=timeout)
    match = _TCP_ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ValueError(f'"{address}" is no address; write host:port, [v6]:port or unix:PATH')
    return http.client.HTTPConnection(match["v6"] or match["host"], int(match["port"]), timeout=timeout)
