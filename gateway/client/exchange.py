"""The client's end of one open WebSocket connection, sans-I/O: data pieces in and out, control frames looked after.

Invariant: of pings only the newest waits to be answered, so that a flood of them fills no memory; what was handed to
`send` leaves in order and before our Close.

Times are seconds on the caller's clock. The caller reads with `receive_data`, sends what `data_to_send` gives, and
calls `check` at `deadline`; once `check` has said that the connection `is_dead`, or both sides have closed, it is over.
"""

import math
import os
from collections import deque
from collections.abc import Sequence
from typing import Final

from gateway.codes import ABNORMAL, NO_CODE
from gateway.errors import ConnectionFault
from gateway.protocol.deflate import DeflateParameters
from gateway.protocol.messages import CloseFrame, State, WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Buffer, Opcode, Piece

_WHOLE: Final = FIRST | LAST
_PING: Final = int(Opcode.PING)
_PONG: Final = int(Opcode.PONG)
_CLOSE: Final = int(Opcode.CLOSE)

PING_BYTES: Final = 8

STALL_SECONDS: Final = 1.0
"""A deadline that is noticed so much late tells of us: the process was stopped, or its event loop was held up."""


class Exchange:
    """One connection, from its handshake on.

    `message_bytes` limits what comes in, None is no limit. After `keepalive_seconds` of silence the server is pinged,
    and it is dead when it stays silent for as long again; None asks for nothing. It also is when it has not closed
    its side `close_seconds` after a Close and its last sign of life, or `close_total_seconds` after the Close. Where it
    has closed and our Close is held back, `holds_close`, it waits for us, and we do so for `close_total_seconds`.
    A sign of life is whatever comes, and what it acknowledges of what was sent before.

    Deadlines that are noticed more than `STALL_SECONDS` late begin anew: who stood still was we, and what the server
    has said meanwhile waits to be read.
    """

    __slots__ = (
        "_alive_at",
        "_asked_at",
        "_close_seconds",
        "_close_total_seconds",
        "_closing_since",
        "_keepalive_seconds",
        "_out",
        "_pings",
        "_pong",
        "_ws",
        "ending",
        "has_unfenced",
        "holds_close",
        "pings_answered",
        "pings_sent",
    )

    def __init__(
        self,
        *,
        now: float,
        message_bytes: int | None = None,
        deflate: DeflateParameters | None = None,
        keepalive_seconds: float | None = 20.0,
        close_seconds: float = 5.0,
        close_total_seconds: float = 60.0,
    ) -> None:
        self._ws = WebSocketConnection(client=True, message_bytes=message_bytes, deflate=deflate)
        self._keepalive_seconds = keepalive_seconds
        self._close_seconds = close_seconds
        self._close_total_seconds = close_total_seconds
        self._alive_at = now
        self._asked_at: float | None = None
        self._closing_since: float | None = None
        self._out: list[bytes] = []
        self._pong: bytes | None = None
        self.holds_close = False
        """The server's Close is not answered yet, for the sake of what the application does with what came before."""
        self._pings: deque[bytes] = deque()
        self.has_unfenced = False
        """Data came that no ping of the server's has followed: it may not know that it has reached us."""
        self.pings_sent = 0
        self.pings_answered = 0
        """The number of the newest of our pings whose Pong, or that of a later one, has come."""
        self.ending: CloseFrame | None = None
        """How the connection ended, as soon as nothing more is to come; 1006 where no Close said so."""

    # --- state ------------------------------------------------------------------------------------------------------

    @property
    def fault(self) -> ConnectionFault | None:
        """What the server did against the protocol, if that is why the connection ends."""
        return self._ws.error

    @property
    def can_send(self) -> bool:
        """Our Close has not been sent."""
        return self._ws.state in (State.OPEN, State.CLOSE_RECEIVED)

    @property
    def is_closing(self) -> bool:
        """A Close was sent or received."""
        return self._closing_since is not None

    # --- receiving --------------------------------------------------------------------------------------------------

    def receive_data(self, data: Buffer, *, now: float) -> list[Piece]:
        """The data pieces that came. A Close of the server's is not answered: that is done with `close`.

        A fault of the server's is: its text goes out as the Close's reason.
        """
        self._alive_at = now
        self._asked_at = None
        ws = self._ws
        pieces = self._take(ws.receive_data(data))
        while ws.has_pending:
            pieces += self._take(ws.receive_data(b""))
        if self.ending is None:
            if ws.error is not None:
                self.ending = CloseFrame(code=ws.error.close_code, reason=ws.error.close_reason)
                self.close(ws.error.close_code, ws.error.close_reason, now=now)
            elif ws.close_received is not None:
                self.ending = ws.close_received
                self._closing_since = now if self._closing_since is None else self._closing_since
        return pieces

    def _take(self, pieces: list[Piece]) -> list[Piece]:
        """The data pieces, after the control frames between them were looked at."""
        if all(piece[0] < _CLOSE for piece in pieces):
            self.has_unfenced |= bool(pieces)
            return pieces
        data = []
        for piece in pieces:
            opcode, payload, _ = piece
            if opcode < _CLOSE:
                self.has_unfenced = True
                data.append(piece)
            elif opcode == _PING:
                # RFC 6455 section 5.5.3: an endpoint may "send a Pong frame for only the most recently processed Ping".
                self._pong = payload
                self.has_unfenced = False
            elif opcode == _PONG and payload in self._pings:
                while self._pings.popleft() != payload:
                    self.pings_answered += 1
                self.pings_answered += 1
        return data

    def receive_eof(self) -> None:
        """The byte stream ended or broke."""
        if self.ending is None:
            self.ending = CloseFrame(code=ABNORMAL)

    # --- sending ----------------------------------------------------------------------------------------------------

    def send(self, pieces: Sequence[Piece]) -> None:
        """Takes data pieces. Raises SentAfterClose."""
        self._out.append(self._ws.send(pieces))

    def ping(self) -> int:
        """Asks for a sign of life; the ping's number, to be compared with `pings_answered`. Raises SentAfterClose."""
        payload = os.urandom(PING_BYTES)
        self.send([(_PING, payload, _WHOLE)])
        self._pings.append(payload)
        self.pings_sent += 1
        return self.pings_sent

    def close(self, code: int | None, reason: str = "", *, now: float) -> None:
        """Sends a Close, or answers the server's; again does nothing. Raises ValueError for a code not to be sent."""
        self._flush_pong()
        self._out.append(self._ws.close(code, reason))
        if self._closing_since is None or self.holds_close:
            self._closing_since = now
        self.holds_close = False

    def echo_close(self, *, now: float) -> None:
        """Answers the server's Close with its own code, if there is one to be answered."""
        received = self._ws.close_received
        if received is not None:
            self.close(None if received.code == NO_CODE else received.code, now=now)

    def data_to_send(self) -> bytes:
        """The bytes to send now, empty when there is nothing."""
        self._flush_pong()
        if not self._out:
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data

    def _flush_pong(self) -> None:
        payload, self._pong = self._pong, None
        if payload is not None and self.can_send:
            self._out.append(self._ws.send([(_PONG, payload, _WHOLE)]))

    # --- time -------------------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float:
        """When to call `check`; infinity for never."""
        if self._closing_since is not None:
            if self.holds_close:
                return self._closing_since + self._close_total_seconds
            alive_at = max(self._closing_since, self._alive_at)
            return min(alive_at + self._close_seconds, self._closing_since + self._close_total_seconds)
        if self._keepalive_seconds is None:
            return math.inf
        return (self._alive_at if self._asked_at is None else self._asked_at) + self._keepalive_seconds

    def check(self, *, now: float, paused: bool = False, progressed: bool = False) -> bool:
        """Asks for a sign of life if it is time to; whether the connection is dead and must be dropped.

        `paused`: nothing was read because we did not want to, so silence means nothing. `progressed`: the server has
        acknowledged, since the last look, some of what it had not then.
        """
        late = now - self.deadline
        if late < 0:
            return False
        was_stalled = late > STALL_SECONDS
        if self._closing_since is not None:
            if paused or was_stalled:
                self._closing_since = now
            elif progressed and not self.holds_close and now < self._closing_since + self._close_total_seconds:
                self._alive_at = now
            else:
                self.receive_eof()
                return True
            return False
        if paused:
            self._alive_at = now
            self._asked_at = None
        elif self._asked_at is None:
            self.ping()
            self._asked_at = now
        elif progressed or was_stalled:
            # The ping stands behind what was acknowledged, so its time begins now.
            self._asked_at = now
        else:
            self.ending = CloseFrame(code=ABNORMAL, reason="the server did not answer a ping")
            return True
        return False
