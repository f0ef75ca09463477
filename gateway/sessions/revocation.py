"""Ends sessions because somebody says so, and keeps those out who may not come back.

Invariant: a bar holds in memory before the first session is ended for it, and the sessions are ended before the file is
waited for: who was in is out at once, and finds the door shut.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import structlog

from gateway.access.state import Bar, Barred, StateUnwritable
from gateway.codes import POLICY, UNAUTHORIZED
from gateway.sessions.registry import SessionKeeper
from gateway.sessions.session import Session

REVOKED: Final = "the credential has been revoked"

log = structlog.get_logger("access")


@dataclass(frozen=True, slots=True, kw_only=True)
class Barring:
    """What became of a bar."""

    bar: Bar
    ended: int
    """Sessions that it ended."""
    is_kept: bool
    """It outlasts a restart, as far as there is a file for it."""


class Revocation:
    """Of one gateway's sessions."""

    def __init__(self, keeper: SessionKeeper) -> None:
        self._keeper: Final = keeper

    async def bar(self, kind: Barred, value: str, *, seconds: float | None, issuer: str | None = None) -> Barring:
        """Ends what is live of whom it names, and keeps them out for `seconds`; `issuer`: whose name it is.

        None: a token until its own end, where a session says when that is; anybody else until the bar is lifted. A
        subject or login is let in by a credential that was issued later.
        """
        now = time.time()
        until = None if seconds is None else now + seconds
        bar = Bar(kind=kind, value=value, since=now, until=until, issuer=issuer)
        found = list(self._whom(bar, now))
        if kind is Barred.TOKEN and until is None:
            ends = [session.permission.principal for session in found]
            known = [principal.expires_at for principal in ends if principal is not None and principal.expires_at]
            bar = replace(bar, until=max(known, default=None))
        return await self._bar(bar, found, now)

    async def log_out(
        self, *, issuer: str, subject: str | None, login_session: str | None, issued_at: float, until: float
    ) -> Barring:
        """Ends what is live of a subject of that issuer's, or of one login, and bars their credentials until `until`.

        Unix times. `issued_at` is by the issuer's clock: credentials that it issued later are good. What is barred
        already stays barred for as long as it was.
        """
        kind, value = (Barred.SUBJECT, subject) if subject is not None else (Barred.LOGIN_SESSION, login_session)
        assert value is not None
        now = time.time()
        bar = Bar(kind=kind, value=value, since=issued_at, until=until, issuer=issuer)
        return await self._bar(bar.joined(self._keeper.access.bar_of(bar.key)), list(self._whom(bar, now)), now)

    def without_login(self, *, issuer: str, subject: str) -> int:
        """How many sessions a subject has whose credential names no login."""
        principals = [session.permission.principal for session in self._keeper.registry]
        return sum(
            principal is not None
            and principal.issuer == issuer
            and principal.subject_of_issuer == subject
            and principal.login_session is None
            for principal in principals
        )

    async def _bar(self, bar: Bar, found: Sequence[Session], now: float) -> Barring:
        access = self._keeper.access
        access.begin_bar(bar)
        for session in found:
            session.revoke(UNAUTHORIZED, REVOKED, self._keeper.pump.clock())
        log.info("barred", by=bar.kind.value, until=bar.until, sessions=len(found))
        try:
            await access.bar(bar, now=now)
        except StateUnwritable:
            return Barring(bar=bar, ended=len(found), is_kept=False)
        return Barring(bar=bar, ended=len(found), is_kept=True)

    def disconnect(self, kind: Barred, value: str, *, issuer: str | None = None) -> int:
        """Ends what is live of whom it names, who may come back; how many sessions."""
        now = time.time()
        found = list(self._whom(Bar(kind=kind, value=value, since=now, until=None, issuer=issuer), now))
        for session in found:
            # A code upon which clients do not come again by themselves, though they may.
            session.revoke(POLICY, "ended by the operator", self._keeper.pump.clock())
        log.info("disconnected", by=kind.value, sessions=len(found))
        return len(found)

    def _whom(self, bar: Bar, now: float) -> Iterator[Session]:
        for session in self._keeper.registry:
            permission = session.permission
            if bar.bars(
                permission.principal,
                route=session.participants.route,
                address=permission.address,
                session=session.id,
                now=now,
            ):
                yield session

    def bars(self) -> list[Bar]:
        """Those that hold."""
        return list(self._keeper.access.bars(time.time()))

    async def lift(self, kind: Barred, value: str, *, issuer: str | None = None) -> bool:
        """Lets them come again; false if they were not barred. Raises StateUnwritable: a restart bars them again."""
        lifted = await self._keeper.access.lift(kind, value, issuer=issuer)
        log.info("bar_lifted", by=kind.value, was_there=lifted)
        return lifted
