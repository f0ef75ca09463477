"""Judges the logout tokens of one route: whose they are, whether they are meant for us, and whether they are new.

Invariant: nothing is remembered, and nobody is asked for keys, for a token that would be refused without them; a token
counts once, over a restart too where there is a state file.
"""

from contextlib import suppress
from typing import Final

from gateway.access.authorisers import Authorisers
from gateway.access.cache import digest
from gateway.access.state import StateUnwritable
from gateway.config.access import Logout as LogoutConfig
from gateway.policy.jws import check_signature, parse_token
from gateway.policy.logout import Logout, check_logout
from gateway.policy.refusals import invalid


class LogoutJudge:
    """Of one route."""

    def __init__(self, config: LogoutConfig, authorisers: Authorisers) -> None:
        """Raises ValueError, naming the file, for keys that cannot be used."""
        self.config: Final = config
        self._state: Final = authorisers.state
        self._issuers: Final = {
            issuer.issuer: authorisers.keys(issuer, refresh_seconds=config.refresh, timeout_seconds=config.timeout)
            for issuer in config.issuers
        }

    async def judge(self, text: str, *, now: float) -> Logout:
        """What the token says; `now` is Unix time.

        Raises HandshakeRefused: 401 for one that is not good, 503 where the issuer's keys cannot be had at present.
        """
        config = self.config
        token = parse_token(text)
        issuer = token.issuer
        source = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if source is None:
            raise invalid("is of an issuer that is not known here")
        logout = check_logout(
            token, audiences=config.audiences, algorithms=config.algorithms, leeway=config.leeway, now=now
        )
        keys = await source.find(token.key_id)
        if not keys:
            raise invalid("is signed with a key that its issuer does not publish")
        if not check_signature(token, keys):
            raise invalid("has a signature that does not hold")
        return logout

    def begin(self, logout: Logout, *, now: float) -> bool:
        """Whether it was not heard before; from now on it was."""
        return self._state.begin_use(_name(logout), until=self._until(logout, now), now=now)

    async def keep(self, logout: Logout, *, now: float) -> None:
        """Writes that down, once what it asks for is done.

        A restart forgets what cannot be written. That harms nobody: who logged in since has a younger credential.
        """
        with suppress(StateUnwritable):
            await self._state.keep_use(_name(logout), until=self._until(logout, now))

    def _until(self, logout: Logout, now: float) -> float:
        """An issuer whose tokens are good for years does not make us keep each of them for years."""
        return min(logout.expires_at, now + self.config.hold)


def _name(logout: Logout) -> str:
    return f"logout:{digest(logout.issuer, logout.token_id).hex()}"
