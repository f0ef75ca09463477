"""One account of memory: what is held, for whom, and who has to wait when it is much.

General theory of operation
---------------------------
Whatever is kept because a peer sent it, or does not take it, is *charged* to a `Tab` at what it costs (`costs`), and
*released* when it goes. A charge adds to four totals: the connection's tab, its session's, its *holder's* (the subject;
else the IPv4 address, or the /64 of IPv6) and the process's. That is all that the data path pays.

What follows from the totals is decided here, and done by others:

*Nobody may have it all.* A holder at `allowance` is not read any more (`Tab.may_read`), neither its clients nor their
backends, and reads on when it has let go of a quarter. The allowance is the budget of one holder, until the process has
three quarters of its budget in use; then it is the *water level*: what each could have if all were given the same and
who needs less left the rest to the others. So the largest holders wait, and the small ones notice nothing.

*Who does not let go.* Sessions whose client is away hold on for as long as they may be resumed. Past seven eighths the
fattest of them are ended, down to there (`excess_bytes`). Past fifteen sixteenths newcomers are turned away, past
thirty-one thirty-seconds those who resume a session too (`admits`).

Invariants: each total is the sum of what is below it; a tab that is closed has given back all that was charged to it,
so nothing that is held can be forgotten for longer than its connection or session; nothing here does I/O, reads a
clock, or calls anybody but `on_attention`, which must only make a note that `attend` is to be called.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from heapq import nlargest
from typing import Final

from mypy_extensions import i64, mypyc_attr, trait

NO_TABS: Final[tuple["Tab", ...]] = ()

ALARM_STEPS: Final = 64
"""Beyond the pause mark the allowance is reckoned anew each time this fraction of the budget has been charged."""


@trait
@mypyc_attr(allow_interpreted_subclasses=True)
class Waiter(ABC):
    """Whoever stopped reading because `Tab.may_read` was false."""

    __slots__ = ()

    @abstractmethod
    def room_again(self, now: float) -> None:
        """The holder has room again."""


@mypyc_attr(allow_interpreted_subclasses=True)
class LoneWaiter(Waiter):
    """One that is nothing besides: an interpreted class may inherit from it, which from a compiled trait it may not."""

    __slots__ = ()

    def room_again(self, now: float) -> None: ...


class Holder:
    """All that one subject, or one address, makes us hold."""

    __slots__ = ("_tabs", "account", "key", "used", "waiters")

    def __init__(self, account: "Account", key: str) -> None:
        self.key = key
        self.used: i64 = 0
        """Bytes."""
        self.waiters: dict[Waiter, None] = {}
        self.account = account
        self._tabs = 0

    @property
    def sessions(self) -> int:
        """How many tabs of sessions it has."""
        return self._tabs

    def _opened(self) -> None:
        self._tabs += 1

    def _closed(self) -> bool:
        """Whether it was the last one."""
        self._tabs -= 1
        return not self._tabs


class Tab:
    """What one session, or one connection of a session, makes us hold."""

    __slots__ = ("_connections", "_session", "account", "holder", "is_closed", "used")

    def __init__(self, account: "Account", holder: Holder, session: "Tab | None") -> None:
        """Made by `Account.open` and `connection`."""
        self.used: i64 = 0
        """Bytes; of a session's tab, those of its connections included."""
        self.holder = holder
        self.is_closed = False
        self.account = account
        self._session = session
        self._connections: tuple[Tab, ...] = NO_TABS

    # --- the data path ----------------------------------------------------------------------------------------------

    def charge(self, size: i64) -> None:
        """So many bytes more are held; nothing is charged to a closed tab, for nobody would give it back."""
        if self.is_closed:
            return
        self.used += size
        session = self._session
        if session is not None:
            session.used += size
        self.holder.used += size
        account = self.account
        account.used += size
        if account.used > account.alarm_at:
            account.alarm()

    def release(self, size: i64) -> None:
        """So many bytes fewer are held; a closed tab has given them back already."""
        if self.is_closed:
            return
        self.used -= size
        session = self._session
        if session is not None:
            session.used -= size
        holder = self.holder
        holder.used -= size
        account = self.account
        account.used -= size
        if account.used < account.calm_at or (holder.waiters and holder.used <= account.resume_at):
            account.call_attention()

    @property
    def may_read(self) -> bool:
        """Whether more may be taken in for this holder: to be asked before each read, of either side.

        An endpoint asks holder and account itself: interpreted, a call costs more than the question.
        """
        return self.holder.used < self.account.allowance

    def wait(self, waiter: Waiter) -> None:
        """`waiter` does not read any more, and is to be told when there is room. It is told once."""
        self.holder.waiters[waiter] = None

    def forget(self, waiter: Waiter) -> None:
        """It waits no longer: its connection is over."""
        self.holder.waiters.pop(waiter, None)

    # --- life -------------------------------------------------------------------------------------------------------

    def connection(self, size: int = 0) -> "Tab":
        """A tab of a connection of this session, with `size` bytes to begin with. It may outlive the session."""
        if self.is_closed:
            return self.account.open(self.holder.key, size)
        tab = Tab(self.account, self.holder, self)
        self.holder._opened()
        self._connections = (*self._connections, tab)
        tab.charge(size)
        return tab

    def close(self) -> None:
        """Gives back what is still charged to it, but for what its open connections hold. Closing twice is fine."""
        if self.is_closed:
            return
        for connection in self._connections:
            self.used -= connection.used
            connection._session = None
        self._connections = NO_TABS
        self.release(self.used)
        self.is_closed = True
        session = self._session
        if session is not None:
            session._connections = tuple([tab for tab in session._connections if tab is not self])
            self._session = None
        if self.holder._closed():
            self.account.drop(self.holder)


