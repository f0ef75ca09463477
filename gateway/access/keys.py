"""An issuer's keys: in a file, as shared secrets, or published at a URL.

Invariant: however many tokens come, known or made up, one fetch is in flight for an issuer at the most, and at most one
begins in 30 seconds; keys that were good once stay good until the issuer publishes others, however long it is away.

Who asks for a key waits for a fetch only where it could help: where there are no keys yet, or for a key ID that was not
there when the keys were last fetched. The fetch itself belongs to a task of its own, so that a client that goes away
meanwhile takes nothing with it.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import structlog
import trio
from joserfc.jwk import OctKey

from gateway.access.asking import Asker, AuthoriserAway, Question
from gateway.policy.jws import Key
from gateway.policy.key_sets import json_object, parse_key_file, parse_key_set
from gateway.policy.refusals import unavailable

FETCH_SPACING_SECONDS: Final = 30.0
"""From the beginning of one fetch to that of the next, whoever asks."""

UNKNOWN_KEY_IDS: Final = 1024
"""Key IDs that the issuer did not have, remembered so that they cause no fetch again; the oldest goes."""

CHECK_FILE_SECONDS: Final = 10.0

log = structlog.get_logger("access")


class KeySource(ABC):
    """Where an issuer's keys come from."""

    @abstractmethod
    async def find(self, key_id: str | None) -> Sequence[Key]:
        """The keys that a token with this `kid` may be signed with; none if the issuer has no such key.

        Raises HandshakeRefused (503) where that cannot be known at present.
        """

    async def run(self) -> None:
        """What has to go on meanwhile; returns at once where that is nothing."""
        return


class SecretKeys(KeySource):
    """Shared secrets, old and new ones side by side."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._keys: Final = tuple(OctKey.import_key(secret) for secret in secrets)

    async def find(self, key_id: str | None) -> Sequence[Key]:
        """All of them: whoever shares a secret may call it what they like."""
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._keys


class FileKeys(KeySource):
    """Public keys in a file, which is read again when it changes; a faulty one changes nothing."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = trio.current_time) -> None:
        """Raises ValueError, naming the file, for what is no key set."""
        self._path: Final = path
        self._clock: Final = clock
        self._stamp = _stamp(path)
        self._keys = _read(path)
        self._checked_at = -CHECK_FILE_SECONDS

    async def find(self, key_id: str | None) -> Sequence[Key]:
        """Those of that ID; a PEM file has none, and serves every token."""
        await trio.lowlevel.checkpoint_if_cancelled()
        now = self._clock()
        if now - self._checked_at >= CHECK_FILE_SECONDS:
            self._checked_at = now
            self._reload()
        return _of_id(self._keys, key_id)

    def _reload(self) -> None:
        try:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._stamp = stamp
                self._keys = _read(self._path)
                log.info("keys_reloaded", file=str(self._path), keys=len(self._keys))
        except ValueError as fault:
            log.error("keys_not_reloaded", problem=str(fault), kept="the ones in use")


