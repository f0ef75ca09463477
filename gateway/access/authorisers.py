"""What all routes share of those who are asked: one HTTP client, one state, one set of keys for each issuer.

Invariant: a reload fetches nothing again: an issuer that stays in the configuration keeps its keys, and the task that
keeps them fresh; one that is gone has none.
"""

from dataclasses import dataclass
from typing import Final

import trio

from gateway.access.asking import Asker
from gateway.access.keys import FileKeys, KeySource, PublishedKeys, SecretKeys
from gateway.access.state import AccessState
from gateway.config.access import Issuer


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """What makes two issuers' keys the same."""

    issuer: str
    url: str | None
    refresh_seconds: float
    timeout_seconds: float


@dataclass(slots=True, kw_only=True)
class _Kept:
    keys: PublishedKeys
    scope: trio.CancelScope
    generation: int


class Authorisers:
    """Those who are asked, for the life of the process."""

    def __init__(self, asker: Asker, state: AccessState) -> None:
        self.asker: Final = asker
        self.state: Final = state
        self._kept: Final[dict[_Published, _Kept]] = {}
        self._generation = 0
        self._nursery: trio.Nursery | None = None

    def begin(self) -> None:
        """What is asked for from here on is of a new configuration."""
        self._generation += 1

    def settle(self) -> None:
        """The new configuration is in use: whatever it did not ask for is let go."""
        for published, kept in list(self._kept.items()):
            if kept.generation != self._generation:
                kept.scope.cancel()
                del self._kept[published]

    def start(self, nursery: trio.Nursery) -> None:
        """Begins to fetch, with tasks of `nursery`; they run until it is cancelled."""
        self._nursery = nursery
        for kept in self._kept.values():
            nursery.start_soon(_run, kept.scope, kept.keys)

    def keys(self, issuer: Issuer, *, refresh_seconds: float, timeout_seconds: float) -> KeySource:
        """The keys of one issuer. Raises ValueError, naming the file, for one that cannot be used."""
        if issuer.secrets:
            return SecretKeys([secret.get_secret_value() for secret in issuer.secrets])
        if issuer.keys is not None:
            return FileKeys(issuer.keys)
        published = _Published(
            issuer=issuer.issuer,
            url=issuer.keys_url,
            refresh_seconds=refresh_seconds,
            timeout_seconds=timeout_seconds,
        )
        kept = self._kept.get(published)
        if kept is None:
            keys = PublishedKeys(
                self.asker,
                issuer=issuer.issuer,
                url=issuer.keys_url,
                refresh_seconds=refresh_seconds,
                timeout_seconds=timeout_seconds,
            )
            kept = self._kept[published] = _Kept(keys=keys, scope=trio.CancelScope(), generation=self._generation)
            if self._nursery is not None:
                self._nursery.start_soon(_run, kept.scope, keys)
        kept.generation = self._generation
        return kept.keys


async def _run(scope: trio.CancelScope, keys: PublishedKeys) -> None:
    with scope:
        await keys.run()
