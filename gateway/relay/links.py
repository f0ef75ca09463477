"""What a relay wants of its two sides, whoever they are: a client that is there or away, a backend of any framing."""

from abc import ABC, abstractmethod

from gateway.protocol.pieces import Piece
from gateway.protocol.records import RejectBody, Rung
from gateway.telemetry.metrics import PauseCause


class Link(ABC):
    """Common to both sides."""

    __slots__ = ()

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """No more should be handed over until the relay is asked to flush."""

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
    def progress(self) -> tuple[int, int]:
        """(bytes the kernel has taken, bytes still buffered): whether anything moves."""

    @abstractmethod
    def take_stock(self, now: float) -> None:
        """The last look at the socket before it is closed, for the loss report."""

    @abstractmethod
    def close(self) -> None:
        """Closes the socket at once; what is buffered is lost."""


class ClientLink(Link):
    """The client's side."""

    __slots__ = ()

    close_sent: bool
    """Our Close frame is sent."""

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
    def is_resumable(self) -> bool:
        """The session may outlive this connection."""

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
    def pause(self) -> None:
        """Reads no more for now."""

    @abstractmethod
    def resume(self) -> None:
        """Reads on, unless nothing is to be heard any more."""

    @abstractmethod
    def deliver(self, pieces: list[Piece], now: float, *, fence: bool) -> None:
        """Records and sends data, with `fence` a fence behind it in the same write, where one can be raised."""

    @abstractmethod
    def send_close(self, code: int | None, reason: str) -> None:
        """Sends the Close that ends the session."""

    @abstractmethod
    def finish(self) -> None:
        """Ends our direction once everything is out, and waits for the client's end."""

    @abstractmethod
    def leave(self, code: int | None, reason: str, now: float) -> None:
        """Closes this connection while the session goes on, here or elsewhere; the link looks after its own end."""

    @abstractmethod
    def fence(self, now: float) -> bool:
        """Raises a fence behind what was sent, or says that one will tell; false if no evidence is to be had."""

    @abstractmethod
    def upstream_advanced(self, now: float) -> None:
        """Messages of the client's were settled, or climbed to a rung that it wants to hear of."""

    @abstractmethod
    def upstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        """A message of the client's was refused."""

    @abstractmethod
    def next_deadline(self, now: float) -> float:
        """When `tick` has something to do, in seconds; may lie in the past."""

    @abstractmethod
    def tick(self, now: float) -> None:
        """Keepalive."""


class BackendLink(Link):
    """The backend's side."""

    __slots__ = ()

    @abstractmethod
    def start(self, now: float) -> None:
        """Begins reading."""

    @abstractmethod
    def send(self, pieces: list[Piece], now: float) -> None:
        """Records and sends data. Raises ConnectionFault for a message that the framing cannot carry."""

    @abstractmethod
    def finish(self, code: int, reason: str) -> None:
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
    def resume(self) -> None:
        """What comes can be passed on."""

    @abstractmethod
    def pause(self) -> None:
        """Reads no more at all."""

    @abstractmethod
    def sample(self, now: float) -> bool:
        """Looks for evidence of what was sent, and tells the relay what it finds; false if none is to be had."""

    @abstractmethod
    def downstream_settled(self, now: float) -> None:
        """Messages of the backend's were settled."""

    @abstractmethod
    def downstream_rejected(self, seq: int, body: RejectBody, now: float) -> None:
        """The client refused a message of the backend's."""
