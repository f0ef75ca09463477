"""A session in memory: who sends next, and that memory changes only when the store has."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from gateway.backend.conversation import Conversation
from gateway.backend.live import Admission, LiveSession, Shelf
from gateway.backend.store import Changes, MemoryStore
from gateway.protocol.outbox import Outbox
from gateway.protocol.records import OpenToBackend, Record, RecordType
from tests.support.peers.initiator import open_body


class Store(MemoryStore):
    """One that may be full, and tells when it is written."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self.saves = 0
        self.on_save: Callable[[], None] = lambda: None

    def save(self, session_id: str, changes: Changes) -> None:
        self.on_save()
        if self.is_full:
            raise OSError("no space left")
        super().save(session_id, changes)
        self.saves += 1


def live(store: Store) -> LiveSession:
    conversation = Conversation(None, window_messages=2, window_bytes=10, kept_bytes=10)
    conversation.attach(0, OpenToBackend.from_json(open_body(epoch=1)))
    return LiveSession("one", conversation, Shelf(store))


def data(seq: int) -> Record:
    return (RecordType.DATA, 0, seq, b"x")


def outbox(session: LiveSession) -> Outbox:
    return session.conversation.outbox


# --- saving -----------------------------------------------------------------------------------------------------


async def test_what_has_changed_is_saved_once() -> None:
    store = Store()
    session = live(store)
    await session.save()
    await session.save()
    assert store.saves == 1
    session.receive([data(1)])
    session.save_locked()
    session.save_locked()
    assert store.saves <= 2


async def test_a_store_that_fails_changes_nothing_and_is_asked_again() -> None:
    store = Store()
    session = live(store)
    store.is_full = True
    with pytest.raises(OSError, match="no space left"):
        await session.save()
    assert session.conversation.changes(), "it is still to be saved"
    store.is_full = False
    await session.save()
    assert not session.conversation.changes()


async def test_saves_of_all_sessions_of_a_store_follow_one_another() -> None:
    store = Store()
    first, other = live(store), live(store)
    other.shelf = first.shelf
    async with trio.open_nursery() as nursery, first.shelf.lock:
        nursery.start_soon(other.save)
        await wait_all_tasks_blocked()
        assert store.saves == 0
        first.save_locked()
        assert store.saves == 1
    assert store.saves == 2


@pytest.mark.parametrize("fails", ["store", "commit", None])
async def test_a_transaction_changes_memory_when_the_store_has_and_only_then(fails: str | None) -> None:
    store = Store()
    session = live(store)
    await session.save()
    session.receive([data(1)])
    await session.save()
    store.is_full = fails == "store"
    committed: list[Any] = []

    def commit() -> None:
        if fails == "commit":
            raise OSError("cannot commit")
        committed.append(len(outbox(session).unsettled()))

    consumed = session.conversation.inbox.consumed
    if fails is None:
        session.commit(1, [(True, b"reply")], commit)
        assert committed == [0], "memory is as it was until the transaction has ended"
        assert len(outbox(session).unsettled()) == 1
        assert session.conversation.inbox.consumed == 1
    else:
        with pytest.raises(OSError, match=r"no space left|cannot commit"):
            session.commit(1, [(True, b"reply")], commit)
        assert len(outbox(session).unsettled()) == 0
        assert session.conversation.inbox.consumed == consumed == 0


# --- who sends next ---------------------------------------------------------------------------------------------


async def test_turns_are_taken_one_at_a_time_in_the_order_of_coming() -> None:
    admission, taken = Admission(outbox(live(Store()))), []

    async def take(name: str) -> None:
        async with admission.turn():
            taken.append(name)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery, admission.turn():
        for name in "abc":
            nursery.start_soon(take, name)
            await wait_all_tasks_blocked()
        assert admission.is_awaited
        assert taken == []
    assert taken == ["a", "b", "c"]
    assert not admission.is_awaited


async def test_replies_overtake_those_who_wait_by_one_window_and_no_more() -> None:
    box = outbox(live(Store()))
    admission = Admission(box)
    for _ in range(5):
        admission.overtook([(True, b"x")] * 9)
        assert admission.may_overtake, "nobody waits"

    def may_overtake_behind(*replies: tuple[bool, bytes]) -> bool:
        admission.overtook(replies)
        return admission.may_overtake

    async with admission.turn():
        assert may_overtake_behind()
        assert may_overtake_behind(*[(True, b"")] * (box.window_messages - 1))
        assert not may_overtake_behind((True, b"")), "so many messages fill the window"
    async with admission.turn():
        assert may_overtake_behind(), "the next who waits is overtaken anew"
        assert not may_overtake_behind((False, bytes(box.window_bytes))), "so many bytes fill it too"


async def test_everybody_who_waits_looks_again_when_something_has_come() -> None:
    session, woken = live(Store()), []
    async with trio.open_nursery() as nursery:
        for signal in (session.arrived, session.changed, session.moved):

            async def wait(signal: Any = signal) -> None:
                await signal.wait()
                woken.append(signal)

            nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        session.receive([data(1)])
    assert len(woken) == 3
