"""The account against a slow model: totals, who may be read, who is told to go on, what is given back."""

from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from gateway.memory.account import Account, LoneWaiter, Tab

LIMIT: Final = 640
HOLDER: Final = 200
KEYS: Final = ("a", "b", "c", "d", "e")


class Waiting(LoneWaiter):
    """Somebody who does not read."""

    def __init__(self) -> None:
        self.told = 0

    def room_again(self, now: float) -> None:
        self.told += 1


def water_level(sizes: list[int], target: int) -> int:
    """The largest number for which what is below it fits, tried one after the other."""
    level = 0
    while level < HOLDER and sum(min(size, level + 1) for size in sizes) <= target:
        level += 1
    return level


class AgainstModel(RuleBasedStateMachine):
    """Tabs are opened, charged, released and closed in any order; the model keeps a dict of sizes."""

    sessions: Bundle[Tab] = Bundle("sessions")
    connections: Bundle[Tab] = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER, on_attention=self.note)
        self.own: dict[Tab, int] = {}
        self.session_of: dict[Tab, Tab | None] = {}
        self.key_of: dict[Tab, str] = {}
        self.waiters: dict[str, list[Waiting]] = {key: [] for key in KEYS}

    def note(self) -> None:
        self.calls += 1

    def used(self, key: str) -> int:
        return sum(size for tab, size in self.own.items() if self.key_of[tab] == key)

    @property
    def total(self) -> int:
        return sum(self.own.values())

    @rule(target=sessions, key=st.sampled_from(KEYS), size=st.integers(0, 40))
    def open(self, key: str, size: int) -> Tab:
        tab = self.account.open(key, size)
        self.own[tab], self.key_of[tab], self.session_of[tab] = size, key, None
        return tab

    @rule(target=connections, session=sessions, size=st.integers(0, 40))
    def connect(self, session: Tab, size: int) -> Tab:
        tab = session.connection(size)
        self.own[tab], self.key_of[tab], self.session_of[tab] = size, self.key_of[session], session
        return tab

    @rule(tab=sessions | connections, size=st.integers(0, 150))
    def charge(self, tab: Tab, size: int) -> None:
        if tab in self.own and self.account.used + size <= LIMIT and tab.may_read:
            tab.charge(size)
            self.own[tab] += size

    @rule(tab=sessions | connections, part=st.integers(1, 4))
    def release(self, tab: Tab, part: int) -> None:
        size = self.own.get(tab, 100) // part
        tab.release(size)
        if tab in self.own:
            self.own[tab] -= size

    @rule(tab=consumes(sessions) | consumes(connections))
    def close(self, tab: Tab) -> None:
        tab.close()
        tab.close()
        self.own.pop(tab, None)
        for connection, session in self.session_of.items():
            if session is tab:
                self.session_of[connection] = None

    @rule(tab=sessions | connections)
    def wait(self, tab: Tab) -> None:
        if tab in self.own and not tab.may_read:
            waiter = Waiting()
            tab.wait(waiter)
            self.waiters[self.key_of[tab]].append(waiter)

    @rule()
    def attend(self) -> None:
        ready = self.account.attend()
        for waiter in ready:
            waiter.room_again(0.0)
        for key, waiters in self.waiters.items():
            holder = self.account.holder_of(key)
            if holder is None:
                waiters.clear()  # all its connections are over
                continue
            may_go = self.used(key) <= self.account.resume_at
            assert [waiter.told for waiter in waiters] == [int(may_go)] * len(waiters)
            if may_go:
                waiters.clear()
        sizes = [self.used(key) for key in KEYS if self.account.holder_of(key) is not None]
        target = LIMIT - LIMIT // 4 - LIMIT // 16
        if self.account.is_pressed:
            assert self.account.allowance == min(HOLDER, water_level(sizes, target))
        else:
            assert self.account.allowance == HOLDER
            assert self.total <= LIMIT - LIMIT // 4

    @invariant()
    def totals_are_sums(self) -> None:
        assert self.account.used == self.total
        for tab, own in self.own.items():
            below = sum(
                self.own[other] for other, session in self.session_of.items() if session is tab and other in self.own
            )
            assert tab.used == own + below
        for key in KEYS:
            holder = self.account.holder_of(key)
            assert (0 if holder is None else holder.used) == self.used(key)
            assert (0 if holder is None else holder.sessions) == sum(self.key_of[tab] == key for tab in self.own)

    @invariant()
    def attention_is_called_where_something_is_to_be_done(self) -> None:
        assert self.account.is_pressed or self.total <= LIMIT - LIMIT // 4
        assert self.account.excess_bytes == max(0, self.total - (LIMIT - LIMIT // 8))

    def teardown(self) -> None:
        for tab in list(self.own):
            tab.close()
        assert self.account.used == 0
        assert self.account.holders == 0
        assert self.account.attend() == []


TestAgainstModel = AgainstModel.TestCase
TestAgainstModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def may_read(tab: Tab) -> bool:
    """Asked anew each time: the type checker takes a property for a constant."""
    return tab.may_read


def test_nobody_is_stopped_while_there_is_room() -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER)
    tab = account.open("a", HOLDER - 1)
    assert may_read(tab)
    tab.charge(1)
    assert not may_read(tab)
    assert may_read(account.open("b"))


def test_short_of_memory_the_largest_wait_and_the_small_go_on() -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER)
    small = account.open("small", 10)
    large = [account.open(key, 160) for key in ("a", "b", "c")]
    assert account.is_pressed
    assert not any(may_read(tab) for tab in large)
    assert may_read(small)


