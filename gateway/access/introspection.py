"""`introspection`: the authorisation server is asked about an opaque token (RFC 7662)."""

from typing import Any, ClassVar, Final

import structlog

from gateway.access.asking import Asker, AuthoriserAway, Question
from gateway.access.cache import AnswerCache, digest
from gateway.access.method import Evidence, Method
from gateway.config.access import Introspection
from gateway.policy.json_text import read_json
from gateway.policy.principal import Principal, claim_at
from gateway.policy.refusals import expired, invalid, unavailable

ANSWER_BYTES: Final = 32 * 1024
"""What is said of one token: all of it goes on to a records backend in OPEN, which has room for 64 KiB."""

REFUSED_FOR_SECONDS: Final = 5.0
"""How long a no is remembered: a client that tries again and again does not become the server's burden."""

log = structlog.get_logger("access")


class IntrospectionMethod(Method):
    """Asks once for each token, and again when the answer is older than `cache`."""

    name: ClassVar[str] = "introspection"

    def __init__(self, config: Introspection, asker: Asker) -> None:
        self._config: Final = config
        self._asker: Final = asker
        self._answers: AnswerCache[dict[str, Any]] = AnswerCache()

    def applies(self, evidence: Evidence) -> bool:
        """Any credential is the server's to judge."""
        return evidence.credential is not None

    async def identify(self, evidence: Evidence, now: float) -> Principal:
        """See `Method`."""
        token = evidence.credential
        assert token is not None
        answer = await self._answers.get(
            digest(token), lambda: self._ask(token, evidence.route), now=now, good_until=lambda it: self._until(it, now)
        )
        if answer.get("active") is not True:
            raise invalid("is not active")
        return self._principal(answer, now)

    def _until(self, answer: dict[str, Any], now: float) -> float | None:
        if self._config.cache is None:
            return None
        if answer.get("active") is not True:
            return now + min(REFUSED_FOR_SECONDS, self._config.cache)
        expires_at = _time(answer.get("exp"))
        return min(now + self._config.cache, now + self._config.cache if expires_at is None else expires_at)

    async def _ask(self, token: str, route: str) -> dict[str, Any]:
        config = self._config
        question = Question(
            method="POST",
            url=config.url,
            form={"token": token, "token_type_hint": "access_token"},
            headers=(("Accept", "application/json"),),
            basic=(config.client_id, config.client_secret.get_secret_value()),
            timeout_seconds=config.timeout,
            body_bytes=ANSWER_BYTES,
        )
        try:
            answer = await self._asker.ask(question)
            if answer.status != 200:
                raise AuthoriserAway(f"it answered with {answer.status}")
            document = read_json(answer.body)
            if not isinstance(document, dict) or not isinstance(document.get("active"), bool):
                raise AuthoriserAway("its answer does not say whether the token is active")
        except (AuthoriserAway, ValueError) as fault:
            problem = str(fault) if isinstance(fault, AuthoriserAway) else "its answer is no JSON"
            log.warning("authoriser_away", route=route, method=self.name, url=config.url, problem=problem)
            raise unavailable() from None
        return document

    def _principal(self, answer: dict[str, Any], now: float) -> Principal:
        config = self._config
        expires_at = _time(answer.get("exp"))
        if expires_at is not None and expires_at <= now:
            raise expired()
        audience = answer.get("aud")
        named = audience if isinstance(audience, list) else [audience]
        if config.audiences and not any(name in config.audiences for name in named if isinstance(name, str)):
            raise invalid("is meant for another audience")
        subject = claim_at(answer, config.subject)
        if not isinstance(subject, str) or not subject:
            raise invalid("does not say who it is of")
        return Principal(
            subject=subject,
            method=self.name,
            issuer=_text(answer.get("iss")),
            claims={name: value for name, value in answer.items() if name != "active"},
            issued_at=_time(answer.get("iat")),
            expires_at=expires_at,
            token_id=_text(answer.get("jti")),
            login_session=_text(answer.get("sid")),
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
