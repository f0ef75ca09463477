"""The sessions API: what every session's messages are doing, and how the last ones ended.

Invariant: an answer is bounded, however many sessions there are; a longer list goes on where the last answer ended.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final, Protocol
from urllib.parse import parse_qsl, urlencode

from gateway.admin.response import Response
from gateway.errors import HandshakeRefused
from gateway.protocol.http import Refusal, Request
from gateway.telemetry.metrics import ServiceRefusal

MAX_SESSIONS: Final = 1000
"""Sessions in one answer: some 500 kB, and some 10 ms of the event loop's time."""

DEFAULT_SESSIONS: Final = 100

_STATES: Final = ("attached", "parked")


class SessionDirectory(Protocol):
    """The sessions as the admin API shows them: each a mapping fit for JSON, with its `session` ID."""

    def live(
        self, *, route: str | None, state: str | None, after: str | None, limit: int
    ) -> Sequence[Mapping[str, object]]:
        """Up to `limit` live sessions that match, in a fixed order, from behind the one whose ID is `after`."""
        ...

    def describe(self, session_id: str) -> Mapping[str, object] | None:
        """One live session with its ladder and in-flight counts; None if there is none of that ID."""
        ...

    def ended(self, *, limit: int) -> Sequence[Mapping[str, object]]:
        """The last up to `limit` ended sessions with their loss reports, the latest first."""
        ...


class SessionsApi:
    """`/sessions`, `/sessions/ended` and `/sessions/ID`."""

    def __init__(self, directory: SessionDirectory) -> None:
        self._directory: Final = directory

    def answer(self, request: Request) -> Response:
        """The answer to a request whose path is `/sessions` or below it. Raises HandshakeRefused: 400, 404."""
        match request.path.split("/"):
            case ["", "sessions"]:
                return self._live(request)
            case ["", "sessions", "ended"]:
                return Response.of_json({"sessions": self._directory.ended(limit=_limit(query_of(request, "limit")))})
            case ["", "sessions", session_id] if found := self._directory.describe(session_id):
                return Response.of_json(found)
            case _:
                raise HandshakeRefused(
                    "no live session has this ID; /sessions/ended has the last ones that ended",
                    status=HTTPStatus.NOT_FOUND,
                    reason=ServiceRefusal.NO_ROUTE,
                )

    def _live(self, request: Request) -> Response:
        """A full answer has `next`, the path and query of the one that goes on."""
        query = query_of(request, "route", "state", "limit", "after")
        limit = _limit(query)
        state = query.get("state")
        if state not in (None, *_STATES):
            raise bad_query(f"state is {' or '.join(_STATES)}")
        sessions = self._directory.live(route=query.get("route"), state=state, after=query.get("after"), limit=limit)
        document: dict[str, object] = {"sessions": sessions}
        if len(sessions) == limit:
            document["next"] = f"/sessions?{urlencode(query | {'after': str(sessions[-1]['session'])})}"
        return Response.of_json(document)


def bad_query(message: str) -> HandshakeRefused:
    """400."""
    return HandshakeRefused(message, status=HTTPStatus.BAD_REQUEST, reason=Refusal.MALFORMED)


def query_of(request: Request, *allowed: str) -> dict[str, str]:
    """The query, which may have those names, once each. Raises HandshakeRefused (400)."""
    pairs = parse_qsl(request.query, keep_blank_values=True)
    query = dict(pairs)
    if len(pairs) != len(query) or not query.keys() <= set(allowed):
        may_have = f"may have, once each: {', '.join(allowed)}" if allowed else "has to be empty"
        raise bad_query(f"the query {may_have}")
    return query


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(DEFAULT_SESSIONS))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= MAX_SESSIONS):
        raise bad_query(f"limit must be a number from 1 to {MAX_SESSIONS}")
    return int(text)
