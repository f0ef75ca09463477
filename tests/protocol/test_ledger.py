"""The ledger against a slow model that keeps every message for ever; long, for its edges follow one by one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import isdatadescriptor
from itertools import groupby

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.errors import ProtocolViolation
from gateway.protocol.ledger import Ledger, Run
from gateway.protocol.pieces import FIRST, LAST, Opcode, Piece
from gateway.protocol.records import DEFAULT_WINDOW_MESSAGES, LossReport, Rung

PROVABLE = [Rung.WRITTEN, Rung.REACHED, Rung.CONSUMED]


def message(size: int) -> Piece:
    return (Opcode.BINARY, bytes(size), FIRST | LAST)


def told(runs: Sequence[Run]) -> list[tuple[float, int]]:
    """(accepted_at, count) of each run"""
    return [(run.accepted_at, run.count) for run in runs]


def accept(ledger: Ledger, size: int, *, now: float, hop_bytes: int = 0) -> int:
    """Enter one whole message; its number."""
    assert ledger.accept_pieces([message(size)], now=now, hop_bytes=hop_bytes) == (1, size)
    return ledger.accepted


def room(ledger: Ledger) -> tuple[bool, bool]:
    """(whether a message of one byte fits, whether half the window is used up)"""
    return ledger.has_room_for(1, 1), ledger.is_half_full


def open_ledger(settles_at: Rung = Rung.REACHED, *, overhead_bytes: int | None = 0, start: int = 0) -> Ledger:
    return Ledger(settles_at, window_messages=4, window_bytes=100, overhead_bytes=overhead_bytes, start=start)


@dataclass
class Entry:
    """One message of the model, for ever; begin and end are where it stands on the next hop, as far as is known."""

    seq: int
    size: int
    begin: int
    end: int
    batch: int
    accepted_at: float
    rejected: bool = False
    is_refused: bool = False
    """It never was put on the next hop, and has no overhead there."""


class LedgerMachine(RuleBasedStateMachine):
    """Any order of messages and evidence: the ledger knows what the model knows."""

    @initialize(
        settles_at=st.sampled_from(PROVABLE),
        overhead=st.sampled_from([None, 0, 1, 4]),
        start=st.sampled_from([0, 7]),
    )
    def begin(self, settles_at: Rung, overhead: int | None, start: int) -> None:
        self.ledger = Ledger(settles_at, window_messages=6, window_bytes=40, overhead_bytes=overhead, start=start)
        self.settles_at = settles_at
        self.varies = overhead is None
        self.overhead = overhead or 0
        self.start = start
        self.entries: list[Entry] = []
        self.hop_bytes = 0
        self.partial, self.is_partial, self.partial_rejected = 0, False, False
        self.batch = 0
        self.partial_begin = 0
        self.positions = dict.fromkeys(PROVABLE, start)
        self.sent = start
        self.offset = 0
        self.now = 0.0

    # --- the model's answers ---

    @property
    def accepted(self) -> int:
        return self.start + len(self.entries)

    @property
    def settled(self) -> int:
        return self.positions[self.settles_at]

    def unsettled(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.seq > self.settled and not entry.rejected]

    def expect_advance(self, rung: Rung, seq: int) -> list[tuple[float, int]]:
        """Raise the model's positions; the runs that settle."""
        before = self.unsettled()
        rung = min(rung, self.settles_at)
        for lower in PROVABLE:
            if lower <= rung:
                self.positions[lower] = max(self.positions[lower], seq)
        self.pass_rejected()
        newly = [entry for entry in before if entry.seq <= self.settled]
        return [
            (next(iter(same := list(entries))).accepted_at, len(same))
            for _, entries in groupby(newly, key=lambda entry: entry.batch)
        ]

    def pass_rejected(self) -> None:
        while self.settled < self.accepted and self.entries[self.settled - self.start].rejected:
            self.positions[self.settles_at] += 1
        for lower in PROVABLE:
            if lower < self.settles_at:
                self.positions[lower] = max(self.positions[lower], self.settled)

    def enter(self, size: int, begin: int, end: int) -> None:
        self.entries.append(Entry(self.accepted + 1, size, begin, end, self.batch, self.now))

    # --- what may happen ---

    @rule(sizes=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), max_size=4), rest=st.integers(0, 9))
    def accept_pieces(self, sizes: list[list[int]], rest: int) -> None:
        """Messages in several pieces each, and after them the first piece of one more."""
        self.now += 1
        self.batch += 1
        pieces: list[Piece] = []
        begin = self.hop_bytes
        payload_bytes = sum(map(sum, sizes)) + rest
        batch_bytes = payload_bytes + 3 * sum(map(len, sizes)) + 3 if self.varies else 0
        end = begin
        # A batch that ends a message begun earlier counts as begun there, with all that is in it.
        batch_begin = self.partial_begin if self.is_partial else begin
        for parts in sizes:
            for index, part in enumerate(parts):
                first = FIRST if index == 0 and not self.is_partial else 0
                pieces.append((Opcode.TEXT, bytes(part), first | (LAST if index == len(parts) - 1 else 0)))
            end += sum(parts) + self.overhead
            size = sum(parts) + self.partial
            if self.varies:
                self.enter(size, batch_begin, begin + batch_bytes)
            else:
                self.enter(size, end - size - self.overhead, end)
            self.partial, self.is_partial = 0, False
            self.entries[-1].rejected, self.partial_rejected = self.partial_rejected, False
        self.pass_rejected()
        if rest:
            pieces.append((Opcode.TEXT, bytes(rest), 0 if self.is_partial else FIRST))
            self.partial_begin = self.partial_begin if self.is_partial else begin
            self.partial, self.is_partial = self.partial + rest, True
        self.hop_bytes = begin + batch_bytes if self.varies else end + rest
        entered = self.ledger.accept_pieces(pieces, now=self.now, hop_bytes=batch_bytes)
        assert entered == (len(sizes), payload_bytes)

    @precondition(lambda self: not self.is_partial)
    @rule(size=st.integers(0, 90))
    def accept(self, size: int) -> None:
        self.now += 1
        self.batch += 1
        cost = size + 5 if self.varies else size + self.overhead
        self.enter(size, self.hop_bytes, self.hop_bytes + cost)
        self.hop_bytes += cost
        assert accept(self.ledger, size, now=self.now, hop_bytes=cost if self.varies else 0) == self.accepted

    @precondition(lambda self: self.varies or self.offset <= self.hop_bytes - self.partial)
    @rule()
    def refuse(self) -> None:
        self.now += 1
        self.batch += 1
        if not self.varies:
            self.hop_bytes -= self.partial
        self.partial, self.is_partial, self.partial_rejected = 0, False, False
        self.enter(0, self.hop_bytes, self.hop_bytes)
        self.entries[-1].rejected = self.entries[-1].is_refused = True
        self.pass_rejected()
        assert self.ledger.refuse(now=self.now) == self.accepted

    @rule(rung=st.sampled_from(list(Rung)), back=st.integers(-1, 9))
    def advance(self, rung: Rung, back: int) -> None:
        seq = self.accepted - back
        if seq > self.accepted:
            with pytest.raises(ProtocolViolation, match=f"message {seq}, but the last one sent is {self.accepted}"):
                self.ledger.advance(rung, seq)
        elif seq >= 0:
            expected = self.expect_advance(rung, seq) if rung > Rung.ACCEPTED else []
            assert told(self.ledger.advance(rung, seq)) == expected

    @rule(rung=st.sampled_from(PROVABLE), back=st.integers(-1, 60))
    def advance_to_offset(self, rung: Rung, back: int) -> None:
        offset = self.hop_bytes - back
        if offset > self.hop_bytes:
            with pytest.raises(ValueError, match="beyond"):
                self.ledger.advance_to_offset(rung, offset)
        elif offset >= 0:
            self.offset = max(self.offset, offset)
            proven = [entry.seq for entry in self.entries if entry.end <= offset and entry.seq > self.settled]
            expected = self.expect_advance(rung, max(proven)) if proven else []
            assert told(self.ledger.advance_to_offset(rung, offset)) == expected

    @rule(back=st.integers(-1, 9))
    def reject(self, back: int) -> None:
        seq = self.accepted - back
        if seq > self.accepted and self.varies and self.is_partial:
            assert self.ledger.reject(seq) is not self.partial_rejected
            self.partial_rejected = True
        elif seq > self.accepted:
            with pytest.raises(ProtocolViolation, match="rejects"):
                self.ledger.reject(seq)
        elif seq > self.start:
            entry = self.entries[seq - self.start - 1]
            expected = seq > self.settled and not entry.rejected
            entry.rejected = entry.rejected or expected
            self.pass_rejected()
            assert self.ledger.reject(seq) is expected

    @precondition(lambda self: self.varies)
    @rule(extra=st.integers(0, 9))
    def restart_hop(self, extra: int) -> None:
        self.sent = self.newest_sent()
        self.hop_bytes = sum(entry.size for entry in self.unsettled()) + extra + 1
        for entry in self.entries:
            entry.begin, entry.end = 0, self.hop_bytes
        self.partial_begin = 0
        self.offset = 0
        for rung in PROVABLE:
            self.positions[rung] = self.settled
        self.ledger.restart_hop()
        assert self.ledger.advance_to_offset(Rung.REACHED, 0) == []
        self.ledger.end_replay(hop_bytes=self.hop_bytes)

    # --- what always holds ---

    def newest_sent(self) -> int:
        touched = [entry.seq for entry in self.entries if entry.begin < self.offset and entry.seq > self.settled]
        return max([self.sent, self.positions[Rung.WRITTEN], *touched])

    @invariant()
    def knows_what_the_model_knows(self) -> None:
        ledger, unsettled = self.ledger, self.unsettled()
        assert (ledger.accepted, ledger.settled) == (self.accepted, self.settled)
        assert ledger.in_flight_messages == len(unsettled)
        in_flight_bytes = sum(entry.size for entry in unsettled) + self.partial
        assert ledger.in_flight_bytes == in_flight_bytes
        # The window is held against all numbers and bytes that are not settled, rejected ones and overhead included.
        messages = self.accepted - self.settled
        size = sum(entry.size + self.overhead for entry in self.entries if entry.seq > self.settled) + self.partial
        size -= self.overhead * sum(entry.is_refused for entry in self.entries if entry.seq > self.settled)
        assert ledger.is_half_full == (2 * messages >= 6 or 2 * size >= 40)
        for more in (1, 3):
            assert ledger.has_room_for(more, 7) == (messages + more <= 6 and size + 7 <= 40)
        assert ledger.oldest_accepted_at == (unsettled[0].accepted_at if unsettled else None)
        for rung in PROVABLE:
            assert ledger.position(rung) == (self.positions[rung] if rung <= self.settles_at else 0)
        assert ledger.position(Rung.ACCEPTED) == self.accepted
        report, sent = ledger.report(), self.newest_sent()
        assert report.settled == self.settled
        assert report.unknown == ((self.settled + 1, sent) if sent > self.settled else None)
        assert report.never_forwarded == ((sent + 1, self.accepted) if sent < self.accepted else None)


LedgerMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
TestLedgerAgainstModel = LedgerMachine.TestCase


def test_thousand_messages_of_one_turn_settle_as_one_run() -> None:
    ledger = open_ledger()
    ledger.accept_pieces([message(64)] * 1000, now=2.5)
    assert told(ledger.advance_to_offset(Rung.REACHED, 64_000)) == [(2.5, 1000)]
    assert ledger.in_flight_messages == 0


def test_offset_inside_a_message_settles_only_those_before_it() -> None:
    ledger = open_ledger(overhead_bytes=4)
    ledger.accept_pieces([message(6), message(6)], now=1.0)
    assert told(ledger.advance_to_offset(Rung.REACHED, 19)) == [(1.0, 1)]
    assert told(ledger.advance_to_offset(Rung.REACHED, 20)) == [(1.0, 1)]


def test_empty_messages_settle_with_what_is_before_them() -> None:
    ledger = open_ledger()
    accept(ledger, 3, now=1.0)
    accept(ledger, 0, now=2.0)
    accept(ledger, 0, now=3.0)
    ledger.accept_pieces([message(0), message(2)], now=4.0)
    assert told(ledger.advance_to_offset(Rung.REACHED, 3)) == [(1.0, 1), (2.0, 1), (3.0, 1), (4.0, 1)]
    assert ledger.in_flight_messages == 1


