"""`forward`: a service of the operator's own is shown the request's credentials and says yes or no.

Invariant: it is shown the headers that were named and what the request was for, nothing else: no header that steers a
connection goes there, and no header of the client's can pass for one that the gateway adds. Only 2xx is a yes.
"""

from http import HTTPStatus
from typing import ClassVar, Final
from urllib.parse import urlsplit

import structlog

from gateway.access.asking import Answer, Asker, AuthoriserAway, Question
from gateway.access.cache import AnswerCache, digest
from gateway.access.method import Evidence, Method
from gateway.config.access import Forward
from gateway.errors import HandshakeRefused
from gateway.policy.principal import AccessRefusal, Principal
from gateway.policy.refusals import invalid, unavailable

STEERING: Final = frozenset(
    {
        "connection", "content-length", "expect", "host", "keep-alive", "proxy-authenticate", "proxy-authorization",
        "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""RFC 9110 section 7.6.1 and what else means the connection it came on; the handshake's `sec-websocket-*` too."""

MAX_VALUE_CHARACTERS: Final = 4096

log = structlog.get_logger("access")


def is_steering(name: str) -> bool:
    """Whether a header of this lower-case name is about the connection and not about whoever sent it."""
    return name in STEERING or name.startswith(("sec-websocket-", "x-forwarded-"))


class ForwardMethod(Method):
    """Asks by a GET without a body."""

    name: ClassVar[str] = "forward"

    def __init__(self, config: Forward, asker: Asker) -> None:
        self._config: Final = config
        self._asker: Final = asker
        self._names: Final = tuple(name.lower() for name in config.request_headers)
        self._answers: AnswerCache[Answer] = AnswerCache()

    def applies(self, evidence: Evidence) -> bool:
        """Whether there is anything to show: one of the headers named."""
        return any(name in self._names for name, _ in evidence.request.headers)

    async def identify(self, evidence: Evidence, now: float) -> Principal:
        """See `Method`. A 401 or 403 goes to the client, with `refusal_headers`."""
        config = self._config
        headers = self._headers(evidence)
        answer = await self._answers.get(
            digest(*(part for pair in headers for part in pair)),
            lambda: self._ask(headers, evidence.route),
            now=now,
            good_until=lambda it: now + config.cache if config.cache is not None and _is_yes(it) else None,
        )
        if not _is_yes(answer):
            raise self._refused(answer)
        subject = answer.header(config.subject_header.lower())
        if not subject or len(subject) > MAX_VALUE_CHARACTERS:
            log.warning("authoriser_unclear", route=evidence.route, expected=config.subject_header)
            raise unavailable()
        named = {name.lower() for name in config.claim_headers}
        claims = {name: value[:MAX_VALUE_CHARACTERS] for name, value in answer.headers if name in named}
        return Principal(
            subject=subject,
            method=self.name,
            claims=claims,
            issued_at=now,
            expires_at=None if config.expires_after is None else now + config.expires_after,
        )

    def _headers(self, evidence: Evidence) -> tuple[tuple[str, str], ...]:
        shown = [(name, value) for name, value in evidence.request.headers if name in self._names]
        shown = [(name, value) for name, value in shown if not is_steering(name)]
        added = [
            ("X-Forwarded-Method", evidence.request.method),
            ("X-Forwarded-Proto", evidence.scheme),
            ("X-Forwarded-Host", evidence.host),
            ("X-Forwarded-Uri", evidence.request.target),
        ]
        if evidence.address is not None:
            added.append(("X-Forwarded-For", evidence.address))
        return (*shown, *added)

    async def _ask(self, headers: tuple[tuple[str, str], ...], route: str) -> Answer:
        config = self._config
        question = Question(method="GET", url=config.url, headers=headers, timeout_seconds=config.timeout, body_bytes=0)
        try:
            answer = await self._asker.ask(question)
            if not _is_yes(answer) and answer.status not in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                raise AuthoriserAway(f"it answered with {answer.status}, and only 2xx, 401 and 403 mean something")
        except AuthoriserAway as fault:
            log.warning("authoriser_away", route=route, method=self.name, host=_host(config.url), problem=str(fault))
            raise unavailable() from None
        return answer

    def _refused(self, answer: Answer) -> HandshakeRefused:
        named = {name.lower(): name for name in self._config.refusal_headers}
        passed = tuple(
            (named[name], value)
            for name, value in answer.headers
            if name in named and not is_steering(name) and len(value) <= MAX_VALUE_CHARACTERS
        )
        if answer.status == HTTPStatus.FORBIDDEN:
            return HandshakeRefused(
                "you may not use this address", status=answer.status, reason=AccessRefusal.FORBIDDEN, headers=passed
            )
        refusal = invalid("is not good")
        if any(name.lower() == "www-authenticate" for name, _ in passed):
            return HandshakeRefused(str(refusal), status=answer.status, reason=refusal.reason, headers=passed)
        return HandshakeRefused(
            str(refusal), status=answer.status, reason=refusal.reason, headers=(*refusal.headers, *passed)
        )


def _is_yes(answer: Answer) -> bool:
    return 200 <= answer.status < 300


def _host(url: str) -> str:
    return urlsplit(url).netloc
