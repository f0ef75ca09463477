"""The client's side of a relay: a WebSocket connection in the pump; what plain clients and records clients share.

Invariant: pings are answered however long messages have to wait; a Ping of ours never splits a message; what cannot be
sent is not queued twice: of the pongs that a full buffer cannot take only the newest is kept (RFC 6455 section 5.5.3).
A client that goes on asking for replies and does not take them is not read until it does.
"""

import socket
import ssl
from abc import abstractmethod
from collections.abc import Callable
from typing import Final

from gateway.errors import KeepaliveTimeout, PolicyViolation
from gateway.memory.account import Charge
from gateway.memory.costs import cost_of
from gateway.protocol.fence import Fence
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import FIRST, LAST, Buffer, Opcode, Piece
from gateway.protocol.records import SessionReport
from gateway.relay.endpoint import FEW_PIECES, REPLIES_WITHHELD, Output
from gateway.relay.keepalive import Keepalive, LastWords
from gateway.relay.lane import messages_ending
from gateway.relay.place import Place
from gateway.relay.ports import ClientSide, EndpointOwner
from gateway.relay.throttle import Throttle, is_limited
from gateway.relay.timers import Entry
from gateway.relay.tls_endpoint import endpoint_for
from gateway.relay.vitals import STEPS_OF_A_WINDOW, Vitals, Watch
from gateway.telemetry.metrics import PauseCause, UnknownReason

CONNECTION_BYTES: Final = 4096
"""What a connection takes when it holds nothing, its session aside."""

WHOLE: Final = FIRST | LAST

LOST: Final = "connection lost"

# Plain ints: reading a member off an Enum costs as much as a comparison does.
_CLOSE: Final = int(Opcode.CLOSE)
_PING: Final = int(Opcode.PING)
_PONG: Final = int(Opcode.PONG)


def _nothing() -> None: ...


