"""The part of the admin API that acts: ends sessions, bars and lifts, drains a route, sets the log level.

Invariant: everything is said by method, path and query; a request has no body. Whatever was done is logged with the
name of the token that asked for it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final, get_args

import structlog

from gateway.access.state import OF_AN_ISSUER, Bar, Barred, StateUnwritable
from gateway.admin.response import Response
from gateway.admin.sessions import bad_query, query_of
from gateway.config.model import LogLevel
from gateway.errors import HandshakeRefused
from gateway.protocol.http import Refusal, Request
from gateway.telemetry.metrics import ServiceRefusal

KINDS: Final[Mapping[str, Barred]] = {kind.value: kind for kind in Barred}
"""By what somebody is named, as in a query."""

MAX_SECONDS: Final = 10 * 365 * 86_400

LEVELS: Final[Sequence[str]] = get_args(LogLevel)

_KEPT: Final = "kept"

log = structlog.get_logger("admin")


class Operations(ABC):
    """What the operator can have done."""

    @abstractmethod
    async def bar(
        self, kind: Barred, value: str, *, seconds: float | None, issuer: str | None = None
    ) -> tuple[Bar, int, bool]:
        """The bar, how many sessions it ended, and whether it outlasts a restart. `issuer`: whose name it is."""

    @abstractmethod
    def disconnect(self, kind: Barred, value: str, *, issuer: str | None = None) -> int:
        """Ends sessions; how many."""

    @abstractmethod
    def bars(self) -> Sequence[Bar]:
        """Those that hold."""

    @abstractmethod
    async def lift(self, kind: Barred, value: str, *, issuer: str | None = None) -> bool:
        """Takes a bar back; false if there was none. Raises StateUnwritable."""

    @abstractmethod
    def drain_route(self, route: str) -> int | None:
        """Sends a route's clients away and takes no new ones; how many go. None: there is no such route."""

    @abstractmethod
    def open_route(self, route: str) -> bool:
        """Takes clients again; false if it was not drained."""

    @property
    @abstractmethod
    def log_level(self) -> LogLevel:
        """The least severe level that is written."""

    @abstractmethod
    def set_log_level(self, level: LogLevel) -> None:
        """Until the configuration's level changes, or a restart."""


class ActingApi:
    """What is behind the scope `act`, and the lists that belong to it."""

    def __init__(self, operations: Operations) -> None:
        self._operations: Final = operations

    async def answer(self, request: Request, *, by: str) -> Response | None:
        """The answer to a request; None where this is nothing of ours. Raises HandshakeRefused: 400, 404, 405, 507."""
        path = request.path.split("/")
        match request.method, path:
            case "DELETE", ["", "sessions", session] if session != "ended":
                query_of(request)
                ended = self._operations.disconnect(Barred.SESSION, session)
                if not ended:
                    raise _not_found("no live session has this ID")
                return self._done("session_ended", {"ended": ended}, by=by)
            case "POST", ["", "disconnect"]:
                kind, value, issuer, _ = _whom(request)
                ended = self._operations.disconnect(kind, value, issuer=issuer)
                return self._done("disconnect", {"ended": ended}, by=by)
            case "POST", ["", "bars"]:
                return await self._bar(request, by=by)
            case (("GET" | "HEAD"), ["", "bars"]):
                query_of(request)
                return Response.of_json({"bars": [_shown(bar) for bar in self._operations.bars()]})
            case "DELETE", ["", "bars"]:
                return await self._lift(request, by=by)
            case "POST", ["", "routes", route, "drain"]:
                query_of(request)
                leaving = self._operations.drain_route(route)
                if leaving is None:
                    raise _not_found("no route has this name")
                return self._done("route_drained", {"leaving": leaving}, by=by)
            case "DELETE", ["", "routes", route, "drain"]:
                query_of(request)
                if not self._operations.open_route(route):
                    raise _not_found("this route is not drained")
                return self._done("route_opened", {}, by=by)
            case (("GET" | "HEAD"), ["", "log", "level"]):
                query_of(request)
                return Response.of_json({"level": self._operations.log_level})
            case "PUT", ["", "log", "level"]:
                return self._set_level(request, by=by)
            case _:
                return None

    async def _bar(self, request: Request, *, by: str) -> Response:
        kind, value, issuer, seconds = _whom(request, "seconds")
        bar, ended, is_kept = await self._operations.bar(kind, value, seconds=seconds, issuer=issuer)
        return self._done("bar", {**_shown(bar), "ended": ended, _KEPT: is_kept}, by=by)

    async def _lift(self, request: Request, *, by: str) -> Response:
        kind, value, issuer, _ = _whom(request)
        try:
            was_there = await self._operations.lift(kind, value, issuer=issuer)
        except StateUnwritable as error:
            raise HandshakeRefused(
                f"lifted, but a restart will bar again: {error}",
                status=HTTPStatus.INSUFFICIENT_STORAGE,
                reason=ServiceRefusal.EXHAUSTED,
            ) from None
        if not was_there:
            raise _not_found("nobody of that name is barred")
        return self._done("bar_lifted", {}, by=by)

    def _set_level(self, request: Request, *, by: str) -> Response:
        given = query_of(request, "level").get("level")
        for level in get_args(LogLevel):
            if given == level:
                self._operations.set_log_level(level)
                return self._done("log_level", {"level": level}, by=by)
        raise bad_query(f"level is one of {', '.join(LEVELS)}")

    @staticmethod
    def _done(action: str, result: Mapping[str, object], *, by: str) -> Response:
        log.info("admin_acted", action=action, who=by, result={key: result[key] for key in result if key != "value"})
        return Response.of_json(dict(result))


def _whom(request: Request, *more: str) -> tuple[Barred, str, str | None, float | None]:
    """Exactly one of `KINDS` with a value, its `issuer`, and `seconds`."""
    query = query_of(request, *KINDS, "issuer", *more)
    named = [(KINDS[key], value) for key, value in query.items() if key in KINDS]
    if len(named) != 1 or not named[0][1]:
        raise bad_query(f"name whom, by exactly one of {', '.join(KINDS)}")
    issuer = query.get("issuer")
    if issuer is not None and (not issuer or named[0][0] not in OF_AN_ISSUER):
        raise bad_query(f"issuer goes with {', '.join(kind for kind in KINDS if KINDS[kind] in OF_AN_ISSUER)}")
    seconds = query.get("seconds")
    if seconds is None:
        return *named[0], issuer, None
    if not (seconds.isascii() and seconds.isdigit() and len(seconds) < 12 and 1 <= int(seconds) <= MAX_SECONDS):
        raise bad_query(f"seconds must be a number from 1 to {MAX_SECONDS}")
    return *named[0], issuer, float(seconds)


def _shown(bar: Bar) -> dict[str, object]:
    shown: dict[str, object] = {"by": bar.kind.value, "value": bar.value, "since": bar.since, "until": bar.until}
    return shown if bar.issuer is None else {**shown, "issuer": bar.issuer}


def _not_found(message: str) -> HandshakeRefused:
    return HandshakeRefused(message, status=HTTPStatus.NOT_FOUND, reason=ServiceRefusal.NO_ROUTE)


def not_allowed(*methods: str) -> HandshakeRefused:
    """405, naming what is."""
    return HandshakeRefused(
        f"this takes {', '.join(methods)}",
        status=HTTPStatus.METHOD_NOT_ALLOWED,
        reason=Refusal.METHOD,
        headers=(("Allow", ", ".join(methods)),),
    )