class PublishedKeys(KeySource):
    """Keys that an issuer publishes. `run` does the fetching."""

    def __init__(
        self,
        asker: Asker,
        *,
        issuer: str,
        url: str | None,
        refresh_seconds: float,
        timeout_seconds: float,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """`url` None: it is asked of the issuer's discovery document, each time anew."""
        self.issuer: Final = issuer
        self._asker: Final = asker
        self._url: Final = url
        self._refresh: Final = refresh_seconds
        self._timeout: Final = timeout_seconds
        self._clock: Final = clock
        self._keys: Sequence[Key] = ()
        self._unknown: OrderedDict[str, None] = OrderedDict()
        self._began_at: float | None = None
        self.problem: str | None = None
        """Why the last fetch failed; None if it did not."""
        self._wanted = trio.Event()
        self._done = trio.Event()
        self._fetching = False

    async def find(self, key_id: str | None) -> Sequence[Key]:
        """See `KeySource`."""
        await trio.lowlevel.checkpoint_if_cancelled()
        keys = _of_id(self._keys, key_id)
        if keys or (key_id is not None and key_id in self._unknown):
            return keys
        if not self._may_fetch:
            raise unavailable()  # it may have been published a moment ago: nobody can say that there is no such key
        self._wanted.set()
        with trio.move_on_after(self._timeout * 2 + 1):
            await self._done.wait()
        keys = _of_id(self._keys, key_id)
        if not keys:
            if self.problem is not None or not self._keys:
                raise unavailable()
            self._remember_unknown(key_id)
        return keys

    @property
    def _may_fetch(self) -> bool:
        began = self._began_at
        return began is None or self._fetching or self._clock() - began >= FETCH_SPACING_SECONDS

    def _remember_unknown(self, key_id: str | None) -> None:
        if key_id is not None:
            self._unknown[key_id] = None
            if len(self._unknown) > UNKNOWN_KEY_IDS:
                self._unknown.popitem(last=False)

    async def run(self) -> None:
        """Fetches at once, then whenever the keys are old or somebody waits for one, until cancelled."""
        while True:
            self._fetching, self._began_at = True, self._clock()
            await self._fetch()
            self._fetching = False
            done, self._done, self._wanted = self._done, trio.Event(), trio.Event()
            done.set()
            # While the issuer is away it is asked again soon: newcomers with a new key wait for that.
            pause = self._refresh if self.problem is None else min(self._refresh, FETCH_SPACING_SECONDS)
            with trio.move_on_after(max(pause, FETCH_SPACING_SECONDS)):
                await self._wanted.wait()
            until = self._began_at + FETCH_SPACING_SECONDS
            await trio.sleep(max(until - self._clock(), 0))

    async def _fetch(self) -> None:
        try:
            url = self._url or await self._discover()
            answer = await self._asker.ask(Question(method="GET", url=url, timeout_seconds=self._timeout))
            if answer.status != 200:
                raise AuthoriserAway(f"{url} answered with {answer.status}")
            before, self._keys = self._keys, parse_key_set(answer.body)
            if self.problem is not None:
                log.info("keys_fetched", issuer=self.issuer, keys=len(self._keys))
            self.problem = None
            self._unknown.clear()
            for key in before:
                if not _of_id(self._keys, key.kid):
                    self._remember_unknown(key.kid)  # withdrawn
        except (AuthoriserAway, ValueError) as fault:
            if str(fault) != self.problem:
                kept = f"{len(self._keys)} keys fetched before" if self._keys else "none: nobody can come in by it"
                log.warning("keys_not_fetched", issuer=self.issuer, problem=str(fault), kept=kept)
            self.problem = str(fault)

    async def _discover(self) -> str:
        """OpenID Connect Discovery 1.0 section 4. The document must be that of the issuer it was asked for."""
        url = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
        answer = await self._asker.ask(Question(method="GET", url=url, timeout_seconds=self._timeout))
        if answer.status != 200:
            raise AuthoriserAway(f"{url} answered with {answer.status}")
        document = json_object(answer.body, url)
        if document.get("issuer") != self.issuer:
            raise AuthoriserAway(f"{url} is of another issuer")
        found = document.get("jwks_uri")
        if not isinstance(found, str) or not found.startswith(("https://", "http://")):
            raise AuthoriserAway(f"{url} names no jwks_uri")
        if self.issuer.startswith("https://") and not found.startswith("https://"):
            raise AuthoriserAway(f"{url} leads from https to {found}")
        return found


def _of_id(keys: Sequence[Key], key_id: str | None) -> Sequence[Key]:
    """Those with that ID; all of them for a token that names none, and of a file that has one key without a name."""
    if key_id is None:
        return keys
    return tuple(key for key in keys if key.kid in (key_id, None))


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _read(path: Path) -> Sequence[Key]:
    try:
        return parse_key_file(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as fault:
        raise ValueError(f"{path} {fault}") from None
