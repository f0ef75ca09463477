"""One pump moves the bytes of every established connection.

General theory of operation
---------------------------
A trio task a connection costs more than the connection's work: measured on an echo of 64-byte messages, two tasks a
connection reach 7 to 12 thousand messages per CPU-second, this pump three to four times that. So trio owns life
(accepting, handshakes, dialling, drain) and the pump owns bytes: it has an epoll of its own, and *one* trio task that
waits for that epoll to become readable and then runs *turns*. A turn polls without waiting, lets each ready source do
a bounded piece of work, runs what asked to be run at the turn's end, and comes back to trio.

Everything here runs in trio's thread, between two checkpoints, so nothing needs a lock, and a source may be
registered, changed or unregistered by anybody at any time. Invariants:

- a source is called only while registered, and never re-entrantly from another source's call into the pump;
- an exception that escapes a source ends that source (`on_fault`), never the pump;
- a turn is bounded: at most `TURN_EVENTS` events, each of which reads at most one buffer, and it ends early when it
  has lasted too long; the next one begins where it ended, so that everybody has a turn.
"""

import math
import select
from collections.abc import Callable
from typing import Final, Protocol

import structlog
import trio

from gateway.relay.pace import Pace
from gateway.relay.ports import Source
from gateway.relay.sockets import ReadBuffer
from gateway.relay.timers import Entry, Timers

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
HUNG_UP: Final = select.EPOLLRDHUP
"""The peer has ended its sending; where it is not asked for, that is seen by reading only."""
BROKEN: Final = select.EPOLLERR | select.EPOLLHUP

TURN_EVENTS: Final = 256
"""Events a turn handles at most: some 5 ms of work, so that accepts and handshakes are not kept waiting longer."""

TURN_SECONDS: Final = 0.005
TURN_CHECK_EVENTS: Final = 16
"""A turn that has lasted so long, asked after so many events or one that may have been long (`is_late`), ends; who was
not served comes first in the next one. The same for deadlines that have come together."""

RING_SLEEPERS: Final = 1024
RING_CHECK_SLEEPERS: Final = 16
"""Sleepers called in a row at most, and after how many the clock is asked: what is ready has its turn between them."""

TURNS_A_WAKE: Final = 4
"""Turns in a row before trio gets its say: a trio loop costs about as much as serving one connection."""

TIMER_SLACK_SECONDS: Final = 0.005
"""How much later trio is asked to wake the pump for a deadline that is set within a turn. Under load another turn comes
before and rings; trio's way there, a cancelled sleep, costs as much as serving some connections."""

BUFFER_BYTES: Final = 128 * 1024
"""The one read buffer all connections share. Allocating per read halves the throughput; see `make bench`."""

log = structlog.get_logger("pump")


class Sleeper(Protocol):
    """Something with a deadline."""

    timer: Entry | None

    def on_timer(self, now: float) -> None:
        """The deadline set by `Pump.wake_at` has come."""

    def on_fault(self, error: Exception) -> None:
        """A bug of ours escaped `on_timer`."""


