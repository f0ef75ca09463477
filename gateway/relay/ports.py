"""What the parts of the data path ask of each other, so that each can be read, and tried, without the others.

The pump calls a *source*, an endpoint calls its *owner*; a *side* is what the relay knows of a client or a backend, and
a side knows of the relay that it is a *junction*. Imports run from here upward: endpoint and lane, the sides, what
stands for a side that is away, the relay.

These are abstract classes and not protocols: compiled, a call through one is a C call, a quarter of the time.
"""

from abc import ABC, abstractmethod
from typing import Final

from mypy_extensions import i64, mypyc_attr, trait

from gateway.codes import ABNORMAL, NORMAL
from gateway.errors import BackendFault, ConnectionFault
from gateway.protocol.pieces import Buffer, Piece
from gateway.protocol.records import RejectBody, Rung, SessionReport
from gateway.relay.vitals import Vitals
from gateway.telemetry.metrics import PauseCause, UnknownReason

UNKNOWN: Final = -1
"""An offset of which the kernel says nothing."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Source(ABC):
    """A file descriptor's owner in the pump."""

    __slots__ = ()

    @abstractmethod
    def on_events(self, mask: int, now: float) -> None:
        """The descriptor is ready as `mask` (epoll's bits) says; `now` is the turn's time in seconds."""

    @abstractmethod
    def on_fault(self, error: Exception) -> None:
        """A bug of ours escaped `on_events`: end this source's connection, and nothing else."""


@trait
@mypyc_attr(allow_interpreted_subclasses=True)
class EndpointOwner(ABC):
    """Whoever reads an endpoint and is told of its end."""

    __slots__ = ()

    @abstractmethod
    def on_data(self, data: Buffer, now: float) -> None:
        """Bytes came. `data` may be the pump's shared buffer: what is kept must be copied."""

    @abstractmethod
    def on_eof(self, now: float) -> None:
        """The peer has ended its sending. Reading is over, writing still works."""

    @abstractmethod
    def on_drained(self, now: float) -> None:
        """The buffer was full and is at the low mark again, or it is empty again, a `finish` done with it."""

    @abstractmethod
    def on_broken(self, error: OSError, now: float) -> None:
        """The connection is gone: reset, timed out by the kernel, or a TLS failure. Nothing more comes or goes."""

    @abstractmethod
    def on_hung_up(self, now: float, *, was_reset: bool) -> None:
        """Not read at present, and the peer has gone, or ended its sending; what came before may be unread.

        Told once, and only where the endpoint's `tells_hang_up` is set.
        """

    @abstractmethod
    def on_fault(self, error: Exception) -> None:
        """A bug of ours, in the owner or in the endpoint."""


@mypyc_attr(allow_interpreted_subclasses=True)
class LoneOwner(EndpointOwner):
    """An owner that is not a side as well, and lets everything pass: an interpreted class may inherit from it.

    From a compiled trait it may not, and the owner has to be a trait, since a side is an owner besides.
    """

    def on_data(self, data: Buffer, now: float) -> None: ...

    def on_eof(self, now: float) -> None: ...

    def on_drained(self, now: float) -> None: ...

    def on_broken(self, error: OSError, now: float) -> None: ...

    def on_hung_up(self, now: float, *, was_reset: bool) -> None: ...

    def on_fault(self, error: Exception) -> None: ...


class Sample:
    """What a look at a backend's socket found: how far the bytes of its outgoing lane are, as offsets in these."""

    __slots__ = ("reached", "written")

    def __init__(self, written: i64, reached: i64 = UNKNOWN) -> None:
        self.written = written
        """What the kernel has taken."""
        self.reached = reached
        """What the far host has acknowledged, or UNKNOWN."""


