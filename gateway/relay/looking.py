"""When one session looks for evidence of what is unsettled: a sample of the kernel's numbers, a fence.

General theory of operation
---------------------------
That is done when data comes down and the pace (`pace`) allows it, so that it costs no system call to the client, else
by a timer. It is done at any pace where somebody may be waiting for room. A fence takes its time, so one goes out with
the first messages that use up half of the window. The kernel answers at once: it is asked when there is no room, and at
half a window only for a records client, which counts its window itself and does not show that it waits.

No I/O and no clock here: the relay looks, and arms its timer for `deadline`. Where a message goes on it reads what is
public here instead of asking, as far as that tells: interpreted, each question costs as much as a hundredth of the
message.
"""

from gateway.protocol.pieces import Piece
from gateway.relay.lane import Lane
from gateway.relay.pace import LOOK_SECONDS, Pace, next_tick
from gateway.relay.timers import NEVER


class Looking:
    """The looks of one session at its two lanes."""

    __slots__ = ("_down", "_pace", "_up", "deadline", "may_look_at", "waits_unseen")

    def __init__(self, pace: Pace, *, up: Lane, down: Lane, now: float) -> None:
        self._pace = pace
        self._up = up
        self._down = down
        self.waits_unseen = down.retained is not None
        """A records client counts its window itself, and does not show that it waits."""
        self.may_look_at = NEVER if up.ledger is None else now
        self.deadline = NEVER
        """When a timer is to look."""

    # --- the occasions that data brings -----------------------------------------------------------------------------

    def is_due(self, now: float) -> bool:
        """Whether the pace allows a look."""
        return now >= self.may_look_at

    def take_turn(self, now: float) -> None:
        """A look is being taken: the next one is allowed when the pace says."""
        self.may_look_at = self._pace.reserve(now)

    def asks_before(self, pieces: list[Piece]) -> bool:
        """Whether the backend's kernel is to be asked before the client's pieces go on: for room, or for receipts."""
        ledger = self._up.ledger
        if ledger is None or not ledger.is_half_full:
            return False
        return self.waits_unseen or not self._up.has_room_for(pieces)

    def asks_behind_answer(self, is_due: bool) -> bool:
        """Whether it is to be asked behind data of the backend's, on which acknowledgements ride."""
        return (is_due or self.waits_unseen or bool(self._up.held)) and self._up.is_unsettled

    # --- the timer's ------------------------------------------------------------------------------------------------

    @property
    def is_upstream_awaited(self) -> bool:
        """Somebody may be waiting for evidence of the backend's: then it is looked for at any pace."""
        if self._up.held:
            return True
        ledger = self._up.ledger
        return ledger is not None and ledger.is_half_full and self.waits_unseen

    def has_reason(self) -> bool:
        """Whether what went upstream needs a timer that looks for it, or an earlier one than is set."""
        if self.deadline == NEVER:
            return True
        ledger = self._up.ledger
        return ledger is not None and ledger.is_half_full and self.waits_unseen

    def plan(self, now: float) -> bool:
        """Something is unsettled: a timer looks unless data brings the occasion before; whether it is to be armed."""
        begin = now if self.is_upstream_awaited else max(self.may_look_at, now)
        deadline = next_tick(begin + LOOK_SECONDS)
        if deadline >= self.deadline:
            return False
        self.deadline = deadline
        return True
