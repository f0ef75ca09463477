"""The account says what is held: lanes driven in any way, beside a measurement of the objects that they keep.

`HYPOTHESIS_PROFILE=deep` looks further.
"""

import socket
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.memory.account import Account, Charge
from gateway.memory.costs import PIECE_BYTES
from gateway.protocol.ledger import Ledger, Run
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import Rung
from gateway.protocol.sequencing import DataSender
from gateway.relay.endpoint import Endpoint
from gateway.relay.lane import LEDGER_BYTES, Lane
from gateway.relay.ports import LoneOwner
from gateway.relay.pump import Pump
from gateway.relay.retained import Retained
from gateway.telemetry.metrics import RouteMetrics

FACTOR: Final = 2.0
SLACK_BYTES: Final = 1024
"""Empty lists, a deque and the room that a list grows into are in what a session costs."""

BINARY: Final = int(Opcode.BINARY)


def measure(roots: Iterable[object]) -> int:
    """What these and all that they keep take by `sys.getsizeof`, each once; what the interpreter shares is free."""
    size, seen = 0, set[int]()
    left: list[Any] = list(roots)
    while left:
        item = left.pop()
        if id(item) in seen or item is None or (isinstance(item, int) and -5 <= item <= 256):
            continue
        seen.add(id(item))
        if isinstance(item, bytes) and len(item) < 2:
            continue
        size += sys.getsizeof(item)
        if isinstance(item, list | tuple | deque):
            left.extend(item)
        elif isinstance(item, memoryview):
            left.append(item.obj)
        elif isinstance(item, Run):
            left.extend(getattr(item, name) for name in Run.__slots__)
    return size


class Owner(LoneOwner):
    """Of the next hop, which says nothing."""


class Lanes(RuleBasedStateMachine):
    """A lane whose next hop takes as much as it likes, settles what it likes, and may be made anew."""

    @initialize(window=st.integers(1, 300), limit=st.sampled_from([1000, 100_000]))
    def begin(self, window: int, limit: int) -> None:
        self.account = Account(limit_bytes=1 << 30, holder_bytes=1 << 30)
        self.tab = self.account.open("127.0.0.1")
        self.base = int(self.tab.used)
        self.ledger = Ledger(Rung.CONSUMED, window_messages=window, window_bytes=200_000, overhead_bytes=None)
        self.retained = Retained(self.tab, limit_bytes=limit)
        self.lane = Lane(RouteMetrics("test").upstream, self.ledger, self.tab, self.retained)
        self.pump = Pump(clock=lambda: 0.0)
        self.is_mid_message = False
        self.connect()

    def connect(self) -> None:
        ours, self.peer = socket.socketpair()
        for sock in (ours, self.peer):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        self.endpoint = Endpoint(ours, self.pump, Owner(), self.tab)
        self.sender = DataSender(start=int(self.ledger.settled))

    def disconnect(self) -> None:
        self.endpoint.close()
        self.peer.close()

    def go_on(self) -> None:
        lane, endpoint = self.lane, self.endpoint
        while lane.replay is not None and not endpoint.is_full:
            pieces = lane.replay_some(self.sender, endpoint.bytes_taken + endpoint.buffered)
            if pieces:
                endpoint.write(self.sender.encode_prefixed(pieces))
        while lane.replay is None and lane.held and not endpoint.is_full:
            pieces = lane.admit_held()
            if not pieces:
                break
            data = self.sender.encode_prefixed(pieces)
            lane.enter(pieces, len(data), 0.0)
            endpoint.write(data)

    @rule(
        sizes=st.lists(st.sampled_from([0, 1, 2, 16, 100, 1000, 3000]), min_size=1, max_size=4),
        repeats=st.integers(1, 100),
        pieces_a_message=st.integers(1, 5),
        ends=st.booleans(),
    )
    def send(self, sizes: list[int], repeats: int, pieces_a_message: int, ends: bool) -> None:
        pieces: list[Piece] = []
        count = len(sizes) * repeats
        for number in range(count):
            flags = 0 if self.is_mid_message else FIRST
            is_last = (ends and number == count - 1) or number % pieces_a_message == pieces_a_message - 1
            self.is_mid_message = not is_last
            payload = bytes(bytearray(sizes[number % len(sizes)]))  # an object of its own
            pieces.append((BINARY, payload, flags | (LAST if is_last else 0)))
        self.lane.hold(pieces)
        self.go_on()

    @rule(most=st.sampled_from([1, 1000, 100_000]))
    def take(self, most: int) -> None:
        """The next hop reads."""
        with suppress(BlockingIOError):
            while most > 0:
                data = self.peer.recv(min(most, 65536))
                most -= len(data)
                self.pump.turn()
                self.endpoint.flush(0.0)
        self.go_on()

    @precondition(lambda self: self.lane.is_unsettled and self.lane.replay is None)
    @rule(share=st.floats(0.0, 1.0))
    def settle(self, share: float) -> None:
        ledger = self.ledger
        self.lane.settle(Rung.CONSUMED, int(ledger.settled) + int(share * int(ledger.accepted - ledger.settled)), 0.0)
        self.go_on()

    @precondition(lambda self: not self.retained.is_cut and not self.ledger.is_in_message)
    @rule()
    def make_the_hop_anew(self) -> None:
        self.disconnect()
        self.connect()
        self.lane.begin_replay()
        self.go_on()

    @rule()
    def break_off(self) -> None:
        """The sender is gone within a message."""
        if self.is_mid_message and not self.ledger.is_in_message:
            self.lane.drop_unfinished()
            self.is_mid_message = False

    @rule()
    def forget(self) -> None:
        """Nobody is there any more to take what is still to go on."""
        if not self.is_mid_message:
            had_begun = self.ledger.is_in_message
            if not had_begun and self.lane.replay is None:
                self.lane.drop_all()

    @invariant()
    def the_account_is_what_is_held(self) -> None:
        lane, retained, endpoint, replay = self.lane, self.retained, self.endpoint, self.lane.replay
        lane.reckon()
        kept: list[tuple[Charge, object]] = [
            (lane._held_charge, lane.held),
            (retained._charge, retained.pieces),
            (endpoint._charge, endpoint._pending),
            (lane._ledger_charge, self.ledger._runs),
        ]
        if replay is not None:
            kept.append((replay._charge, replay._rest))
        for charge, objects in kept:
            charged, held = int(charge.size), measure([objects])
            slack = SLACK_BYTES + (LEDGER_BYTES if charge is lane._ledger_charge else 0)
            assert charged <= FACTOR * held + SLACK_BYTES, (objects, charged, held)
            assert held <= FACTOR * charged + slack, (objects, charged, held)
        assert self.tab.used - self.base == sum(int(charge.size) for charge, _ in kept)
        assert self.account.used == self.tab.used

    def teardown(self) -> None:
        if not hasattr(self, "pump"):
            return
        lane = self.lane
        lane.drop_all()
        self.disconnect()
        lane.settle(Rung.CONSUMED, int(self.ledger.accepted), 0.0)
        lane.reckon()
        assert not lane.holds_back
        left = int(self.tab.used) - self.base
        assert left == self.retained.bytes + PIECE_BYTES * len(
            self.retained.pieces
        )  # a message that never ended, if any
        self.tab.close()
        assert self.account.used == 0
        self.pump.close()


TestLanes = Lanes.TestCase
TestLanes.settings = settings(max_examples=settings().max_examples // 4, deadline=None)