def test_messages_of_different_turns_settle_as_runs_oldest_first() -> None:
    ledger = open_ledger()
    accept(ledger, 1, now=1.0)
    ledger.accept_pieces([message(1), message(1)], now=2.0)
    ledger.accept_pieces([message(1), message(1)], now=3.0)
    assert told(ledger.advance(Rung.REACHED, 4)) == [(1.0, 1), (2.0, 2), (3.0, 1)]
    assert ledger.oldest_accepted_at == 3.0
    assert told(ledger.advance(Rung.REACHED, 5)) == [(3.0, 1)]
    assert ledger.oldest_accepted_at is None


def test_a_message_counts_when_its_last_piece_comes() -> None:
    ledger = open_ledger()
    ledger.accept_pieces([(Opcode.TEXT, b"abc", FIRST)], now=1.0)
    assert (ledger.accepted, ledger.in_flight_bytes) == (0, 3)
    ledger.accept_pieces([(Opcode.TEXT, b"de", 0), (Opcode.TEXT, b"", LAST)], now=2.0)
    assert (ledger.accepted, ledger.in_flight_bytes) == (1, 5)
    assert not ledger.advance_to_offset(Rung.REACHED, 4)
    assert told(ledger.advance_to_offset(Rung.REACHED, 5)) == [(2.0, 1)]


