"""What a session tells its application besides messages."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from gateway.protocol.outbox import OutgoingMessage
from gateway.protocol.records import Rung, SessionReport


class SessionState(Enum):
    """What a session is doing."""

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    """The connection is gone, and the next attempt not due yet."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """The session's state is another."""

    state: SessionState
    cause: Exception | None = None
    """Why it is not connected any more."""
    delay_seconds: float | None = None
    """When WAITING, for how long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The gateway has the session open on a new connection."""

    resumed: bool
    """It is the same session as before; false for the first, and where the old one is gone."""
    replayed: int
    """Messages of ours that are going out again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """Messages `first` to `last` are known to be at `rung`, but for those that were rejected."""

    first: int
    last: int
    count: int
    """How many they are without the rejected ones."""
    rung: Rung
    settled: bool
    """It is the rung that settles them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRejected:
    """The far side refused one message of ours."""

    seq: int
    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesLost:
    """The session ended over messages that were not settled; whether to send them again the application decides.

    The numbers in it are those of the session that ended.
    """

    report: SessionReport | None
    """What the gateway told, of both directions."""
    unknown: tuple[OutgoingMessage, ...]
    """Whether they arrived nobody can say."""
    never_forwarded: tuple[OutgoingMessage, ...]
    """They did not arrive. Where a new session began and carries them over, they are not in here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialJudged:
    """The gateway has judged another credential on a connection that goes on."""

    expires_in_seconds: float | None
    """When the permission ends that holds now; None: not by itself."""
    code: int | None = None
    """Why it was not taken (3000 who are you, 3003 not you, 1013 nobody knows at present); None: it was."""
    reason: str = ""


Event: TypeAlias = StateChanged | Opened | Acknowledged | MessageRejected | MessagesLost | CredentialJudged
