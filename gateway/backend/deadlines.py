"""How long a session without a connection is waited for.

Invariant: a session has at most one deadline; one that was resumed in time never comes up, however late the news.
"""

import anyio


class Deadlines:
    """Sessions that wait to be resumed, for `grace_seconds` each: so the first of them is the next to be over."""

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._by_session: dict[str, float] = {}
        self._added = anyio.Event()

    def add(self, session_id: str) -> None:
        """The session has lost its connection. It is not waited for yet."""
        self._by_session[session_id] = anyio.current_time() + self._grace_seconds
        self._added.set()

    def discard(self, session_id: str) -> None:
        """The session is waited for no more, if it was."""
        self._by_session.pop(session_id, None)

    async def expire(self) -> str:
        """Waits for the next session whose grace is over, and waits for it no more. A cancellation loses none."""
        while True:
            # Between an `add` and this task's turn the session may be back: then there is still nothing to wait for.
            while not self._by_session:
                self._added = anyio.Event()
                await self._added.wait()
            session_id, deadline = next(iter(self._by_session.items()))
            await anyio.sleep_until(deadline)
            if self._by_session.get(session_id) == deadline:
                self.discard(session_id)
                return session_id
