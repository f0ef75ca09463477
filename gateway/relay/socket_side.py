"""What the backends of all framings share: one socket in the pump, and the evidence that its kernel gives."""

import socket
import ssl
from abc import abstractmethod

from gateway.errors import BackendFault, BackendReset, BackendUnheard
from gateway.relay.endpoint import Output
from gateway.relay.evidence import Evidence
from gateway.relay.place import Place
from gateway.relay.ports import BackendSide, EndpointOwner
from gateway.relay.timers import NEVER
from gateway.relay.tls_endpoint import endpoint_for
from gateway.relay.vitals import Vitals, Watch
from gateway.telemetry.metrics import PauseCause


class SocketSide(BackendSide, EndpointOwner):
    """A connected socket that a session's messages for the backend go to."""

    __slots__ = ("_evidence", "_incoming", "_junction", "_outgoing", "_pump", "_settings", "_watch", "endpoint")

    def __init__(self, sock: socket.socket, place: Place, evidence: Evidence) -> None:
        """Takes the socket over, non-blocking and connected; `evidence` is about it."""
        self.endpoint = endpoint_for(sock, place.pump, self, place.tab)
        self._pump = place.pump
        self._junction = place.junction
        self._incoming = place.incoming
        self._outgoing = place.outgoing
        self._settings = place.settings
        unheard = place.settings.unheard_seconds
        self._watch = None if unheard is None else Watch(unheard, now=place.pump.clock())
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
    def buffered(self) -> int:
        return self.endpoint.buffered

    def vitals(self) -> Vitals:
        return self.endpoint.vitals()

    def next_deadline(self, now: float) -> float:
        watch = self._watch
        # Without tracking nobody says that something was written.
        if watch is None or not (self._outgoing.ledger is None or watch.is_needed(self.endpoint.bytes_taken)):
            return NEVER
        return watch.next_look_at

    def tick(self, now: float) -> None:
        watch = self._watch
        if watch is None or now < self.next_deadline(now) or self.endpoint.is_closed:
            return
        if watch.is_gone(self.endpoint.vitals(), self.endpoint.bytes_taken, now):
            seconds = self._settings.unheard_seconds
            self._lost(BackendUnheard(f"the backend's host has answered nothing for {seconds:g} s"), now)

    @abstractmethod
    def _lost(self, fault: BackendFault, now: float) -> None:
        """The connection is gone."""

    def on_broken(self, error: OSError, now: float) -> None:
        if isinstance(error, ssl.SSLEOFError):
            self._lost(BackendReset("the backend's TLS connection ended without close_notify: it may be cut off"), now)
        else:
            self._lost(BackendReset("the backend's connection broke"), now)

    def on_hung_up(self, now: float, *, was_reset: bool) -> None:
        """Not asked for: what a backend says last is for its client, however long that takes."""

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
