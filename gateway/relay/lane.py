"""A lane, one direction of a session: what may go on, what is held back, and why its sender is paused.

Invariant: pieces leave in the order in which they came; a message is entered in the ledger before its last byte is
handed on; while anything is held nothing overtakes it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mypy_extensions import i64

from gateway.memory.account import Charge, Tab
from gateway.memory.costs import GATHERED_BYTES, PIECE_BYTES
from gateway.protocol.ledger import Ledger, Run
from gateway.protocol.pieces import FIRST, LAST, LAST_BIT, Piece
from gateway.protocol.records import LossReport, RejectBody, Rung
from gateway.protocol.rejections import RejectedRange, Rejections
from gateway.protocol.sequencing import DataSender
from gateway.relay.pump import BUFFER_BYTES
from gateway.relay.retained import Replay, Retained
from gateway.telemetry.metrics import DirectionMetrics, PauseCause

LOOK_AHEAD_BYTES: Final = 64 * 1024
"""How far a paused client is read on, so that a ping or a close within it is still heard and answered."""


LOOK_AHEAD_PIECES: Final = 1024
"""The same in pieces, of which the smallest have no bytes."""

LEDGER_BYTES: Final = 4096
"""What a ledger takes is charged beyond this, which is in what a session takes at the least."""


class Lane:
    """Upstream or downstream of one session."""

    __slots__ = (
        "_held_charge",
        "_ledger_charge",
        "_paused_for",
        "_session",
        "_tab",
        "bytes",
        "dropped_messages",
        "held",
        "held_bytes",
        "held_bytes_before_newest",
        "held_messages",
        "ledger",
        "messages",
        "metrics",
        "rejections",
        "replay",
        "retained",
        "waives_window",
    )

    def __init__(
        self,
        metrics: DirectionMetrics,
        ledger: Ledger | None,
        tab: Tab,
        retained: Retained | None = None,
        session: str = "",
    ) -> None:
        """What is held is charged to `tab`, the session's. `ledger` None: delivery is not tracked.

        `retained`: for a next hop that can be made anew. `session`: its id, which exemplars name.
        """
        self._tab = tab
        self._session = session
        self._held_charge = Charge(tab)
        self._ledger_charge = Charge(tab)
        self.metrics = metrics
        self.ledger = ledger
        self.retained = retained
        self.replay: Replay | None = None
        """While the next hop, made anew, is sent again what is retained: nothing else goes on."""
        self.rejections = Rejections()
        """What the receiver has refused, and the sender may not have heard of."""
        self.held: list[Piece] = []
        """Pieces that came and may not go on yet."""
        self.held_bytes = 0
        self.held_messages = 0
        """Messages whose ends are held."""
        self.held_bytes_before_newest = 0
        """What was held when the newest message that is held began."""
        self.messages: i64 = 0
        """Messages handed on, whole."""
        self.bytes: i64 = 0
        """Payload bytes handed on."""
        self.dropped_messages: i64 = 0
        """Messages that came whole and were forgotten, because nobody was there any more to take them."""
        self.waives_window = False
        """Evidence cannot come, because we do not read whoever would give it: only buffers hold this direction back."""
        self._paused_for: PauseCause | None = None

    # --- passing on -----------------------------------------------------------------------------------------------

    def hold(self, pieces: Sequence[Piece]) -> None:
        """Keeps pieces behind those already held."""
        held = self.held
        cost = self._held_charge.size
        for piece in pieces:
            opcode, payload, flags = piece
            size = len(payload)
            cost += size
            self.held_messages += flags >> LAST_BIT & 1
            if flags & FIRST:
                self.held_bytes_before_newest = self.held_bytes
            elif held and len(held[-1][1]) < GATHERED_BYTES:
                before = held[-1]  # of the same message
                held[-1] = (opcode, before[1] + payload, before[2] | flags)
                self.held_bytes += size
                continue
            self.held_bytes += size
            cost += PIECE_BYTES
            held.append(piece)
        self._held_charge.set_to(cost)
        self.reckon()

    @property
    def is_far_ahead(self) -> bool:
        """As much is held of a client as it is read on for the sake of its control frames."""
        return self.held_bytes >= LOOK_AHEAD_BYTES or len(self.held) >= LOOK_AHEAD_PIECES

    def reckon(self) -> None:
        """Charges what the ledger takes by now. Not with each message: what goes on at once takes nothing for long."""
        ledger = self.ledger
        if ledger is not None:
            self._ledger_charge.set_to(max(ledger.cost_bytes - LEDGER_BYTES, 0))

    def has_room_for(self, pieces: list[Piece]) -> bool:
        """Whether pieces of one read fit the window for certain, without looking at each: the usual case."""
        ledger = self.ledger
        return ledger is None or self.waives_window or ledger.has_room_for(len(pieces), BUFFER_BYTES)

    def admit_held(self) -> list[Piece]:
        """Takes out of the held pieces those that the window has room for, and divides between messages only.

        A message that has begun goes on to its end whatever its size, since its first byte is already out.
        """
        held = self.held
        count = self._admitted(held)
        if count == len(held):
            self._empty()
            return held
        if not count:
            return []
        admitted = held[:count]
        del held[:count]  # what is left is not looked at: there may be thousands, and room for one after the other
        size = 0
        for _, payload, flags in admitted:
            size += len(payload)
            self.held_messages -= flags >> LAST_BIT & 1
        self.held_bytes -= size
        self.held_bytes_before_newest = max(self.held_bytes_before_newest - size, 0)
        self._held_charge.set_to(self._held_charge.size - size - PIECE_BYTES * count)
        return admitted

    def _admitted(self, pieces: list[Piece]) -> int:
        ledger = self.ledger
        if ledger is None or self.waives_window:
            return len(pieces)
        room = ledger.window_messages - ledger.in_flight_messages
        room_bytes = ledger.window_bytes - ledger.in_flight_bytes
        alone = ledger.window_messages == room
        for index, (_, payload, flags) in enumerate(pieces):
            if flags & FIRST and not alone and (room <= 0 or room_bytes <= 0):
                return index
            alone = False
            room -= flags >> LAST_BIT & 1
            room_bytes -= len(payload)
        return len(pieces)

    @property
    def holds_back(self) -> bool:
        """Something is still to go on: it is held, or it is being sent again."""
        return bool(self.held) or self.replay is not None

    def drop_all(self) -> None:
        """Forgets all that is still to go on: nobody is there any more to take it."""
        self.drop_replay()
        self.drop_held()

    def drop_held(self) -> None:
        """Forgets what is held: nobody is there any more to take it."""
        self.dropped_messages += self.held_messages
        self._empty()

    def drop(self, pieces: Sequence[Piece]) -> None:
        """Forgets what has just come, for the same reason."""
        self.dropped_messages += messages_ending(pieces)

    def _empty(self) -> None:
        self.held = []
        self._held_charge.set_to(0)
        self.held_bytes = self.held_messages = self.held_bytes_before_newest = 0

    def drop_unfinished(self) -> bool:
        """Forgets the newest message if only its beginning is held; whether the end of any message is held.

        Without one all that is held may be a part of a message that began to go on before: it stays.
        """
        ends = [index for index, piece in enumerate(self.held) if piece[2] & LAST]
        begins = [index for index, piece in enumerate(self.held) if piece[2] & FIRST]
        if begins and (not ends or ends[-1] < begins[-1]):
            kept = self.held[: begins[-1]]
            self._empty()
            self.hold(kept)
        return bool(ends)

    def enter(self, pieces: list[Piece], hop_bytes: int, now: float) -> None:
        """Counts and records pieces that are about to be written as `hop_bytes` bytes."""
        if self.ledger is not None:
            messages, size = self.ledger.accept_pieces(pieces, now=now, hop_bytes=hop_bytes)
        else:
            messages, size = 0, 0
            for _, payload, flags in pieces:
                size += len(payload)
                messages += flags >> LAST_BIT & 1
        self.messages += messages
        self.bytes += size
        self.metrics.messages += messages
        self.metrics.bytes += size
        if self.retained is not None:
            self.retained.add(pieces)

    def report(self) -> LossReport:
        """What is known of its messages; those that were dropped were never forwarded."""
        ledger, dropped = self.ledger, self.dropped_messages
        assert ledger is not None
        report = ledger.report()
        if not dropped:
            return report
        accepted, unknown, unsent = ledger.accepted, report.unknown, report.never_forwarded
        if unsent is None and ledger.is_in_message:
            # The first of them had begun to go on.
            unknown = (report.settled + 1, accepted + 1)
            unsent = (accepted + 2, accepted + dropped) if dropped > 1 else None
        else:
            unsent = (accepted + 1 if unsent is None else unsent[0], accepted + dropped)
        return replace(report, unknown=unknown, never_forwarded=unsent)

    # --- once more ------------------------------------------------------------------------------------------------

    def begin_replay(self) -> None:
        """The next hop was made anew: what is retained goes out on it first."""
        assert self.ledger is not None
        assert self.retained is not None
        self.drop_replay()
        self.ledger.restart_hop()
        self.replay = Replay(self.retained, self._tab)

    def replay_some(self, sender: DataSender, hop_bytes: int) -> list[Piece]:
        """The next pieces that go out again, for `sender` to encode; none when that was all.

        `hop_bytes`: where all that has gone out ends on the next hop.
        """
        assert self.replay is not None
        assert self.ledger is not None
        pieces = self.replay.take(sender)
        if pieces:
            self.metrics.replayed += messages_ending(pieces)
        else:
            sender.rewind(self.ledger.accepted)
            self.ledger.end_replay(hop_bytes=hop_bytes)
            self.drop_replay()
        return pieces

    def drop_replay(self) -> None:
        """The hop is over, or the rest is not to go out on it."""
        if self.replay is not None:
            self.replay.drop()
            self.replay = None

    # --- settling -------------------------------------------------------------------------------------------------

    @property
    def is_unsettled(self) -> bool:
        """Something that was handed on is not settled."""
        return self.ledger is not None and self.ledger.in_flight_messages > 0

    def settle(self, rung: Rung, seq: int, now: float) -> bool:
        """All messages up to number `seq` are at `rung`; whether any has settled by it. Raises ProtocolViolation."""
        ledger = self.ledger
        if ledger is None:
            return False
        return self._note_settled(ledger.advance(rung, seq), now)

    def settle_to(self, rung: Rung, offset: int, now: float) -> bool:
        """All messages up to byte `offset` on the next hop are at `rung`; whether any has settled by it."""
        ledger = self.ledger
        if ledger is None:
            return False
        return self._note_settled(ledger.advance_to_offset(rung, offset), now)

    def fulfil(self, now: float) -> None:
        """What was entered and had been told of before it came settles: call it where `ledger.is_foretold`."""
        ledger = self.ledger
        assert ledger is not None
        self._note_settled(ledger.fulfil(), now)
        if self.retained is not None:  # what settles as rejected is in no run
            self.retained.settle(ledger.settled)

    def reject(self, seq: int, body: RejectBody) -> bool:
        """Message number `seq` is refused and counts as settled; whether that is news. Raises ProtocolViolation."""
        ledger = self.ledger
        if ledger is None or not ledger.reject(seq):
            return False
        self.note_rejected(seq, body)
        if self.retained is not None:
            self.retained.settle(ledger.settled)
        return True

    def note_rejected(self, seq: int, body: RejectBody) -> None:
        """The receiver, or we, have refused message number `seq`: it is told until its sender must have heard."""
        ledger = self.ledger
        assert ledger is not None
        self.metrics.rejected += 1
        self.rejections.add(
            seq,
            body.code,
            body.reason,
            accepted=ledger.accepted,
            consumed=ledger.settled,
            window_messages=ledger.window_messages,
        )

    def news_of(self, rejected: Sequence[RejectedRange]) -> list[tuple[int, RejectBody]]:
        """What a receiver that is back has refused lately, as far as its REJECTs never came."""
        news: list[tuple[int, RejectBody]] = []
        ledger = self.ledger
        if ledger is not None:
            newest = ledger.accepted + ledger.is_in_message  # a message may be refused before it has come whole
            for first, last, code, reason in rejected:
                for seq in range(max(first, ledger.settled + 1), min(last, newest) + 1):
                    news.append((seq, RejectBody(code=code, reason=reason)))  # noqa: PERF401 - reads better so
        return news

    def _note_settled(self, settled: list[Run], now: float) -> bool:
        """Count messages that the ledger has just settled."""
        if not settled:
            return False
        ledger = self.ledger
        assert ledger is not None
        rung = ledger.settles_at
        histogram = self.metrics.delivery[rung]
        count: i64 = 0
        for run in settled:
            histogram.observe(now - run.accepted_at, run.count)
            count += run.count
        self.metrics.settled[rung] += count
        if histogram.exemplars is not None:
            for run in settled:
                histogram.name(now - run.accepted_at, self._session, now)
        if self._ledger_charge.size:
            self.reckon()
        if self.retained is not None:
            self.retained.settle(ledger.settled)
        return True

    # --- pausing --------------------------------------------------------------------------------------------------

    def paused_for(self, cause: PauseCause | None, now: float) -> None:
        """Accounts paused time: from now on this direction's sender waits because of `cause`, or goes on (None)."""
        if cause is not self._paused_for:
            if self._paused_for is not None:
                self.metrics.paused_seconds[self._paused_for].end(now)
            if cause is not None:
                self.metrics.paused_seconds[cause].begin(now)
            self._paused_for = cause


def messages_ending(pieces: Sequence[Piece]) -> int:
    """How many messages end in these pieces."""
    return sum(1 for piece in pieces if piece[2] & LAST)


def behind_message(pieces: list[Piece], count: int) -> list[Piece]:
    """The pieces behind the end of the `count`th message."""
    for index, piece in enumerate(pieces):
        count -= piece[2] >> LAST_BIT & 1
        if not count:
            return pieces[index + 1 :]
    return []


def first_messages(pieces: list[Piece], count: int) -> list[Piece]:
    """The pieces up to the end of the `count`th message, all of them if it does not end here."""
    for index, piece in enumerate(pieces):
        if not count:
            return pieces[:index]
        count -= piece[2] >> LAST_BIT & 1
    return pieces
