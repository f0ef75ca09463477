"""The pump calls who is ready, bounds its turns, runs turn ends and timers, and outlives a source's fault."""

import os
import socket
from collections import Counter
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from gateway.relay.ports import Source
from gateway.relay.pump import READABLE, RING_SLEEPERS, TIMER_SLACK_SECONDS, TURN_CHECK_EVENTS, TURN_SECONDS, Pump
from gateway.relay.timers import Entry


class Reader(Source):
    """A source that collects what it reads, or does something else."""

    def __init__(self, sock: socket.socket, action: Callable[[], None] | None = None) -> None:
        self.sock = sock
        self.action = action
        self.got: list[bytes] = []
        self.faults: list[Exception] = []
        self.timer: Entry | None = None
        self.rang: list[float] = []
        self.arrived = trio.Event()

    def on_events(self, mask: int, now: float) -> None:
        self.got.append(self.sock.recv(100))
        if self.action is not None:
            self.action()
        self.arrived.set()

    def on_timer(self, now: float) -> None:
        self.rang.append(now)
        if self.action is not None:
            self.action()
        self.arrived.set()

    def on_fault(self, error: Exception) -> None:
        self.faults.append(error)
        self.arrived.set()


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


def failing() -> None:
    raise RuntimeError("a bug")


def test_a_turn_calls_each_ready_source_and_then_the_turn_end() -> None:
    pump = Pump(clock=lambda: 7.0)
    ours, theirs = pair()
    reader = Reader(ours, action=lambda: pump.at_turn_end(ended.append))
    ended: list[float] = []
    with ours, theirs:
        pump.register(ours.fileno(), reader, READABLE)
        assert pump.turn() == 0
        theirs.send(b"hello")
        assert pump.turn() == 1
        assert reader.got == [b"hello"]
        assert ended == [7.0]
        pump.unregister(ours.fileno())
        pump.unregister(ours.fileno())
        theirs.send(b"unheard")
        assert pump.turn() == 0
    pump.close()


def test_a_source_that_unregisters_another_in_the_same_turn_is_obeyed() -> None:
    pump = Pump(clock=lambda: 0.0)
    (one, one_peer), (two, two_peer) = pair(), pair()
    readers: list[Reader] = []
    for ours, other in ((one, two), (two, one)):
        readers.append(Reader(ours, action=lambda other=other: pump.unregister(other.fileno())))  # type: ignore[misc]
        pump.register(ours.fileno(), readers[-1], READABLE)
    with one, one_peer, two, two_peer:
        one_peer.send(b"x")
        two_peer.send(b"y")
        pump.turn()
        assert sum(len(reader.got) for reader in readers) == 1
    pump.close()


def test_a_fault_ends_its_source_and_no_other() -> None:
    pump = Pump(clock=lambda: 0.0)
    (bad, bad_peer), (good, good_peer) = pair(), pair()
    faulty, sound = Reader(bad, action=failing), Reader(good)
    with bad, bad_peer, good, good_peer:
        pump.register(bad.fileno(), faulty, READABLE)
        pump.register(good.fileno(), sound, READABLE)
        bad_peer.send(b"x")
        good_peer.send(b"y")
        pump.turn()
        assert [str(error) for error in faulty.faults] == ["a bug"]
        assert sound.got == [b"y"]
        assert sound.faults == []
    pump.close()


def test_a_source_asked_for_again_is_called_without_an_event() -> None:
    pump = Pump(clock=lambda: 0.0)
    ours, theirs = pair()
    reader = Reader(ours)
    with ours, theirs:
        pump.register(ours.fileno(), reader, 0)
        theirs.send(b"unseen by epoll")
        assert pump.turn() == 0
        pump.again(ours.fileno(), reader)
        assert pump.turn() == 1
        assert reader.got == [b"unseen by epoll"]
    pump.close()


async def test_the_trio_task_serves_sources_as_they_become_ready(nursery: trio.Nursery) -> None:
    pump = Pump()
    await nursery.start(pump.run)
    ours, theirs = pair()
    reader = Reader(ours)
    with ours, theirs:
        pump.register(ours.fileno(), reader, READABLE)
        theirs.send(b"hello")
        await reader.arrived.wait()
        assert reader.got == [b"hello"]
        pump.unregister(ours.fileno())
    nursery.cancel_scope.cancel()


