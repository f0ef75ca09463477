"""What can go wrong for a client, by name: no connection, an end, a message that was not taken or not delivered.

Invariant: a text tells a person what happened; what a program decides by stands in attributes.
"""

import os
import ssl
from collections.abc import Iterator
from enum import StrEnum

from gateway.codes import ABNORMAL
from gateway.errors import Blame, KakitomeError, MessageTooBig
from gateway.protocol.handshake import HandshakeFailed, HandshakeRejected
from gateway.protocol.records import SessionReport

__all__ = [
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionTimeout",
    "CredentialFailed",
    "Fate",
    "HandshakeFailed",
    "HandshakeRejected",
    "Lost",
    "NotRecords",
    "Rejected",
    "SessionEnded",
    "TooBig",
    "Untrusted",
    "WindowFull",
]


class ConnectionFailed(KakitomeError):
    """No connection came about: the name is not known, nobody listens, TLS failed."""

    blame = Blame.OPERATOR
    reason = "connection_failed"


class ConnectionTimeout(ConnectionFailed):
    """The server did not answer in time."""

    reason = "connection_timeout"


class CredentialFailed(ConnectionFailed):
    """The application's `token` function gave none; what it raised is the cause. Trying again may help."""

    reason = "credential_failed"


class Untrusted(ConnectionFailed):
    """The server's certificate does not verify: trying again does not help."""

    reason = "untrusted"


class NotRecords(HandshakeFailed):
    """The server accepted the connection, but does not speak `kakitome.v1` there."""

    reason = "not_records"


class ConnectionClosed(KakitomeError):
    """The WebSocket connection has ended."""

    reason = "connection_closed"

    def __init__(self, code: int, close_reason: str, *, dropped: int = 0) -> None:
        text = ending_text("the connection", code, close_reason)
        if dropped:
            text += f"; {dropped} messages that came meanwhile were dropped, because nobody took them"
        super().__init__(text)
        self.dropped = dropped
        """How many messages of the server's are missing behind the last one that was received."""
        self.code = code
        """The Close frame's code; 1005 if it had none, 1006 if the connection ended without one."""
        self.close_reason = close_reason


class SessionEnded(KakitomeError):
    """The session has ended for good."""

    reason = "session_ended"

    def __init__(self, code: int, close_reason: str) -> None:
        super().__init__(ending_text("the session", code, close_reason))
        self.code = code
        self.close_reason = close_reason


class WindowFull(KakitomeError):
    """The gateway's window has no room for the message now: wait for older ones to be settled."""

    reason = "window_full"


class Rejected(KakitomeError):
    """The far side refused this one message."""

    reason = "rejected"

    def __init__(self, seq: int, code: int, reject_reason: str) -> None:
        super().__init__(f"message {seq} was rejected with {code} {reject_reason}".rstrip())
        self.seq = seq
        self.code = code
        self.reject_reason = reject_reason

    def again(self) -> "Rejected":
        """The same, to be raised once more."""
        return Rejected(self.seq, self.code, self.reject_reason)


class TooBig(Rejected, MessageTooBig):
    """The message was handed over before the gateway's limit was known, and exceeds it: not a byte was sent."""

    reason = "too_big"

    def __init__(self, seq: int, *, size: int, limit: int) -> None:
        super().__init__(seq, self.close_code, f"message of {size} bytes exceeds the gateway's limit of {limit} bytes")
        self._size, self._limit = size, limit

    def again(self) -> "TooBig":
        """The same, to be raised once more."""
        return TooBig(self.seq, size=self._size, limit=self._limit)


class Fate(StrEnum):
    """What is known of a message that was not settled."""

    UNKNOWN = "unknown"
    """It was sent on, at least in part; whether it arrived nobody can say."""
    NEVER_FORWARDED = "never_forwarded"
    """Not a byte of it was sent on: it can be sent again without a danger of arriving twice."""


class Lost(KakitomeError):
    """The session ended, and there is no evidence that this message arrived; its `__cause__` is what ended it."""

    reason = "lost"

    def __init__(self, seq: int, fate: Fate, report: SessionReport | None) -> None:
        words = "it is unknown whether it arrived" if fate is Fate.UNKNOWN else "it was never forwarded"
        super().__init__(f"message {seq} was not settled before the session ended: {words}")
        self.seq = seq
        self.fate = fate
        self.report = report
        """What the gateway knew of both directions, None if it did not tell."""

    def again(self) -> "Lost":
        """The same, to be raised once more; what caused it stays its cause."""
        lost = Lost(self.seq, self.fate, self.report)
        lost.__cause__ = self.__cause__
        return lost


def ending_text(what: str, code: int, reason: str) -> str:
    """An ending in words: `the connection was closed with 1008 too many messages`."""
    if code == ABNORMAL:
        return f"{what} was lost" + (f": {reason}" if reason else "")
    return f"{what} was closed with {code} {reason}".rstrip()


def system_text(error: BaseException) -> str:
    """The operating system's own words for a failed connection, each once."""
    texts = dict.fromkeys(_texts(error))
    return "; ".join(texts) or type(error).__name__


def tls_text(error: ssl.SSLError) -> str:
    """What went wrong in TLS, without OpenSSL's file names and numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate cannot be trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "the server closed the connection"
    text: str = getattr(error, "reason", None) or error.strerror or str(error)
    return text.partition(" (_ssl.c")[0].replace("_", " ").lower()


def _texts(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _texts(inner)
    elif isinstance(error, ssl.SSLError):
        # An OSError by its class only: its number is OpenSSL's, 6 for a peer that hung up, and 6 is ENXIO to strerror.
        yield tls_text(error)
    elif isinstance(error, OSError) and error.errno is None and error.__cause__ is not None:
        yield from _texts(error.__cause__)  # anyio sums up several attempts
    elif isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        yield os.strerror(error.errno)  # asyncio and trio put other words into `strerror`
    elif isinstance(error, OSError) and error.strerror:
        yield error.strerror
    elif str(error):
        yield str(error)
