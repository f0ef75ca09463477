"""Receipts."""

import anyio
import pytest

from gateway.client.faults import Fate, Lost, Rejected
from gateway.client.receipts import Receipt
from gateway.protocol.records import Rung
from tests.client.runtimes import on_both_runtimes


def test_a_receipt_climbs_and_never_falls() -> None:
    receipt = Receipt(1)
    assert receipt.rung is None
    told: list[Rung | None] = []
    receipt.on_change(lambda changed: told.append(changed.rung))
    for rung in (Rung.ACCEPTED, Rung.REACHED, Rung.WRITTEN, Rung.REACHED):
        receipt.climb(rung)
    assert told == [Rung.ACCEPTED, Rung.REACHED]
    assert not receipt.has_ended
    receipt.settle(Rung.CONSUMED)
    assert told[-1] is Rung.CONSUMED
    assert receipt.is_settled
    assert receipt.has_ended


@on_both_runtimes
async def test_waiting_ends_when_the_message_is_settled() -> None:
    receipt = Receipt(1)
    rungs: list[Rung] = []

    async def wait() -> None:
        rungs.append(await receipt.settled())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        tasks.start_soon(wait)
        await anyio.lowlevel.checkpoint()
        receipt.climb(Rung.WRITTEN)
        await anyio.wait_all_tasks_blocked()
        assert rungs == []
        receipt.settle(Rung.REACHED)
    assert rungs == [Rung.REACHED, Rung.REACHED]
    assert await receipt.settled() is Rung.REACHED


@on_both_runtimes
async def test_waiting_raises_what_became_of_the_message_each_time_anew() -> None:
    receipt = Receipt(7)
    receipt.fail(Rejected(7, 4009, "not this one"))
    raised = []
    for _ in range(2):
        with pytest.raises(Rejected, match="message 7 was rejected with 4009 not this one") as caught:
            await receipt.settled()
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert (raised[0].code, raised[0].reject_reason) == (4009, "not this one")


@on_both_runtimes
async def test_a_lost_message_says_whether_it_may_have_arrived() -> None:
    for fate, words in ((Fate.UNKNOWN, "unknown whether it arrived"), (Fate.NEVER_FORWARDED, "never forwarded")):
        receipt = Receipt(3)
        receipt.fail(Lost(3, fate, None))
        assert not receipt.is_settled
        with pytest.raises(Lost, match=words) as caught:
            await receipt.settled()
        assert caught.value.fate is fate


def test_a_callback_that_fails_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    receipt = Receipt(1)
    told: list[bool] = []

    def fail(_: Receipt) -> None:
        raise RuntimeError("a bug of the application's")

    receipt.on_change(fail)
    receipt.on_change(lambda changed: told.append(changed.is_settled))
    receipt.settle(Rung.CONSUMED)
    assert told == [True]
    assert "the callback of a receipt failed" in caplog.text


def test_it_can_be_read_in_a_log() -> None:
    receipt = Receipt(5)
    assert repr(receipt) == "<Receipt of message 5: sent, under way>"
    receipt.climb(Rung.WRITTEN)
    receipt.fail(Lost(5, Fate.UNKNOWN, None))
    assert repr(receipt) == "<Receipt of message 5: written, Lost>"
    receipt = Receipt(6)
    receipt.settle(Rung.CONSUMED)
    assert repr(receipt) == "<Receipt of message 6: consumed, settled>"
