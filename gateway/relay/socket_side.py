"""What the backends of all framings share: one socket in the pump, and the evidence that its kernel gives."""

import socket

from gateway.relay.endpoint import Output, endpoint_for
from gateway.relay.evidence import Evidence
from gateway.relay.place import Place
from gateway.relay.ports import BackendSide, EndpointOwner
from gateway.telemetry.metrics import PauseCause


class SocketSide(BackendSide, EndpointOwner):
    """A connected socket that a session's messages for the backend go to."""

    __slots__ = ("_evidence", "_incoming", "_junction", "_outgoing", "_pump", "endpoint")

    def __init__(self, sock: socket.socket, place: Place, evidence: Evidence) -> None:
        """Takes the socket over, non-blocking and connected; `evidence` is about it."""
        self.endpoint = endpoint_for(sock, place.pump, self, place.tab)
        self._pump = place.pump
        self._junction = place.junction
        self._incoming = place.incoming
        self._outgoing = place.outgoing
        self._evidence = evidence

    @property
    def is_full(self) -> bool:
        return self.endpoint.is_full

    @property
    def pause_cause(self) -> PauseCause:
        return PauseCause.RECEIVER if self._evidence.is_receiver_slow() else PauseCause.BUFFER

    @property
    def is_gone(self) -> bool:
        return self.endpoint.is_closed

    @property
    def progress(self) -> tuple[int, int]:
        return self.endpoint.bytes_taken, self.endpoint.buffered

    def close(self) -> None:
        self.endpoint.close()

    def reset(self) -> None:
        self.endpoint.reset()

    def pause(self) -> None:
        self.endpoint.pause()

    def resume(self) -> None:
        self.endpoint.resume()

    def on_drained(self, now: float) -> None:
        if self.endpoint.output is Output.OPEN:
            self._junction.flush_upstream(now)

    def on_fault(self, error: Exception) -> None:
        self._junction.on_fault(error)