async def test_timers_ring_at_their_time_earliest_first(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    pump = Pump()
    ours, theirs = pair()
    with ours, theirs:
        late, early = Reader(ours), Reader(ours)
        start = trio.current_time()
        pump.wake_at(late, start + 60.0)
        await nursery.start(pump.run)
        pump.wake_at(early, start + 1.0)
        await late.arrived.wait()
        assert [round(rang - start, 3) for rang in early.rang] == [1.0]
        assert [round(rang - start, 3) for rang in late.rang] == [60.0]
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("traffic", [True, False], ids=["traffic", "idle"])
async def test_a_deadline_that_a_turn_sets_rings_with_the_next_traffic_or_a_slack_later(
    mock_clock: MockClock, nursery: trio.Nursery, traffic: bool
) -> None:
    pump = Pump()
    ours, theirs = pair()
    with ours, theirs:
        sleeper = Reader(ours)
        start = trio.current_time()
        reader = Reader(ours, action=lambda: pump.wake_at(sleeper, start + 1.0))
        pump.register(ours.fileno(), reader, READABLE)
        await nursery.start(pump.run)
        theirs.send(b"now")
        await reader.arrived.wait()
        mock_clock.jump(1.0 + TIMER_SLACK_SECONDS / 2)
        if traffic:
            reader.action = None
            theirs.send(b"and now")
        else:
            await wait_all_tasks_blocked()
            assert not sleeper.rang
            mock_clock.jump(TIMER_SLACK_SECONDS)
        await sleeper.arrived.wait()
        assert 0 <= sleeper.rang[0] - start - 1.0 <= 2 * TIMER_SLACK_SECONDS
        pump.unregister(ours.fileno())
    nursery.cancel_scope.cancel()


async def test_a_fault_in_a_timer_or_at_a_turns_end_is_its_owners(nursery: trio.Nursery) -> None:
    pump = Pump()
    await nursery.start(pump.run)
    ours, theirs = pair()
    with ours, theirs:
        reader = Reader(ours, action=failing)
        pump.wake_at(reader, trio.current_time())
        await reader.arrived.wait()
        assert len(reader.faults) == 1
        reader.arrived = trio.Event()
        pump.at_turn_end(reader.on_timer)  # from outside of a turn: it is run all the same
        await reader.arrived.wait()
        assert len(reader.faults) == 2
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("events", [1, 600])
def test_a_turn_is_bounded_but_leaves_nobody_out(events: int) -> None:
    pump = Pump(clock=lambda: 0.0)
    readers = []
    pairs = [pair() for _ in range(events)]
    for ours, theirs in pairs:
        readers.append(Reader(ours))
        pump.register(ours.fileno(), readers[-1], READABLE)
        os.write(theirs.fileno(), b"x")
    assert pump.turn() == min(events, 256)
    while pump.turn():
        pass
    assert all(reader.got == [b"x"] for reader in readers)
    assert pump.sources == events
    for ours, theirs in pairs:
        ours.close()
        theirs.close()
    pump.close()


def test_an_event_that_is_left_over_is_not_anothers_whose_descriptor_has_the_same_number() -> None:
    now = 0.0
    masks: list[int] = []

    class Slow(Source):
        def on_events(self, mask: int, now_: float) -> None:
            nonlocal now
            now += TURN_SECONDS

        def on_fault(self, error: Exception) -> None:
            raise error

    class Newcomer(Slow):
        def on_events(self, mask: int, now_: float) -> None:
            masks.append(mask)

    pump = Pump(clock=lambda: now)
    pairs = [socket.socketpair() for _ in range(TURN_CHECK_EVENTS * 2)]
    for ours, theirs in pairs:
        theirs.send(b"x")
        pump.register(ours.fileno(), Slow(), READABLE)
    pump.turn()  # as many as are asked for the time
    silent, peer = socket.socketpair()
    for ours, theirs in pairs:
        fd = ours.fileno()
        pump.unregister(fd)
        os.dup2(silent.fileno(), fd)
        pump.register(fd, Newcomer(), READABLE)
        theirs.close()
    while pump.turn():
        pass
    assert not masks
    for ours, _ in pairs:
        pump.unregister(ours.fileno())
        ours.close()
    silent.close()
    peer.close()


async def test_what_a_turn_left_over_is_served_though_epoll_has_nothing(nursery: trio.Nursery) -> None:
    now = 0.0
    drained: list[int] = []
    all_served = trio.Event()

    class Slow(Source):
        """It empties all sockets with its first event: epoll then knows of nothing for those that are left over."""

        def on_events(self, mask: int, now_: float) -> None:
            nonlocal now
            now += TURN_SECONDS
            for ours, _ in pairs if not drained else ():
                ours.recv(1)
            drained.append(mask)
            if len(drained) == len(pairs):
                all_served.set()

        def on_fault(self, error: Exception) -> None:
            raise error

    pump = Pump(clock=lambda: now)
    pairs = [socket.socketpair() for _ in range(TURN_CHECK_EVENTS * 6)]
    for ours, theirs in pairs:
        theirs.send(b"x")
        pump.register(ours.fileno(), Slow(), READABLE)
    await nursery.start(pump.run)
    await all_served.wait()
    for ours, theirs in pairs:
        pump.unregister(ours.fileno())
        ours.close()
        theirs.close()


def test_a_turn_that_lasts_too_long_ends_and_the_next_one_begins_where_it_ended() -> None:
    now = 0.0
    served: list[int] = []

    class Slow(Source):
        def __init__(self, number: int) -> None:
            self.number = number

        def on_events(self, mask: int, now_: float) -> None:
            nonlocal now
            now += TURN_SECONDS / TURN_CHECK_EVENTS * 2
            served.append(self.number)

        def on_fault(self, error: Exception) -> None:
            raise error

    pump = Pump(clock=lambda: now)
    pairs = [socket.socketpair() for _ in range(60)]
    for number, (ours, theirs) in enumerate(pairs):
        theirs.send(b"x")  # and nobody reads it: all are ready all the time
        pump.register(ours.fileno(), Slow(number), READABLE)
    for turn in range(1, 41):
        pump.turn()
        assert len(served) < turn * TURN_CHECK_EVENTS
    counts = Counter(served)
    assert len(counts) == len(pairs)
    assert max(counts.values()) - min(counts.values()) <= 1
    for ours, theirs in pairs:
        pump.unregister(ours.fileno())
        ours.close()
        theirs.close()
    pump.close()


class Worker(Source):
    """Each call takes some of the time that `clock` tells; `is_heavy`: it says so."""

    def __init__(self, pump: Pump, clock: list[float], seconds: float, served: list["Worker"]) -> None:
        self.pump, self.clock, self.seconds, self.served = pump, clock, seconds, served
        self.timer: Entry | None = None
        self.is_heavy = False

    def on_events(self, mask: int, now: float) -> None:
        self.clock[0] += self.seconds
        self.served.append(self)
        self.pump.is_late |= self.is_heavy

    def on_timer(self, now: float) -> None:
        self.clock[0] += self.seconds
        self.served.append(self)

    def on_fault(self, error: Exception) -> None:
        raise error


def test_deadlines_that_fall_together_do_not_keep_everybody_waiting() -> None:
    clock, served = [0.0], list[Worker]()
    pump = Pump(clock=lambda: clock[0])
    sleepers = [Worker(pump, clock, TURN_SECONDS / 16, served) for _ in range(200)]
    for sleeper in sleepers:
        pump.wake_at(sleeper, 1.0)
    clock[0] = 1.0
    longest = 0.0
    while len(served) < len(sleepers):
        began = clock[0]
        pump.ring()
        longest = max(longest, clock[0] - began)
    assert longest <= 2 * TURN_SECONDS
    assert set(served) == set(sleepers)
    assert len(served) == len(sleepers)
    pump.ring()
    assert len(served) == len(sleepers)
    pump.close()


def test_deadlines_that_cost_nothing_are_bounded_by_their_number() -> None:
    clock, served = [0.0], list[Worker]()
    pump = Pump(clock=lambda: clock[0])
    for _ in range(RING_SLEEPERS + 1):
        pump.wake_at(Worker(pump, clock, 0.0, served), 1.0)
    clock[0] = 1.0
    pump.ring()
    assert len(served) == RING_SLEEPERS
    pump.ring()
    assert len(served) == RING_SLEEPERS + 1
    pump.close()


async def test_sleepers_that_were_left_over_are_called_though_nothing_comes(nursery: trio.Nursery) -> None:
    clock, served = [0.0], list[Worker]()
    pump = Pump(clock=lambda: clock[0])
    for _ in range(40):
        pump.wake_at(Worker(pump, clock, TURN_SECONDS, served), 0.0)
    await nursery.start(pump.run)
    while len(served) < 40:
        await trio.lowlevel.checkpoint()
    nursery.cancel_scope.cancel()


def test_sources_asked_for_again_share_a_turn_and_each_has_its_own() -> None:
    clock, served = [0.0], list[Worker]()
    pump = Pump(clock=lambda: clock[0])
    pairs = [pair() for _ in range(12)]
    workers = []
    for ours, _ in pairs:
        worker = Worker(pump, clock, TURN_SECONDS / 2, served)
        workers.append(worker)
        pump.register(ours.fileno(), worker, READABLE)
        pump.again(ours.fileno(), worker)
    while len(served) < len(workers):
        began = clock[0]
        pump.turn()
        assert clock[0] - began <= 2 * TURN_SECONDS
    assert served == workers
    for ours, theirs in pairs:
        pump.unregister(ours.fileno())
        ours.close()
        theirs.close()
    assert pump.turn() == 0
    pump.close()


def test_who_says_that_it_took_long_has_the_clock_asked() -> None:
    clock, served = [0.0], list[Worker]()
    pump = Pump(clock=lambda: clock[0])
    pairs = [pair() for _ in range(4)]
    for ours, theirs in pairs:
        worker = Worker(pump, clock, 2 * TURN_SECONDS, served)
        worker.is_heavy = True
        pump.register(ours.fileno(), worker, READABLE)
        theirs.send(b"x")
    for turn in range(1, 5):
        pump.turn()
        assert len(served) == turn
    for ours, theirs in pairs:
        pump.unregister(ours.fileno())
        ours.close()
        theirs.close()
    pump.close()
