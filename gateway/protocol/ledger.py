"""The messages of one direction that are under way, and how far each provably got: long, for its sums move together.

Invariant: messages are numbered 1, 2, 3... as they are accepted and settle in that order; only the unsettled ones are
held, so that a ledger with nothing under way is some 300 bytes.

A message has a size and an *end*: where its last byte stands in the byte stream of the next hop. Evidence comes as a
sequence number (an ACK, the Pong of a fence) or as an offset in that stream (bytes written, bytes that the far kernel
acknowledged); either way it is cumulative. There are two ways to know the ends:

- Where every message costs the same beyond its payload (`overhead_bytes`), each message's end is known.
- Where that varies (WebSocket frames, records), only the end of each accepted batch is (`hop_bytes`). An offset within
  a batch then proves none of its messages and may have touched all of them.

A session that is taken up from elsewhere has messages on their way that this ledger has not seen. Their receiver may
acknowledge or reject them before their sender has sent them again: such evidence is *foretold*, kept until they come.

Messages that were accepted in one turn are one *run* with one time: what settles is told in runs, so that a thousand
messages cost one step of a latency histogram.

Entering is done for every message while hundreds of connections take turns, so what counts is how little memory it
touches: one object a run, and what the window allows as sums that change only when something settles.
"""

import sys
from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import Final

from mypy_extensions import i64, mypyc_attr

from gateway.errors import ProtocolViolation
from gateway.protocol.frames import message_ends
from gateway.protocol.pieces import LAST, Piece
from gateway.protocol.records import DEFAULT_WINDOW_MESSAGES, MAX_SEQ, LossReport, Rung

# Plain ints: in Python 3.11 reading a member off an Enum costs as much as all the rest of a call here.
_WRITTEN: Final = int(Rung.WRITTEN)
_REACHED: Final = int(Rung.REACHED)

END_BYTES: Final = 8
"""What the end of one message takes in a run."""

RUN_BYTES: Final = 192
"""What a run takes: the object, what it counts with, its place in the list."""

MARK_BYTES: Final = 128
"""What a rejected message that waits for those before it takes: its number, its size, their entry."""

_run_hop_end = attrgetter("hop_end")
_run_hop_begin = attrgetter("hop_begin")
_run_end = attrgetter("end")
_run_last = attrgetter("last")


@mypyc_attr(acyclic=True)  # thousands are alive at a time, and the garbage collector need not look at them
class Run:
    """So many messages that were accepted at the same time and are all unsettled, or have settled at the same time."""

    __slots__ = ("_ends", "accepted_at", "count", "end", "hop_begin", "hop_end", "last")

    def __init__(
        self,
        last: i64,
        count: i64,
        end: i64,
        ends: bytes,
        *,
        accepted_at: float,
        hop_begin: i64,
        hop_end: i64,
    ) -> None:
        self.last: i64 = last
        """The number of the last one."""
        self.count: i64 = count
        self.end: i64 = end
        """The end of the last one."""
        self._ends = ends
        """Ends of the messages up to the last one as `message_ends` packs them, for thousands of int objects would
        sweep the cache; empty where the last one is the only one."""
        self.accepted_at = accepted_at
        self.hop_begin: i64 = hop_begin
        """Where they begin and end on the next hop, as far as that is known; kept where the overhead varies."""
        self.hop_end: i64 = hop_end

    def end_of(self, seq: int) -> int:
        """The end of one of them."""
        if not self._ends:
            return self.end
        at = len(self._ends) - END_BYTES * (self.last - seq + 1)
        return int.from_bytes(self._ends[at : at + END_BYTES], sys.byteorder)

    def up_to_offset(self, offset: int) -> int:
        """The number of the newest message that ends at `offset` or before."""
        if not self._ends:
            return self.last if self.end <= offset else self.last - 1
        ends = memoryview(self._ends).cast("Q")
        return self.last - len(ends) + bisect_right(ends, offset)

    def from_offset(self, offset: int) -> int:
        """The number of the oldest message that ends at `offset` or behind it, where one of them does."""
        if not self._ends:
            return self.last
        ends = memoryview(self._ends).cast("Q")
        return self.last - len(ends) + bisect_left(ends, offset) + 1

    def divide(self, seq: int) -> "Run":
        """Takes off the messages up to `seq`; they are a run of their own then, which tells nothing of each."""
        count = seq - (self.last - self.count)
        self.count -= count
        return Run(
            seq,
            count,
            self.end_of(seq),
            b"",
            accepted_at=self.accepted_at,
            hop_begin=self.hop_begin,
            hop_end=self.hop_end,
        )


