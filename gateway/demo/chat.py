"""The `chat` backend: a room in which all get what one sends.

A client joins with `?name=NAME` and sends plain texts. What it gets are JSON objects, each with a `type`; `at` is the
service's clock, in ms since 1970, so that a page can tell what was said while it was away:

    {"type": "welcome", "id": "1", "name": "Hana", "members": [{"id": "1", "name": "Hana"}], "at": 1700000000000}
    {"type": "joined", "id": "2", "name": "Ken"}
    {"type": "said", "id": "2", "name": "Ken", "text": "こんにちは", "at": 1700000000000}
    {"type": "left", "id": "2", "name": "Ken"}
    {"type": "stalled", "seconds": 5}

The text `/stall SECONDS` makes the backend leave this client's messages unread for so long: a way to see what a slow
service does to delivery.
"""

import json
import time
import unicodedata
from typing import Any, Final
from urllib.parse import parse_qs

import anyio

from gateway.backend import Session
from gateway.codes import POLICY, TRY_AGAIN_LATER

NAME_CHARACTERS: Final = 30
TEXT_CHARACTERS: Final = 1000
STALL_SECONDS: Final = 30.0


class Room:
    """Who is there. One room serves all sessions of the backend; its `chat` is their handler."""

    def __init__(self) -> None:
        self._members: dict[str, tuple[str, Session]] = {}
        self._joined = 0

    async def chat(self, session: Session) -> None:
        """One member, from joining to leaving; a connection that drops within the grace is not a leaving."""
        self._joined += 1
        member = str(self._joined)
        name = _name_in(session.query) or f"Guest {member}"
        self._tell_all({"type": "joined", "id": member, "name": name})
        self._members[member] = (name, session)
        try:
            present = [{"id": other, "name": other_name} for other, (other_name, _) in self._members.items()]
            await session.send(
                _event({"type": "welcome", "id": member, "name": name, "members": present, "at": _now_ms()})
            )
            async for message in session:
                if not isinstance(message, str):
                    message.reject(POLICY, "this room takes text only")
                elif len(message) > TEXT_CHARACTERS:
                    message.reject(POLICY, f"a text of {len(message)} characters, at most {TEXT_CHARACTERS} are taken")
                elif message.startswith("/stall"):
                    await self._stall(session, message)
                else:
                    self._tell_all({"type": "said", "id": member, "name": name, "text": message, "at": _now_ms()})
        finally:
            self._members.pop(member, None)
            self._tell_all({"type": "left", "id": member, "name": name})

    def _tell_all(self, event: dict[str, Any]) -> None:
        """Sends to every member; one whose window is full is shown out, so that it holds nobody up."""
        text = _event(event)
        for member, (_, session) in tuple(self._members.items()):
            if session.ended:
                continue
            if session.send_nowait(text) is None:
                del self._members[member]
                session.close(TRY_AGAIN_LATER, "too far behind the others")

    async def _stall(self, session: Session, command: str) -> None:
        """Leaves the session's next messages, and this one's acknowledgement, waiting."""
        argument = command.removeprefix("/stall").strip() or "5"
        try:
            seconds = min(max(float(argument), 0.0), STALL_SECONDS)
        except ValueError:
            seconds = 0.0
        await session.send(_event({"type": "stalled", "seconds": seconds}))
        with anyio.move_on_after(seconds):
            await session.wait_ended()


def _name_in(query: str) -> str:
    """The `name` of the query, without what cannot be seen; empty for none."""
    given = parse_qs(query).get("name", [""])[0]
    visible = "".join(character for character in given if not unicodedata.category(character).startswith("C"))
    return " ".join(visible.split())[:NAME_CHARACTERS]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _event(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False)
