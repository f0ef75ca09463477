"""Who a session is: its token, which only its client knows, its ID, which everybody may, and its epochs.

Invariant: the ID follows from the token and from whom the token was given to, so a token that is presented by another
subject, from another origin or on another route names a session that does not exist; and any gateway derives the same
ID, so a session can be taken up by another one without anything shared but the backend.
"""

import hashlib
import secrets
import time
from dataclasses import dataclass

TOKEN_BYTES = 32
"""256 random bits; the protocol asks for 128 or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Whom a token is good for."""

    route: str
    origin: str | None
    subject: str | None = None
    """Who was authenticated; None where nobody is asked."""
    certificate: str | None = None
    """Whom the client's certificate names, the same when it is renewed; None where none was shown."""
    destination: str | None = None
    """The endpoint that the client is led to; None where all are led to the same ones."""


def new_token() -> str:
    """A fresh token: 43 URL-safe characters."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def session_id(token: str, binding: Binding) -> str:
    """128 bits in 32 hexadecimal digits, from which the token cannot be found."""
    parts = ["kakitome.v1", token, binding.route, binding.origin or "", binding.subject or ""]
    if binding.certificate is not None:
        parts.append(binding.certificate)
    if binding.destination is not None:
        parts += ["destination", binding.destination]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def new_session_id() -> str:
    """The ID of a session that has no token, because its client cannot resume."""
    return secrets.token_hex(16)


def next_epoch(epoch: int = 0) -> int:
    """An epoch above `epoch`, and above those that other gateways gave before: the time in milliseconds."""
    return max(epoch + 1, time.time_ns() // 1_000_000)