class Side(ABC):
    """Common to both sides."""

    __slots__ = ()

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """No more should be handed over until the junction is told that there is room."""

    @property
    @abstractmethod
    def pause_cause(self) -> PauseCause:
        """Why this side holds its sender up."""

    @property
    @abstractmethod
    def is_gone(self) -> bool:
        """There is no socket any more, and none will come."""

    @property
    @abstractmethod
    def buffered(self) -> int:
        """Bytes that the kernel has not taken."""

    @abstractmethod
    def vitals(self) -> Vitals:
        """A look at how the far host takes what was sent."""

    @abstractmethod
    def next_deadline(self, now: float) -> float:
        """When `tick` has something to do, in seconds; may lie in the past."""

    @abstractmethod
    def tick(self, now: float) -> None:
        """Looks whether the peer is still there."""

    @property
    @abstractmethod
    def written(self) -> int:
        """How many bytes of the outgoing lane, counted on this hop, the kernel has taken; UNKNOWN without a socket."""

    @abstractmethod
    def pause(self) -> None:
        """Reads no more at all for now."""

    @abstractmethod
    def resume(self) -> None:
        """Reads on, unless nothing is to be heard any more."""

    @abstractmethod
    def close(self) -> None:
        """Closes the socket at once; what is buffered is lost."""


class ClientSide(Side):
    """The client's side. It enters what it is given in its outgoing lane, and hands on what comes to the junction."""

    __slots__ = ()

    close_sent: bool
    """Our Close frame is sent."""

    @property
    def is_throttled(self) -> bool:
        """It sends faster than it may, and is not read until it has made up for that."""
        return False

    @property
    @abstractmethod
    def is_closing(self) -> bool:
        """Our Close is sent, or the socket closed: nothing more can be delivered."""

    @property
    @abstractmethod
    def is_mid_message(self) -> bool:
        """Only the beginning of a message has been delivered."""

    @property
    @abstractmethod
    def receipts(self) -> frozenset[Rung]:
        """Rungs below the settling one that the client wants to hear of."""

    @property
    @abstractmethod
    def close_received(self) -> bool:
        """The client's Close frame has come, or none can come any more, because it broke the protocol."""

    @abstractmethod
    def start(self, early: bytes, now: float) -> None:
        """Begins reading; `early` is what the client sent behind its handshake."""

    @abstractmethod
    def deliver(self, pieces: list[Piece], now: float, *, fence: bool) -> None:
        """Enters and sends data, with `fence` a fence behind it in the same write, where one can be raised."""

    @abstractmethod
    def send_close(self, code: int | None, reason: str, report: SessionReport | None, now: float) -> None:
        """Sends the Close that ends the session; a client that speaks records is told the report."""

    @abstractmethod
    def finish(self) -> None:
        """Ends our direction once everything is out, and waits for the client's end."""

    @abstractmethod
    def leave(self, code: int | None, reason: str, now: float) -> None:
        """Closes this connection while the session goes on, here or elsewhere; the side looks after its own end."""

    @abstractmethod
    def fence(self, now: float) -> bool:
        """Raises a fence behind what was sent, or says that one will tell; false if no evidence is to be had."""

    @abstractmethod
    def upstream_advanced(self, now: float) -> None:
        """Messages of the client's were settled, or climbed to a rung that it wants to hear of."""

    @abstractmethod
    def upstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        """A message of the client's was refused."""