def test_who_waited_is_told_once_a_quarter_is_free() -> None:
    calls: list[None] = []
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER, on_attention=lambda: calls.append(None))
    tab = account.open("a", HOLDER)
    waiter = Waiting()
    tab.wait(waiter)
    assert account.waiting == 1
    account.attend()
    calls.clear()
    tab.release(HOLDER // 4 - 1)
    assert not calls
    tab.release(1)
    assert calls == [None]
    assert account.attend() == [waiter]
    assert account.attend() == []


def test_who_is_over_is_not_told() -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER)
    tab = account.open("a", HOLDER)
    waiter = Waiting()
    tab.wait(waiter)
    tab.forget(waiter)
    tab.release(HOLDER)
    assert account.attend() == []


def test_all_go_on_once_the_process_has_room() -> None:
    calls: list[None] = []
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER, on_attention=lambda: calls.append(None))
    tabs = [account.open(key, 170) for key in ("a", "b", "c")]
    assert not may_read(tabs[0])
    account.attend()
    calls.clear()
    tabs[2].close()
    assert calls
    account.attend()
    assert not account.is_pressed
    assert may_read(tabs[0])


def test_resumes_are_let_in_for_longer_than_newcomers() -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=LIMIT)
    tab = account.open("a", LIMIT * 15 // 16)
    assert account.admits(resuming=False)
    tab.charge(1)
    assert (account.admits(resuming=False), account.admits(resuming=True)) == (False, True)
    tab.charge(LIMIT // 32)
    assert not account.admits(resuming=True)


def test_what_parked_sessions_are_to_free() -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=LIMIT)
    tab = account.open("a", LIMIT * 7 // 8)
    assert account.excess_bytes == 0
    tab.charge(7)
    assert account.excess_bytes == 7


def test_a_connection_that_outlives_its_session_stays_charged() -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER)
    session = account.open("a", 10)
    connection = session.connection(100)
    assert session.used == 110
    session.close()
    assert account.used == 100
    connection.release(30)
    assert account.used == 70
    connection.close()
    connection.release(70)
    assert (account.used, account.holders) == (0, 0)


def test_a_connection_that_comes_after_the_sessions_end_is_charged_to_the_holder() -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER)
    session = account.open("a", 10)
    session.close()
    connection = session.connection(20)
    assert [(holder.key, holder.used) for holder in account.largest(9)] == [("a", 20)]
    connection.close()
    assert account.used == 0


def test_a_reload_changes_the_budgets() -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER)
    tab = account.open("a", HOLDER)
    account.set_limits(limit_bytes=2 * LIMIT, holder_bytes=2 * HOLDER)
    assert may_read(tab)


def test_the_largest_holders_are_named() -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER)
    for key, size in (("a", 1), ("b", 3), ("c", 2)):
        account.open(key, size)
    assert [holder.key for holder in account.largest(2)] == ["b", "c"]


@given(st.lists(st.integers(0, 90), min_size=1, max_size=12))
@settings(deadline=None)
def test_those_below_the_water_level_are_never_stopped(sizes: list[int]) -> None:
    account = Account(limit_bytes=LIMIT, holder_bytes=HOLDER)
    tabs = [account.open(str(index), size) for index, size in enumerate(sizes)]
    account.attend()
    fair = (LIMIT - LIMIT // 4 - LIMIT // 16) // len(sizes)
    assert all(may_read(tab) for tab, size in zip(tabs, sizes, strict=True) if size < fair)


@pytest.mark.parametrize("limit", [1, 10, 100])
def test_the_smallest_budgets_work(limit: int) -> None:
    account = Account(limit_bytes=limit, holder_bytes=1)
    tab = account.open("a", 5)
    assert not may_read(tab)
    tab.close()
    assert account.used == 0