class WebSocketSide(ClientSide, EndpointOwner):
    """A client's socket under RFC 6455: control frames, keepalive, and the closing handshake."""

    __slots__ = (
        "_fence",
        "_hop_end",
        "_incoming",
        "_is_deaf",
        "_junction",
        "_keepalive",
        "_last_words",
        "_left",
        "_mid_message",
        "_outgoing",
        "_pending",
        "_pong",
        "_pump",
        "_settings",
        "_tab",
        "_throttle",
        "_watch",
        "_withheld",
        "close_sent",
        "endpoint",
        "on_closed",
        "timer",
        "ws",
    )

    def __init__(self, sock: socket.socket, place: Place, ws: WebSocketConnection) -> None:
        """Takes the socket over, non-blocking and behind its handshake."""
        self._tab = place.tab.connection(CONNECTION_BYTES + ws.compression_bytes)
        self.endpoint = endpoint_for(sock, place.pump, self, self._tab)
        self.endpoint.trickles = self.endpoint.tells_hang_up = True
        self._pending = Charge(self._tab)
        """What was received and is still compressed."""
        self._pump = place.pump
        self._junction = place.junction
        self._incoming = place.incoming
        self._outgoing = place.outgoing
        self._settings = place.settings
        self.ws = ws
        self.close_sent = False
        self.on_closed: Callable[[], None] = _nothing
        """Called when the socket is closed, perhaps again: what was taken for this connection can be given back."""
        self.timer: Entry | None = None
        """The pump's, used once the relay has been left."""
        self._fence = Fence()
        self._hop_end = 0
        now = place.pump.clock()
        settings = place.settings
        self._keepalive = Keepalive(settings.keepalive_seconds, settings.keepalive_timeout_seconds, now=now)
        self._watch = None if settings.unheard_seconds is None else Watch(settings.unheard_seconds, now=now)
        self._last_words: LastWords | None = None
        self._throttle: Throttle | None = None
        if is_limited(settings):
            self._throttle = Throttle(settings, place.pump, self._read_on, self.on_fault, now=now)
        self._left = False
        self._mid_message = False
        self._pong: bytes | None = None
        self._is_deaf = False
        """It does not take its replies, so it is not read."""
        self._withheld = 0
        """Replies that a full buffer has held up."""

    @abstractmethod
    def _take(self, pieces: list[Piece], now: float) -> None:
        """Data pieces came."""

    @abstractmethod
    def _closed(self, code: int, reason: str, now: float) -> None:
        """The client's Close frame came."""

    @abstractmethod
    def _lost(self, unknown: UnknownReason, reason: str, now: float) -> None:
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
    def buffered(self) -> int:
        return self.endpoint.buffered

    def vitals(self) -> Vitals:
        return self.endpoint.vitals()

    @property
    def written(self) -> int:
        return min(self.endpoint.bytes_taken, self._hop_end)

    def start(self, early: bytes, now: float) -> None:
        if early:
            self.on_data(early, now)
        if not self.is_gone:
            self.resume()

    def pause(self) -> None:
        self.endpoint.pause()

    def resume(self) -> None:
        if self._is_deaf or self.is_throttled:
            return
        # Between a client's Close and ours there is nothing to hear, and its end of stream would look like a loss.
        if self.ws.close_received is None or self.close_sent:
            self.endpoint.resume()
            if self.ws.has_pending:
                self.endpoint.nudge()

    def finish(self) -> None:
        self.endpoint.finish()
        self._pump.at_turn_end(self._end_if_flushed)

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
            self._junction.client_lost(now)

    def close(self) -> None:
        self.endpoint.close()
        self._tab.close()
        self._pump.forget(self)
        self._stop_throttling()
        self.on_closed()

    def send_close(self, code: int | None, reason: str, report: SessionReport | None, now: float) -> None:
        self.close_sent = True
        self._pong = None
        self._stop_throttling()
        self.endpoint.write(self.ws.close(code, reason))

    def leave(self, code: int | None, reason: str, now: float) -> None:
        self._left = True
        self._stop_throttling()
        if not self.close_sent and not self.is_gone:
            self.close_sent = True
            self.endpoint.write(self.ws.close(code, reason))
        if self.close_received:
            self.finish()
        self.resume()
        self._pump.wake_at(self, now + self._settings.close_seconds)

    # --- how fast it sends ----------------------------------------------------------------------------------------

    @property
    def is_throttled(self) -> bool:
        return self._throttle is not None and self._throttle.is_shut

    def _may_pass(self, pieces: list[Piece], now: float) -> bool:
        """Whether these messages may go on; if not, the connection is ending. To be asked before they do."""
        throttle = self._throttle
        return throttle is None or self._obey(throttle, throttle.count_messages(messages_ending(pieces), now), now)

    def _obey(self, throttle: Throttle, fault: PolicyViolation | None, now: float) -> bool:
        if fault is not None:
            self._junction.fail(fault, now)
            return False
        if throttle.is_shut:
            self.endpoint.pause()
            self._incoming.paused_for(PauseCause.RATE, now)
        return True

    def _read_on(self, now: float) -> None:
        """It has made up for what it sent too fast."""
        self._junction.flush_upstream(now)  # which also says whether it may be read

    def _stop_throttling(self) -> None:
        """It is ending: what it still has to say is heard."""
        if self._throttle is not None:
            self._throttle.stop()

    # --- fences and keepalive -------------------------------------------------------------------------------------

    @property
    def _can_ping(self) -> bool:
        return not (self._mid_message or self.is_closing or self.ws.close_received is not None)

    def _raise_fence(self, now: float) -> bytes:
        ledger = self._outgoing.ledger
        payload = self._fence.raise_(0 if ledger is None else ledger.accepted, now=now)
        return self.ws.send([(_PING, payload, WHOLE)])

    def _answered(self, payload: bytes, now: float) -> None:
        self._fence.answered(payload)

    def next_deadline(self, now: float) -> float:
        deadline = self._keepalive.next_deadline(self._fence)
        if self._last_words is not None:
            deadline = min(deadline, self._last_words.next_look_at)
        watch = self._watch
        # Without tracking nobody says that something was written.
        if watch is not None and (self._outgoing.ledger is None or watch.is_needed(self.endpoint.bytes_taken)):
            return min(deadline, watch.next_look_at)
        return deadline

    def tick(self, now: float) -> None:
        if now < self.next_deadline(now) or self.endpoint.is_closed:
            return
        last_words = self._last_words
        if (
            last_words is not None
            and now >= last_words.next_look_at
            and last_words.are_in_vain(self._junction.progress_upstream(), now)
        ):
            self._lost(UnknownReason.VANISHED, LOST, now)
            return
        vitals = self.endpoint.vitals()
        watch = self._watch
        if watch is not None and watch.is_gone(vitals, self.endpoint.bytes_taken, now):
            seconds = self._settings.unheard_seconds
            self._lost(UnknownReason.VANISHED, f"the client's host has answered nothing for {seconds:g} s", now)
            return
        keepalive = self._keepalive
        if now < keepalive.next_deadline(self._fence):
            return
        if not self._fence.in_flight:
            if self._can_ping:
                keepalive.pings(vitals, now)
                self.endpoint.write(self._raise_fence(now))
            else:
                keepalive.wait(now)
        elif not self.endpoint.is_heard:
            if keepalive.probes_paused(self._fence, now) and self._can_ping and not self.endpoint.is_full:
                self.endpoint.write(self.ws.send([(_PING, self._fence.again(), WHOLE)]))
        elif keepalive.is_late(self._fence, vitals, now):
            timeout = self._settings.keepalive_timeout_seconds
            fault = KeepaliveTimeout(f"keepalive timeout: nothing heard or acknowledged for {timeout:g} s after a ping")
            self._timed_out(fault, now)

    def _timed_out(self, fault: KeepaliveTimeout, now: float) -> None:
        self._junction.fail(fault, now)

    def on_timer(self, now: float) -> None:
        """The relay was left, and the client has not ended its side in time."""
        self.close()

    # --- the endpoint's news --------------------------------------------------------------------------------------

    def on_data(self, data: Buffer, now: float) -> None:
        self._keepalive.heard_at = now
        ws = self.ws
        pieces = ws.receive_data(data)
        endpoint = self.endpoint
        if len(pieces) > FEW_PIECES:
            endpoint.weigh(len(data), len(pieces))
        if ws.has_pending or self._pending.size:
            self._pending.set_to(cost_of(ws.pending))
        if self._left:
            self._end_left()
            return
        throttle = self._throttle
        if throttle is not None and not self._obey(throttle, throttle.count_frames(ws.frames, len(data), now), now):
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
            self._junction.fail(ws.error, now)
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
                self._junction.arm(now)
        if pongs and not self.is_closing:
            if self.endpoint.is_full:
                self._pong = pongs[-1][1]
                self._withhold(len(pongs))
            else:
                self.endpoint.write(self.ws.send(pongs))
        return data

    def _withhold(self, replies: int) -> None:
        """So many replies are not sent now, because the buffer is full."""
        self._withheld += replies
        if self._withheld > REPLIES_WITHHELD and not self._is_deaf:
            self._is_deaf = True
            self.endpoint.pause()

    def _send_withheld(self, now: float) -> None:
        """There is room for the replies that were held up."""
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self.endpoint.write(self.ws.send([(_PONG, pong, WHOLE)]))

    def on_eof(self, now: float) -> None:
        if self._left:
            self.close()
        else:
            self._lost(UnknownReason.VANISHED, LOST, now)

    def on_drained(self, now: float) -> None:
        if not self.is_closing:
            self._send_withheld(now)
        self._withheld = 0
        self._is_deaf = False
        if not self._left:
            self._junction.flush_downstream(now)
        self._end_if_flushed(now)

    def on_broken(self, error: OSError, now: float) -> None:
        if self._left:
            self.close()
        else:
            # Many a client ends its TLS connection without close_notify.
            vanished = isinstance(error, ssl.SSLEOFError)
            self._lost(UnknownReason.VANISHED if vanished else UnknownReason.RESET, LOST, now)

    def on_hung_up(self, now: float, *, was_reset: bool) -> None:
        if self._left or self.ws.close_received is not None or not self._junction.is_open:
            return  # its end is awaited already, and for no longer than that takes
        if self.endpoint.has_unread or self.ws.has_pending:
            # Perhaps its Close is among that; and the backend may be slow, or not take anything any more.
            self._last_words = LastWords(self._settings.close_seconds * STEPS_OF_A_WINDOW, now=now)
            self._junction.arm(now)
        else:
            self._lost(UnknownReason.RESET if was_reset else UnknownReason.VANISHED, LOST, now)

    def on_fault(self, error: Exception) -> None:
        if self._left:
            self.close()
        else:
            self._junction.on_fault(error)