class BackendSide(Side):
    """The backend's side. It enters what it is given in its outgoing lane, and hands on what comes to the junction."""

    __slots__ = ()

    @property
    @abstractmethod
    def is_finished(self) -> bool:
        """It has been told that no more will be sent."""

    @abstractmethod
    def start(self, now: float) -> None:
        """Begins reading."""

    @abstractmethod
    def send(self, pieces: list[Piece], now: float) -> None:
        """Enters and sends data. Raises ConnectionFault for a message that the framing cannot carry."""

    @abstractmethod
    def finish(self, code: int, reason: str, report: SessionReport | None, now: float) -> None:
        """No more will be sent: the client closed with `code`, or is gone (1006). Calling it again does nothing."""

    @abstractmethod
    def leave(self) -> bool:
        """Closes this connection while the session goes on elsewhere; false if this backend cannot resume one."""

    @abstractmethod
    def reset(self) -> None:
        """Closes so that the backend cannot take a cut-off stream for a complete one."""

    @abstractmethod
    def hold_back(self) -> None:
        """What comes cannot be passed on at present."""

    @abstractmethod
    def sample(self, receipts: frozenset[Rung]) -> Sample | None:
        """Looks how far the outgoing lane got; None if no evidence is to be had that way.

        `receipts`: rungs below the settling one that the client wants to hear of.
        """

    @abstractmethod
    def downstream_settled(self, now: float) -> None:
        """Messages of the backend's were settled."""

    @abstractmethod
    def downstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        """The client refused a message of the backend's."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Junction(ABC):
    """What a side may ask of what joins it with the other one."""

    __slots__ = ()

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """The session's end has not begun."""

    @property
    @abstractmethod
    def may_be_taken_up(self) -> bool:
        """A client that speaks records may leave without having ended it, and come back."""

    # --- the client's side tells ----------------------------------------------------------------------------------

    @abstractmethod
    def from_client(self, pieces: list[Piece], now: float) -> None:
        """Data of the client's, in order."""

    @abstractmethod
    def flush_downstream(self, now: float) -> None:
        """The client can take more."""

    @abstractmethod
    def settled_downstream(self, rung: Rung, seq: int, now: float) -> None:
        """Evidence of the client's: all messages up to number `seq` are at `rung`. Raises ProtocolViolation."""

    @abstractmethod
    def rejected_downstream(self, seq: int, body: RejectBody, now: float) -> None:
        """The client refuses message number `seq`; it counts as settled. Raises ProtocolViolation."""

    @abstractmethod
    def arm(self, now: float) -> None:
        """The client's `next_deadline` has come nearer."""

    @abstractmethod
    def progress_upstream(self) -> tuple[int, ...]:
        """Something that is another one when the backend has taken more of what the client sent."""

    @abstractmethod
    def client_closed(self, code: int, reason: str, now: float) -> None:
        """The client's Close frame came, the first of the two or the answer to ours."""

    @abstractmethod
    def client_lost(
        self, now: float, *, unknown: UnknownReason = UnknownReason.VANISHED, reason: str = "connection lost"
    ) -> None:
        """The client's connection ended: without a Close, or after the closing handshake, when that is how it goes."""

    @abstractmethod
    def client_detached(self, now: float, *, code: int = ABNORMAL, reason: str = "") -> None:
        """A resumable client's connection ends, or is about to; the session waits for it, for `grace` at the most."""

    @abstractmethod
    def fail(self, fault: ConnectionFault, now: float) -> None:
        """The client, or we, did what ends the connection at once; nothing that is held goes on any more."""

    # --- the backend's side tells ---------------------------------------------------------------------------------

    @abstractmethod
    def from_backend(self, pieces: list[Piece], now: float) -> None:
        """Data of the backend's, in order."""

    @abstractmethod
    def flush_upstream(self, now: float) -> None:
        """The backend can take more, or its window has room again."""

    @abstractmethod
    def settled_upstream(self, rung: Rung, seq: int, now: float) -> None:
        """Evidence of the backend's: all messages up to number `seq` are at `rung`. Raises ProtocolViolation."""

    @abstractmethod
    def rejected_upstream(self, seq: int, body: RejectBody, now: float) -> None:
        """The backend refuses message number `seq`; it counts as settled. Raises ProtocolViolation."""

    @abstractmethod
    def backend_ended(
        self, now: float, *, code: int = NORMAL, reason: str = "", fault: ConnectionFault | None = None
    ) -> None:
        """The backend's connection is over: in good order with `code`, or by a `fault`."""

    @abstractmethod
    def backend_lost(self, fault: BackendFault, now: float) -> None:
        """A records backend's connection broke: it is dialled again while its client, whoever it is, stays."""

    @abstractmethod
    def backend_answered(self, now: float) -> None:
        """The backend has answered the newest PING: up to then the session was this gateway's."""

    @abstractmethod
    def taken_over(self, now: float) -> None:
        """Another gateway has the session now: it is let go of here, and a client that is still on it is sent away."""

    # --- both -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def on_fault(self, error: Exception) -> None:
        """A bug of ours: this session ends with 1011, no other is touched."""
