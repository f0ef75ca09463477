"""The client's side of a relay: a WebSocket connection in the pump.

Invariant: pings are answered however long messages have to wait; a Ping of ours never splits a message; what cannot be
sent is not queued twice: of the pongs that a full buffer cannot take only the newest is kept (RFC 6455 section 5.5.3).
"""

import socket
from typing import Final, Protocol

import structlog

from gateway.errors import KeepaliveTimeout
from gateway.protocol.fence import Fence
from gateway.protocol.frames import FIRST, LAST, Opcode, Piece
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.records import RejectBody, Rung
from gateway.relay.endpoint import Endpoint, endpoint_for
from gateway.relay.relay import Relay
from gateway.relay.timers import NEVER
from gateway.telemetry.metrics import UnknownReason

WHOLE: Final = FIRST | LAST

# Plain ints: reading a member off an Enum costs as much as a comparison does.
_CLOSE: Final = int(Opcode.CLOSE)
_PING: Final = int(Opcode.PING)
_PONG: Final = int(Opcode.PONG)

log = structlog.get_logger("client")

FENCE_SPACING_SECONDS: Final = 0.02
"""The least time from one fence to the next: on a fast network a fence a round trip would double the packets, and
knowing 20 ms later costs nothing. A window that is full does not wait for it."""


class ClientLink(Protocol):
    """What a relay wants of its client's side."""

    endpoint: Endpoint

    @property
    def is_full(self) -> bool:
        """No more should be delivered until `Relay.flush_downstream`."""

    @property
    def is_gone(self) -> bool:
        """The socket is closed."""

    @property
    def is_closing(self) -> bool:
        """Our Close is sent, or the socket closed: nothing more can be delivered."""

    @property
    def close_sent(self) -> bool:
        """Our Close frame is sent."""

    @property
    def close_received(self) -> bool:
        """The client's Close frame has come, or none can come any more, because it broke the protocol."""

    def start(self, early: bytes, now: float) -> None:
        """Begins reading; `early` is what the client sent behind its handshake."""

    def resume(self) -> None:
        """Reads on, unless nothing is to be heard any more."""

    def deliver(self, pieces: list[Piece], now: float) -> None:
        """Sends data."""

    def send_close(self, code: int | None, reason: str) -> None:
        """Sends a Close frame."""

    def fence(self, now: float) -> bool:
        """Raises a fence behind what was sent, or says that one will tell; false if no evidence is to be had."""

    def hurry(self, now: float) -> None:
        """The window is full: evidence is wanted as soon as can be."""

    def upstream_settled(self, now: float) -> None:
        """Messages of the client's were settled."""

    def take_stock(self) -> None:
        """Records what the kernel has taken, for the loss report."""

    def upstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        """The backend refused a message of the client's."""

    def next_deadline(self, now: float) -> float:
        """When `on_timer` has something to do, in seconds; may lie in the past."""

    def on_timer(self, now: float) -> None:
        """Keepalive and fences."""


