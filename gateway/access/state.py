"""What must outlast a restart: which tickets were used, and who is barred.

Invariant: what was answered with yes is on disk before the answer is given. Memory knows all that the file knows, so
that looking costs nothing; a file that cannot be written makes new tickets unusable, and bars all the same.

Without a file the same holds for the life of the process: then nothing from before its start is believed.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeAlias

import structlog
import trio

from gateway.policy.principal import Principal

SWEEP_EVERY: Final = 1024
"""Writes between two sweepings of what is over."""

BUSY_SECONDS: Final = 2.0

_SCHEMA: Final = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS used (name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS bars (
        kind TEXT NOT NULL, value TEXT NOT NULL, issuer TEXT NOT NULL, since REAL NOT NULL, until REAL,
        PRIMARY KEY (kind, value, issuer)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
"""

log = structlog.get_logger("access")


class StateUnwritable(Exception):
    """The file could not be written; the text says why."""


class Barred(StrEnum):
    """By what somebody is barred."""

    TOKEN = "token"
    """The credential's `jti`."""
    SUBJECT = "subject"
    LOGIN_SESSION = "login_session"
    """`sid` of OpenID Connect."""
    SESSION = "session"
    """The ID of a session of this gateway's."""
    ADDRESS = "address"
    ROUTE = "route"


OF_AN_ISSUER: Final = frozenset({Barred.TOKEN, Barred.SUBJECT, Barred.LOGIN_SESSION})
"""What issuers give names to: the same name may be somebody else's at another issuer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Somebody who may not come in."""

    kind: Barred
    value: str
    since: float
    """Unix time. Credentials of a subject or login that were issued later are good again: a new login lifts the bar."""
    until: float | None
    """Unix time; None: for good."""
    issuer: str | None = None
    """Whose name it is, for those `OF_AN_ISSUER`; then a subject is what stands in `sub`. None: anybody's, and a
    subject is who the route found it to be."""

    @property
    def key(self) -> "Key":
        """Of bars with the same one there is one."""
        return self.kind, self.value, self.issuer

    def bars(
        self, principal: Principal | None, *, route: str, address: str | None, session: str | None, now: float
    ) -> bool:
        """Whether it keeps this somebody out."""
        issued_at = None if principal is None else principal.issued_at
        keys = _keys(principal, route=route, address=address, session=session)
        return self.key in keys and self.holds(now, issued_at)

    def holds(self, now: float, issued_at: float | None) -> bool:
        """Whether it bars at `now` a credential that was issued at `issued_at` (None: unknown, so barred)."""
        if self.until is not None and now >= self.until:
            return False
        lifts_by_login = self.kind in (Barred.SUBJECT, Barred.LOGIN_SESSION)
        return not (lifts_by_login and issued_at is not None and issued_at > self.since)

    def joined(self, other: "Bar | None") -> "Bar":
        """What keeps out whomever one of the two does, of the same key."""
        if other is None:
            return self
        endless = self.until is None or other.until is None
        until = None if endless else max(self.until or 0.0, other.until or 0.0)
        return replace(self, since=max(self.since, other.since), until=until)


Key: TypeAlias = tuple[Barred, str | None, str | None]
"""By what, whom, and whose name that is."""


