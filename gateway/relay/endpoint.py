"""A non-blocking socket in the pump, with the bounded buffer of what it has not taken yet.

What is kept unsent is charged to a tab of the account of memory, and while that tab's holder has no room, nothing is
read. Only where what comes may be what makes room, as a client's acknowledgements do, a little of it is (`trickles`).

Invariants: bytes go out in the order of `write`; the owner is never called from inside its own call to `write`,
`pause` or `resume`; after `close` the owner is not called any more. A peer that refuses more may have said its last
words before: after a write that failed nothing is written, what has come is read to its end, and then it is told.
The endpoint does not refuse bytes when its buffer is full: it says so (`is_full`, then `on_drained`), and the owner
stops reading the other side, which bounds the buffer to the high mark and one read.
"""

import errno
import os
import select
import socket
import struct
from collections import deque
from contextlib import suppress
from enum import Enum
from typing import Final

from mypy_extensions import i64

from gateway.memory.account import Charge, Tab, Waiter
from gateway.memory.costs import BUFFER_BYTES, VIEW_BYTES, cost_of_buffer
from gateway.protocol.pieces import Buffer
from gateway.relay.ports import EndpointOwner, Source
from gateway.relay.pump import BROKEN, HUNG_UP, READABLE, WRITABLE, Pump
from gateway.relay.pump import BUFFER_BYTES as READ_BYTES
from gateway.relay.sockets import send
from gateway.relay.timers import Entry
from gateway.relay.vitals import NOTHING_SENT, Vitals, look_at
from gateway.telemetry.tcp_info import queued_input

HIGH_MARK_BYTES: Final = 64 * 1024
"""A buffer with this much unsent stops the reading of the other side."""

LOW_MARK_BYTES: Final = 16 * 1024
"""Reading goes on once no more than this is unsent: low enough not to flutter, not so low that the kernel runs dry."""

GATHER_BUFFERS: Final = 64
"""Buffers handed to one sendmsg at most."""

TRICKLE_BYTES: Final = 4096
TRICKLE_SECONDS: Final = 1.0
"""What is read of a peer whose holder has no room, and how often."""

FIRST_READ_BYTES: Final = 16 * 1024
"""What is read at once of a peer that has sent little so far; twice as much after each read that was full. A buffer of
empty messages from each of some newcomers would be a turn of a quarter of a second."""

LEAST_READ_BYTES: Final = 4096

TURN_PIECES: Final = 512
"""What one read should bring at most: of a peer that sends small ones less is read at once, so that its turn is no
longer than that of others."""

FEW_PIECES: Final = 64
"""A read that brings no more is as usual; what brings more is weighed."""

REPLIES_WITHHELD: Final = 64
"""So many replies may be owed to a peer whose buffer is full before it is not read any more. Not the first one: who
takes a long message slowly pings meanwhile, and what it says is to be heard."""

_LINGER_RESET: Final = struct.pack("ii", 1, 0)


class Output(Enum):
    """How far the sending side is."""

    OPEN = "open"
    FINISHING = "finishing"
    """`finish` was called and bytes are still buffered."""
    FINISHED = "finished"
    """Everything is with the kernel, and the peer has been told that no more will come."""
    BROKEN = "broken"


_OPEN: Final = Output.OPEN  # reading a member off an Enum costs as much as the rest of a call


