"""What a relay wants of its two sides, whoever they are: a client that is there or away, a backend of any framing."""

from typing import Protocol

from gateway.protocol.pieces import Piece
from gateway.protocol.records import RejectBody, Rung
from gateway.telemetry.metrics import PauseCause


class Link(Protocol):
    """Common to both sides."""

    @property
    def is_full(self) -> bool:
        """No more should be handed over until the relay is asked to flush."""

    @property
    def pause_cause(self) -> PauseCause:
        """Why this side holds its sender up."""

    @property
    def is_gone(self) -> bool:
        """There is no socket any more, and none will come."""

    @property
    def progress(self) -> tuple[int, int]:
        """(bytes the kernel has taken, bytes still buffered): whether anything moves."""

    def take_stock(self, now: float) -> None:
        """The last look at the socket before it is closed, for the loss report."""

    def close(self) -> None:
        """Closes the socket at once; what is buffered is lost."""


class ClientLink(Link, Protocol):
    """The client's side."""

    @property
    def is_closing(self) -> bool:
        """Our Close is sent, or the socket closed: nothing more can be delivered."""

    @property
    def is_resumable(self) -> bool:
        """The session may outlive this connection."""

    @property
    def receipts(self) -> frozenset[Rung]:
        """Rungs below the settling one that the client wants to hear of."""

    @property
    def close_sent(self) -> bool:
        """Our Close frame is sent."""

    @property
    def close_received(self) -> bool:
        """The client's Close frame has come, or none can come any more, because it broke the protocol."""

    def start(self, early: bytes, now: float) -> None:
        """Begins reading; `early` is what the client sent behind its handshake."""

    def pause(self) -> None:
        """Reads no more for now."""

    def resume(self) -> None:
        """Reads on, unless nothing is to be heard any more."""

    def deliver(self, pieces: list[Piece], now: float, *, fence: bool) -> None:
        """Records and sends data, with `fence` a fence behind it in the same write, where one can be raised."""

    def send_close(self, code: int | None, reason: str) -> None:
        """Sends the Close that ends the session."""

    def finish(self) -> None:
        """Ends our direction once everything is out, and waits for the client's end."""

    def leave(self, code: int | None, reason: str, now: float) -> None:
        """Closes this connection while the session goes on, here or elsewhere; the link looks after its own end."""

    def fence(self, now: float) -> bool:
        """Raises a fence behind what was sent, or says that one will tell; false if no evidence is to be had."""

    def upstream_advanced(self, now: float) -> None:
        """Messages of the client's were settled, or climbed to a rung that it wants to hear of."""

    def upstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        """A message of the client's was refused."""

    def next_deadline(self, now: float) -> float:
        """When `tick` has something to do, in seconds; may lie in the past."""

    def tick(self, now: float) -> None:
        """Keepalive."""


class BackendLink(Link, Protocol):
    """The backend's side."""

    def start(self, now: float) -> None:
        """Begins reading."""

    def send(self, pieces: list[Piece], now: float) -> None:
        """Records and sends data. Raises ConnectionFault for a message that the framing cannot carry."""

    def finish(self, code: int, reason: str) -> None:
        """No more will be sent: the client closed with `code`, or is gone (1006). Calling it again does nothing."""

    def leave(self) -> bool:
        """Closes this connection while the session goes on elsewhere; false if this backend cannot resume one."""

    def reset(self) -> None:
        """Closes so that the backend cannot take a cut-off stream for a complete one."""

    def hold_back(self) -> None:
        """What comes cannot be passed on at present."""

    def resume(self) -> None:
        """What comes can be passed on."""

    def pause(self) -> None:
        """Reads no more at all."""

    def sample(self, now: float) -> bool:
        """Looks for evidence of what was sent, and tells the relay what it finds; false if none is to be had."""

    def downstream_settled(self, now: float) -> None:
        """Messages of the backend's were settled."""

    def downstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        """The client refused a message of the backend's."""
