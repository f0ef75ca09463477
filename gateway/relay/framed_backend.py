"""The backend's side of a relay where the service knows nothing of us: `stream`, `lines` or `length_prefixed`.

Invariant: what the backend sent is passed on before its end is; evidence that can still be had is taken before a
socket is closed, because the kernel forgets with it.
"""

import socket

from gateway.errors import BackendReset
from gateway.protocol.frames import Buffer, Piece
from gateway.protocol.framings import Framing, MessageNotCarried
from gateway.protocol.records import RejectBody, Rung
from gateway.relay.backend_socket import BackendSocket
from gateway.relay.endpoint import Endpoint
from gateway.relay.evidence import Evidence
from gateway.relay.relay import Relay


class FramedBackend(BackendSocket):
    """A TCP or Unix socket in the pump; its host's acknowledgements tell how far messages got."""

    __slots__ = ("framing",)

    def __init__(self, sock: socket.socket, relay: Relay, framing: Framing, evidence: Evidence) -> None:
        """Takes the socket over, non-blocking, connected, behind its PROXY header; `evidence` is about it."""
        super().__init__(sock, relay, evidence)
        self.framing = framing

    def start(self, now: float) -> None:
        self.endpoint.resume()

    def send(self, pieces: list[Piece], now: float) -> None:
        try:
            data = self.framing.encode(pieces)
        except MessageNotCarried as refusal:
            self.relay.up.enter(_first_messages(pieces, refusal.messages), 0, now)
            self.endpoint.write(refusal.encoded)
            raise
        self.relay.up.enter(pieces, 0, now)
        self.endpoint.write(data)

    def finish(self, code: int, reason: str) -> None:
        self.endpoint.finish()

    def leave(self) -> bool:
        return False

    def hold_back(self) -> None:
        self.endpoint.pause()

    def downstream_settled(self, now: float) -> None:
        pass  # it has no ears for it

    def downstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        pass

    def sample(self, now: float) -> bool:
        if self.is_gone:
            return False
        written = self.endpoint.bytes_taken
        if self._evidence.settles_at is Rung.WRITTEN:
            self.relay.settled_upstream(Rung.WRITTEN, offset=written, now=now)
            return True
        reached = self._evidence.reached_offset(written)
        if reached is not None:
            self.relay.settled_upstream(Rung.REACHED, offset=reached, now=now)
        return True

    def take_stock(self, now: float) -> None:
        self.sample(now)
        # What settles makes room, and what goes out into it is not to be told as never forwarded.
        taken = -1
        while taken != self.endpoint.bytes_taken:
            taken = self.endpoint.bytes_taken
            self.relay.settled_upstream(Rung.WRITTEN, offset=taken, now=now)

    # --- the endpoint's news --------------------------------------------------------------------------------------

    def on_data(self, endpoint: Endpoint, data: Buffer, now: float) -> None:
        pieces = self.framing.receive_data(data)
        if pieces:
            self.relay.from_backend(pieces, now)
        if self.framing.error is not None and not self.is_gone:
            self.relay.backend_ended(now, fault=self.framing.error)

    def on_eof(self, endpoint: Endpoint, now: float) -> None:
        pieces = self.framing.receive_eof()
        if pieces:
            self.relay.from_backend(pieces, now)
        self.relay.backend_ended(now, fault=self.framing.error)

    def on_broken(self, endpoint: Endpoint, error: OSError, now: float) -> None:
        self.relay.backend_ended(now, fault=BackendReset("the backend's connection broke"))


def _first_messages(pieces: list[Piece], count: int) -> list[Piece]:
    """The pieces up to the end of the `count`th message."""
    for index, piece in enumerate(pieces):
        if not count:
            return pieces[:index]
        count -= piece[2] >> 1 & 1
    return pieces