class Endpoint(Source, Waiter):
    """One plain socket, TCP or Unix; reading starts with `resume`."""

    __slots__ = (
        "_account",
        "_broken",
        "_charge",
        "_failure",
        "_fd",
        "_has_hung_up",
        "_high_mark",
        "_holder",
        "_mask",
        "_nudged",
        "_owner",
        "_pending",
        "_reading",
        "_registered",
        "_tab",
        "_waits",
        "buffered",
        "bytes_read",
        "bytes_taken",
        "is_full",
        "most_bytes",
        "output",
        "pump",
        "sock",
        "tells_hang_up",
        "timer",
        "trickles",
    )

    def __init__(
        self, sock: socket.socket, pump: Pump, owner: EndpointOwner, tab: Tab, *, high_mark_bytes: int = HIGH_MARK_BYTES
    ) -> None:
        """What it keeps is charged to `tab`."""
        self.sock = sock
        self.pump = pump
        self._owner: EndpointOwner | None = owner
        self._fd = sock.fileno()
        self._high_mark = high_mark_bytes
        self._pending: deque[bytes | memoryview] | None = None
        self._mask = 0
        self.most_bytes: i64 = FIRST_READ_BYTES
        """What is read at once at the most."""
        self._broken = False
        self._tab = tab
        self._holder = tab.holder
        self._account = tab.account
        self._charge = Charge(tab)
        self._failure: OSError | None = None
        """Of a write, to be told when what has come is read."""
        self._has_hung_up = False
        self._nudged = False
        self._reading = False
        self._registered = False
        self._waits = False
        """The holder has no room: nothing is read until `room_again`."""
        self.trickles = False
        """A little is read even so, for it may be what makes room."""
        self.tells_hang_up = False
        """The owner wants to know that the peer has gone also while it is not read."""
        self.timer: Entry | None = None
        """The pump's, for the trickle."""
        self.buffered = 0
        """Bytes written by the owner that the kernel has not taken, and after a failure never will."""
        self.bytes_read = 0
        self.bytes_taken = 0
        """Bytes the kernel has taken: the rung `written` is measured by it."""
        self.is_full = False
        """True from the high mark until `on_drained`."""
        self.output = Output.OPEN

    @property
    def is_reading(self) -> bool:
        """True between `resume` and `pause` or the end of input."""
        return self._reading

    def vitals(self) -> Vitals:
        """How the far host takes what was written."""
        if self._owner is None or self.output is Output.BROKEN:
            return NOTHING_SENT
        has_ended = self.output is Output.FINISHED
        return look_at(self.sock, taken=self.bytes_taken, buffered=self.buffered, has_ended=has_ended)

    @property
    def is_heard(self) -> bool:
        """Reading, and not waiting for room: whatever the peer sends is seen at once."""
        return self._reading and not self._waits

    @property
    def is_closed(self) -> bool:
        """True once `close` or `reset` was called."""
        return self._owner is None

    # --- reading --------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Reads on."""
        if not self._reading and self._owner is not None:
            self._reading = True
            self._watch()
            if self._failure is not None:
                self.pump.again(self._fd, self)

    def pause(self) -> None:
        """Leaves further bytes in the kernel."""
        if self._reading:
            self._reading = False
            self._watch()

    def nudge(self) -> None:
        """Has the owner called with no bytes in the next turn, while reading: it has not used up what it was given."""
        if self._registered:
            self._nudged = True
            self.pump.again(self._fd, self)

    def weigh(self, size: i64, pieces: i64) -> None:
        """A read of `size` bytes brought so many pieces, more than FEW_PIECES: the next is to bring a turn's worth."""
        self.pump.is_late = True  # who knows how long they took
        if pieces * 2 > TURN_PIECES and size > 0:
            self.most_bytes = max(min(self.most_bytes, size * TURN_PIECES // pieces), LEAST_READ_BYTES)

    def _receive(self) -> Buffer:
        """Bytes read, none at the end of input; BlockingIOError when there is nothing."""
        return self.pump.buffer.receive(self._fd, self.most_bytes)

    def on_events(self, mask: int, now: float) -> None:
        if mask & WRITABLE:
            self.flush(now)
        if mask & ~WRITABLE:
            if self._reading and not self._waits:
                owner = self._owner
                if owner is None:
                    return
                if self._holder.used < self._account.allowance:  # `Tab.may_read`
                    self._take_in(owner, now)
                else:
                    self._wait_for_room(now)
            elif mask & (BROKEN | HUNG_UP):
                self._hung_up(mask, now)

    def _take_in(self, owner: EndpointOwner, now: float) -> None:
        if self._nudged:
            self._nudged = False
            owner.on_data(b"", now)
            return
        try:
            data = self._receive()
        except (BlockingIOError, InterruptedError):
            if self._failure is not None:
                self._break(self._failure, now)
            return
        except OSError as error:
            self._break(error, now)
            return
        if data:
            size: i64 = len(data)
            self.bytes_read += size
            if size >= self.most_bytes and self.most_bytes < READ_BYTES:
                self.most_bytes *= 2
            owner.on_data(data, now)
            if self._failure is not None and self._reading:
                self.pump.again(self._fd, self)
        elif self._failure is not None:
            self._break(self._failure, now)
        else:
            self._has_hung_up = True
            self.pause()
            owner.on_eof(now)

    def _wait_for_room(self, now: float) -> None:
        self._waits = True
        self._tab.wait(self)
        self._watch()
        if self.trickles:
            self.pump.wake_at(self, now + TRICKLE_SECONDS)

    def room_again(self, now: float) -> None:
        if self._waits:
            self._waits = False
            self._watch()
            if self._registered:
                self.pump.again(self._fd, self)  # what epoll does not know of: a nudge, decrypted bytes

    def on_timer(self, now: float) -> None:
        """Time for a little of what a peer whose holder has no room sends."""
        owner = self._owner
        if not self._waits or owner is None:
            return
        if self._reading:
            most, self.most_bytes = self.most_bytes, TRICKLE_BYTES
            self._take_in(owner, now)
            self.most_bytes = most
        if self._waits and not self.is_closed:
            self.pump.wake_at(self, now + TRICKLE_SECONDS)

    def _hung_up(self, mask: int, now: float) -> None:
        """Paused, and the kernel reports an end, which it would repeat for ever: stop watching, keep what is unread.

        A reset that also lost our unsent bytes is a write that failed; a plain hang-up (both sides have ended) is found
        by the read that follows `resume`, behind the bytes that came before it.
        """
        is_first, self._has_hung_up = not self._has_hung_up, True
        if not mask & BROKEN:
            self._watch()
        elif self._registered:
            self.pump.unregister(self._fd)
            self._registered = False
            self._mask = 0
        was_reset = mask & select.EPOLLERR != 0
        if was_reset and self._pending:
            self._fail_output(OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
        if is_first and self.tells_hang_up and self._owner is not None and not self._reading:
            self._owner.on_hung_up(now, was_reset=was_reset)

    # --- writing --------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Sends what the kernel takes at once and keeps the rest; ignored once the output is finished or broken."""
        if self.output is not _OPEN or not data:
            if self._failure is not None:
                self._count_unsent(len(data))
            return
        if self.buffered:
            self._keep(data)
            return
        try:
            taken = self._send(data)
        except (BlockingIOError, InterruptedError):
            taken = 0
        except OSError as error:
            self._count_unsent(len(data))
            self._fail_output(error)
            return
        self.bytes_taken += taken
        if taken < len(data):
            self._keep(memoryview(data)[taken:] if taken else data)
            self._watch()

    def _keep(self, data: bytes | memoryview) -> None:
        if self._pending is None:
            self._pending = deque()
        self._pending.append(data)
        self._charge.set_to(self._charge.size + cost_of_buffer(data))
        self._count_unsent(len(data))

    def _count_unsent(self, size: int) -> None:
        self.buffered += size
        if self.buffered >= self._high_mark:
            self.is_full = True

    def _send(self, data: bytes) -> int:
        return send(self._fd, data)

    def _send_pending(self, pending: "deque[bytes | memoryview]") -> int:
        if len(pending) == 1:
            return self.sock.send(pending[0])
        return self.sock.sendmsg([pending[i] for i in range(min(len(pending), GATHER_BUFFERS))])

    def flush(self, now: float) -> None:
        """Hands buffered bytes to the kernel; tells the owner at the low mark and when a `finish` is done."""
        pending = self._pending
        if pending is None and self.buffered:
            return  # a failure was not told yet
        while pending:
            try:
                taken = self._send_pending(pending)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._fail_output(error)
                return
            self.bytes_taken += taken
            self.buffered -= taken
            cost = self._charge.size
            while taken:
                first = pending[0]
                head = len(first)
                if head > taken:
                    if isinstance(first, bytes):
                        cost += VIEW_BYTES - BUFFER_BYTES
                    pending[0] = memoryview(first)[taken:]
                    break
                taken -= head
                cost -= cost_of_buffer(first)
                pending.popleft()
            self._charge.set_to(cost)
        if not self.buffered:
            self._pending = None  # an idle connection keeps no deque: 600 bytes
            if self.output is Output.FINISHING:
                self._finish_now()
        self._watch()
        if not self.buffered or (self.is_full and self.buffered <= LOW_MARK_BYTES):
            self.is_full = False
            if self._owner is not None:
                self._owner.on_drained(now)

    # --- ending ---------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Ends our sending once everything written is out: a half-close; reading goes on."""
        if self.output is Output.OPEN:
            if self.buffered:
                self.output = Output.FINISHING
            else:
                self._finish_now()

    def _finish_now(self) -> None:
        self.output = Output.FINISHED
        try:
            self._end_output()
        except OSError:
            self.output = Output.BROKEN  # the peer was faster; the next read says how it ended

    def _end_output(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def _break(self, error: OSError, now: float) -> None:
        if self._broken:
            return  # a failed write and the hang-up behind it are one end
        self._broken = self._has_hung_up = True
        self.output = Output.BROKEN
        self._drop_pending()
        self.pause()
        if self._registered:
            self.pump.unregister(self._fd)
            self._registered = False
        if self._owner is not None:
            self._owner.on_broken(error, now)

    def _fail_output(self, error: OSError) -> None:
        """A write failed: no more is written. It is told once what has come is read, which the owner may put off."""
        if self._failure is None:
            self._failure = error
            self.output = Output.BROKEN
            self._drop_pending()
            self._watch()
            self.pump.at_turn_end(self._tell_failure)

    def _tell_failure(self, now: float) -> None:
        if self._failure is None or self.is_closed:
            return
        if self._reading:
            self.pump.again(self._fd, self)
        elif not self.has_unread:
            self._break(self._failure, now)

    @property
    def has_unread(self) -> bool:
        """Something has come and was not read."""
        return queued_input(self.sock) > 0

    def close(self) -> None:
        """Closes the socket; what is still buffered is lost. Idempotent."""
        if self._owner is None:
            return
        self._owner = None
        self._reading = False
        self._drop_pending()
        if self._waits:
            self._waits = False
            self._tab.forget(self)
            self.pump.forget(self)
        if self.output in (Output.OPEN, Output.FINISHING):
            self.output = Output.BROKEN
        if self._registered:
            self.pump.unregister(self._fd)
            self._registered = False
        self.sock.close()

    def _drop_pending(self) -> None:
        self._pending = None
        self._charge.set_to(0)

    def reset(self) -> None:
        """Closes with a TCP reset, so that the peer cannot take a cut-off stream for a complete one."""
        if self._owner is not None:
            if self.sock.family != socket.AF_UNIX:
                with suppress(OSError):  # already gone
                    self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            self.close()

    def on_fault(self, error: Exception) -> None:
        if self._owner is not None:
            self._owner.on_fault(error)

    # --- the pump -------------------------------------------------------------------------------------------------

    def _wanted(self) -> int:
        mask = WRITABLE if self._pending else 0
        if self._reading:
            return mask if self._waits else mask | READABLE
        return mask | HUNG_UP if self.tells_hang_up and not self._has_hung_up else mask

    def _watch(self) -> None:
        mask = self._wanted()
        if self._registered:
            if mask != self._mask:
                self._mask = mask
                self.pump.modify(self._fd, mask)
        elif mask and self._owner is not None:
            self._mask = mask
            self._registered = True
            self.pump.register(self._fd, self, mask)
