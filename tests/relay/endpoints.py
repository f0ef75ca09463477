"""An endpoint in a pump of its own over a pair of real sockets, an owner that notes what it hears, and the far end."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from gateway.protocol.pieces import Buffer
from gateway.relay.endpoint import Endpoint
from gateway.relay.ports import LoneOwner
from gateway.relay.pump import Pump
from gateway.relay.tls_endpoint import endpoint_for
from tests.relay.harness import open_tab

Pair: TypeAlias = Callable[[], tuple[socket.socket, socket.socket]]


@dataclass
class Owner(LoneOwner):
    data: bytearray = field(default_factory=bytearray)
    news: list[str] = field(default_factory=list)
    raises: bool = False

    def on_data(self, data: Buffer, now: float) -> None:
        if self.raises:
            raise RuntimeError("a bug")
        self.data += data

    def on_eof(self, now: float) -> None:
        self.news.append("eof")

    def on_drained(self, now: float) -> None:
        self.news.append("drained")

    def on_broken(self, error: OSError, now: float) -> None:
        self.news.append("broken")

    def on_fault(self, error: Exception) -> None:
        self.news.append("fault")


@dataclass
class Scene:
    pump: Pump
    owner: Owner
    endpoint: Endpoint
    peer: socket.socket

    def turns(self, until: Callable[[], bool]) -> None:
        """Runs turns until something is so; a test that waits in vain fails by its bound."""
        for _ in range(1_000_000):
            if until():
                return
            self.pump.turn()
        raise AssertionError(f"in vain: {self.owner.news}, {len(self.owner.data)} bytes")


@contextmanager
def endpoint_on(pair: Pair) -> Iterator[Scene]:
    """The scene, until the block ends; then the pump has no source left."""
    pump, owner = Pump(clock=lambda: 0.0), Owner()
    ours, theirs = pair()
    endpoint = endpoint_for(ours, pump, owner, open_tab())
    yield Scene(pump, owner, endpoint, theirs)
    endpoint.close()
    theirs.close()
    assert pump.sources == 0
    pump.close()
