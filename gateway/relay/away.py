"""What stands for a side that is away while its session goes on: a parked client, a backend that is dialled again.

Invariant: nothing is lost by it: what is delivered to a parked client is entered and retained in its lane, and nothing
is sent to an absent backend, because it is always full.
"""

from gateway.protocol.pieces import Piece
from gateway.protocol.records import RejectBody, Rung, SessionReport
from gateway.relay.lane import Lane
from gateway.relay.ports import UNKNOWN, BackendSide, ClientSide, Sample
from gateway.relay.records_client import Numbering
from gateway.relay.timers import NEVER
from gateway.relay.vitals import NOTHING_SENT, Vitals
from gateway.telemetry.metrics import PauseCause


class ParkedClient(ClientSide):
    """A records client whose connection is gone and may come back."""

    __slots__ = ("_is_gone", "_outgoing", "close_sent", "numbering")

    is_full = False
    is_mid_message = False
    close_received = True
    receipts: frozenset[Rung] = frozenset()
    pause_cause = PauseCause.PARKED
    buffered = 0
    written = UNKNOWN

    def __init__(self, outgoing: Lane, numbering: Numbering) -> None:
        self._outgoing = outgoing
        self.numbering = numbering
        self._is_gone = False
        self.close_sent = False

    @property
    def is_gone(self) -> bool:
        """Nobody will come back."""
        return self._is_gone

    @property
    def is_closing(self) -> bool:
        """The same: there is no closing handshake."""
        return self._is_gone

    def start(self, early: bytes, now: float) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def deliver(self, pieces: list[Piece], now: float, *, fence: bool) -> None:
        """Retained by its lane; the hop it will go out on does not exist yet."""
        self._outgoing.enter(pieces, 0, now)

    def send_close(self, code: int | None, reason: str, report: SessionReport | None, now: float) -> None:
        """It learns of the end when it asks for its session."""
        self._is_gone = self.close_sent = True

    def finish(self) -> None: ...

    def leave(self, code: int | None, reason: str, now: float) -> None: ...

    def close(self) -> None:
        """The session ends without it."""
        self._is_gone = True

    def fence(self, now: float) -> bool:
        """No evidence is to be had."""
        return False

    def upstream_advanced(self, now: float) -> None: ...

    def upstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        """It is told when it comes back."""
        self.numbering.keep_reject(seq, body)

    def vitals(self) -> Vitals:
        """Nothing is under way."""
        return NOTHING_SENT

    def next_deadline(self, now: float) -> float:
        """The grace is the relay's to watch."""
        return NEVER

    def tick(self, now: float) -> None: ...


class AbsentBackend(BackendSide):
    """A records backend whose connection broke and is being made anew."""

    __slots__ = ("_is_gone",)

    is_finished = False
    is_full = True
    pause_cause = PauseCause.REDIAL
    buffered = 0
    written = UNKNOWN

    def __init__(self) -> None:
        self._is_gone = False

    @property
    def is_gone(self) -> bool:
        """Nobody dials it any more."""
        return self._is_gone

    def vitals(self) -> Vitals:
        """Nothing is under way."""
        return NOTHING_SENT

    def next_deadline(self, now: float) -> float:
        """It is dialled elsewhere."""
        return NEVER

    def tick(self, now: float) -> None: ...

    def start(self, now: float) -> None: ...

    def send(self, pieces: list[Piece], now: float) -> None:
        """Never called: an absent backend is full."""
        raise RuntimeError("an absent backend cannot be sent to")

    def finish(self, code: int, reason: str, report: SessionReport | None, now: float) -> None:
        """Told when it is back, if that is soon enough."""

    def leave(self) -> bool:
        """It can be resumed from elsewhere."""
        self._is_gone = True
        return True

    def close(self) -> None:
        """The session ends without it."""
        self._is_gone = True

    def reset(self) -> None:
        """The session ends without it."""
        self._is_gone = True

    def hold_back(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def sample(self, receipts: frozenset[Rung]) -> Sample | None:
        """No evidence is to be had."""
        return None

    def downstream_settled(self, now: float) -> None: ...

    def downstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        """It is told when it is back."""