class Charge:
    """What one thing that grows and shrinks takes of a tab."""

    __slots__ = ("size", "tab")

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.size: i64 = 0
        """Bytes."""

    def set_to(self, size: i64) -> None:
        """It takes `size` bytes now."""
        before = self.size
        if size > before:
            self.size = size
            self.tab.charge(size - before)
        elif size < before:
            self.size = size
            self.tab.release(before - size)


class Account:
    """The process's account."""

    def __init__(self, *, limit_bytes: int, holder_bytes: int, on_attention: Callable[[], None] = lambda: None) -> None:
        """`holder_bytes`: the budget of one holder. `on_attention`: `attend` and the like are to be called soon."""
        self.used: i64 = 0
        """Bytes."""
        self.on_attention = on_attention
        self._holders: Final[dict[str, Holder]] = {}
        self._is_pressed = False
        self._attention_called = False
        self.limit: i64 = 0
        self.holder_limit: i64 = 0
        self.allowance: i64 = 0
        """What a holder may hold and still be read."""
        self.resume_at: i64 = 0
        """A holder that waits goes on once it holds no more than this."""
        self.alarm_at: i64 = 0
        self.calm_at: i64 = -1
        """Below this the process has room again; -1 while it was never short of it."""
        self._limit_to(limit_bytes, holder_bytes)

    def set_limits(self, *, limit_bytes: int, holder_bytes: int) -> None:
        """Other budgets, as after a reload."""
        self._limit_to(limit_bytes, holder_bytes)
        self.call_attention()

    def _limit_to(self, limit_bytes: int, holder_bytes: int) -> None:
        self.limit = limit_bytes
        self.holder_limit = min(holder_bytes, limit_bytes)
        self._rebalance()

    def open(self, key: str, size: int = 0) -> Tab:
        """The tab of a session of the holder `key`, with `size` bytes to begin with. To be closed with the session."""
        holder = self._holders.get(key)
        if holder is None:
            holder = self._holders[key] = Holder(self, key)
        holder._opened()
        tab = Tab(self, holder, None)
        tab.charge(size)
        return tab

    def drop(self, holder: Holder) -> None:
        """The last tab of the holder was closed."""
        if self._holders.get(holder.key) is holder:
            del self._holders[holder.key]

    # --- pressure ---------------------------------------------------------------------------------------------------

    @property
    def pause_mark(self) -> int:
        """Beyond it the largest holders wait."""
        return self.limit - self.limit // 4

    @property
    def evict_mark(self) -> int:
        """Beyond it the fattest parked sessions are ended."""
        return self.limit - self.limit // 8

    @property
    def is_pressed(self) -> bool:
        """The allowance is less than a holder's own budget, because the process has little left."""
        return self._is_pressed

    @property
    def excess_bytes(self) -> int:
        """How much is to be freed by ending parked sessions; 0 when nothing is."""
        return max(0, self.used - self.evict_mark)

    def admits(self, *, resuming: bool) -> bool:
        """Whether one more connection may come in; a resume is let in for longer than a newcomer."""
        return self.used <= self.limit - self.limit // (32 if resuming else 16)

    def alarm(self) -> None:
        """More was charged than could pass unnoticed."""
        self._rebalance()
        self.call_attention()

    def call_attention(self) -> None:
        """Says once that `attend` is to be called."""
        if not self._attention_called:
            self._attention_called = True
            self.on_attention()

    def attend(self) -> list[Waiter]:
        """Reckons anew who may be read; those who waited and may go on, to be told by the caller."""
        self._attention_called = False
        self._rebalance()
        ready: list[Waiter] = []
        for holder in self._holders.values():
            if holder.waiters and holder.used <= self.resume_at:
                ready.extend(holder.waiters)
                holder.waiters.clear()
        return ready

    def _rebalance(self) -> None:
        pause_mark, step = self.pause_mark, self.limit // ALARM_STEPS
        ease_mark = pause_mark - self.limit // 16
        if self._is_pressed or self.used > pause_mark:
            self._is_pressed = self.used > ease_mark
        self.allowance = min(self.holder_limit, self._water_level(ease_mark)) if self._is_pressed else self.holder_limit
        self.resume_at = self.allowance - self.allowance // 4
        self.calm_at = ease_mark if self._is_pressed else -1
        self.alarm_at = max(pause_mark, self.used + step if self._is_pressed else 0)

    def _water_level(self, target: int) -> int:
        """The most that each may hold so that all together hold no more than `target`."""
        sizes = sorted([int(holder.used) for holder in self._holders.values()])
        count = len(sizes)
        for index, size in enumerate(sizes):
            if size * (count - index) >= target:
                return target // (count - index)
            target -= size
        return int(self.holder_limit)

    # --- what others are told ---------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many connections wait for room."""
        return sum(len(holder.waiters) for holder in self._holders.values())

    @property
    def holders(self) -> int:
        """How many holders there are."""
        return len(self._holders)

    def holder_of(self, key: str) -> Holder | None:
        """The holder of that key, while it has a tab."""
        return self._holders.get(key)

    def largest(self, count: int) -> Iterator[Holder]:
        """The holders that hold most, the largest first."""
        return iter(nlargest(count, self._holders.values(), key=_used))


def _used(holder: Holder) -> int:
    return int(holder.used)