def test_window_of_messages_is_full_at_its_count() -> None:
    ledger = open_ledger()
    accept(ledger, 1, now=1.0)
    assert room(ledger) == (True, False)
    accept(ledger, 1, now=1.0)
    assert room(ledger) == (True, True)
    ledger.accept_pieces([message(1)] * 2, now=1.0)
    assert room(ledger) == (False, True)
    ledger.advance(Rung.REACHED, 2)
    assert room(ledger) == (True, True)
    assert not ledger.has_room_for(3, 1)


def test_window_of_bytes_is_full_at_its_size() -> None:
    ledger = open_ledger()
    accept(ledger, 49, now=1.0)
    assert room(ledger) == (True, False)
    accept(ledger, 50, now=1.0)
    assert room(ledger) == (True, True)
    accept(ledger, 1, now=1.0)
    assert room(ledger) == (False, True)
    assert not ledger.has_room_for(1, 2)


@pytest.mark.parametrize("window", [2**62, 2**63 - 1, 2**63, 2**64])
@pytest.mark.parametrize("start", [0, 2**62, 2**63 - 3])
def test_a_window_larger_than_all_numbers_is_never_full(window: int, start: int) -> None:
    ledger = Ledger(Rung.REACHED, window_messages=window, window_bytes=window, start=start)
    accept(ledger, 10, now=1.0)
    assert room(ledger)[0]
    assert told(ledger.advance(Rung.REACHED, start + 1)) == [(1.0, 1)]
    assert ledger.in_flight_messages == 0
    ledger.set_window(window, window)
    assert room(ledger)[0]


def test_an_unfinished_message_takes_its_part_of_the_window() -> None:
    ledger = open_ledger()
    ledger.accept_pieces([message(10), (Opcode.BINARY, bytes(90), FIRST)], now=1.0)
    assert room(ledger) == (False, True)
    ledger.advance(Rung.REACHED, 1)
    assert room(ledger) == (True, True)


def test_a_window_may_change_while_messages_are_under_way() -> None:
    ledger = open_ledger()
    ledger.accept_pieces([message(10)] * 4, now=1.0)
    ledger.set_window(5, 41)
    assert room(ledger) == (True, True)
    ledger.set_window(9, 81)
    assert room(ledger) == (True, False)
    ledger.advance(Rung.REACHED, 4)
    assert ledger.has_room_for(9, 81)
    assert not ledger.has_room_for(10, 1)


