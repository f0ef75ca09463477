"""What a service takes, and how long it waits."""

from dataclasses import dataclass
from typing import Final

from gateway.protocol.records import DEFAULT_WINDOW_BYTES, DEFAULT_WINDOW_MESSAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a service takes and how long it waits; times in seconds."""

    window_messages: int = DEFAULT_WINDOW_MESSAGES
    """Messages of a client's that may be unconsumed; told to the gateway, which holds the others back."""
    window_bytes: int = DEFAULT_WINDOW_BYTES
    """The same in payload bytes. Of a message that is sent in pieces as many are kept for sending it again."""
    message_bytes: int = 16 << 20
    """The largest message that iterating over a session gathers; a larger one is rejected with 1009."""
    sessions: int = 10_000
    """Sessions at a time, those without a connection included; an OPEN beyond is refused with 1013."""
    grace: float = 300.0
    """How long a session waits for its next connection before it ends with 1006. Longer than the gateway's own."""
    open_timeout: float = 10.0
    """For OPEN to come in after a connection was accepted."""
    close_timeout: float = 5.0
    """For the gateway to close its side after ours was closed."""
    keepalive: float = 20.0
    """A connection that is silent for so long is sent a PING, and dropped when it stays so for as long again."""
    attempts: int = 6
    """How often a handler is given a message when it raises over it; then the message is rejected with 1011."""
    first_retry: float = 0.25
    """How long a handler that raised waits before it is run again; doubles each time."""
    longest_retry: float = 30.0
    """What that wait grows to."""


DEFAULT_LIMITS: Final = Limits()
