"""What is remembered of refusals: as long as their sender may not have heard, and no more than fits."""

import json

import pytest

from gateway.codes import NO_CODE
from gateway.errors import ProtocolViolation
from gateway.protocol.records import (
    MAX_JSON_BYTES,
    CloseBody,
    LossReport,
    OpenedByGateway,
    OpenFromClient,
    SessionReport,
)
from gateway.protocol.rejections import (
    LEAST_WINDOW_MESSAGES,
    REJECTIONS_BYTES,
    RejectedRange,
    Rejections,
)


def rejected(*seqs: int, accepted: int = 0, window: int = 1 << 20, reason: str = "no") -> Rejections:
    rejections = Rejections()
    for seq in seqs:
        rejections.add(seq, 4000, reason, accepted=accepted or seq, consumed=seq, window_messages=window)
    return rejections


def test_neighbours_that_were_rejected_alike_are_one_range() -> None:
    rejections = rejected(1, 2, 3, 5)
    rejections.add(6, 4001, "no", accepted=6, consumed=6, window_messages=9)
    rejections.add(7, 4001, "never", accepted=7, consumed=7, window_messages=9)
    assert list(rejections.ranges) == [
        (1, 3, 4000, "no"),
        (5, 5, 4000, "no"),
        (6, 6, 4001, "no"),
        (7, 7, 4001, "never"),
    ]
    assert 2 in rejections
    assert 4 not in rejections


def test_the_same_rejection_again_is_no_news() -> None:
    rejections = rejected(1, 2)
    version = rejections.version
    rejections.add(1, 4001, "other", accepted=2, consumed=2, window_messages=9)
    assert (rejections.ranges, rejections.version) == (((1, 2, 4000, "no"),), version)


def test_a_rejection_is_forgotten_when_a_window_of_messages_has_come_since() -> None:
    rejections = Rejections()
    rejections.add(3, 4000, "no", accepted=5, consumed=5, window_messages=2000)
    rejections.forget(2004, 2004)
    assert rejections
    rejections.forget(2005, 2005)
    assert not rejections


def test_a_small_window_is_not_taken_for_that_of_the_sender() -> None:
    """A gateway may have taken more of it than it passes on at a time."""
    rejections = Rejections()
    rejections.add(3, 4000, "no", accepted=5, consumed=5, window_messages=2)
    rejections.forget(4 + LEAST_WINDOW_MESSAGES, 4 + LEAST_WINDOW_MESSAGES)
    assert rejections
    rejections.forget(5 + LEAST_WINDOW_MESSAGES, 5 + LEAST_WINDOW_MESSAGES)
    assert not rejections


def test_a_rejection_ahead_of_its_turn_is_kept_until_all_before_it_is_consumed() -> None:
    rejections = Rejections([(4, 4, 4000, "no")], accepted=0, window_messages=4)
    rejections.add(9, 4000, "no", accepted=20, consumed=3, window_messages=4)
    rejections.forget(2000, 3)
    assert [first for first, *_ in rejections.ranges] == [4, 9]
    rejections.forget(2000, 4)
    assert [first for first, *_ in rejections.ranges] == [9]
    rejections.forget(2000, 9)
    assert not rejections


def test_what_was_kept_before_is_kept_for_a_window_more() -> None:
    kept: list[RejectedRange] = [(1, 2, 4000, "no")]
    rejections = Rejections(kept, accepted=7, window_messages=2000)
    rejections.forget(2006, 2006)
    assert rejections.ranges == ((1, 2, 4000, "no"),)
    rejections.forget(2007, 2007)
    assert not rejections


def size(rejections: Rejections) -> int:
    return len(json.dumps(rejections.ranges, ensure_ascii=False, separators=(",", ":")).encode())


def test_reasons_are_shortened_before_a_rejection_is_forgotten() -> None:
    rejections = rejected(*range(2, 1000, 2), reason="x" * 1024)
    assert size(rejections) <= REJECTIONS_BYTES
    assert [first for first, *_ in rejections.ranges] == list(range(2, 1000, 2))
    assert rejections.ranges[0][3] == ""
    assert rejections.ranges[-1][3] == "x" * 1024


@pytest.mark.parametrize("begin", [0, 10**9])
@pytest.mark.parametrize("codes", [[4000], [4000, 4001, 4002]])
@pytest.mark.parametrize("apart", [1, 2, 3])
def test_what_a_sender_with_a_window_of_1024_may_not_have_heard_of_is_never_forgotten(
    begin: int, codes: list[int], apart: int
) -> None:
    """It has heard of nothing in the newest 1024 messages, and they were refused in the way that takes most room."""
    rejections = Rejections()
    newest = begin + 2 * LEAST_WINDOW_MESSAGES
    refused = range(begin + 1, newest + 1, apart)
    for index, seq in enumerate(refused):
        code = codes[index % len(codes)]
        rejections.add(
            seq, code, f"{index} {'x' * 900}", accepted=seq, consumed=seq, window_messages=LEAST_WINDOW_MESSAGES
        )
    assert size(rejections) <= REJECTIONS_BYTES
    unheard = [seq for seq in refused if seq > newest - LEAST_WINDOW_MESSAGES]
    assert [seq for seq in unheard if seq not in rejections] == []
    heard_of_in_vain = [seq for first, last, *_ in rejections.ranges for seq in range(first, last + 1)]
    assert set(heard_of_in_vain) <= set(refused)
    told = {seq: code for first, last, code, _ in rejections.ranges for seq in range(first, last + 1)}
    assert all(told[seq] in (codes[(seq - begin - 1) // apart % len(codes)], NO_CODE) for seq in told)


@pytest.mark.parametrize("reason", ["書" * 341, "\n\x00" * 500, '"' * 1000])
def test_what_is_told_never_exceeds_its_bound(reason: str) -> None:
    rejections = rejected(*range(2, 20_000, 2), reason=reason)
    assert size(rejections) <= REJECTIONS_BYTES
    assert 19_998 in rejections
    kept = rejections.ranges
    report = SessionReport(
        upstream=LossReport(settled=0, rejected=kept), downstream=LossReport(settled=0, rejected=kept)
    )
    assert len(CloseBody(code=1006, report=report).to_json()) < MAX_JSON_BYTES
    assert OpenFromClient.from_json(OpenFromClient(rejected=kept).to_json()).rejected == kept


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("[[1]]", "rejected.0"),
        ('[[0, 1, 4000, ""]]', "rejected.0.0"),
        ('[[2, 1, 4000, ""]]', "from no greater than to"),
        ('[[1, 2, 999, ""]]', "rejected.0.2"),
        ("[[1, 2, 4000, null]]", "rejected.0.3"),
        ('[[1, 2, 4000, "' + "x" * 1025 + '"]]', "1024 bytes"),
        ("7", "rejected"),
    ],
)
def test_a_list_that_cannot_be_is_refused_by_name(wrong: str, words: str) -> None:
    with pytest.raises(ProtocolViolation, match=words):
        OpenedByGateway.from_json(
            b'{"session":"t","resumed":true,"settles_at":"consumed","rejected":' + wrong.encode() + b"}"
        )
