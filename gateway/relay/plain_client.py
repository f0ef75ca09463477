"""The client's side of a relay for one that speaks nothing but RFC 6455.

Invariant: evidence of its receiving comes from ping fences alone, or, without these, from what the kernel has taken.
"""

import socket

import structlog

from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.pieces import LAST, Piece
from gateway.protocol.records import RejectBody, Rung
from gateway.relay.place import Place
from gateway.relay.websocket_side import WebSocketSide
from gateway.telemetry.metrics import UnknownReason

log = structlog.get_logger("client")


class PlainClient(WebSocketSide):
    """A client that speaks nothing but RFC 6455: evidence of its receiving comes from ping fences."""

    __slots__ = ("_fences",)

    def __init__(self, sock: socket.socket, place: Place, ws: WebSocketConnection) -> None:
        self._fences = place.outgoing.ledger is not None and place.settings.fence
        super().__init__(sock, place, ws)

    @property
    def receipts(self) -> frozenset[Rung]:
        return frozenset()

    def deliver(self, pieces: list[Piece], now: float, *, fence: bool) -> None:
        self._mid_message = not pieces[-1][2] & LAST
        endpoint = self.endpoint
        data = self.ws.send(pieces)
        # Ends are positions in all that this endpoint sends: pongs and fences stand between the messages.
        hop_end = endpoint.bytes_taken + endpoint.buffered + len(data)
        outgoing = self._outgoing
        ledger = outgoing.ledger
        outgoing.enter(pieces, hop_end - self._hop_end, now)
        self._hop_end = hop_end
        wants_fence = self._fences and (fence or (ledger is not None and ledger.is_half_full))
        if wants_fence and not self._fence.in_flight and self._can_ping:
            data += self._raise_fence(now)  # in the same write: such a fence costs no system call
        endpoint.write(data)

    def fence(self, now: float) -> bool:
        if not self._fences or not self._can_ping:
            return False
        if not self._fence.in_flight:
            self.endpoint.write(self._raise_fence(now))
        return True

    def _answered(self, payload: bytes, now: float) -> None:
        covers = self._fence.answered(payload)
        if covers is None or not self._fences:
            return
        self._junction.settled_downstream(Rung.REACHED, covers, now)
        ledger = self._outgoing.ledger
        if ledger is not None and ledger.is_half_full:
            self.fence(now)  # the backend may be waiting for room

    def upstream_advanced(self, now: float) -> None:
        pass  # a plain client is told nothing

    def upstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        log.info("message_rejected", seq=seq, code=body.code, reason=body.reason)

    def _take(self, pieces: list[Piece], now: float) -> None:
        if self._may_pass(pieces, now):
            self._junction.from_client(pieces, now)

    def _closed(self, code: int, reason: str, now: float) -> None:
        if self.close_sent and self._fences:
            # It has answered our Close, so its stack has read all that came before.
            ledger = self._outgoing.ledger
            assert ledger is not None
            self._junction.settled_downstream(Rung.REACHED, ledger.accepted, now)
        self._junction.client_closed(code, reason, now)

    def _lost(self, unknown: UnknownReason, reason: str, now: float) -> None:
        self._junction.client_lost(now, unknown=unknown, reason=reason)
