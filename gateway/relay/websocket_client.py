"""The client's side of a relay: a WebSocket connection in the pump; what plain clients and records clients share.

Invariant: pings are answered however long messages have to wait; a Ping of ours never splits a message; what cannot be
sent is not queued twice: of the pongs that a full buffer cannot take only the newest is kept (RFC 6455 section 5.5.3).
"""

import socket
from abc import abstractmethod
from collections.abc import Callable
from typing import Final

import structlog

from gateway.errors import KeepaliveTimeout
from gateway.protocol.fence import Fence
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Buffer, Opcode, Piece
from gateway.protocol.records import RejectBody, Rung
from gateway.relay.endpoint import Endpoint, Output, endpoint_for
from gateway.relay.links import ClientLink
from gateway.relay.relay import Relay
from gateway.relay.timers import NEVER, Entry
from gateway.telemetry.metrics import PauseCause, UnknownReason

WHOLE: Final = FIRST | LAST

# Plain ints: reading a member off an Enum costs as much as a comparison does.
_CLOSE: Final = int(Opcode.CLOSE)
_PING: Final = int(Opcode.PING)
_PONG: Final = int(Opcode.PONG)

log = structlog.get_logger("client")


def _nothing() -> None: ...


class WebSocketClient(ClientLink):
    """A client's socket under RFC 6455: control frames, keepalive, and the closing handshake."""

    __slots__ = (
        "_fence",
        "_hop_end",
        "_last_heard",
        "_left",
        "_mid_message",
        "_pong",
        "close_sent",
        "endpoint",
        "on_closed",
        "relay",
        "timer",
        "ws",
    )

    def __init__(self, sock: socket.socket, relay: Relay, ws: WebSocketConnection) -> None:
        """Takes the socket over, non-blocking and behind its handshake."""
        self.endpoint = endpoint_for(sock, relay.pump, self)
        self.relay = relay
        self.ws = ws
        self.close_sent = False
        self.on_closed: Callable[[], None] = _nothing
        """Called when the socket is closed, perhaps again: what was taken for this connection can be given back."""
        self.timer: Entry | None = None
        """The pump's, used once the relay has been left."""
        self._fence = Fence()
        self._hop_end = 0
        self._last_heard = relay.pump.clock()
        self._left = False
        self._mid_message = False
        self._pong: bytes | None = None

    @abstractmethod
    def _take(self, pieces: list[Piece], now: float) -> None:
        """Data pieces came."""

    @abstractmethod
    def _closed(self, code: int, reason: str, now: float) -> None:
        """The client's Close frame came."""

    @abstractmethod
    def _lost(self, unknown: UnknownReason, now: float) -> None:
        """The connection is gone."""

    # --- what the relay asks and wants ----------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return self.endpoint.is_full

    @property
    def pause_cause(self) -> PauseCause:
        return PauseCause.BUFFER if self.endpoint.is_full else PauseCause.WINDOW

    @property
    def is_gone(self) -> bool:
        return self.endpoint.is_closed

    @property
    def is_closing(self) -> bool:
        return self.close_sent or self.endpoint.is_closed

    @property
    def is_mid_message(self) -> bool:
        return self._mid_message

    @property
    def close_received(self) -> bool:
        return self.ws.close_received is not None or self.ws.error is not None

    @property
    def progress(self) -> tuple[int, int]:
        return self.endpoint.bytes_taken, self.endpoint.buffered

    def start(self, early: bytes, now: float) -> None:
        if early:
            self.on_data(self.endpoint, early, now)
        if not self.is_gone:
            self.resume()

    def pause(self) -> None:
        self.endpoint.pause()

    def resume(self) -> None:
        # Between a client's Close and ours there is nothing to hear, and its end of stream would look like a loss.
        if self.ws.close_received is None or self.close_sent:
            self.endpoint.resume()
            if self.ws.has_pending:
                self.endpoint.nudge()

    def finish(self) -> None:
        self.endpoint.finish()
        self.relay.pump.at_turn_end(self._end_if_flushed)

    def _end_if_flushed(self, now: float) -> None:
        """Both have sent Close and ours is out: the server closes TCP first (RFC 6455 section 7.1.1).

        After a fault the client may still be sending, and closing over unread bytes would reset the connection and
        overtake our Close: then its end is awaited.
        """
        if self.is_gone or self.endpoint.output is not Output.FINISHED or self.ws.close_received is None:
            return
        if self._left:
            self.close()
        else:
            self.relay.client_lost(now)

    def close(self) -> None:
        self.endpoint.close()
        self.relay.pump.forget(self)
        self.on_closed()

    def send_close(self, code: int | None, reason: str) -> None:
        self.close_sent = True
        self._pong = None
        self.endpoint.write(self.ws.close(code, reason))

    def leave(self, code: int | None, reason: str, now: float) -> None:
        self._left = True
        if not self.close_sent and not self.is_gone:
            self.close_sent = True
            self.endpoint.write(self.ws.close(code, reason))
        if self.close_received:
            self.finish()
        self.resume()
        self.relay.pump.wake_at(self, now + self.relay.settings.close_seconds)

    def take_stock(self, now: float) -> None:
        ledger = self.relay.down.ledger
        if ledger is not None:
            ledger.advance_to_offset(Rung.WRITTEN, min(self.endpoint.bytes_taken, self._hop_end))

    # --- fences and keepalive -------------------------------------------------------------------------------------

    @property
    def _can_ping(self) -> bool:
        return not (self._mid_message or self.is_closing or self.ws.close_received is not None)

    def _raise_fence(self, now: float) -> bytes:
        ledger = self.relay.down.ledger
        payload = self._fence.raise_(0 if ledger is None else ledger.accepted, now=now)
        return self.ws.send([(_PING, payload, WHOLE)])

    def _answered(self, payload: bytes, now: float) -> None:
        self._fence.answered(payload)

    def next_deadline(self, now: float) -> float:
        settings = self.relay.settings
        if self._fence.in_flight:
            timeout = settings.keepalive_timeout_seconds
            return NEVER if timeout is None else max(self._fence.sent_at, self._last_heard) + timeout
        if settings.keepalive_seconds is None:
            return NEVER
        return max(self._last_heard, self._fence.sent_at) + settings.keepalive_seconds

    def tick(self, now: float) -> None:
        if now < self.next_deadline(now):
            return
        if not self._fence.in_flight:
            if self._can_ping:
                self.endpoint.write(self._raise_fence(now))
        elif self.endpoint.is_reading:  # a client that we have paused is not to blame for its silence
            timeout = self.relay.settings.keepalive_timeout_seconds
            fault = KeepaliveTimeout(f"keepalive timeout: nothing heard for {timeout:g} s after a ping")
            self._timed_out(fault, now)
        else:
            self._last_heard = now

    def _timed_out(self, fault: KeepaliveTimeout, now: float) -> None:
        self.relay.fail(fault, now)

    def on_timer(self, now: float) -> None:
        """The relay was left, and the client has not ended its side in time."""
        self.endpoint.close()

    def on_fault(self, error: Exception) -> None:
        self.on_endpoint_fault(error)

    # --- the endpoint's news --------------------------------------------------------------------------------------

    def on_data(self, endpoint: Endpoint, data: Buffer, now: float) -> None:
        self._last_heard = now
        ws = self.ws
        pieces = ws.receive_data(data)
        if self._left:
            self._end_left()
            return
        for piece in pieces:
            if piece[0] >= _CLOSE:
                pieces = self._take_control(pieces, now)
                break
        if pieces:
            self._take(pieces, now)
        if ws.has_pending:
            if endpoint.is_reading:
                endpoint.nudge()
            return
        if self._left or endpoint.is_closed:
            return
        if ws.error is not None:
            self.relay.fail(ws.error, now)
        elif ws.close_received is not None:
            endpoint.pause()
            self._closed(ws.close_received.code, ws.close_received.reason, now)

    def _end_left(self) -> None:
        if self.close_received:
            self.finish()

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
                # The next ping may be due long before this one's answer would have been overdue.
                self.relay.pump.wake_at(self.relay, self.next_deadline(now))
        if pongs and not self.is_closing:
            if self.endpoint.is_full:
                self._pong = pongs[-1][1]
            else:
                self.endpoint.write(self.ws.send(pongs))
        return data

    def on_eof(self, endpoint: Endpoint, now: float) -> None:
        if self._left:
            self.close()
        else:
            self._lost(UnknownReason.VANISHED, now)

    def on_drained(self, endpoint: Endpoint, now: float) -> None:
        if self._pong is not None and not self.is_closing:
            pong, self._pong = self._pong, None
            endpoint.write(self.ws.send([(_PONG, pong, WHOLE)]))
        if not self._left:
            self.relay.flush_downstream(now)
        self._end_if_flushed(now)

    def on_broken(self, endpoint: Endpoint, error: OSError, now: float) -> None:
        if self._left:
            self.close()
        else:
            self._lost(UnknownReason.RESET, now)

    def on_endpoint_fault(self, error: Exception) -> None:
        if self._left:
            self.close()
        else:
            self.relay.on_fault(error)