def test_rejected_message_leaves_the_window_and_settles_in_its_turn() -> None:
    ledger = open_ledger(Rung.CONSUMED, overhead_bytes=None)
    ledger.accept_pieces([message(30), message(40), message(20)], now=1.0, hop_bytes=132)
    assert ledger.reject(2)
    assert not ledger.reject(2)
    assert (ledger.settled, ledger.in_flight_messages, ledger.in_flight_bytes) == (0, 2, 50)
    assert told(ledger.advance(Rung.CONSUMED, 1)) == [(1.0, 1)]
    assert (ledger.settled, ledger.in_flight_messages, ledger.in_flight_bytes) == (2, 1, 20)
    assert not ledger.reject(1), "settled before"


def test_message_refused_here_takes_a_number_and_no_room_on_the_next_hop() -> None:
    ledger = open_ledger(overhead_bytes=1)
    accept(ledger, 5, now=1.0)
    ledger.accept_pieces([(Opcode.BINARY, bytes(9), FIRST)], now=2.0)
    assert ledger.refuse(now=2.0) == 2
    assert (ledger.in_flight_messages, ledger.in_flight_bytes) == (1, 5)
    accept(ledger, 3, now=3.0)
    assert told(ledger.advance_to_offset(Rung.REACHED, 6)) == [(1.0, 1)]
    assert ledger.settled == 2
    assert told(ledger.advance_to_offset(Rung.REACHED, 10)) == [(3.0, 1)]


def test_report_tells_what_was_sent_in_part_from_what_never_was() -> None:
    ledger = open_ledger()
    ledger.accept_pieces([message(10)] * 5, now=1.0)
    ledger.advance_to_offset(Rung.REACHED, 10)
    ledger.advance_to_offset(Rung.WRITTEN, 31)
    assert ledger.position(Rung.WRITTEN) == 3
    assert ledger.report() == LossReport(settled=1, unknown=(2, 4), never_forwarded=(5, 5))


def test_report_of_an_empty_ledger_names_only_what_settled() -> None:
    assert open_ledger(start=9).report() == LossReport(settled=9)


def test_batches_on_a_hop_whose_overhead_varies_are_proven_as_a_whole() -> None:
    ledger = open_ledger(Rung.CONSUMED, overhead_bytes=None)
    ledger.accept_pieces([message(10), message(10)], now=1.0, hop_bytes=48)
    ledger.accept_pieces([message(10), message(10)], now=1.0, hop_bytes=48)
    ledger.advance_to_offset(Rung.WRITTEN, 95)
    assert ledger.position(Rung.WRITTEN) == 2
    assert ledger.report() == LossReport(settled=0, unknown=(1, 4))
    ledger.advance_to_offset(Rung.REACHED, 96)
    assert (ledger.position(Rung.WRITTEN), ledger.position(Rung.REACHED)) == (4, 4)


def test_new_connection_of_the_next_hop_forgets_evidence_but_not_what_it_may_have_carried() -> None:
    ledger = open_ledger(Rung.CONSUMED, overhead_bytes=None)
    ledger.accept_pieces([message(10), message(10)], now=1.0, hop_bytes=48)
    ledger.advance_to_offset(Rung.WRITTEN, 48)
    accept(ledger, 10, now=2.0, hop_bytes=24)
    ledger.advance(Rung.CONSUMED, 1)
    ledger.restart_hop()
    assert ledger.position(Rung.WRITTEN) == 1
    assert ledger.report() == LossReport(settled=1, unknown=(2, 2), never_forwarded=(3, 3))
    ledger.advance_to_offset(Rung.WRITTEN, 1)
    assert ledger.report() == LossReport(settled=1, unknown=(2, 3))
    ledger.advance_to_offset(Rung.WRITTEN, 47)
    assert ledger.position(Rung.WRITTEN) == 1, "how much all of it comes to is not known while it goes out"
    ledger.end_replay(hop_bytes=48)
    ledger.advance_to_offset(Rung.WRITTEN, 48)
    assert ledger.position(Rung.WRITTEN) == 3
    assert told(ledger.advance(Rung.CONSUMED, 3)) == [(1.0, 1), (2.0, 1)]


def test_hop_without_records_cannot_be_made_anew() -> None:
    with pytest.raises(ValueError, match="without records"):
        open_ledger(overhead_bytes=1).restart_hop()


