"""The messages of one direction of one session that are under way, and how far each provably got.

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
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from gateway.errors import ProtocolViolation
from gateway.protocol.pieces import LAST, Piece
from gateway.protocol.records import DEFAULT_WINDOW_MESSAGES, LossReport, Rung

# Plain ints: in Python 3.11 reading a member off an Enum costs as much as all the rest of a call here.
_WRITTEN: Final = int(Rung.WRITTEN)
_REACHED: Final = int(Rung.REACHED)

_run_end = attrgetter("end")
_run_begin = attrgetter("begin")


class Run:
    """So many messages that were accepted at the same time and are all unsettled, or have settled at the same time."""

    __slots__ = ("accepted_at", "begin", "count", "end", "last")

    def __init__(self, last: int, count: int, *, accepted_at: float, begin: int, end: int) -> None:
        self.last = last
        """The number of the last one."""
        self.count = count
        self.accepted_at = accepted_at
        self.begin = begin
        """Where they begin and end on the next hop, as far as that is known; kept where the overhead varies."""
        self.end = end


_NOTHING: Final[Sequence[Run]] = ()


class Ledger:
    """One direction's messages under way.

    `settles_at` is the highest rung that the far side can evidence; evidence of a higher one counts as that.
    `overhead_bytes` is what each message costs on the next hop beyond its payload, None where it varies.
    `start` is where the numbering goes on when the session is `resumed` from elsewhere: messages up to it are settled,
    and some after it may have been sent.
    """

    __slots__ = (
        "_end",
        "_ends",
        "_foretold_rejects",
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
        "foretold",
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
        self.settles_at = settles_at
        self.window_messages = window_messages
        self.window_bytes = window_bytes
        self.accepted = start
        """The number of the newest message that is here whole."""
        self.settled = start
        """All messages up to this one are settled."""
        self.foretold = start
        """All messages up to this one settle as soon as they are here."""
        self._foretold_rejects: set[int] | None = None
        self._sent_elsewhere = start + max(window_messages, DEFAULT_WINDOW_MESSAGES) if resumed else 0
        self._varies = overhead_bytes is None
        self._overhead_bytes = overhead_bytes or 0
        self._end = 0
        """End of all that was entered, unfinished message included; payloads alone where the overhead varies."""
        self._settled_end = 0
        self._ends = array("Q")
        """Ends of the messages settled+1 to accepted; packed, for thousands of int objects would sweep the cache."""
        self._runs: list[Run] = []
        """The messages settled+1 to accepted, by batch."""
        self._hop_end = 0
        """End on the next hop of all that was entered; kept where the overhead varies."""
        self._unfinished_begin: int | None = None
        """Where the batch begins that has the first piece of a message whose last one is to come; kept likewise."""
        self._unfinished_rejected = False
        """It was rejected before its last piece came."""
        self._written = start
        self._reached = start
        self._written_offset = 0
        self._sent_before = start
        """The newest message that an earlier connection of the next hop may have carried in part."""
        self._rejected: dict[int, int] | None = None
        """Number and size of messages that were rejected while one before them is unsettled."""

    # --- entering messages ------------------------------------------------------------------------------------------

    def accept_pieces(self, pieces: Sequence[Piece], *, now: float, hop_bytes: int = 0) -> tuple[int, int]:
        """Enter data pieces that are about to be written to the next hop; a message counts when its last piece comes.

        The messages that they complete and their payload bytes, for counters, which need not look at each piece then.
        `hop_bytes` is what they come to on the next hop, all together, where the overhead varies.
        """
        end = self._end
        overhead = self._overhead_bytes
        ends: list[int] = []
        for _, payload, flags in pieces:
            end += len(payload)
            if flags & LAST:
                end += overhead
                ends.append(end)
        self._ends.fromlist(ends)
        count = len(ends)
        payload_bytes = end - self._end - overhead * count
        self._end = end
        run_begin = self._enter_batch(pieces, count, hop_bytes) if self._varies else 0
        if count:
            self.accepted = accepted = self.accepted + count
            self._runs.append(Run(accepted, count, accepted_at=now, begin=run_begin, end=self._hop_end))
            if self._unfinished_rejected:
                self._unfinished_rejected = False
                self.reject(accepted - count + 1)
        return count, payload_bytes

    def accept(self, size: int, *, now: float, hop_bytes: int = 0) -> int:
        """Enter one whole message of `size` bytes, while no other is unfinished; its number."""
        self._end = end = self._end + size + self._overhead_bytes
        self._ends.append(end)
        self.accepted = accepted = self.accepted + 1
        begin = self._hop_end
        self._hop_end = begin + hop_bytes
        self._runs.append(Run(accepted, 1, accepted_at=now, begin=begin, end=begin + hop_bytes))
        return accepted

    def refuse(self, *, now: float) -> int:
        """Number a message that is rejected here and never put on the next hop; its number.

        What was entered of it so far is taken back; none of that may have been written (its framing gathers messages).
        """
        self._end = self._ends[-1] if self._ends else self._settled_end
        self._ends.append(self._end)
        self._unfinished_begin = None
        self._unfinished_rejected = False
        self.accepted += 1
        self._runs.append(Run(self.accepted, 1, accepted_at=now, begin=self._hop_end, end=self._hop_end))
        # It has no overhead, which in_flight_bytes takes off for each number that is not settled.
        self._reject(self.accepted, -self._overhead_bytes)
        return self.accepted

    # --- evidence ---------------------------------------------------------------------------------------------------

    def advance(self, rung: Rung, seq: int) -> Sequence[Run]:
        """All messages up to `seq` are at `rung`; what has settled by it, oldest first.

        Less than what is known already changes nothing. Raises ProtocolViolation for a message that was never sent.
        """
        if seq > self.accepted:
            if seq > self._sent_elsewhere:
                raise ProtocolViolation(f"acknowledges message {seq}, but the last one sent is {self.accepted}")
            if rung >= self.settles_at:
                self.foretold = max(self.foretold, seq)
            seq = self.accepted
        if rung >= self.settles_at:
            return self._settle(seq) if seq > self.settled else _NOTHING
        if rung >= _WRITTEN and seq > self._written:
            self._written = seq
        if rung >= _REACHED and seq > self._reached:
            self._reached = seq
        return _NOTHING

    def advance_to_offset(self, rung: Rung, offset: int) -> Sequence[Run]:
        """All bytes up to `offset` of the next hop are at `rung`; what has settled by it, oldest first.

        Raises ValueError for an offset beyond what was entered: a fault of the caller's, for only kernels count bytes.
        """
        if offset > (self._hop_end if self._varies else self._end):
            raise ValueError(f"offset {offset} is beyond the {self._hop_end if self._varies else self._end} bytes sent")
        if offset > self._written_offset:
            self._written_offset = offset
        runs, ends = self._runs, self._ends
        if not runs or offset < (runs[0].end if self._varies else ends[0]):
            return _NOTHING
        if offset >= (runs[-1].end if self._varies else ends[-1]):
            return self.advance(rung, self.accepted)  # the usual case needs no search
        if self._varies:
            return self.advance(rung, runs[bisect_right(runs, offset, key=_run_end) - 1].last)
        return self.advance(rung, self.settled + bisect_right(ends, offset))

    def reject(self, seq: int) -> bool:
        """One message was refused by the far side and counts as settled; False where it was settled already.

        A message may be refused before it has come whole; it then settles when its last piece comes. Raises
        ProtocolViolation for a message that was never sent.
        """
        if seq == self.accepted + 1 and self._unfinished_begin is not None:
            known, self._unfinished_rejected = self._unfinished_rejected, True
            return not known
        if seq > self.accepted:
            if seq > self._sent_elsewhere:
                raise ProtocolViolation(f"rejects message {seq}, but the last one sent is {self.accepted}")
            self._foretold_rejects = self._foretold_rejects or set()
            known = seq in self._foretold_rejects
            self._foretold_rejects.add(seq)
            return not known
        if seq <= self.settled or (self._rejected is not None and seq in self._rejected):
            return False
        index = seq - self.settled - 1
        begin = self._ends[index - 1] if index else self._settled_end
        self._reject(seq, self._ends[index] - begin - self._overhead_bytes)
        return True

    def fulfil(self) -> Sequence[Run]:
        """What has come that was foretold: it settles. To be called after messages were entered while `is_foretold`."""
        if self._foretold_rejects:
            for seq in sorted(seq for seq in self._foretold_rejects if seq <= self.accepted):
                self._foretold_rejects.discard(seq)
                self.reject(seq)
        return self.advance(self.settles_at, min(self.foretold, self.accepted))

    @property
    def last_sent(self) -> int:
        """The highest message that the far side may know: one that another gateway sent may not have come here yet."""
        return max(self.accepted, self._sent_elsewhere)

    @property
    def is_foretold(self) -> bool:
        """Something is known about messages that are still to come."""
        return self.foretold > self.settled or bool(self._foretold_rejects)

    def restart_hop(self, *, hop_bytes: int) -> None:
        """The next hop is a new connection, and all that is unsettled goes out again, as `hop_bytes` bytes.

        Only where the overhead varies: the other framings do not outlive their connection. Offsets count from 0 again,
        and `written` and `reached` fall back to what is settled.
        """
        if not self._varies:
            raise ValueError("a hop without records cannot be made anew")
        self._sent_before = self._newest_sent()
        for run in self._runs:
            run.begin, run.end = 0, hop_bytes
        self._unfinished_begin = None if self._unfinished_begin is None else 0
        self._hop_end = hop_bytes
        self._written = self._reached = self.settled
        self._written_offset = 0

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
    def is_half_full(self) -> bool:
        """Whether half the window or more is used up, what was rejected included."""
        return (
            2 * (self.accepted - self.settled) >= self.window_messages
            or 2 * (self._end - self._settled_end) >= self.window_bytes
        )

    def has_room_for(self, messages: int, size: int) -> bool:
        """Whether so many messages of `size` bytes together fit for certain."""
        return (
            self.accepted - self.settled + messages <= self.window_messages
            and self._end - self._settled_end + size <= self.window_bytes
        )

    @property
    def has_room(self) -> bool:
        """Whether more may be accepted. A message that is larger than the window passes when it is alone."""
        if self.accepted == self.settled:
            return True
        in_flight = self.in_flight_messages
        return not in_flight or (in_flight < self.window_messages and self.in_flight_bytes < self.window_bytes)

    @property
    def is_overrun(self) -> bool:
        """Whether a sender that knows the window has exceeded it."""
        in_flight = self.in_flight_messages
        return in_flight > self.window_messages or (in_flight > 1 and self.in_flight_bytes > self.window_bytes)

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

    def _enter_batch(self, pieces: Sequence[Piece], finished: int, hop_bytes: int) -> int:
        """Count a batch's bytes on the next hop; where the messages that it finishes begin there."""
        batch_begin, unfinished_begin = self._hop_end, self._unfinished_begin
        self._hop_end = batch_begin + hop_bytes
        if pieces and pieces[-1][2] & LAST:
            self._unfinished_begin = None
        elif pieces and (finished or unfinished_begin is None):
            self._unfinished_begin = batch_begin
        return batch_begin if unfinished_begin is None else unfinished_begin

    def _settle(self, seq: int) -> Sequence[Run]:
        """Settle up to `seq`, and on over messages that were rejected there."""
        rejected = self._rejected
        if rejected is not None:
            while seq + 1 in rejected:
                seq += 1
        settled_runs = self._take_runs(seq)
        if rejected is not None:
            for run in settled_runs:
                first = run.last - run.count
                run.count -= sum([first < number <= run.last for number in rejected])
            settled_runs = [run for run in settled_runs if run.count]
            self._rejected = {number: size for number, size in rejected.items() if number > seq} or None
        count = seq - self.settled
        ends = self._ends
        self._settled_end = ends[count - 1]
        del ends[:count]
        self.settled = seq
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
        count = seq - (rest.last - rest.count)
        if count:
            rest.count -= count
            taken.append(Run(seq, count, accepted_at=rest.accepted_at, begin=rest.begin, end=rest.end))
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
            begun = bisect_left(self._runs, offset, key=_run_begin)
            if begun:
                newest = max(newest, self._runs[begun - 1].last)
        elif self._ends and offset > self._settled_end:
            newest = max(newest, min(self.settled + bisect_left(self._ends, offset) + 1, self.accepted))
        return newest
