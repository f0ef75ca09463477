"""The admin API as OpenAPI 3.1: `python -m gateway.admin.openapi > docs/openapi.json`, which a test keeps current."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.admin.acting import KINDS, LEVELS, MAX_SECONDS
from gateway.admin.sessions import DEFAULT_SESSIONS, MAX_SESSIONS

Json = dict[str, Any]

_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}

_WHOM: Final[dict[str, str]] = {
    "token": "the `jti` of a credential",
    "subject": "who was let in",
    "login_session": "the `sid` of an OpenID Connect login",
    "session": "the ID of a session",
    "address": "the client's address",
    "route": "a route's name",
}
"""By what somebody is named, each with what it is."""

assert _WHOM.keys() == KINDS.keys()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    scope: str | None = "read"
    """None: open to everybody."""
    query: Sequence[Json] = ()
    answers: Json | None = None
    """The schema of the JSON answer; None: text."""
    refusals: Sequence[int] = ()


def _query(name: str, description: str, schema: Json = _TEXT) -> Json:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties}


_SECONDS: Final = _query(
    "seconds",
    "for how long; absent: a token until its own end where that is known, anybody else until the bar is lifted",
    {"type": "integer", "minimum": 1, "maximum": MAX_SECONDS},
)
_BY: Final = [
    *(_query(kind, f"{what}; exactly one of these names whom") for kind, what in _WHOM.items()),
    _query("issuer", "with subject (then what `sub` says), token or login_session: only that issuer's of this name"),
]
_LIMIT: Final = _query(
    "limit",
    "at most so many",
    {"type": "integer", "minimum": 1, "maximum": MAX_SESSIONS, "default": DEFAULT_SESSIONS},
)
_SESSION: Final = {"type": "object", "required": ["session"], "properties": {"session": _TEXT}}
_BAR: Final = _object(
    by={"type": "string", "enum": list(KINDS)},
    value=_TEXT,
    since={"type": "number", "description": "Unix time"},
    until={"type": ["number", "null"], "description": "Unix time; null: until it is lifted"},
    issuer={"type": "string", "description": "whose name it is; absent: anybody's"},
)
_LEVEL: Final[Json] = {"type": "string", "enum": list(LEVELS)}

OPERATIONS: Final = (
    Operation(method="get", path="/healthz", summary="200 while the process runs", scope=None),
    Operation(
        method="get",
        path="/readyz",
        summary="200 while the gateway takes clients, 503 with what keeps it from that",
        scope=None,
        answers=_object(ready={"type": "boolean"}),
        refusals=(503,),
    ),
    Operation(method="get", path="/metrics", summary="Prometheus or OpenMetrics text, by Accept"),
    Operation(method="get", path="/memory", summary="the account of memory", answers={"type": "object"}),
    Operation(
        method="get",
        path="/sessions",
        summary="live sessions in the order of their IDs; `next` is the path of the answer that goes on",
        query=(
            _query("route", "only those of that route"),
            _query("state", "only those", {"type": "string", "enum": ["attached", "parked"]}),
            _LIMIT,
            _query("after", "from behind that ID"),
        ),
        answers=_object(sessions={"type": "array", "items": _SESSION}, next=_TEXT),
        refusals=(400,),
    ),
    Operation(
        method="get",
        path="/sessions/ended",
        summary="the last sessions that ended, the latest first, with their loss reports",
        query=(_LIMIT,),
        answers=_object(sessions={"type": "array", "items": _SESSION}),
        refusals=(400,),
    ),
    Operation(method="get", path="/sessions/{id}", summary="one live session", answers=_SESSION, refusals=(404,)),
    Operation(
        method="delete",
        path="/sessions/{id}",
        summary="ends a session with 1008; its client may begin another",
        scope="act",
        answers=_object(ended=_COUNT),
        refusals=(404,),
    ),
    Operation(
        method="post",
        path="/disconnect",
        summary="ends all sessions of whom it names with 1008; they may come back",
        scope="act",
        query=_BY,
        answers=_object(ended=_COUNT),
        refusals=(400,),
    ),
    Operation(
        method="get",
        path="/bars",
        summary="who is barred",
        answers=_object(bars={"type": "array", "items": _BAR}),
        refusals=(400,),
    ),
    Operation(
        method="post",
        path="/bars",
        summary="ends all sessions of whom it names with 3000, and keeps them out; `kept` false: a restart forgets it, "
        "because the state file could not be written",
        scope="act",
        query=(*_BY, _SECONDS),
        answers=_object(**_BAR["properties"], ended=_COUNT, kept={"type": "boolean"}),
        refusals=(400,),
    ),
    Operation(
        method="delete",
        path="/bars",
        summary="lets them in again",
        scope="act",
        query=_BY,
        answers={"type": "object"},
        refusals=(400, 404, 507),
    ),
    Operation(
        method="post",
        path="/routes/{name}/drain",
        summary="sends a route's clients away with 1012, and takes no new ones",
        scope="act",
        answers=_object(leaving=_COUNT),
        refusals=(404,),
    ),
    Operation(
        method="delete",
        path="/routes/{name}/drain",
        summary="takes clients on that route again",
        scope="act",
        answers={"type": "object"},
        refusals=(404,),
    ),
    Operation(method="get", path="/log/level", summary="the least severe level written", answers=_object(level=_LEVEL)),
    Operation(
        method="put",
        path="/log/level",
        summary="sets it, until the configuration's changes or a restart",
        scope="act",
        query=(_query("level", "the level", _LEVEL),),
        answers=_object(level=_LEVEL),
        refusals=(400,),
    ),
)

_REFUSALS: Final = {
    400: "the query cannot be",
    401: "no token, or none that is known",
    403: "the token has not the scope",
    404: "there is none",
    503: "not ready",
    507: "done, but the state file could not be written",
}


def document() -> Json:
    """The whole, fit for JSON."""
    paths: dict[str, Json] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kakitome admin API",
            "version": "1",
            "description": "At `admin.bind`. No request has a body. Made by `python -m gateway.admin.openapi`.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                scope: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"a token of `admin.tokens` that may {scope}",
                }
                for scope in ("read", "act")
            }
        },
    }


def _described(operation: Operation) -> Json:
    content = (
        {"text/plain": {"schema": _TEXT}}
        if operation.answers is None
        else {"application/json": {"schema": operation.answers}}
    )
    refusals = [*operation.refusals, *(() if operation.scope is None else (401, 403))]
    parameters = list(operation.query)
    if "{" in operation.path:
        name = operation.path.partition("{")[2].partition("}")[0]
        parameters.insert(0, {"name": name, "in": "path", "required": True, "schema": _TEXT})
    return {
        "summary": operation.summary,
        **({"parameters": parameters} if parameters else {}),
        "security": [] if operation.scope is None else [{operation.scope: []}],
        "responses": {
            "200": {"description": "done", "content": content},
            **{str(status): {"description": _REFUSALS[status]} for status in sorted(refusals)},
        },
    }


def text() -> str:
    """The file."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