class Pump:
    """The event loop of established connections, to be run by one trio task (`run`)."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._epoll = select.epoll()
        self._sources: dict[int, Source] = {}
        self._again: dict[int, Source] = {}
        self._turn_end: list[Callable[[float], None]] = []
        self._timers: Timers[Sleeper] = Timers()
        self._alarm = trio.CancelScope()
        self._clock = clock if clock is not None else trio.current_time
        self.pace = Pace()
        self.now = 0.0
        self.turns = 0
        self._in_turn = False
        self.is_late = False
        """A source says that this turn may have lasted too long: the clock is asked."""
        self._left: list[tuple[int, int]] = []
        """Events that a turn which ended early did not get to: the next one's, which asks epoll for no others."""
        self.buffer = ReadBuffer(BUFFER_BYTES)
        """Shared by all reads: what is read here is valid until the next read, whoever does it."""

    # --- sources --------------------------------------------------------------------------------------------------

    def register(self, fd: int, source: Source, mask: int) -> None:
        """Calls `source.on_events` when `fd` is ready for `mask` (level-triggered); errors are always reported."""
        self._epoll.register(fd, mask)
        self._sources[fd] = source

    def modify(self, fd: int, mask: int) -> None:
        """Changes what `fd` is watched for."""
        self._epoll.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """Watches `fd` no longer; to be called before it is closed. Unknown descriptors are ignored."""
        if self._sources.pop(fd, None) is not None:
            self._again.pop(fd, None)
            if self._left:  # the number may be another source's by then
                self._left = [event for event in self._left if event[0] != fd]
            self._epoll.unregister(fd)

    def again(self, fd: int, source: Source) -> None:
        """Calls `source.on_events(READABLE)` in the next turn too: it holds bytes that epoll cannot see (TLS)."""
        self._again[fd] = source

    @property
    def sources(self) -> int:
        """How many descriptors are registered."""
        return len(self._sources)

    # --- time -----------------------------------------------------------------------------------------------------

    def at_turn_end(self, action: Callable[[float], None]) -> None:
        """Calls `action(now)` once this turn's events are handled: what happened in one turn is told in one write."""
        self._turn_end.append(action)
        if not self._in_turn:  # a trio task called: no turn is about to end
            self._alarm.deadline = -math.inf

    def wake_at(self, sleeper: Sleeper, deadline: float) -> None:
        """Calls `sleeper.on_timer` at `deadline`, or before where an earlier one is set already, or a slack later."""
        if self._timers.wake_at(sleeper, deadline):
            if self._in_turn:
                deadline += TIMER_SLACK_SECONDS
            self._alarm.deadline = min(self._alarm.deadline, deadline)

    def forget(self, sleeper: Sleeper) -> None:
        """Drops the sleeper's deadline."""
        self._timers.forget(sleeper)

    def clock(self) -> float:
        """The present time in seconds, on the clock of all deadlines here."""
        return self._clock()

    # --- turns ----------------------------------------------------------------------------------------------------

    def turn(self) -> int:
        """Handles what is ready now, without waiting; returns how many events there were, those left over included."""
        self.now = now = self._clock()
        self.turns += 1
        self._in_turn = True
        sources = self._sources
        again: tuple[tuple[int, Source], ...] = ()
        if self._again:
            again = tuple(self._again.items())
            self._again.clear()
        events = self._left
        if events:
            self._left = []
        else:
            events = self._epoll.poll(0, TURN_EVENTS)
        self.is_late = False
        for index, (fd, mask) in enumerate(events):
            if self.is_late or index % TURN_CHECK_EVENTS == TURN_CHECK_EVENTS - 1:
                self.is_late = False
                if self._clock() - now > TURN_SECONDS:
                    self._left = events[index:]
                    break
            source = sources.get(fd)
            if source is None:
                continue  # unregistered by a source that came before it in this turn
            try:
                source.on_events(mask, now)
            except Exception as error:  # noqa: BLE001 -- the one boundary a connection
                self._fault(source, error)
        for index, (fd, source) in enumerate(again):
            if index and self._clock() - now > TURN_SECONDS:  # one of them has its turn in any case
                self._again = {**dict(again[index:]), **self._again}
                break
            if sources.get(fd) is source and fd not in self._again:
                try:
                    source.on_events(READABLE, now)
                except Exception as error:  # noqa: BLE001
                    self._fault(source, error)
        self._end_turn(now)
        return len(events) + len(again)

    def _end_turn(self, now: float) -> None:
        self._in_turn = True  # what an action asks for is run in this same loop
        while self._turn_end:
            actions, self._turn_end = self._turn_end, []
            for action in actions:
                try:
                    action(now)
                except Exception as error:  # noqa: BLE001
                    owner = getattr(action, "__self__", None)
                    self._fault(owner, error)
        self._in_turn = False

    def ring(self) -> None:
        """Calls the sleepers whose deadline has come, as many as a turn has time for; the others wait for the next."""
        self.now = now = self._clock()
        self._in_turn = True
        due = self._timers.due(now, RING_SLEEPERS)
        for index, sleeper in enumerate(due):
            if index % RING_CHECK_SLEEPERS == RING_CHECK_SLEEPERS - 1 and self._clock() - now > TURN_SECONDS:
                for late in due[index:]:
                    self._timers.wake_at(late, now)
                break
            try:
                sleeper.on_timer(now)
            except Exception as error:  # noqa: BLE001
                self._fault(sleeper, error)
        self._end_turn(now)

    @staticmethod
    def _fault(owner: object, error: Exception) -> None:
        try:
            owner.on_fault(error)  # type: ignore[attr-defined]
        except Exception:
            log.exception("fault_while_ending_a_connection", first_error=repr(error))

    # --- life -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs turns until cancelled. The sources stay registered then; whoever cancels ends them first."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_timers)
            task_status.started()
            epoll = self._epoll
            while True:
                if self._again or self._left or self._timers.next_deadline <= self.now:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(epoll.fileno())
                for _ in range(TURNS_A_WAKE):
                    if not self.turn():
                        break
                if self._timers.next_deadline <= self.now:
                    self.ring()
                    self._alarm.deadline = self._timers.next_deadline + TIMER_SLACK_SECONDS

    async def _run_timers(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._timers.next_deadline) as self._alarm:
                if not self._turn_end:
                    await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
            self.ring()

    def close(self) -> None:
        """Gives the epoll descriptor back."""
        self._epoll.close()