def test_evidence_above_the_settling_rung_counts_as_that_rung() -> None:
    ledger = open_ledger(Rung.REACHED)
    accept(ledger, 1, now=1.0)
    assert told(ledger.advance(Rung.CONSUMED, 1)) == [(1.0, 1)]
    assert ledger.position(Rung.CONSUMED) == 0
    assert ledger.position(Rung.WRITTEN) == 1


def test_messages_cannot_settle_at_accepted() -> None:
    with pytest.raises(ValueError, match="settle at WRITTEN"):
        open_ledger(Rung.ACCEPTED)


def test_ledger_with_nothing_under_way_is_tiny_and_stays_so() -> None:
    ledger = open_ledger()
    ledger.accept_pieces([message(64)] * 1000, now=1.0)
    ledger.advance(Rung.REACHED, 1000)
    members = [getattr(ledger, name) for name, member in vars(Ledger).items() if isdatadescriptor(member)]
    lists = sum(sys.getsizeof(value) for value in members if isinstance(value, list))
    assert sys.getsizeof(ledger) + lists < 400


def test_message_rejected_before_its_end_settles_when_its_end_comes() -> None:
    ledger = open_ledger(Rung.CONSUMED, overhead_bytes=None)
    ledger.accept_pieces([message(1), (Opcode.BINARY, bytes(9), FIRST)], now=1.0, hop_bytes=38)
    assert ledger.reject(2)
    assert not ledger.reject(2)
    ledger.accept_pieces([(Opcode.BINARY, bytes(9), LAST), message(1)], now=2.0, hop_bytes=38)
    assert (ledger.accepted, ledger.in_flight_messages, ledger.in_flight_bytes) == (3, 2, 2)
    assert told(ledger.advance(Rung.CONSUMED, 3)) == [(1.0, 1), (2.0, 1)]
    with pytest.raises(ProtocolViolation, match="rejects message 4, but the last one sent is 3"):
        ledger.reject(4)


def test_messages_of_a_resumed_session_may_be_acknowledged_before_they_come() -> None:
    ledger = Ledger(Rung.CONSUMED, window_messages=4, window_bytes=100, overhead_bytes=None, start=10, resumed=True)
    assert not ledger.is_foretold
    assert not ledger.advance(Rung.WRITTEN, 12)
    assert not ledger.is_foretold
    assert not ledger.advance(Rung.CONSUMED, 12)
    assert ledger.reject(14)
    assert not ledger.reject(14)
    assert (ledger.settled, ledger.accepted, ledger.is_foretold) == (10, 10, True)
    ledger.accept_pieces([message(1), message(1), message(1), message(1)], now=7.0, hop_bytes=4)
    assert told(ledger.fulfil()) == [(7.0, 2)]
    assert (ledger.settled, ledger.in_flight_messages, ledger.is_foretold) == (12, 1, False)
    assert told(ledger.advance(Rung.CONSUMED, 13)) == [(7.0, 1)]
    assert ledger.settled == 14


def test_what_no_window_can_have_let_through_is_not_foretold() -> None:
    for start, resumed, seq in ((0, False, 1), (10, False, 11), (10, True, 11 + DEFAULT_WINDOW_MESSAGES)):
        ledger = Ledger(Rung.CONSUMED, window_messages=4, window_bytes=100, start=start, resumed=resumed)
        with pytest.raises(ProtocolViolation, match=f"acknowledges message {seq}, but the last one sent is {start}"):
            ledger.advance(Rung.CONSUMED, seq)
        with pytest.raises(ProtocolViolation, match=f"rejects message {seq}, but the last one sent is {start}"):
            ledger.reject(seq)


def test_a_connection_left_to_itself_may_carry_all_that_was_entered() -> None:
    ledger = Ledger(Rung.CONSUMED, window_messages=4, window_bytes=100, overhead_bytes=None)
    accept(ledger, 10, now=0.0, hop_bytes=20)
    ledger.give_up_hop()
    accept(ledger, 10, now=0.0)
    assert ledger.report() == LossReport(settled=0, unknown=(1, 1), never_forwarded=(2, 2))
