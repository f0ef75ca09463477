"""A junction that writes down what a side tells it, and stands where a relay would: so each side is tried alone."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.codes import ABNORMAL
from gateway.errors import BackendFault, ConnectionFault
from gateway.protocol.ledger import Ledger
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import RejectBody, Rung
from gateway.relay.lane import Lane
from gateway.relay.place import Place
from gateway.relay.ports import Junction
from gateway.relay.pump import Pump
from gateway.relay.retained import Retained
from gateway.relay.settings import RelaySettings
from gateway.telemetry.metrics import RouteMetrics, UnknownReason
from tests.relay.harness import open_tab
from tests.relay.sockets import tcp_pair
from tests.support.peers.pumped import Peer


def message(data: bytes, *, opcode: Opcode = Opcode.BINARY, flags: int = FIRST | LAST) -> Piece:
    return int(opcode), data, flags


@dataclass
class Recorder(Junction):
    """What happened, in order, as (what, details...); data is under "data"."""

    told: list[tuple[Any, ...]] = field(default_factory=list)
    open: bool = True
    progress: int = 0

    @property
    def is_open(self) -> bool:
        return self.open

    @property
    def may_be_taken_up(self) -> bool:
        return self.open

    def from_client(self, pieces: list[Piece], now: float) -> None:
        self.told += [("data", *piece) for piece in pieces]

    def flush_downstream(self, now: float) -> None:
        self.told.append(("room",))

    def settled_downstream(self, rung: Rung, seq: int, now: float) -> None:
        self.told.append(("settled", rung, seq))

    def rejected_downstream(self, seq: int, body: RejectBody, now: float) -> None:
        self.told.append(("rejected", seq, body.code))

    def progress_upstream(self) -> tuple[int, ...]:
        return (self.progress,)

    def arm(self, now: float) -> None: ...

    def client_closed(self, code: int, reason: str, now: float) -> None:
        self.told.append(("closed", code, reason))

    def client_lost(
        self, now: float, *, unknown: UnknownReason = UnknownReason.VANISHED, reason: str = "connection lost"
    ) -> None:
        self.told.append(("lost", unknown))

    def client_detached(self, now: float, *, code: int = ABNORMAL, reason: str = "") -> None:
        self.told.append(("detached", code))

    def fail(self, fault: ConnectionFault, now: float) -> None:
        self.told.append(("failed", type(fault).__name__, str(fault)))

    def from_backend(self, pieces: list[Piece], now: float) -> None:
        self.told += [("data", *piece) for piece in pieces]

    def flush_upstream(self, now: float) -> None:
        self.told.append(("room",))

    def settled_upstream(self, rung: Rung, seq: int, now: float) -> None:
        self.told.append(("settled", rung, seq))

    def rejected_upstream(self, seq: int, body: RejectBody, now: float) -> None:
        self.told.append(("rejected", seq, body.code))

    def backend_ended(
        self, now: float, *, code: int = 1000, reason: str = "", fault: ConnectionFault | None = None
    ) -> None:
        self.told.append(("ended", code if fault is None else type(fault).__name__))

    def backend_lost(self, fault: BackendFault, now: float) -> None:
        self.told.append(("lost", type(fault).__name__))

    def backend_answered(self, now: float) -> None:
        self.told.append(("answered",))

    def taken_over(self, now: float) -> None:
        self.told.append(("taken over",))

    def on_fault(self, error: Exception) -> None:
        raise error

    @property
    def data(self) -> bytes:
        return b"".join(entry[2] for entry in self.told if entry[0] == "data")


class Stage:
    """Where one side is tried: its socket's far end, its two lanes, the junction that it tells."""

    def __init__(
        self,
        settings: RelaySettings | None = None,
        *,
        settles_at: Rung = Rung.REACHED,
        overhead_bytes: int | None = None,
        track: bool = True,
        pair: Callable[[], tuple[socket.socket, socket.socket]] = tcp_pair,
    ) -> None:
        self.now = 1000.0
        self.pump = Pump(clock=lambda: self.now)
        self.junction = Recorder()
        self.tab = open_tab()
        self.metrics = RouteMetrics("test")
        self.incoming = Lane(self.metrics.upstream, self._ledger(settles_at, None) if track else None, self.tab)
        self.outgoing = Lane(
            self.metrics.downstream,
            self._ledger(settles_at, overhead_bytes) if track else None,
            self.tab,
            Retained(self.tab, limit_bytes=1 << 20),
        )
        self.place = Place(
            self.pump,
            self.junction,
            incoming=self.incoming,
            outgoing=self.outgoing,
            settings=settings or RelaySettings(),
            tab=self.tab,
        )
        self.sock, theirs = pair()
        self.peer = Peer(theirs)

    @staticmethod
    def _ledger(settles_at: Rung, overhead_bytes: int | None) -> Ledger:
        return Ledger(settles_at, window_messages=8, window_bytes=1 << 20, overhead_bytes=overhead_bytes)

    def until(self, condition: Callable[[], bool]) -> None:
        """Lets everything move until something is so; the kernel takes real time."""
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, f"in vain: {self.junction.told}, {bytes(self.peer.got)!r}"
            self.settle()

    def settle(self) -> None:
        for _ in range(20):
            self.pump.turn()
            self.peer.poll()

    def close(self) -> None:
        self.peer.sock.close()
        assert self.pump.sources == 0
        self.pump.close()