class PlainClient(WebSocketClient):
    """A client that speaks nothing but RFC 6455: evidence of its receiving comes from ping fences."""

    __slots__ = ("_fences", "_settles_written")

    def __init__(self, sock: socket.socket, relay: Relay, ws: WebSocketConnection) -> None:
        is_tracked = relay.down.ledger is not None
        self._fences = is_tracked and relay.settings.fence
        self._settles_written = is_tracked and not relay.settings.fence
        super().__init__(sock, relay, ws)

    @property
    def is_resumable(self) -> bool:
        return False

    @property
    def receipts(self) -> frozenset[Rung]:
        return frozenset()

    def deliver(self, pieces: list[Piece], now: float, *, fence: bool) -> None:
        self._mid_message = not pieces[-1][2] & LAST
        endpoint = self.endpoint
        data = self.ws.send(pieces)
        # Ends are positions in all that this endpoint sends: pongs and fences stand between the messages.
        hop_end = endpoint.bytes_taken + endpoint.buffered + len(data)
        down = self.relay.down
        ledger = down.ledger
        down.enter(pieces, hop_end - self._hop_end, now)
        self._hop_end = hop_end
        wants_fence = self._fences and (fence or (ledger is not None and ledger.is_half_full))
        if wants_fence and not self._fence.in_flight and self._can_ping:
            data += self._raise_fence(now)  # in the same write: such a fence costs no system call
        endpoint.write(data)
        if self._settles_written:
            self._settle_written(now)

    def fence(self, now: float) -> bool:
        if not self._fences or not self._can_ping:
            return False
        if not self._fence.in_flight:
            self.endpoint.write(self._raise_fence(now))
        return True

    def _settle_written(self, now: float) -> None:
        """Without fences there is no other evidence than that the kernel has taken it."""
        offset = min(self.endpoint.bytes_taken, self._hop_end)
        self.relay.settled_downstream(Rung.WRITTEN, offset=offset, now=now)

    def on_drained(self, endpoint: Endpoint, now: float) -> None:
        if self._settles_written and not self._left:
            self._settle_written(now)
        super().on_drained(endpoint, now)

    def _answered(self, payload: bytes, now: float) -> None:
        covers = self._fence.answered(payload)
        if covers is None or not self._fences:
            return
        self.relay.settled_downstream(Rung.REACHED, seq=covers, now=now)
        ledger = self.relay.down.ledger
        if ledger is not None and ledger.is_half_full:
            self.fence(now)  # the backend may be waiting for room

    def upstream_advanced(self, now: float) -> None:
        pass  # a plain client is told nothing

    def upstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        log.info("message_rejected", seq=seq, code=body.code, reason=body.reason)

    def _take(self, pieces: list[Piece], now: float) -> None:
        self.relay.from_client(pieces, now)

    def _closed(self, code: int, reason: str, now: float) -> None:
        if self.close_sent and self._fences:
            # It has answered our Close, so its stack has read all that came before.
            ledger = self.relay.down.ledger
            assert ledger is not None
            self.relay.settled_downstream(Rung.REACHED, seq=ledger.accepted, now=now)
        self.relay.client_closed(code, reason, now)

    def _lost(self, unknown: UnknownReason, now: float) -> None:
        self.relay.client_lost(now, unknown=unknown)
