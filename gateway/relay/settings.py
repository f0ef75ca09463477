"""What a route says of its established connections."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """Seconds, None for never."""

    keepalive_seconds: float | None = 20.0
    keepalive_timeout_seconds: float | None = 20.0
    idle_seconds: float | None = None
    close_seconds: float = 5.0
    """How long an ending session may acknowledge nothing."""
    close_total_seconds: float = 60.0
    """How long each state of its end may last altogether."""
    unheard_seconds: float | None = 30.0
    """How long a host may answer nothing at all while something is unacknowledged."""
    messages_per_second: float | None = None
    """Of a client's, None for no limit; likewise what follows."""
    frames_per_second: float | None = None
    bytes_per_second: float | None = None
    closes_on_excess: bool = False
    """More ends the connection with 1008; false: it is not read until it has made up for it."""
    fence: bool = True
    grace_seconds: float | None = 120.0
    """How long a records client may be away."""
