"""How a session ends, as a machine of states: no I/O, and the time is an argument.

General theory of operation
---------------------------
The first cause wins and is kept as `ending`. From then on each side goes its own way to its end: the backend is
*finished* (`for_backend`) once everything that was accepted for it is out, the client gets its Close (`for_client`)
once everything that was meant for it is out. What the client is owed before its Close makes the states. The page
docs/ending.md draws them, made from `TRANSITIONS` by `python -m gateway.relay.reference`.

A client that can come back may be away when its backend ends, or go before it has all of that: it is AWAITED, and what
it has not consumed is flushed anew on its next connection.

A state lasts as long as it has to, but not for ever: `due` says that its time is over, or that nothing has moved for
too long. Then the step OVERDUE goes on without what it waited for.
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Final

from gateway.protocol.pieces import LAST, Piece
from gateway.relay.ending import Ending
from gateway.relay.lane import first_messages
from gateway.relay.timers import NEVER
from gateway.relay.vitals import STEPS_OF_A_WINDOW, Vitals, Watch

LAST_WORDS_SHARE: Final = 0.8
"""So much of a state's time a backend whose host has everything may be silent before a client's Close is answered
without its end: a service may take its time to answer to the end of what it was given, but a client that waits for an
answer as long as we would is to hear one."""

LOOKS_IN_A_PATIENCE: Final = 10
"""How often is looked whether what is under way moves."""


class Tail(Enum):
    """What is still under way to those whose end is awaited."""

    NONE = auto()
    """Their hosts have acknowledged everything."""
    UNDER_WAY = auto()
    """Something is unacknowledged, perhaps for want of room: see `STEPS_OF_A_WINDOW`."""
    UNANSWERED = auto()
    """Something is unacknowledged, and its host has answered nothing at all for as long as a state may stand still."""


class State(Enum):
    """What a session waits for before its client gets its Close, and after."""

    OPEN = "there is no ending"
    ECHOING = "the client's Close is here: the backend's last words are awaited, then our Close answers it"
    FINISHING_MESSAGE = "we restart: the rest of the backend's message that has begun is awaited"
    FENCING = "we restart: the answer to the fence behind the last message is awaited"
    FLUSHING = "what is held for the client goes out, our Close behind it"
    AWAITED = "the backend has ended, and a client that can come back for the rest is away: it has `grace` to do so"
    CLOSING = "our Close is sent, or nobody is there to take one: the ends of both sides are awaited"
    ENDED = "both sides are gone"


class Step(Enum):
    """What moves a session on to its end."""

    CLIENT_CLOSED = "client's Close"
    CLIENT_LOST = "client gone"
    CLIENT_AWAY = "client away"
    CLIENT_BACK = "client back"
    BACKEND_ENDED = "backend gone"
    CLOSE_DECIDED = "fault, idle"
    DRAINED_IN_MESSAGE = "restart amid a message"
    DRAINED = "restart"
    MOVED = "session moved elsewhere"
    MESSAGE_ENDED = "message whole"
    FENCED = "fence answered"
    FLUSHED = "all is out"
    OVERDUE = "overdue"
    ALL_GONE = "both sides gone"


TRANSITIONS: Final[dict[tuple[State, Step], State]] = {
    (State.OPEN, Step.CLIENT_CLOSED): State.ECHOING,
    (State.OPEN, Step.BACKEND_ENDED): State.FLUSHING,
    (State.OPEN, Step.CLOSE_DECIDED): State.FLUSHING,
    (State.OPEN, Step.DRAINED_IN_MESSAGE): State.FINISHING_MESSAGE,
    (State.OPEN, Step.DRAINED): State.FENCING,
    (State.OPEN, Step.MOVED): State.CLOSING,
    (State.FINISHING_MESSAGE, Step.MESSAGE_ENDED): State.FENCING,
    (State.FENCING, Step.FENCED): State.FLUSHING,
    (State.FINISHING_MESSAGE, Step.CLIENT_CLOSED): State.ECHOING,
    (State.FENCING, Step.CLIENT_CLOSED): State.ECHOING,
    (State.FLUSHING, Step.CLIENT_CLOSED): State.ECHOING,
    # The record CLOSE was the first of the two, the frame Close need not wait for its answer.
    (State.ECHOING, Step.CLIENT_CLOSED): State.ECHOING,
    (State.ECHOING, Step.BACKEND_ENDED): State.FLUSHING,
    (State.FINISHING_MESSAGE, Step.BACKEND_ENDED): State.FLUSHING,
    (State.FENCING, Step.BACKEND_ENDED): State.FLUSHING,
    (State.FLUSHING, Step.BACKEND_ENDED): State.FLUSHING,
    (State.FINISHING_MESSAGE, Step.OVERDUE): State.FLUSHING,
    (State.FENCING, Step.OVERDUE): State.FLUSHING,
    (State.ECHOING, Step.OVERDUE): State.CLOSING,
    (State.FLUSHING, Step.OVERDUE): State.CLOSING,
    (State.FLUSHING, Step.FLUSHED): State.CLOSING,
    (State.FLUSHING, Step.CLIENT_AWAY): State.AWAITED,
    # It may not have got all of what our Close stands behind.
    (State.CLOSING, Step.CLIENT_AWAY): State.AWAITED,
    (State.AWAITED, Step.CLIENT_BACK): State.FLUSHING,
    **{(state, Step.CLIENT_LOST): State.CLOSING for state in State if state is not State.ENDED},
    (State.CLOSING, Step.CLIENT_CLOSED): State.CLOSING,
    (State.CLOSING, Step.BACKEND_ENDED): State.CLOSING,
    (State.CLOSING, Step.ALL_GONE): State.ENDED,
}
"""A pair that is missing is illegal."""

# Plain names: reading a member off an Enum costs as much as the rest of a call.
_OPEN: Final = State.OPEN
_DRAINS: Final = (State.FINISHING_MESSAGE, State.FENCING)


class Closing:
    """The end of one session."""

    __slots__ = (
        "_cap",
        "_close_seconds",
        "_moved_at",
        "_progress",
        "_total_seconds",
        "_watches",
        "client_closed",
        "deadline",
        "ending",
        "for_backend",
        "for_client",
        "is_draining",
        "is_open",
        "silent",
        "state",
        "tail",
    )

    def __init__(self, *, close_seconds: float, total_seconds: float) -> None:
        """A state may last for `close_seconds` in which nothing is acknowledged, and `total_seconds` at the most."""
        self._close_seconds = close_seconds
        self._total_seconds = total_seconds
        self.state = State.OPEN
        self.is_open = True
        """There is no `ending` yet."""
        self.is_draining = False
        """In FINISHING_MESSAGE or FENCING: no message of the backend's is begun any more."""
        self.ending: Ending | None = None
        """The first cause."""
        self.client_closed = False
        """It has said itself that the session is over."""
        self.for_backend: tuple[int, str] | None = None
        """How upstream ends once what is held is out; then nothing more is taken from the client."""
        self.for_client: tuple[int, str] | None = None
        """How downstream ends once what is held is out."""
        self.deadline = NEVER
        """When to ask whether something is `due`."""
        self._cap = NEVER
        self._moved_at = 0.0
        self._progress: tuple[int, ...] = ()
        self._watches: list[Watch] = []
        self.tail = Tail.NONE
        """As of the last look."""
        self.silent: list[bool] = []
        """Of those looked at, in their order: whether its host has answered nothing for as long as a state lasts."""

    def begin(self, step: Step, ending: Ending, now: float) -> None:
        """A cause, and the first of them is the `ending`."""
        if self.ending is None:
            self.ending = ending
            self.is_open = False
        self.move(step, now)

    def begin_drain(self, ending: Ending, now: float, *, amid_message: bool, patience_seconds: float) -> None:
        """We restart, and wait for so long for the end of a message that has begun, and for the fence behind it."""
        self.begin(Step.DRAINED_IN_MESSAGE if amid_message else Step.DRAINED, ending, now)
        self.deadline = now + patience_seconds

    def await_client(self, now: float, *, until: float) -> None:
        """The client is away: it may come back for the rest until then."""
        self.move(Step.CLIENT_AWAY, now)
        self.deadline = until

    def move(self, step: Step, now: float) -> bool:
        """Goes on; whether the state is another one. Raises RuntimeError for a step that is impossible here."""
        before = self.state
        state = TRANSITIONS.get((before, step))
        if state is None:
            raise RuntimeError(f"{step.name} is impossible in state {before.name}")
        if state is before:
            return False
        self._enter(state)
        if before is State.FINISHING_MESSAGE and state is State.FENCING:
            return True  # these two share their time
        self._moved_at = now
        self._progress = ()
        self._cap = now + self._total_seconds
        self.deadline = NEVER if state is State.ENDED else now + self._step()
        return True

    def _enter(self, state: State) -> None:
        self.state = state
        self.is_draining = state in _DRAINS

    def rest_of_message(self, pieces: list[Piece]) -> list[Piece]:
        """Of what the backend sends during a drain, the rest of the message that has begun."""
        if self.state is not State.FINISHING_MESSAGE:
            return []
        rest = first_messages(pieces, 1)
        if rest[-1][2] & LAST:
            self._enter(TRANSITIONS[self.state, Step.MESSAGE_ENDED])
        return rest

    def due(
        self,
        now: float,
        looks: Sequence[Vitals],
        *,
        settled: tuple[int, ...],
        is_held: bool,
        is_full: bool = False,
        is_consuming: bool = False,
    ) -> bool:
        """Whether the state has lasted too long.

        `looks` are of the sides whose ends are awaited, always in the same order, `settled` is how much is settled each
        way, and in ECHOING how much the backend has said and the client has taken. `is_held` says that something has
        not even been written, `is_full` that the client does not take what the backend says as fast as it comes,
        `is_consuming` that its application may take its time with what its host has.
        """
        if now < self.deadline:
            return False
        if self.is_draining or self.state is State.AWAITED or now >= self._cap:
            return True
        self.tail = self._tail(looks, is_held, now)
        progress = (*settled, *[vitals.acknowledged for vitals in looks])
        if progress != self._progress:
            if self._progress:
                self._moved_at = now
            self._progress = progress
        patience = self._close_seconds * (STEPS_OF_A_WINDOW if self.tail is Tail.UNDER_WAY else 1)
        if self.state is State.ECHOING and self.tail is Tail.NONE and is_full:
            patience = self._close_seconds * STEPS_OF_A_WINDOW
        elif self.state is State.ECHOING and self.tail is Tail.NONE:
            patience = self.last_words_seconds
        elif is_consuming and self.tail is Tail.NONE:
            patience = self._total_seconds
        over_at = self._moved_at + patience
        if now >= over_at:
            return True
        self.deadline = min(now + self._step(), over_at, self._cap)
        return False

    @property
    def last_words_seconds(self) -> float:
        """How long a backend that has everything may be silent before a client's Close is answered without its end."""
        return self._close_seconds * LAST_WORDS_SHARE

    def _tail(self, looks: Sequence[Vitals], is_held: bool, now: float) -> Tail:
        if len(self._watches) < len(looks):
            self._watches += [Watch(self._close_seconds, now=now) for _ in looks[len(self._watches) :]]
        self.silent = [watch.is_gone(vitals, 0, now) for watch, vitals in zip(self._watches, looks, strict=False)]
        if any(self.silent):
            return Tail.UNANSWERED
        return Tail.UNDER_WAY if is_held or any(vitals.outstanding for vitals in looks) else Tail.NONE

    def _step(self) -> float:
        """How soon is looked again."""
        return self._close_seconds / LOOKS_IN_A_PATIENCE