_NOTHING: Final[list[Run]] = []
_NONE: Final = -1
"""No place on the next hop: an int like the others costs less to keep than None."""


class Ledger:
    """One direction's messages under way.

    `settles_at` is the highest rung that the far side can evidence; evidence of a higher one counts as that.
    `overhead_bytes` is what each message costs on the next hop beyond its payload, None where it varies.
    `start` is where the numbering goes on when the session is `resumed` from elsewhere: messages up to it are settled,
    and some after it may have been sent.
    """

    __slots__ = (
        "_end",
        "_foretold",
        "_foretold_rejects",
        "_full_at",
        "_full_at_end",
        "_half_at",
        "_half_at_end",
        "_hop_end",
        "_overhead_bytes",
        "_reached",
        "_rejected",
        "_runs",
        "_sent_before",
        "_sent_elsewhere",
        "_settled_end",
        "_unfinished_begin",
        "_unfinished_rejected",
        "_varies",
        "_written",
        "_written_offset",
        "accepted",
        "is_foretold",
        "settled",
        "settles_at",
        "window_bytes",
        "window_messages",
    )

    def __init__(
        self,
        settles_at: Rung,
        *,
        window_messages: int,
        window_bytes: int,
        overhead_bytes: int | None = 0,
        start: int = 0,
        resumed: bool = False,
    ) -> None:
        if settles_at is Rung.ACCEPTED:
            raise ValueError("messages settle at WRITTEN, REACHED or CONSUMED: accepted they are when they are entered")
        # First what is touched for every message, so that it shares a line of the cache.
        self.accepted: i64 = start
        """The number of the newest message that is here whole."""
        self._end: i64 = 0
        """End of all that was entered, unfinished message included; payloads alone where the overhead varies."""
        self._hop_end: i64 = 0
        """End on the next hop of all that was entered; kept where the overhead varies."""
        self._overhead_bytes: i64 = overhead_bytes or 0
        self._unfinished_begin: i64 = _NONE
        """Where the batch begins that has the first piece of a message whose last one is to come; kept likewise."""
        self._runs: list[Run] = []
        """The messages settled+1 to accepted, by batch."""
        self._varies = overhead_bytes is None
        self.is_foretold = False
        """Something may be known about messages that are still to come: `fulfil` when some have."""
        # What is full, and half full, when: numbers of messages and ends.
        self._full_at: i64 = 0
        self._full_at_end: i64 = 0
        self._half_at: i64 = 0
        self._half_at_end: i64 = 0
        self.settled: i64 = start
        """All messages up to this one are settled."""
        self._settled_end: i64 = 0
        self.settles_at = settles_at
        self.window_messages: i64 = 0
        self.window_bytes: i64 = 0
        self.set_window(window_messages, window_bytes)
        self._foretold = start
        """All messages up to this one settle as soon as they are here."""
        self._foretold_rejects: set[int] | None = None
        self._sent_elsewhere = start + max(window_messages, DEFAULT_WINDOW_MESSAGES) if resumed else 0
        self._unfinished_rejected = False
        """It was rejected before its last piece came."""
        self._written = start
        self._reached = start
        self._written_offset = 0
        self._sent_before = start
        """The newest message that an earlier connection of the next hop may have carried in part."""
        self._rejected: dict[int, int] | None = None
        """Number and size of messages that were rejected while one before them is unsettled."""

    def set_window(self, messages: int, size: int) -> None:
        """How many messages, and how many bytes of them, may be unsettled; beyond MAX_SEQ there are none."""
        self.window_messages = min(messages, MAX_SEQ)
        self.window_bytes = min(size, MAX_SEQ)
        self._move_window()

    def _move_window(self) -> None:
        # A window may be as large as numbers are: compiled, these have 64 bits, and no sum may go beyond them.
        settled, end = self.settled, self._settled_end
        messages = min(self.window_messages, MAX_SEQ - settled)
        size = min(self.window_bytes, MAX_SEQ - end)
        self._full_at = settled + messages
        self._full_at_end = end + size
        self._half_at = settled + messages - messages // 2
        self._half_at_end = end + size - size // 2

    # --- entering messages ------------------------------------------------------------------------------------------

    def accept_pieces(self, pieces: list[Piece], *, now: float, hop_bytes: i64 = 0) -> tuple[i64, i64]:
        """Enter data pieces that are about to be written to the next hop; a message counts when its last piece comes.

        The messages that they complete and their payload bytes, for counters, which need not look at each piece then.
        `hop_bytes` is what they come to on the next hop, all together, where the overhead varies.
        """
        if len(pieces) == 1:
            # One whole message, or a part of one: all but every call of a connection that is not in a hurry.
            piece = pieces[0]
            size = len(piece[1])
            if piece[2] & LAST:
                self._end = end = self._end + size + self._overhead_bytes
                self._enter_run(1, end, b"", now, hop_bytes, True)
                return 1, size
            self._end += size
            if self._varies:
                self._enter_unfinished(hop_bytes)
            return 0, size
        overhead = self._overhead_bytes
        ends, end = message_ends(pieces, self._end, overhead)
        count = len(ends) // END_BYTES
        payload_bytes = end - self._end - overhead * count
        self._end = end
        if count:
            all_whole = bool(pieces[-1][2] & LAST)
            last_end: i64 = end if all_whole else int.from_bytes(ends[-END_BYTES:], sys.byteorder)
            self._enter_run(count, last_end, ends if count > 1 else b"", now, hop_bytes, all_whole)
        elif pieces and self._varies:
            self._enter_unfinished(hop_bytes)
        else:
            self._hop_end += hop_bytes
        return count, payload_bytes

    def _enter_run(self, count: i64, end: i64, ends: bytes, now: float, hop_bytes: i64, all_whole: bool) -> None:
        """Enter the messages that a batch completes; behind them there may be the beginning of one more."""
        hop_begin = batch_begin = self._hop_end
        if self._varies:
            self._hop_end = batch_begin + hop_bytes
            if self._unfinished_begin != _NONE:
                hop_begin = self._unfinished_begin
            self._unfinished_begin = _NONE if all_whole else batch_begin
        self.accepted = accepted = self.accepted + count
        self._runs.append(Run(accepted, count, end, ends, accepted_at=now, hop_begin=hop_begin, hop_end=self._hop_end))
        if self._unfinished_rejected:
            self._unfinished_rejected = False
            self.reject(accepted - count + 1)

    def _enter_unfinished(self, hop_bytes: i64) -> None:
        """Enter a batch that completes no message."""
        if self._unfinished_begin == _NONE:
            self._unfinished_begin = self._hop_end
        self._hop_end += hop_bytes

    def refuse(self, *, now: float) -> int:
        """Number a message that is rejected here and never put on the next hop; its number.

        What was entered of it so far is taken back; none of that may have been written (its framing gathers messages).
        """
        self._end = end = self._runs[-1].end if self._runs else self._settled_end
        self._unfinished_begin = _NONE
        self._unfinished_rejected = False
        self._enter_run(1, end, b"", now, 0, True)
        # It has no overhead, which in_flight_bytes takes off for each number that is not settled.
        self._reject(self.accepted, -self._overhead_bytes)
        return self.accepted

    # --- evidence ---------------------------------------------------------------------------------------------------

    def advance(self, rung: Rung, seq: int) -> list[Run]:
        """All messages up to `seq` are at `rung`; what has settled by it, oldest first.

        Less than what is known already changes nothing. Raises ProtocolViolation for a message that was never sent.
        """
        if seq > self.accepted:
            if seq > self._sent_elsewhere:
                raise ProtocolViolation(f"acknowledges message {seq}, but the last one sent is {self.accepted}")
            if rung >= self.settles_at:
                self._foretold = max(self._foretold, seq)
                self.is_foretold = True
            seq = self.accepted
        if rung >= self.settles_at:
            return self._settle(seq) if seq > self.settled else _NOTHING
        if rung >= _WRITTEN and seq > self._written:
            self._written = seq
        if rung >= _REACHED and seq > self._reached:
            self._reached = seq
        return _NOTHING

    def advance_to_offset(self, rung: Rung, offset: int) -> list[Run]:
        """All bytes up to `offset` of the next hop are at `rung`; what has settled by it, oldest first.

        Raises ValueError for an offset beyond what was entered: a fault of the caller's, for only kernels count bytes.
        """
        if offset > (self._hop_end if self._varies else self._end):
            raise ValueError(f"offset {offset} is beyond the {self._hop_end if self._varies else self._end} bytes sent")
        if offset > self._written_offset:
            self._written_offset = offset
        runs = self._runs
        if not runs:
            return _NOTHING
        if self._varies:
            proven = len(runs) if offset >= runs[-1].hop_end else bisect_right(runs, offset, key=_run_hop_end)
            return self.advance(rung, runs[proven - 1].last) if proven else _NOTHING
        if offset >= runs[-1].end:
            return self.advance(rung, self.accepted)  # the usual case needs no search
        return self.advance(rung, runs[bisect_right(runs, offset, key=_run_end)].up_to_offset(offset))

    def reject(self, seq: int) -> bool:
        """One message was refused by the far side and counts as settled; False where it was settled already.

        A message may be refused before it has come whole; it then settles when its last piece comes. Raises
        ProtocolViolation for a message that was never sent.
        """
        if seq == self.accepted + 1 and self.is_in_message:
            known, self._unfinished_rejected = self._unfinished_rejected, True
            self.is_foretold = True
            return not known
        if seq > self.accepted:
            if seq > self._sent_elsewhere:
                raise ProtocolViolation(f"rejects message {seq}, but the last one sent is {self.accepted}")
            self._foretold_rejects = self._foretold_rejects or set()
            known = seq in self._foretold_rejects
            self._foretold_rejects.add(seq)
            self.is_foretold = True
            return not known
        if seq <= self.settled or (self._rejected is not None and seq in self._rejected):
            return False
        begin = self._settled_end if seq == self.settled + 1 else self._end_of(seq - 1)
        self._reject(seq, self._end_of(seq) - begin - self._overhead_bytes)
        return True

    def _end_of(self, seq: int) -> int:
        """The end of an unsettled message."""
        return self._runs[bisect_left(self._runs, seq, key=_run_last)].end_of(seq)

    def fulfil(self) -> list[Run]:
        """What has come that was foretold: it settles. To be called after messages were entered while `is_foretold`."""
        if self._foretold_rejects:
            for seq in sorted(seq for seq in self._foretold_rejects if seq <= self.accepted):
                self._foretold_rejects.discard(seq)
                self.reject(seq)
        settled = self.advance(self.settles_at, min(self._foretold, self.accepted))
        self.is_foretold = self._foretold > self.settled or bool(self._foretold_rejects) or self._unfinished_rejected
        return settled

    @property
    def is_in_message(self) -> bool:
        """A part of message `accepted` + 1 is here; known where the overhead varies."""
        return self._unfinished_begin != _NONE

    @property
    def last_sent(self) -> int:
        """The highest message that the far side may know: one that another gateway sent may not have come here yet."""
        return max(self.accepted, self._sent_elsewhere)

    def restart_hop(self) -> None:
        """The next hop is a new connection, on which all that is unsettled goes out again: nothing else before that.

        Only where the overhead varies: the other framings do not outlive their connection. Offsets count from 0 again,
        `written` and `reached` fall back to what is settled, and stay there until `end_replay`.
        """
        if not self._varies:
            raise ValueError("a hop without records cannot be made anew")
        self._sent_before = self._newest_sent()
        for run in self._runs:
            run.hop_begin, run.hop_end = 0, MAX_SEQ
        if self._unfinished_begin != _NONE:
            self._unfinished_begin = 0
        self._hop_end = MAX_SEQ
        self._written = self._reached = self.settled
        self._written_offset = 0

    def end_replay(self, *, hop_bytes: int) -> None:
        """All that was unsettled has gone out again, and ends on the next hop at `hop_bytes`."""
        for run in self._runs:
            run.hop_end = hop_bytes
        self._hop_end = hop_bytes

    def give_up_hop(self) -> None:
        """The connection of the next hop is left to itself: what it still holds may go out on it yet."""
        self._sent_before = self.accepted

    # --- what is known ----------------------------------------------------------------------------------------------

    @property
    def in_flight_messages(self) -> int:
        """Messages accepted and not settled."""
        return self.accepted - self.settled - len(self._rejected or ())

    @property
    def in_flight_bytes(self) -> int:
        """Payload bytes of the messages accepted and not settled, and of the one that is coming in."""
        in_flight = self._end - self._settled_end - self._overhead_bytes * (self.accepted - self.settled)
        return in_flight - sum(self._rejected.values()) if self._rejected else in_flight

    @property
    def cost_bytes(self) -> i64:
        """What the ledger takes of memory, beyond what it takes when nothing is under way."""
        runs: i64 = len(self._runs)
        marks: i64 = len(self._rejected or ()) + len(self._foretold_rejects or ())
        return runs * RUN_BYTES + self.in_flight_messages * END_BYTES + marks * MARK_BYTES

    @property
    def is_half_full(self) -> bool:
        """Whether half the window or more is used up, what was rejected included."""
        return self.accepted >= self._half_at or self._end >= self._half_at_end

    def has_room_for(self, messages: i64, size: i64) -> bool:
        """Whether so many messages of `size` bytes together fit for certain."""
        return messages <= self._full_at - self.accepted and size <= self._full_at_end - self._end

    @property
    def oldest_accepted_at(self) -> float | None:
        """When the oldest unsettled message was accepted; None when all are settled."""
        return self._runs[0].accepted_at if self._runs else None

    def position(self, rung: Rung) -> int:
        """All messages up to this one are at `rung`; 0 for a rung above the settling one, which nothing can prove."""
        if rung is Rung.ACCEPTED:
            return self.accepted
        if rung > self.settles_at:
            return 0
        if rung is self.settles_at:
            return self.settled
        return max(self.settled, self._written if rung is Rung.WRITTEN else self._reached)

    def report(self) -> LossReport:
        """What to say when nothing more will be learned."""
        sent = self._newest_sent()
        return LossReport(
            settled=self.settled,
            unknown=(self.settled + 1, sent) if sent > self.settled else None,
            never_forwarded=(sent + 1, self.accepted) if self.accepted > sent else None,
        )

    # --- within -----------------------------------------------------------------------------------------------------

    def _settle(self, seq: int) -> list[Run]:
        """Settle up to `seq`, an unsettled one, and on over messages that were rejected there."""
        rejected = self._rejected
        if rejected is not None:
            while seq + 1 in rejected:
                seq += 1
        settled_runs = self._take_runs(seq)
        self._settled_end = settled_runs[-1].end
        if rejected is not None:
            for run in settled_runs:
                first = run.last - run.count
                run.count -= sum([first < number <= run.last for number in rejected])
            settled_runs = [run for run in settled_runs if run.count]
            self._rejected = {number: size for number, size in rejected.items() if number > seq} or None
        self.settled = seq
        self._move_window()
        return settled_runs

    def _take_runs(self, seq: int) -> list[Run]:
        """The runs up to `seq`, divided there, which are no longer unsettled then."""
        runs = self._runs
        if seq == self.accepted:
            self._runs = []
            return runs
        count = 0
        for run in runs:
            if run.last > seq:
                break
            count += 1
        taken = runs[:count]
        del runs[:count]
        rest = runs[0]
        if seq > rest.last - rest.count:
            taken.append(rest.divide(seq))
        return taken

    def _reject(self, seq: int, size: int) -> None:
        if self._rejected is None:
            self._rejected = {}
        self._rejected[seq] = size
        if seq == self.settled + 1:
            self._settle(seq)

    def _newest_sent(self) -> int:
        """The newest message of which a byte may be on the next hop."""
        newest = max(self._sent_before, self.position(Rung.WRITTEN))
        offset = self._written_offset
        if self._varies:
            begun = bisect_left(self._runs, offset, key=_run_hop_begin)
            if begun:
                newest = max(newest, self._runs[begun - 1].last)
        elif self._runs and offset > self._settled_end:
            touched = bisect_left(self._runs, offset, key=_run_end)
            newest = max(
                newest, self._runs[touched].from_offset(offset) if touched < len(self._runs) else self.accepted
            )
        return newest
