"""A relay between two real sockets, a clock to set, and peers to speak for the client and for the backend."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.errors import BackendFault
from gateway.memory.account import Account, Tab
from gateway.protocol.frames import FIRST, LAST
from gateway.protocol.framings import Framing, StreamFraming
from gateway.protocol.ledger import Ledger
from gateway.protocol.messages import WebSocketConnection
from gateway.protocol.records import Rung
from gateway.relay.ending import Ending
from gateway.relay.evidence import Evidence
from gateway.relay.framed_backend import FramedBackend
from gateway.relay.lane import Lane
from gateway.relay.plain_client import PlainClient
from gateway.relay.pump import Pump
from gateway.relay.records_backend import RecordsBackend
from gateway.relay.relay import Relay
from gateway.relay.settings import RelaySettings
from gateway.telemetry.metrics import RouteMetrics
from tests.relay.sockets import tcp_pair
from tests.support.peers.pumped import Browser, Peer

WHOLE = FIRST | LAST

Pair = Callable[[], tuple[socket.socket, socket.socket]]


def open_tab() -> Tab:
    """A session's tab in an account of its own, with room for anything."""
    return Account(limit_bytes=64 << 20, holder_bytes=64 << 20).open("127.0.0.1")


@dataclass
class Scene:
    """What a test plays with; `until` lets the pump turn and the peers read until something is so."""

    framing: Framing = field(default_factory=StreamFraming)
    settings: RelaySettings = field(default_factory=RelaySettings)
    window_messages: int = 1024
    window_bytes: int = 4 << 20
    message_bytes: int | None = None
    track: bool = True
    now: float = 1000.0
    client_pair: Pair = tcp_pair
    backend_pair: Pair = tcp_pair
    """(ours, theirs)."""

    def __post_init__(self) -> None:
        self.metrics = RouteMetrics("test")
        self.account = Account(limit_bytes=64 << 20, holder_bytes=64 << 20)
        self.tab = self.account.open("127.0.0.1")
        self.pump = Pump(clock=lambda: self.now)
        self.endings: list[Ending] = []
        client_sock, browser_sock = self.client_pair()
        backend_sock, service_sock = self.backend_pair()
        self.browser, self.service = Browser(browser_sock), Peer(service_sock)

        def ledger(overhead: int | None, settles_at: Rung = Rung.REACHED) -> Ledger | None:
            if not self.track:
                return None
            return Ledger(
                settles_at,
                window_messages=self.window_messages,
                window_bytes=self.window_bytes,
                overhead_bytes=overhead,
            )

        fenced = Rung.REACHED if self.settings.fence else Rung.WRITTEN
        self.up = Lane(self.metrics.upstream, ledger(self.framing.overhead_bytes), self.tab)
        self.down = Lane(self.metrics.downstream, ledger(None, fenced), self.tab)
        self.relay = Relay(
            pump=self.pump,
            settings=self.settings,
            up=self.up,
            down=self.down,
            tab=self.tab,
            host=self,
        )
        ws = WebSocketConnection(client=False, message_bytes=self.message_bytes)
        self.client = PlainClient(client_sock, self.relay.for_client, ws)
        self.backend = FramedBackend(backend_sock, self.relay.for_backend, self.framing, Evidence(backend_sock))
        self.relay.start(self.client, self.backend, early=b"", now=self.now)

    def relay_detached(self, relay: Relay, now: float) -> None:
        raise AssertionError("a plain client cannot be away")

    def relay_lost_backend(self, relay: Relay, lost: RecordsBackend, fault: BackendFault, now: float) -> None:
        raise AssertionError("a backend without records cannot be dialled again")

    def relay_ended(self, relay: Relay, ending: Ending) -> None:
        self.endings.append(ending)
        self.tab.close()

    def until(self, condition: Callable[[], bool]) -> None:
        # The scene's clock stands still meanwhile; the kernel takes real time, on a busy machine a good deal of it.
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            self.step(20)
            if condition():
                return
        browser = (self.browser.messages[-3:], self.browser.close_code)
        state = (self.relay.closing.state, self.endings, browser, self.service.ended)
        raise AssertionError(f"in vain: {state}")

    def flood(self, send: Callable[[], object]) -> None:
        """Calls `send`, letting everything move, until the sender's kernel takes no more."""
        while True:
            try:
                send()
            except BlockingIOError:
                return
            self.step()

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.pump.turn()
            self.browser.poll()
            self.service.poll()

    def settle(self) -> None:
        """Lets everything happen that happens without time passing."""
        self.step(50)

    def pass_time(self, seconds: float) -> None:
        """Moves the clock and rings what is due, as the pump's timer task would."""
        self.now += seconds
        self.pump.ring()
        self.settle()

    def close(self) -> None:
        self.relay.cut(self.now)
        self.browser.sock.close()
        self.service.sock.close()
        assert self.pump.sources == 0
        self.pump.close()

    @property
    def ending(self) -> Ending:
        assert len(self.endings) == 1
        return self.endings[0]


NewScene = Callable[..., Scene]
