"""Questions over HTTP to whoever knows who somebody is: bounded in time, size and number.

Invariant: an authoriser that is slow, silent, endless or lying costs a request its deadline and nothing else; what it
says is taken only up to a limit, and no redirect is followed, for it could lead anywhere.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

import httpx2
import trio

from gateway import __version__

ANSWER_BYTES: Final = 256 * 1024
"""A JWK set with certificates has some 20 kB; what is larger is not what was asked for."""

QUESTIONS_AT_ONCE: Final = 64
"""Over all authorisers; more wait, for no longer than their own deadline."""


class AuthoriserAway(Exception):
    """No usable answer came; the text says what happened instead, and is for the log alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request."""

    method: str
    url: str
    timeout_seconds: float
    """For all of it: waiting for a turn, connecting, the last byte of the answer."""
    headers: tuple[tuple[str, str], ...] = ()
    form: Mapping[str, str] | None = None
    basic: tuple[str, str] | None = None
    """Name and password."""
    body_bytes: int = ANSWER_BYTES
    """How much of the answer's body is taken; 0: none of it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    """(lower-case name, value)."""
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of the only header line of this lower-case name; None if there is none, or several."""
        values = [value for found, value in self.headers if found == name]
        return values[0] if len(values) == 1 else None


class Asker(Protocol):
    """Whoever carries questions."""

    async def ask(self, question: Question) -> Answer:
        """The answer, of any status. Raises AuthoriserAway."""
        ...


class HttpAsker:
    """Carries questions over HTTP, on connections that are kept for the next one. An async context manager."""

    def __init__(self) -> None:
        # It logs each request with its URL, at the level of what an operator wants to know.
        logging.getLogger("httpx2").setLevel(logging.WARNING)
        # trust_env would send our questions, with their secrets, through a proxy that an environment variable names.
        self._client: Final = httpx2.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=QUESTIONS_AT_ONCE, max_keepalive_connections=8, keepalive_expiry=30),
            headers={"User-Agent": f"kakitome/{__version__}", "Accept-Encoding": "identity"},
        )
        self._turns: Final = trio.CapacityLimiter(QUESTIONS_AT_ONCE)

    async def close(self) -> None:
        """Ends its connections."""
        with trio.move_on_after(1, shield=True):
            await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def ask(self, question: Question) -> Answer:
        """See `Asker`."""
        request = self._client.build_request(
            question.method,
            question.url,
            headers=list(question.headers),
            data=None if question.form is None else dict(question.form),
            timeout=question.timeout_seconds,
        )
        auth = None if question.basic is None else httpx2.BasicAuth(*question.basic)
        try:
            with trio.fail_after(question.timeout_seconds):
                async with self._turns:
                    return await self._ask(request, auth, question.body_bytes)
        except trio.TooSlowError:
            raise AuthoriserAway(f"no answer within {question.timeout_seconds:g} seconds") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            raise AuthoriserAway(str(error) or type(error).__name__) from None

    async def _ask(self, request: httpx2.Request, auth: httpx2.BasicAuth | None, limit: int) -> Answer:
        response = await self._client.send(request, auth=auth, stream=True)
        body = bytearray()
        try:
            if limit:
                async for chunk in response.aiter_raw():
                    body += chunk
                    if len(body) > limit:
                        # The iteration goes on and so ends by itself: nothing of it is left to the garbage collector.
                        await response.aclose()
        except httpx2.HTTPError:
            if len(body) <= limit:
                raise
        finally:
            with trio.CancelScope(shield=True):
                await response.aclose()
        if len(body) > limit:
            raise AuthoriserAway(f"its answer is larger than {limit} bytes")
        headers = tuple((name.lower(), value) for name, value in response.headers.multi_items())
        return Answer(status=response.status_code, headers=headers, body=bytes(body))
