"""Happy Eyeballs (RFC 8305): of several addresses the first that answers, without waiting long for a dead one.

Invariant: a race ends with one open connection or none. Who loses is told apart from who failed: an address that was
given a head start and had not answered when a later one did is slow or dead, one that had no head start is neither.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from gateway.telemetry.metrics import DialOutcome
from gateway.transport.balancing import EndpointState
from gateway.transport.channel import Channel

HEAD_START_SECONDS: Final = 0.25
"""RFC 8305 section 5, Connection Attempt Delay: the recommended value, and that of `trio.open_tcp_stream`."""

NOT_IN_TIME: Final = "the connection was not complete in time"


class AttemptFailed(Exception):
    """One address did not take the connection; `outcome` None: for want of something of ours, which it cannot help."""

    def __init__(self, outcome: DialOutcome | None, problem: str) -> None:
        super().__init__(problem)
        self.outcome = outcome


@dataclass(slots=True, eq=False)
class Race:
    """What became of each that was tried; complete once `run` has returned."""

    winner: EndpointState | None = None
    channel: Channel | None = None
    """The winner's connection, which stays counted as its load."""
    failed: dict[EndpointState, AttemptFailed] = field(default_factory=dict)
    outpaced: list[EndpointState] = field(default_factory=list)
    """Had a head start, and had not answered when the winner did."""
    _began: dict[EndpointState, float] = field(default_factory=dict)

    async def run(
        self, order: Sequence[EndpointState], connect: Callable[[EndpointState], Awaitable[Channel]], *, deadline: float
    ) -> None:
        """Tries them until one has connected, all have failed, or `deadline` is over, in trio's time.

        Each is tried when the one before has failed or has had its head start. `connect` raises AttemptFailed.
        """
        try:
            with trio.move_on_at(deadline):
                if len(order) == 1:
                    self._began[order[0]] = trio.current_time()
                    await self._try(order[0], connect)
                else:
                    await self._run_several(order, connect)
        except BaseException:
            if self.winner is not None and self.channel is not None:
                self.winner.active -= 1
                self.channel.close()
            raise
        if self.winner is None:
            late = [state for state in self._began if state not in self.failed]
            self.failed.update((state, AttemptFailed(DialOutcome.TIMED_OUT, NOT_IN_TIME)) for state in late)

    async def _run_several(
        self, order: Sequence[EndpointState], connect: Callable[[EndpointState], Awaitable[Channel]]
    ) -> None:
        async with trio.open_nursery() as nursery:
            for state in order:
                over = trio.Event()
                self._began[state] = trio.current_time()

                async def try_it(state: EndpointState = state, over: trio.Event = over) -> None:
                    if await self._try(state, connect):
                        nursery.cancel_scope.cancel()
                    over.set()

                nursery.start_soon(try_it)
                with trio.move_on_after(HEAD_START_SECONDS):
                    await over.wait()

    async def _try(self, state: EndpointState, connect: Callable[[EndpointState], Awaitable[Channel]]) -> bool:
        """Whether it has won."""
        # It counts as its load from now on, so that dials at the same time spread over the addresses.
        state.active += 1
        try:
            channel = await connect(state)
        except AttemptFailed as failure:
            self.failed[state] = failure
            state.active -= 1
            return False
        except BaseException:
            state.active -= 1
            raise
        if self.winner is not None:
            state.active -= 1
            channel.close()  # both in one turn of the loop
            return False
        self.winner, self.channel = state, channel
        now = trio.current_time()
        self.outpaced = [
            other
            for other, began in self._began.items()
            if other is not state
            and other not in self.failed
            and began < self._began[state]
            and now - began >= HEAD_START_SECONDS
        ]
        return True
