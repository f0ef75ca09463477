"""Both stores keep the same sessions: each is compared with the plain meaning of `Store.save`."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.backend.sqlite_store import SqliteStore
from gateway.backend.store import (
    ENDED_SESSIONS_KEPT,
    Changes,
    MemoryStore,
    SessionEnd,
    Store,
    StoredSession,
)
from gateway.protocol.outbox import OutgoingMessage

MakeStore = Callable[[], Store]

ENDED = SessionEnd(code=1000, reason="", by_peer=False)


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    """Makes a new, empty store at each call."""
    made = 0

    def make() -> Store:
        nonlocal made
        made += 1
        return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / f"{made}.db")

    return make


def message(seq: int, payload: bytes = b"x", *, text: bool = False) -> OutgoingMessage:
    return OutgoingMessage(seq=seq, text=text, chunks=(payload,))


def model(session: StoredSession, changes: Changes) -> StoredSession:
    """What `session` is after `changes`, the slow and obvious way."""
    settled = session.settled if changes.settled is None else changes.settled
    end = changes.end or session.end
    return replace(
        session,
        epoch=session.epoch if changes.epoch is None else changes.epoch,
        consumed=session.consumed if changes.consumed is None else changes.consumed,
        settled=settled,
        sent=session.sent if changes.sent is None else changes.sent,
        rejected=session.rejected if changes.rejected is None else tuple(changes.rejected),
        outbox=() if end and end.by_peer else tuple(m for m in (*session.outbox, *changes.appended) if m.seq > settled),
        end=end,
    )


@st.composite
def histories(draw: st.DrawFn) -> Sequence[Changes]:
    """A session's life: positions only rise, numbers follow one another without a gap."""
    changes, sent, settled, consumed = [], 0, 0, 0
    for _ in range(draw(st.integers(1, 8))):
        payloads = draw(st.lists(st.binary(max_size=4), max_size=4))
        appended = tuple(message(sent + i, payload) for i, payload in enumerate(payloads, 1))
        sent += len(appended)
        settled = draw(st.integers(settled, sent))
        consumed += draw(st.integers(0, 3))
        changes.append(
            Changes(
                epoch=draw(st.none() | st.integers(1, 2**63 - 1)),
                consumed=draw(st.none() | st.just(consumed)),
                settled=draw(st.none() | st.just(settled)),
                rejected=draw(st.none() | st.just([(1, 3, 4000, "no 書"), (5, 5, 4001, "")])),
                sent=sent if appended else None,
                appended=appended,
            )
        )
    if draw(st.booleans()):
        end = SessionEnd(
            code=draw(st.integers(1000, 4999)), reason=draw(st.text(max_size=5)), by_peer=draw(st.booleans())
        )
        changes.append(Changes(end=end))
    return changes


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60, deadline=None
)
@given(history=histories())
def test_a_session_is_loaded_as_its_saves_left_it(make_store: MakeStore, history: Sequence[Changes]) -> None:
    store, expected = make_store(), StoredSession()
    for changes in history:
        store.save("a", changes)
        expected = model(expected, changes)
        assert store.load("a") == expected
    store.close()


def test_sessions_do_not_see_each_other(make_store: MakeStore) -> None:
    store = make_store()
    store.save("a", Changes(epoch=1, appended=[message(1), message(2)]))
    store.save("b", Changes(epoch=5, appended=[message(1, b"other")]))
    store.save("a", Changes(settled=2))
    loaded = store.load("b")
    assert loaded is not None
    assert loaded.outbox == (message(1, b"other"),)
    assert store.load("c") is None
    store.close()


def test_only_sessions_without_an_end_are_open(make_store: MakeStore) -> None:
    store = make_store()
    store.save("a", Changes(epoch=1))
    store.save("b", Changes(epoch=1))
    store.save("a", Changes(end=ENDED))
    assert list(store.open_sessions()) == ["b"]
    store.close()


def test_the_oldest_ended_sessions_are_forgotten_beyond_the_limit(make_store: MakeStore) -> None:
    store = make_store()
    store.save("open", Changes(epoch=1))
    with store.transaction():
        for number in range(ENDED_SESSIONS_KEPT + 2):
            store.save(str(number), Changes(end=ENDED))
    assert store.load("0") is None
    assert store.load("1") is None
    assert store.load("2") is not None
    assert store.load("open") is not None
    store.close()


def test_memory_bounds_the_messages_of_ended_sessions() -> None:
    store = MemoryStore(ended_bytes=100)
    for name in ("a", "b", "c"):
        store.save(name, Changes(appended=[message(1, bytes(40))], end=ENDED))
    assert [name for name in ("a", "b", "c") if store.load(name)] == ["b", "c"]
    store.save("b", Changes(settled=1))
    store.save("d", Changes(appended=[message(1, bytes(60))], end=ENDED))
    assert [name for name in ("b", "c", "d") if store.load(name)] == ["b", "c", "d"]


def test_a_transaction_that_fails_leaves_nothing_saved(make_store: MakeStore) -> None:
    store = make_store()
    store.save("a", Changes(epoch=1))

    def fail_in_the_middle() -> None:
        with store.transaction():
            store.save("a", Changes(consumed=7, appended=[message(1)]))
            store.save("b", Changes(epoch=1))
            raise LookupError("the handler's own fault")

    with pytest.raises(LookupError):
        fail_in_the_middle()
    assert store.load("a") == StoredSession(epoch=1)
    assert store.load("b") is None
    with store.transaction():
        store.save("a", Changes(consumed=7))
    assert store.load("a") == StoredSession(epoch=1, consumed=7)
    store.close()


def test_transactions_do_not_nest(make_store: MakeStore) -> None:
    store = make_store()
    with store.transaction(), pytest.raises((RuntimeError, sqlite3.OperationalError)), store.transaction():
        pytest.fail("a second transaction began")
    store.close()
