"""Every fault Kakitome knows by name: who is to blame, the close code or HTTP status it ends in, its metric label.

Invariant: an error's text says what was wrong and what was expected, and is safe to show to the peer that is to
blame; details about anybody else stay in the log.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from gateway import codes


class Blame(StrEnum):
    """Whose fault an error is: it decides who is told what."""

    CLIENT = "client"
    BACKEND = "backend"
    OPERATOR = "operator"
    GATEWAY = "gateway"


class KakitomeError(Exception):
    """Base of all named faults; what is not one of these is a bug of ours."""

    blame: Blame = Blame.GATEWAY
    reason: str = "internal"
    """A short name from a closed set, fit for a metric's label."""


# --- faults of an established connection: each ends it with a close code (RFC 6455 section 7.4.1) -------------------

NOT_ENDED: Final = "the service has not ended"
"""How the reason begins of a Close that answers a client's, where the backend ignores the end of its input."""

MAX_CLOSE_REASON_BYTES: Final = 123
"""A control frame carries at most 125 bytes, two of which are the code (RFC 6455 section 5.5)."""


def fitting_reason(text: str, max_bytes: int = MAX_CLOSE_REASON_BYTES) -> str:
    """The text as a reason can be sent: well-formed, as browsers make it, and cut between characters to `max_bytes`.

    Halves of a surrogate pair that belong together become their character, others U+FFFD.
    """
    well_formed = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return well_formed.encode()[:max_bytes].decode(errors="ignore")


class ConnectionFault(KakitomeError):
    """Ends an established connection with `close_code`; the text becomes the close reason for the peer to blame."""

    close_code: ClassVar[int] = codes.INTERNAL

    @property
    def close_reason(self) -> str:
        """The text cut to the 123 bytes that a Close frame has room for, never inside a character."""
        return fitting_reason(str(self))


class ProtocolViolation(ConnectionFault):
    """The client broke RFC 6455, RFC 7692 or the record protocol."""

    blame = Blame.CLIENT
    close_code = codes.PROTOCOL_ERROR
    reason = "protocol_error"


class InvalidUtf8(ConnectionFault):
    """A text message or a close reason is not UTF-8."""

    blame = Blame.CLIENT
    close_code = codes.INVALID_TEXT
    reason = "invalid_utf8"


class PolicyViolation(ConnectionFault):
    """The client did what this route does not allow: a limit, a rate, a message that the framing cannot carry."""

    blame = Blame.CLIENT
    close_code = codes.POLICY
    reason = "policy"


class MessageTooBig(ConnectionFault):
    """A message exceeds the route's `message_bytes`."""

    blame = Blame.CLIENT
    close_code = codes.TOO_BIG
    reason = "too_big"


class Overloaded(ConnectionFault):
    """There is no memory for one more session: the client is to try again later, or elsewhere."""

    close_code = codes.TRY_AGAIN_LATER
    reason = "overload"


class KeepaliveTimeout(ConnectionFault):
    """The client left a ping unanswered."""

    blame = Blame.CLIENT
    close_code = codes.INTERNAL
    reason = "keepalive_timeout"


class BackendFault(ConnectionFault):
    """The backend reset, broke its framing, or went away without a word (RFC 6455 registry: 1014 Bad Gateway)."""

    blame = Blame.BACKEND
    close_code = codes.BAD_GATEWAY
    reason = "backend_fault"


class BackendReset(BackendFault):
    """The backend's connection was reset or broke."""

    reason = "backend_reset"


class BackendVanished(BackendFault):
    """A records backend ended its connection without CLOSE."""

    reason = "backend_vanished"


class BackendUnheard(BackendFault):
    """The backend's host, or the way to it, is gone: something is unacknowledged and nothing comes of it."""

    reason = "backend_unheard"


class BackendAway(BackendFault):
    """A records backend was not back within `grace`."""

    reason = "backend_away"


class BackendForgot(BackendFault):
    """A records backend, whose session was to be resumed, does not know it: it was restarted and had kept nothing."""

    reason = "backend_forgot"

    def __init__(self) -> None:
        super().__init__("the backend does not know the session any more")


class FramingViolation(BackendFault):
    """The backend sent what its configured framing does not allow."""

    reason = "backend_framing"


# --- faults before the upgrade: each is an HTTP answer ------------------------------------------------------------


class HandshakeRefused(KakitomeError):
    """The request is answered with an HTTP error instead of an upgrade; `reason` is its metric label.

    The text is the response body, so it tells the client what was wrong and nothing about the backend or us.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        reason: str,
        blame: Blame = Blame.CLIENT,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.blame = blame
        self.headers = tuple(headers)


class HandshakeTimeout(KakitomeError):
    """TLS handshake or request head was not complete within its deadline."""

    blame = Blame.CLIENT
    reason = "handshake_timeout"


class TlsFailure(KakitomeError):
    """TLS broke: no handshake, a certificate that does not verify, a bad record.

    It is the client's fault on a listener; towards a backend the connector turns it into `BackendUnreachable`.
    """

    blame = Blame.CLIENT
    reason = "tls"


class BackendUnreachable(KakitomeError):
    """No endpoint of the route took the connection: HTTP 502 before the upgrade, Close 1014 after it."""

    blame = Blame.BACKEND
    reason = "unreachable"


class BackendTimeout(BackendUnreachable):
    """No endpoint answered within the connect deadline: HTTP 504 before the upgrade, Close 1014 after it."""

    reason = "timeout"


class NoEndpointLeft(BackendUnreachable):
    """All endpoints of the route were left out by whoever dials: each has answered already."""


class GatewayExhausted(BackendUnreachable):
    """No connection for want of something of the gateway's own, such as descriptors: HTTP 503, Close 1013.

    It says nothing about the backend, which may be well.
    """

    blame = Blame.GATEWAY
    reason = "exhausted"


class BackendRefused(BackendUnreachable):
    """A records backend answered OPEN with CLOSE: its code and reason are passed on."""

    reason = "refused"

    def __init__(self, message: str, *, code: int, close_reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.close_reason = close_reason


# --- faults of the operator's -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One fault of a configuration: where it is, and what to write instead."""

    path: str
    """Dotted, as in `routes[0].backend.endpoints[1]`; empty for the file as a whole."""
    line: int | None
    """From 1; None where no line can be named (the file is not there)."""
    message: str


class ConfigError(KakitomeError):
    """The configuration cannot be used: `problems` lists every fault found, each with path and line."""

    blame = Blame.OPERATOR
    reason = "config"

    def __init__(self, problems: Sequence[Problem], *, source: str) -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__("\n".join(self.lines()))

    def lines(self) -> Iterator[str]:
        """Each problem as `FILE:LINE: path: message`, in the order of the file."""
        for problem in self.problems:
            place = self.source if problem.line is None else f"{self.source}:{problem.line}"
            yield ": ".join(part for part in (place, problem.path, problem.message) if part)


class ConfigUnreadable(ConfigError):
    """There is no configuration to judge: no file, or no permission to read it."""


class StartupError(KakitomeError):
    """The gateway cannot start: a port in use, a certificate that is missing. The text says what to do."""

    blame = Blame.OPERATOR
    reason = "startup"