class AccessState:
    """Used tickets and bars. Made by `open_state`."""

    def __init__(self, database: sqlite3.Connection | None, *, remembers_since: float) -> None:
        self._database: Final = database
        self._used: Final[dict[str, float]] = {}
        self._bars: Final[dict[Key, Bar]] = {}
        self._writes = 0
        self._writer: Final = trio.CapacityLimiter(1)
        self.remembers_since: Final = remembers_since
        """Unix time from which on every ticket that was used is known."""

    def load(self) -> None:
        """Reads the file. Raises sqlite3.Error."""
        if self._database is not None:
            self._used.update(self._database.execute("SELECT name, until FROM used"))
            rows = self._database.execute("SELECT kind, value, issuer, since, until FROM bars")
            for kind, value, issuer, since, until in rows:
                bar = Bar(kind=Barred(kind), value=value, issuer=issuer or None, since=since, until=until)
                self._bars[bar.key] = bar

    def close(self) -> None:
        """Closes the file."""
        if self._database is not None:
            self._database.close()

    async def use(self, name: str, *, until: float, now: float) -> bool:
        """Uses up what may be used once until `until`; false if it was used before. Raises StateUnwritable.

        Of several at the same moment one is the first. What could not be written is used up all the same.
        """
        if not self.begin_use(name, until=until, now=now):
            await trio.lowlevel.checkpoint()
            return False
        await self.keep_use(name, until=until)
        return True

    def begin_use(self, name: str, *, until: float, now: float) -> bool:
        """The same as long as this process lives: for what must not wait for the file."""
        if name in self._used:
            return False
        self._used[name] = until
        self._sweep(now)
        return True

    async def keep_use(self, name: str, *, until: float) -> None:
        """Writes down what `begin_use` began. Raises StateUnwritable."""
        await self._write("INSERT INTO used VALUES (?, ?) ON CONFLICT DO NOTHING", (name, until))

    def begin_bar(self, bar: Bar) -> None:
        """Bars from now on, as long as this process lives: what `bar` does before it waits for the file."""
        self._bars[bar.key] = bar

    def bar_of(self, key: Key) -> Bar | None:
        """The one of that key, whether or not it still holds."""
        return self._bars.get(key)

    async def bar(self, bar: Bar, *, now: float) -> None:
        """Bars from now on, whether or not it can be written. Raises StateUnwritable: then a restart forgets it."""
        self.begin_bar(bar)
        self._sweep(now)
        await self._write(
            "INSERT OR REPLACE INTO bars VALUES (?, ?, ?, ?, ?)",
            (bar.kind.value, bar.value, bar.issuer or "", bar.since, bar.until),
        )

    async def lift(self, kind: Barred, value: str, *, issuer: str | None = None) -> bool:
        """Takes a bar back; false if there was none. Raises StateUnwritable."""
        found = self._bars.pop((kind, value, issuer), None)
        await self._write(
            "DELETE FROM bars WHERE kind = ? AND value = ? AND issuer = ?", (kind.value, value, issuer or "")
        )
        return found is not None

    def bars(self, now: float) -> Iterator[Bar]:
        """All that hold."""
        return (bar for bar in self._bars.values() if bar.until is None or now < bar.until)

    def bar_for(
        self, principal: Principal | None, *, route: str, address: str | None, session: str | None, now: float
    ) -> Bar | None:
        """What keeps this somebody out; None if nothing does."""
        if not self._bars:
            return None
        issued_at = None if principal is None else principal.issued_at
        for key in _keys(principal, route=route, address=address, session=session):
            bar = self._bars.get(key)
            if bar is not None and bar.holds(now, issued_at):
                return bar
        return None

    def _sweep(self, now: float) -> None:
        self._writes += 1
        if self._writes % SWEEP_EVERY:
            return
        for name in [name for name, until in self._used.items() if until <= now]:
            del self._used[name]
        for key in [key for key, bar in self._bars.items() if bar.until is not None and bar.until <= now]:
            del self._bars[key]

    async def _write(self, statement: str, values: tuple[object, ...]) -> None:
        if self._database is None:
            await trio.lowlevel.checkpoint()
            return
        database = self._database

        def write() -> None:
            with database:
                database.execute(statement, values)

        try:
            await trio.to_thread.run_sync(write, limiter=self._writer, abandon_on_cancel=False)
        except sqlite3.Error as error:
            log.error("state_not_written", problem=str(error))
            raise StateUnwritable(str(error)) from None


def _keys(principal: Principal | None, *, route: str, address: str | None, session: str | None) -> list[Key]:
    keys: list[Key] = [(Barred.ROUTE, route, None), (Barred.ADDRESS, address, None), (Barred.SESSION, session, None)]
    if principal is not None:
        keys += [
            (Barred.TOKEN, principal.token_id, None),
            (Barred.SUBJECT, principal.subject, None),
            (Barred.LOGIN_SESSION, principal.login_session, None),
        ]
        if (issuer := principal.issuer) is not None:
            keys += [
                (Barred.TOKEN, principal.token_id, issuer),
                (Barred.SUBJECT, principal.subject_of_issuer, issuer),
                (Barred.LOGIN_SESSION, principal.login_session, issuer),
            ]
    return [key for key in keys if key[1] is not None]


def _take_over(database: sqlite3.Connection) -> None:
    """Bars from before they had issuers."""
    if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'barred'").fetchone():
        database.execute("INSERT OR IGNORE INTO bars SELECT kind, value, '', since, until FROM barred")
        database.execute("DROP TABLE barred")


def open_state(path: Path | None, *, now: float) -> AccessState:
    """The state in the file at `path`, which is made if it is not there; None: in memory. `now` is Unix time.

    Raises ValueError, naming the file and saying what is wrong with it.
    """
    if path is None:
        return AccessState(None, remembers_since=now)
    try:
        # The writer's thread is not the one that opens it; the limiter lets one at a time.
        database = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            with database:
                database.executescript(_SCHEMA)
                database.execute("INSERT INTO about VALUES ('remembers_since', ?) ON CONFLICT DO NOTHING", (now,))
                database.execute("DELETE FROM used WHERE until <= ?", (now,))
                _take_over(database)
                database.execute("DELETE FROM bars WHERE until <= ?", (now,))
            with closing(database.execute("SELECT value FROM about WHERE key = 'remembers_since'")) as found:
                (since,) = found.fetchone()
            state = AccessState(database, remembers_since=since)
            state.load()
        except BaseException:
            database.close()
            raise
    except (sqlite3.Error, ValueError) as error:
        raise ValueError(f"the state file {path} cannot be used: {error}") from None
    return state
