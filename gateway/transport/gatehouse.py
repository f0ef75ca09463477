"""What stands between the accepting of connections and their handshakes: room for so many, and turns at the loop.

Invariant: nobody is worked for out of turn. What a handshake costs is measured and taken from the share of the loop
that all of them have together, so that a storm of them leaves the established connections their time.
"""

import random
from collections.abc import Callable
from typing import Final

import trio

from gateway.policy.admission import address_group
from gateway.policy.anteroom import Anteroom, Guest
from gateway.policy.ration import Ration

LOOP_SHARE: Final = 0.4
"""Of the time that goes by, what handshakes may take; a reconnect of thousands is through in seconds all the same."""

BURST_SECONDS: Final = 0.02

REQUEST_SECONDS: Final = 0.0005
"""What reading and answering a request costs, as measured for a refusal."""

ACCEPT_SECONDS: Final = 0.0003
"""What taking in a connection costs, with what it costs to send it away again."""

CROWD: Final = 64
"""Beyond so many that wait their deadlines are spread: what came together must not end together."""

SPREAD: Final = 0.25
"""How much longer than it says a deadline may be in a crowd."""

NOBODY: Final = ""


class Gatehouse:
    """Those who are not admitted yet."""

    def __init__(self, *, limit: int, group_limit: int, per_second: float) -> None:
        self.anteroom: Final = Anteroom(limit=limit, group_limit=group_limit)
        self._ration: Final[Ration[trio.Event]] = Ration(
            share=LOOP_SHARE, burst_seconds=BURST_SECONDS, per_second=per_second
        )
        self._asked = trio.Event()

    def enter(self, address: str | None, end: Callable[[], None]) -> Guest | None:
        """A place for a connection from `address` (None: of somebody's whom we cannot tell from others), or None."""
        return self.anteroom.enter(None if address is None else address_group(address), end)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._ration.waiting

    async def turn(self, guest: Guest | None) -> None:
        """Returns when it is this one's turn to be worked for."""
        group = NOBODY if guest is None or guest.group is None else guest.group
        if self._ration.may_pass(group, trio.current_time()):
            return
        turn = trio.Event()
        self._ration.wait(group, turn)
        self._asked.set()
        try:
            await turn.wait()
        finally:
            self._ration.forget(group, turn)

    def spend(self, seconds: float) -> None:
        """So long was the loop kept by the work of those whose turn it was."""
        self._ration.spend(seconds)

    async def rest(self, accepted: int) -> None:
        """To be called behind the accepting of some: returns when there is time for more."""
        self._ration.spend(accepted * ACCEPT_SECONDS)
        pause = self._ration.seconds_until_budget(trio.current_time())
        if pause:
            await trio.sleep(pause)

    def patience(self, seconds: float) -> float:
        """How long to wait for one of them where the configuration says `seconds`."""
        return seconds * random.uniform(1.0, 1.0 + SPREAD) if len(self.anteroom) > CROWD else seconds

    async def run(self) -> None:
        """Gives turns to those who wait, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            while self._ration.waiting:
                turn = self._ration.next(trio.current_time())
                if turn is not None:
                    turn.set()
                    await trio.lowlevel.checkpoint()  # so that what it costs is known before the next one
                else:
                    await trio.sleep(self._ration.seconds_until_next(trio.current_time()))
