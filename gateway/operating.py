"""What the operator can have done to a running gateway, as the admin API asks for it."""

import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

import trio

from gateway.access.state import Bar, Barred
from gateway.admin.acting import Operations
from gateway.config.model import LogLevel
from gateway.sessions.registry import SessionKeeper
from gateway.sessions.revocation import Revocation
from gateway.sessions.session import Session
from gateway.telemetry import logs

SPACING_SECONDS: Final = 0.02
"""Between two clients of a drained route that are sent away: they come back spread."""

PATIENCE_SECONDS: Final = 10.0
"""For each of them to get the rest of a message that has begun, and Close."""


class GatewayOperations(Operations):
    """Of one process."""

    def __init__(
        self, keeper: SessionKeeper, *, routes: Callable[[], Collection[str]], configured_level: Callable[[], LogLevel]
    ) -> None:
        self._keeper: Final = keeper
        self.revocation: Final = Revocation(keeper)
        self._routes: Final = routes
        self._configured_level: Final = configured_level
        self._level: tuple[LogLevel, LogLevel] | None = None
        """What was configured when a level was set, and the level."""
        self.drained: Final[set[str]] = set()
        """Routes that take nobody."""

    async def bar(
        self, kind: Barred, value: str, *, seconds: float | None, issuer: str | None = None
    ) -> tuple[Bar, int, bool]:
        barring = await self.revocation.bar(kind, value, seconds=seconds, issuer=issuer)
        return barring.bar, barring.ended, barring.is_kept

    def disconnect(self, kind: Barred, value: str, *, issuer: str | None = None) -> int:
        return self.revocation.disconnect(kind, value, issuer=issuer)

    def bars(self) -> Sequence[Bar]:
        return self.revocation.bars()

    async def lift(self, kind: Barred, value: str, *, issuer: str | None = None) -> bool:
        return await self.revocation.lift(kind, value, issuer=issuer)

    def drain_route(self, route: str) -> int | None:
        if route not in self._routes():
            return None
        self.drained.add(route)
        leaving = [session for session in self._keeper.registry if session.participants.route == route]
        random.shuffle(leaving)
        self._keeper.start_soon(partial(self._send_away, leaving))
        return len(leaving)

    async def _send_away(self, leaving: Sequence[Session]) -> None:
        for session in leaving:
            now = self._keeper.pump.clock()
            session.relay.drain(now, until=now + PATIENCE_SECONDS)
            await trio.sleep(SPACING_SECONDS)

    def open_route(self, route: str) -> bool:
        if route not in self.drained:
            return False
        self.drained.remove(route)
        return True

    @property
    def log_level(self) -> LogLevel:
        configured = self._configured_level()
        # A reload that changes the level has set it.
        return self._level[1] if self._level is not None and self._level[0] == configured else configured

    def set_log_level(self, level: LogLevel) -> None:
        self._level = (self._configured_level(), level)
        logs.set_level(level)
