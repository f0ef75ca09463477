"""What the admin listener answers: liveness, readiness, metrics, sessions.

Invariant: `/healthz` and `/readyz` mean different things and are open to every probe; whatever tells about traffic asks
for the token where one is set. It decides and renders; `gateway.admin.server` does the I/O.
"""

import hmac
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, Protocol

import trio
from pydantic import SecretStr

from gateway.admin.acting import ActingApi, Operations, not_allowed
from gateway.admin.response import Response
from gateway.admin.sessions import SessionDirectory, SessionsApi
from gateway.config.model import AdminToken
from gateway.errors import HandshakeRefused
from gateway.protocol.http import Request, shown
from gateway.telemetry.exposition import Exporter
from gateway.telemetry.metrics import Metrics, ServiceRefusal

_GZIP_WBITS: Final = 31
_GZIP_LEVEL: Final = 1
"""A scrape's text shrinks to a tenth at the lowest level already."""
_GZIP_SLICE_BYTES: Final = 128 * 1024
"""Compressed between two checkpoints: about 1 ms."""

_TEXT: Final = "text/plain; charset=utf-8"


MemoryReport = Callable[[], Mapping[str, object]]
"""The account of memory, fit for JSON."""


READING: Final = ("GET", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    name: str
    token: SecretStr
    scopes: frozenset[str]

    @property
    def secret(self) -> bytes:
        return self.token.get_secret_value().encode()


class Gateway(Protocol):
    """What the app asks the server for."""

    @property
    def metrics(self) -> Metrics:
        """The process's counters."""
        ...

    def readiness(self) -> Mapping[str, object]:
        """What keeps this gateway from serving, fit for JSON; empty when nothing does."""
        ...


class AdminApp:
    """The endpoints. `answer` a request with them; it raises HandshakeRefused for what is not answered."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        token: SecretStr | None = None,
        sessions: SessionDirectory | None = None,
        memory: MemoryReport | None = None,
        tokens: Sequence[AdminToken] = (),
        operations: Operations | None = None,
        hosts: Callable[[str], bool] | None = None,
    ) -> None:
        """`token`, `tokens`: one of them is asked for by all but the probes, if there is any, and to act in any case.

        `sessions`, `memory`, `operations`: for the APIs of that name. `hosts` says which hosts are ours, where a page
        could ask without a token; None: no page can.
        """
        self._gateway = gateway
        self._holders = [_Holder(name="token", token=token, scopes=frozenset({"read"}))] if token is not None else []
        self._holders += [_Holder(name=each.name, token=each.token, scopes=frozenset(each.scopes)) for each in tokens]
        self._has_host = hosts
        self._acting = None if operations is None else ActingApi(operations)
        self._exporter = Exporter(gateway.metrics)
        self._memory = memory
        self._sessions = None if sessions is None else SessionsApi(sessions)

    async def answer(self, request: Request) -> Response:
        """The answer to a request. Raises HandshakeRefused: 400, 401, 403, 404, 405."""
        await trio.lowlevel.checkpoint()
        reads = request.method in READING
        match request.path if reads else None:
            case "/healthz":
                # The process runs and its event loop turns; one that only drains or lacks backends is healthy.
                return Response.make(b"ok\n", content_type=_TEXT)
            case "/readyz":
                return self._readyz()
        # Before it is said what else there is and what not.
        by = self._authenticate(request, scope="read" if reads else "act")
        if self._acting is not None:
            answer = await self._acting.answer(request, by=by)
            if answer is not None:
                return answer
        if not reads:
            raise not_allowed(*READING)
        match request.path.split("/"):
            case ["", "metrics"]:
                return await self._metrics(request)
            case ["", "memory"] if self._memory is not None:
                return Response.of_json(self._memory())
            case ["", "sessions", *_] if self._sessions is not None:
                return self._sessions.answer(request)
        known = "/healthz, /readyz, /metrics"
        known += ", /memory" if self._memory is not None else ""
        known += ", /sessions" if self._sessions is not None else ""
        known += ", /bars, /log/level" if self._acting is not None else ""
        raise HandshakeRefused(
            f"nothing is here; there are {known}", status=HTTPStatus.NOT_FOUND, reason=ServiceRefusal.NO_ROUTE
        )

    def _authenticate(self, request: Request, *, scope: str) -> str:
        """The name of whose token it is. Raises HandshakeRefused: 401, and 403 for one that may not."""
        if scope == "read" and not self._holders:
            self._check_host(request)
            return ""
        scheme, _, given = (request.get("authorization") or "").partition(" ")
        # compare_digest takes as long for a wrong token as for one that is nearly right. Headers are Latin-1 as read.
        shown = given.strip(" ").encode("latin-1") if scheme.lower() == "bearer" else b""
        holders = [holder for holder in self._holders if shown and hmac.compare_digest(shown, holder.secret)]
        for holder in holders:
            if scope in holder.scopes:
                return holder.name
        if holders or (scope == "act" and not any("act" in holder.scopes for holder in self._holders)):
            raise HandshakeRefused(
                f"this needs a token of admin.tokens with the scope {scope}",
                status=HTTPStatus.FORBIDDEN,
                reason=ServiceRefusal.ADMIN_TOKEN,
            )
        raise HandshakeRefused(
            "this asks for the admin token: Authorization: Bearer TOKEN",
            status=HTTPStatus.UNAUTHORIZED,
            reason=ServiceRefusal.ADMIN_TOKEN,
            headers=(("WWW-Authenticate", 'Bearer realm="kakitome"'),),
        )

    def _check_host(self, request: Request) -> None:
        """Raises HandshakeRefused (403) for what may be a page's own name that was led here (DNS rebinding)."""
        if self._has_host is not None and not self._has_host(request.host):
            raise HandshakeRefused(
                f"without a token this answers to addresses, local names and `hosts`, not to {shown(request.host)}",
                status=HTTPStatus.FORBIDDEN,
                reason=ServiceRefusal.HOST,
            )

    def _readyz(self) -> Response:
        problems = self._gateway.readiness()
        status = HTTPStatus.SERVICE_UNAVAILABLE if problems else HTTPStatus.OK
        return Response.of_json({"ready": not problems, **problems}, status=status)

    async def _metrics(self, request: Request) -> Response:
        exposition = await self._exporter.expose(request.get("accept") or "")
        body, headers = exposition.body, [("Vary", "Accept, Accept-Encoding")]
        if _accepts_gzip(request):
            body = await _gzip(body)
            headers.append(("Content-Encoding", "gzip"))
        return Response.make(body, content_type=exposition.content_type, headers=tuple(headers))


def _accepts_gzip(request: Request) -> bool:
    for element in request.tokens("accept-encoding"):
        coding, _, weight = (part.strip() for part in element.partition(";"))
        if coding == "gzip":
            return weight not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def _gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS)
    parts = []
    for start in range(0, len(body), _GZIP_SLICE_BYTES):
        parts.append(compressor.compress(memoryview(body)[start : start + _GZIP_SLICE_BYTES]))
        await trio.lowlevel.checkpoint()
    parts.append(compressor.flush())
    return b"".join(parts)
