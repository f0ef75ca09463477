"""Deadlines are given back in order, at most one live entry an item, and nothing is kept alive by a dead one."""

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.timers import NEVER, Entry, Timers


class Item:
    def __init__(self) -> None:
        self.timer: Entry | None = None


def test_nothing_set_means_never() -> None:
    timers: Timers[Item] = Timers()
    assert timers.next_deadline == NEVER
    assert timers.due(1e9) == []


def test_items_come_back_in_order_of_their_deadlines_once() -> None:
    timers: Timers[Item] = Timers()
    late, early = Item(), Item()
    assert timers.wake_at(late, 2.0)
    assert timers.wake_at(early, 1.0)
    assert timers.next_deadline == 1.0
    assert timers.due(0.5) == []
    assert timers.due(3.0) == [early, late]
    assert timers.due(3.0) == []
    assert early.timer is None


def test_a_later_deadline_changes_nothing_and_an_earlier_one_replaces() -> None:
    timers: Timers[Item] = Timers()
    item = Item()
    timers.wake_at(item, 5.0)
    assert not timers.wake_at(item, 6.0)
    assert timers.wake_at(item, 4.0)
    assert timers.due(4.0) == [item]
    assert timers.due(10.0) == []


def test_a_forgotten_item_is_not_kept_in_memory() -> None:
    timers: Timers[Item] = Timers()
    item = Item()
    timers.wake_at(item, 20.0)
    watcher = weakref.ref(item)
    timers.forget(item)
    timers.forget(item)
    del item
    gc.collect()
    assert watcher() is None
    assert timers.next_deadline == NEVER


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20) | st.none())), st.integers(0, 20))
def test_like_a_table_of_earliest_deadlines(calls: list[tuple[int, int | None]], now: int) -> None:
    timers: Timers[Item] = Timers()
    items = [Item() for _ in range(5)]
    model: dict[int, int] = {}
    for index, deadline in calls:
        if deadline is None:
            timers.forget(items[index])
            model.pop(index, None)
        else:
            timers.wake_at(items[index], deadline)
            model[index] = min(deadline, model.get(index, deadline))
    assert timers.next_deadline == min(model.values(), default=NEVER)
    due = timers.due(now)
    assert sorted(items.index(item) for item in due) == sorted(index for index, at in model.items() if at <= now)
    assert [model[items.index(item)] for item in due] == sorted(model[items.index(item)] for item in due)
