"""The backend's side of a relay where the service knows nothing of us: `stream`, `lines` or `length_prefixed`.

Invariant: what the backend sent is passed on before its end is; evidence that can still be had is taken before a
socket is closed, because the kernel forgets with it.
"""

import socket

from gateway.errors import BackendFault
from gateway.memory.account import Charge
from gateway.protocol.framings import Framing, MessageNotCarried, StreamFraming
from gateway.protocol.pieces import Buffer, Piece
from gateway.protocol.records import RejectBody, Rung, SessionReport
from gateway.relay.endpoint import FEW_PIECES, Output
from gateway.relay.evidence import Evidence
from gateway.relay.lane import first_messages
from gateway.relay.place import Place
from gateway.relay.ports import UNKNOWN, Sample
from gateway.relay.socket_side import SocketSide


class FramedBackend(SocketSide):
    """A TCP or Unix socket in the pump; its host's acknowledgements tell how far messages got."""

    __slots__ = ("_gathered", "_gathers", "framing")

    def __init__(self, sock: socket.socket, place: Place, framing: Framing, evidence: Evidence) -> None:
        """Takes the socket over, non-blocking, connected, behind its PROXY header; `evidence` is about it."""
        super().__init__(sock, place, evidence)
        self.framing = framing
        self._gathers = not isinstance(framing, StreamFraming)
        self._gathered = Charge(place.tab)
        """What the framing holds of unfinished messages."""

    def start(self, now: float) -> None:
        self.endpoint.resume()

    def send(self, pieces: list[Piece], now: float) -> None:
        try:
            data = self.framing.encode(pieces)
        except MessageNotCarried as refusal:
            self._outgoing.enter(first_messages(pieces, refusal.messages), 0, now)
            self.endpoint.write(refusal.encoded)
            raise
        self._outgoing.enter(pieces, 0, now)
        self.endpoint.write(data)
        if self._gathers:
            self._gathered.set_to(self.framing.held_bytes)

    @property
    def is_finished(self) -> bool:
        return self.endpoint.output is not Output.OPEN

    def finish(self, code: int, reason: str, report: SessionReport | None, now: float) -> None:
        self.endpoint.finish()

    def leave(self) -> bool:
        return False

    def hold_back(self) -> None:
        self.endpoint.pause()

    def downstream_settled(self, now: float) -> None:
        pass  # it has no ears for it

    def downstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        pass

    @property
    def written(self) -> int:
        return self.endpoint.bytes_taken

    def sample(self, receipts: frozenset[Rung]) -> Sample | None:
        if self.is_gone:
            return None
        written = self.endpoint.bytes_taken
        reached = self._evidence.reached_offset(written)
        return Sample(written, UNKNOWN if reached is None else reached)

    # --- the endpoint's news --------------------------------------------------------------------------------------

    def on_data(self, data: Buffer, now: float) -> None:
        pieces = self.framing.receive_data(data)
        if self._gathers:
            self._gathered.set_to(self.framing.held_bytes)
        endpoint = self.endpoint
        if len(pieces) > FEW_PIECES:
            endpoint.weigh(len(data), len(pieces))
        if pieces:
            self._junction.from_backend(pieces, now)
        if self.framing.error is not None and not self.is_gone:
            self._junction.backend_ended(now, fault=self.framing.error)

    def on_eof(self, now: float) -> None:
        pieces = self.framing.receive_eof()
        if pieces:
            self._junction.from_backend(pieces, now)
        self._junction.backend_ended(now, fault=self.framing.error)

    def _lost(self, fault: BackendFault, now: float) -> None:
        self._junction.backend_ended(now, fault=fault)
