"""Which endpoint a client is led to, where the route leaves that to a claim or to a token.

Invariant: nobody is led to an endpoint that `allow` does not have, whoever named it; and a client that is refused is
not told which endpoint it would have been, nor what is allowed.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeAlias

import structlog
import trio

from gateway.config.choice import EndpointFrom
from gateway.errors import HandshakeRefused
from gateway.policy.credentials import take_parameter
from gateway.policy.destinations import Destination, find_destination
from gateway.policy.principal import AccessRefusal, Principal, said_of
from gateway.policy.refusals import unavailable
from gateway.protocol.http import Request

MAX_FILE_BYTES: Final = 16 * 2**20
"""Of all token files of a route together: some 200,000 tokens."""

MAX_FILES: Final = 10_000

_LINE: Final = re.compile(r"(?P<token>.+?):\s+(?P<endpoint>\S+)\s*")

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]

log = structlog.get_logger("access")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where a request leads."""

    destination: Destination
    request: Request
    """Without the token."""


class EndpointChooser:
    """Of one route."""

    def __init__(self, config: EndpointFrom, *, route: str) -> None:
        self._config: Final = config
        self._route: Final = route
        self._file: Final = None if config.file is None else TokenFile(config.file)

    async def choose(self, request: Request, principal: Principal | None) -> Choice:
        """Raises HandshakeRefused: 400 for two tokens, 403 where no allowed endpoint is named, 503 for files unread."""
        if self._file is None:
            return Choice(destination=self.claimed(principal), request=request)
        request, tokens = take_parameter(request, self._config.parameter)
        if len(set(tokens)) > 1:
            raise HandshakeRefused(
                f'the request has {len(tokens)} parameters "{self._config.parameter}", and must have one',
                status=HTTPStatus.BAD_REQUEST,
                reason=AccessRefusal.ENDPOINT,
            )
        if not tokens:
            raise self._refused(
                "the request has no token", f'this address asks for the parameter "{self._config.parameter}"'
            )
        try:
            endpoint = await self._file.find(tokens[0])
        except OSError as fault:
            log.error("endpoints_not_read", route=self._route, problem=str(fault))
            raise unavailable() from None
        if endpoint is None:
            raise self._refused("no line of the token file has the token", "the token leads nowhere")
        return Choice(destination=self._find(endpoint), request=request)

    def claimed(self, principal: Principal | None) -> Destination:
        """The endpoint that a claim names. Raises HandshakeRefused (403)."""
        assert self._config.claim is not None
        value = None if principal is None else said_of(principal, self._config.claim)
        if not isinstance(value, str):
            name = ".".join(self._config.claim)
            problem = f'there is no claim "{name}"' if value is None else f'the claim "{name}" is no text'
            raise self._refused(problem, "your credential leads nowhere here")
        return self._find(value)

    @property
    def follows_claims(self) -> bool:
        """Another credential of the same client may lead elsewhere."""
        return self._config.claim is not None

    def _find(self, endpoint: str) -> Destination:
        try:
            return find_destination(endpoint, self._config.allow)
        except ValueError as fault:
            raise self._refused(str(fault), "you may not be led to where your credential leads") from None

    def _refused(self, problem: str, told: str) -> HandshakeRefused:
        log.warning("endpoint_refused", route=self._route, problem=problem)
        return HandshakeRefused(told, status=HTTPStatus.FORBIDDEN, reason=AccessRefusal.ENDPOINT)


class TokenFile:
    """A file of websockify's `TokenFile` plugin, or a folder of such files, as it is now.

    Tokens are kept as digests: how long a look-up takes tells nothing about one.
    """

    def __init__(self, path: Path) -> None:
        self._path: Final = path
        self._stamp: Stamp | None = None
        self._endpoints: Mapping[bytes, str] = {}

    async def find(self, token: str) -> str | None:
        """What stands behind the token; None for a token that is not there. Raises OSError."""
        endpoints = await trio.to_thread.run_sync(self._current)
        return endpoints.get(_digest(token))

    def _current(self) -> Mapping[bytes, str]:
        """A change is seen by the first that comes after it: consoles are opened as soon as their token is written."""
        stamp = self._look()
        if stamp != self._stamp:
            self._endpoints = self._read([Path(name) for name, *_ in stamp])
            self._stamp = stamp
        return self._endpoints

    def _look(self) -> Stamp:
        found: list[tuple[str, int, int, int]] = []
        files = [self._path]
        if self._path.is_dir():
            files = sorted(file for file in self._path.iterdir() if not file.name.startswith(".") and file.is_file())
        if len(files) > MAX_FILES:
            raise OSError(f"{self._path} has {len(files)} files, and {MAX_FILES} are read at most")
        for file in files:
            try:
                stat = file.stat()
            except FileNotFoundError:
                if file == self._path:
                    raise
                continue  # it went between the listing and now
            found.append((str(file), stat.st_ino, stat.st_mtime_ns, stat.st_size))
        if sum(size for *_, size in found) > MAX_FILE_BYTES:
            raise OSError(f"{self._path} has more than {MAX_FILE_BYTES} bytes")
        return tuple(found)

    def _read(self, files: list[Path]) -> Mapping[bytes, str]:
        endpoints: dict[bytes, str] = {}
        for file in files:
            text = file.read_bytes()[: MAX_FILE_BYTES + 1].decode("utf-8", "replace")
            faulty: list[int] = []
            for number, line in enumerate(text.splitlines(), 1):
                line = line.strip()
                if not line or line.startswith("#"):
                    continue
                found = _LINE.fullmatch(line)
                if found is None:
                    faulty.append(number)
                else:
                    endpoints[_digest(found["token"])] = found["endpoint"]
            if faulty:
                # Without the lines: tokens stand in them.
                log.warning("endpoints_unreadable", file=str(file), lines=faulty[:10], expected="TOKEN: HOST:PORT")
        return endpoints


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