class PlainClient:
    """A client that speaks nothing but RFC 6455: evidence of its receiving comes from ping fences."""

    __slots__ = (
        "_fence",
        "_fence_due",
        "_fences",
        "_hop_end",
        "_last_heard",
        "_mid_message",
        "_pong",
        "close_sent",
        "endpoint",
        "relay",
        "ws",
    )

    def __init__(self, sock: socket.socket, relay: Relay, ws: WebSocketConnection) -> None:
        """Takes the socket over, non-blocking and behind its handshake."""
        self.endpoint = endpoint_for(sock, relay.pump, self)
        self.relay = relay
        self.ws = ws
        self.close_sent = False
        self._fence = Fence()
        self._fences = relay.settings.fence and relay.down.ledger is not None
        self._fence_due = 0.0 if self._fences else NEVER
        self._last_heard = relay.pump.clock()
        self._hop_end = 0
        self._mid_message = False
        self._pong: bytes | None = None

    # --- what the relay asks and wants ----------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return self.endpoint.is_full

    @property
    def is_gone(self) -> bool:
        return self.endpoint.is_closed

    @property
    def is_closing(self) -> bool:
        return self.close_sent or self.endpoint.is_closed

    @property
    def close_received(self) -> bool:
        return self.ws.close_received is not None or self.ws.error is not None

    def start(self, early: bytes, now: float) -> None:
        if early:
            self.on_data(self.endpoint, memoryview(early), now)
        if not self.is_gone:
            self.resume()

    def resume(self) -> None:
        # Between a client's Close and ours there is nothing to hear, and its end of stream would look like a loss.
        if self.ws.close_received is None or self.close_sent:
            self.endpoint.resume()
            if self.ws.has_pending:
                self.endpoint.nudge()

    def deliver(self, pieces: list[Piece], now: float) -> None:
        self._mid_message = not pieces[-1][2] & LAST
        endpoint = self.endpoint
        data = self.ws.send(pieces)
        # Ends are positions in all that this endpoint sends: pongs and fences stand between the messages.
        hop_end = endpoint.bytes_taken + endpoint.buffered + len(data)
        self.relay.down.enter(pieces, hop_end - self._hop_end, now)
        self._hop_end = hop_end
        if now >= self._fence_due and not self._mid_message and self.ws.close_received is None:
            data += self._raise_fence(now)  # in the same write: such a fence costs no system call
        endpoint.write(data)

    def send_close(self, code: int | None, reason: str) -> None:
        self.close_sent = True
        self._pong = None
        self.endpoint.write(self.ws.close(code, reason))

    def upstream_settled(self, now: float) -> None:
        pass  # a plain client is told nothing

    def upstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        log.info("message_rejected", seq=seq, code=body.code, reason=body.reason)

    # --- fences ---------------------------------------------------------------------------------------------------

    def _raise_fence(self, now: float) -> bytes:
        self._fence_due = NEVER
        ledger = self.relay.down.ledger
        payload = self._fence.raise_(0 if ledger is None else ledger.accepted, now=now)
        return self.ws.send([(_PING, payload, WHOLE)])

    def fence(self, now: float) -> bool:
        if not self._fences or self._mid_message or self.is_closing or self.ws.close_received is not None:
            return False
        if not self._fence.in_flight:
            self.endpoint.write(self._raise_fence(now))
        return True

    def hurry(self, now: float) -> None:
        self.fence(now)

    def _answered(self, payload: bytes, now: float) -> None:
        covers = self._fence.answered(payload)
        if covers is None:
            return
        if self._fences:
            self._fence_due = self._fence.sent_at + FENCE_SPACING_SECONDS
            self.relay.settled_downstream(Rung.REACHED, covers, now)
            ledger = self.relay.down.ledger
            if ledger is not None and ledger.in_flight_messages:
                self.relay.pump.wake_at(self.relay, max(now, self._fence_due))

    def take_stock(self) -> None:
        ledger = self.relay.down.ledger
        if ledger is not None:
            ledger.advance_to_offset(Rung.WRITTEN, min(self.endpoint.bytes_taken, self._hop_end))

    # --- time -----------------------------------------------------------------------------------------------------

    def next_deadline(self, now: float) -> float:
        settings = self.relay.settings
        if self._fence.in_flight:
            timeout = settings.keepalive_timeout_seconds
            return NEVER if timeout is None else max(self._fence.sent_at, self._last_heard) + timeout
        deadline = NEVER
        if settings.keepalive_seconds is not None:
            deadline = max(self._last_heard, self._fence.sent_at) + settings.keepalive_seconds
        if self._fence_due is not NEVER:
            ledger = self.relay.down.ledger
            if ledger is not None and ledger.in_flight_messages:
                deadline = min(deadline, self._fence_due)
        return deadline

    def on_timer(self, now: float) -> None:
        if now < self.next_deadline(now) or self._mid_message or self.is_closing:
            return
        if not self._fence.in_flight:
            self.endpoint.write(self._raise_fence(now))
        elif self.endpoint.is_reading:  # a client that we have paused is not to blame for its silence
            timeout = self.relay.settings.keepalive_timeout_seconds
            self.relay.fail(KeepaliveTimeout(f"keepalive timeout: nothing heard for {timeout:g} s after a ping"), now)
        else:
            self._last_heard = now

    # --- the endpoint's news --------------------------------------------------------------------------------------

    def on_data(self, endpoint: Endpoint, data: memoryview, now: float) -> None:
        self._last_heard = now
        ws = self.ws
        relay = self.relay
        pieces = ws.receive_data(data)
        for piece in pieces:
            if piece[0] >= _CLOSE:
                pieces = self._take_control(pieces, now)
                break
        if pieces:
            relay.from_client(pieces, now)
        if ws.has_pending:
            if endpoint.is_reading:
                endpoint.nudge()
            return
        if ws.error is not None:
            relay.fail(ws.error, now)
        elif ws.close_received is not None and not endpoint.is_closed:
            endpoint.pause()
            relay.client_closed(ws.close_received.code, ws.close_received.reason, now)

    def _take_control(self, pieces: list[Piece], now: float) -> list[Piece]:
        data: list[Piece] = []
        pongs: list[Piece] = []
        for piece in pieces:
            opcode = piece[0]
            if opcode < _CLOSE:
                data.append(piece)
            elif opcode == _PING:
                pongs.append((_PONG, piece[1], WHOLE))
            elif opcode == _PONG:
                self._answered(piece[1], now)
        if pongs and not self.is_closing:
            if self.endpoint.is_full:
                self._pong = pongs[-1][1]
            else:
                self.endpoint.write(self.ws.send(pongs))
        return data

    def on_eof(self, endpoint: Endpoint, now: float) -> None:
        self.relay.client_lost(now)

    def on_drained(self, endpoint: Endpoint, now: float) -> None:
        if self._pong is not None and not self.is_closing:
            pong, self._pong = self._pong, None
            endpoint.write(self.ws.send([(_PONG, pong, WHOLE)]))
        self.relay.flush_downstream(now)

    def on_broken(self, endpoint: Endpoint, error: OSError, now: float) -> None:
        self.relay.client_lost(now, reason=UnknownReason.RESET)

    def on_endpoint_fault(self, error: Exception) -> None:
        self.relay.on_fault(error)
