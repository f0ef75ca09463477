"""Turns: one after the other for the same name, at once for different ones, nothing remembered."""

import trio
from trio.testing import wait_all_tasks_blocked

from gateway.sessions.turns import Turns


async def test_the_same_name_goes_in_order_of_arrival_and_another_one_at_once() -> None:
    turns = Turns()
    seen: list[str] = []
    gate = trio.Event()

    async def take(name: str, label: str) -> None:
        async with turns.take(name):
            seen.append(label)
            if label == "first":
                await gate.wait()

    async with trio.open_nursery() as nursery:
        for name, label in [("a", "first"), ("a", "second"), ("a", "third"), ("b", "other")]:
            nursery.start_soon(take, name, label)
            await wait_all_tasks_blocked()
        assert seen == ["first", "other"]
        gate.set()
    assert seen == ["first", "other", "second", "third"]
    assert len(turns) == 0


async def test_one_who_gives_up_waiting_leaves_the_turn_to_the_others() -> None:
    turns = Turns()
    async with turns.take("a"):
        with trio.move_on_after(0):
            async with turns.take("a"):
                raise AssertionError("not its turn")
        assert len(turns) == 1
    assert len(turns) == 0
    async with turns.take("a"):
        pass
