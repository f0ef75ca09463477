"""What the backends of all framings share: one socket in the pump, and the evidence that its kernel gives."""

import socket
from abc import abstractmethod

from gateway.protocol.pieces import Buffer
from gateway.relay.endpoint import Endpoint, Output, endpoint_for
from gateway.relay.evidence import Evidence
from gateway.relay.links import BackendLink
from gateway.relay.relay import Relay
from gateway.telemetry.metrics import PauseCause


class BackendSocket(BackendLink):
    """A connected socket that a session's messages for the backend go to."""

    __slots__ = ("_evidence", "endpoint", "relay")

    def __init__(self, sock: socket.socket, relay: Relay, evidence: Evidence) -> None:
        """Takes the socket over, non-blocking and connected; `evidence` is about it."""
        self.endpoint = endpoint_for(sock, relay.pump, self)
        self.relay = relay
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

    @abstractmethod
    def on_data(self, endpoint: Endpoint, data: Buffer, now: float) -> None:
        """Bytes came from the backend."""

    @abstractmethod
    def on_eof(self, endpoint: Endpoint, now: float) -> None:
        """The backend has ended its sending."""

    @abstractmethod
    def on_broken(self, endpoint: Endpoint, error: OSError, now: float) -> None:
        """The connection is gone."""

    def on_drained(self, endpoint: Endpoint, now: float) -> None:
        if endpoint.output is Output.OPEN:
            self.relay.flush_upstream(now)

    def on_endpoint_fault(self, error: Exception) -> None:
        self.relay.on_fault(error)
