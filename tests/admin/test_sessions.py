"""The sessions API: filters, paging, and clear words for a query that is none."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import pytest

from gateway.admin.sessions import DEFAULT_SESSIONS, MAX_SESSIONS, SessionsApi
from gateway.errors import HandshakeRefused
from tests.admin.requests import get


class Directory:
    """250 live sessions, every third one parked, on two routes; three ended ones."""

    def __init__(self) -> None:
        self.sessions: list[dict[str, object]] = [
            {
                "session": f"s{number:03}",
                "route": ("chat", "vnc rooms")[number % 2],
                "state": "parked" if number % 3 == 0 else "attached",
            }
            for number in range(250)
        ]

    def live(
        self, *, route: str | None, state: str | None, after: str | None, limit: int
    ) -> Sequence[Mapping[str, object]]:
        return [
            session
            for session in self.sessions
            if route in (None, session["route"])
            and state in (None, session["state"])
            and (after is None or str(session["session"]) > after)
        ][:limit]

    def describe(self, session_id: str) -> Mapping[str, object] | None:
        return next((session for session in self.sessions if session["session"] == session_id), None)

    def ended(self, *, limit: int) -> Sequence[Mapping[str, object]]:
        return [{"session": f"e{number}", "report": {"unknown": None}} for number in (3, 2, 1)][:limit]


def _ask(target: str) -> Any:
    response = SessionsApi(Directory()).answer(get(target))
    assert response.status == HTTPStatus.OK
    return json.loads(response.body)


def test_a_list_is_as_long_as_the_default_unless_asked_otherwise() -> None:
    assert len(_ask("/sessions")["sessions"]) == DEFAULT_SESSIONS
    assert len(_ask("/sessions?limit=3")["sessions"]) == 3
    assert len(_ask(f"/sessions?limit={MAX_SESSIONS}")["sessions"]) == 250


@pytest.mark.parametrize("query", ["limit=7", "limit=100&state=parked", "route=vnc%20rooms&limit=10", ""])
def test_following_next_lists_every_session_that_matches_once(query: str) -> None:
    whole = _ask("/sessions?" + "&".join(["limit=1000", *(p for p in query.split("&") if p and "limit" not in p)]))
    found: list[object] = []
    target: str | None = f"/sessions?{query}"
    while target is not None:
        answer = _ask(target)
        found += answer["sessions"]
        target = answer.get("next")
    assert found == whole["sessions"]
    assert found


def test_filters_hold() -> None:
    parked = _ask("/sessions?state=parked&route=chat&limit=1000")["sessions"]
    assert {(session["state"], session["route"]) for session in parked} == {("parked", "chat")}


def test_one_session_is_described_by_its_id() -> None:
    assert _ask("/sessions/s007") == {"session": "s007", "route": "vnc rooms", "state": "attached"}


def test_ended_sessions_come_latest_first() -> None:
    assert [session["session"] for session in _ask("/sessions/ended?limit=2")["sessions"]] == ["e3", "e2"]


@pytest.mark.parametrize("target", ["/sessions/none", "/sessions/", "/sessions/s007/more", "/sessions/ended/"])
def test_an_unknown_session_is_404(target: str) -> None:
    with pytest.raises(HandshakeRefused, match="no live session has this ID") as refused:
        _ask(target)
    assert refused.value.status == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("/sessions?limit=0", "limit must be a number from 1 to 1000"),
        ("/sessions?limit=1001", "limit must be"),
        ("/sessions?limit=-1", "limit must be"),
        ("/sessions?limit=%D9%A3", "limit must be"),
        ("/sessions?limit=" + "9" * 5000, "limit must be"),
        ("/sessions?limit=", "limit must be"),
        ("/sessions?state=dead", "state is attached or parked"),
        ("/sessions?colour=red", "the query may have, once each: route, state, limit, after"),
        ("/sessions?limit=1&limit=2", "once each"),
        ("/sessions/ended?route=chat", "the query may have, once each: limit"),
        ("/sessions/ended?limit=x", "limit must be"),
    ],
)
def test_a_query_that_is_none_is_400_and_says_what_may_stand_there(target: str, message: str) -> None:
    with pytest.raises(HandshakeRefused, match=message) as refused:
        _ask(target)
    assert refused.value.status == HTTPStatus.BAD_REQUEST
