"""Hears of logouts: OpenID Connect Back-Channel Logout 1.0, where a provider POSTs a token that says who has gone.

Invariant: the answer is 200 only when whoever was logged out is out, and barred; whatever is wrong with a request costs
its sender one answer and ends nobody's session. What a token holds is not logged.
"""

import json
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

import structlog
import trio

from gateway.access.logout import LogoutJudge
from gateway.errors import HandshakeRefused
from gateway.policy.logout import Logout
from gateway.policy.principal import AccessRefusal
from gateway.protocol.http import Headers, Refusal, Request, http_response
from gateway.sessions.revocation import Revocation
from gateway.telemetry.metrics import LogoutOutcome, RouteMetrics
from gateway.transport.channel import Channel
from gateway.transport.requests import read_body

BODY_BYTES: Final = 32 * 1024
"""A token has 16 KiB at most; the form may have other fields, which are not looked at."""

FIELDS: Final = 16

FORM: Final = "application/x-www-form-urlencoded"

log = structlog.get_logger("access")


async def hear_logout(
    request: Request,
    channel: Channel,
    leftover: bytes,
    *,
    judge: LogoutJudge,
    revocation: Revocation,
    metrics: RouteMetrics,
    timeout_seconds: float,
    headers: Headers = (),
    unix_time: Callable[[], float] = time.time,
) -> None:
    """Answers a request and ends its connection. `leftover` is what has come of its body.

    Raises HandshakeRefused for what is no POST of a form (405, 408, 411, 413, 415), and OSError.
    """
    _check(request)
    body = await read_body(channel, leftover, request, timeout_seconds=timeout_seconds)
    outcome, status, document = await _answer(body, judge, revocation, metrics.name, unix_time)
    metrics.logouts[outcome] += 1
    # Section 2.8: the answer is not to be cached. It is the provider's machine that reads it.
    fields = [*headers, ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")]
    if document is not None:
        fields.append(("Content-Type", "application/json"))
    payload = b"" if document is None else json.dumps(document).encode() + b"\n"
    with trio.move_on_after(timeout_seconds):  # one that does not take its answer was logged out all the same
        await channel.send_all(http_response(status, payload, fields))
        await channel.finish()
    channel.close()


def _check(request: Request) -> None:
    if request.method != "POST":
        raise HandshakeRefused(
            "here an OpenID provider POSTs logout tokens",
            status=HTTPStatus.METHOD_NOT_ALLOWED,
            reason=Refusal.METHOD,
            headers=(("Allow", "POST"),),
        )
    if request.get("content-length") is None:
        raise HandshakeRefused("the request has no body", status=HTTPStatus.LENGTH_REQUIRED, reason=Refusal.BODY)
    if request.body_bytes > BODY_BYTES:
        raise HandshakeRefused(
            f"the body has more than {BODY_BYTES} bytes",
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            reason=Refusal.BODY,
        )
    kind = (request.get("content-type") or "").partition(";")[0].strip().lower()
    if kind != FORM:
        raise HandshakeRefused(
            f"a logout token comes in a form: Content-Type: {FORM}",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            reason=Refusal.BODY,
        )


async def _answer(
    body: bytes, judge: LogoutJudge, revocation: Revocation, route: str, unix_time: Callable[[], float]
) -> tuple[LogoutOutcome, HTTPStatus, dict[str, str] | None]:
    now = unix_time()
    try:
        logout = await judge.judge(_token(body), now=now)
    except HandshakeRefused as refusal:
        is_away = refusal.reason == AccessRefusal.UNAVAILABLE
        problem = "the issuer's keys cannot be had at present" if is_away else _described(refusal)
        log.warning("logout_refused", route=route, problem=problem)
        # Section 2.8 has 400 for whatever failed, and names of errors as those of OAuth 2.0.
        error = "temporarily_unavailable" if is_away else "invalid_request"
        outcome = LogoutOutcome.UNAVAILABLE if is_away else LogoutOutcome.REFUSED
        return outcome, HTTPStatus.BAD_REQUEST, {"error": error, "error_description": problem}
    if not judge.begin(logout, now=now):
        problem = "the logout token was used before"
        log.warning("logout_refused", route=route, problem=problem)
        document = {"error": "invalid_request", "error_description": problem}
        return LogoutOutcome.REPLAYED, HTTPStatus.BAD_REQUEST, document
    is_kept = await _log_out(logout, judge, revocation, route, now)
    await judge.keep(logout, now=now)
    return (LogoutOutcome.ACCEPTED if is_kept else LogoutOutcome.NOT_KEPT), HTTPStatus.OK, None


async def _log_out(logout: Logout, judge: LogoutJudge, revocation: Revocation, route: str, now: float) -> bool:
    by_subject = logout.subject is not None and (logout.login_session is None or judge.config.ends == "subject")
    barring = await revocation.log_out(
        issuer=logout.issuer,
        subject=logout.subject if by_subject else None,
        login_session=None if by_subject else logout.login_session,
        issued_at=logout.issued_at,
        until=now + judge.config.hold,
    )
    log.info("logged_out", route=route, issuer=logout.issuer, by=barring.bar.kind.value, sessions=barring.ended)
    if not by_subject and logout.subject is not None:
        unnamed = revocation.without_login(issuer=logout.issuer, subject=logout.subject)
        if unnamed:
            log.warning(
                "logout_missed",
                route=route,
                sessions=unnamed,
                hint="the credentials of these sessions of the subject name no login (sid): set `ends: subject`",
            )
    return barring.is_kept


def _token(body: bytes) -> str:
    """The `logout_token` of a form. Raises HandshakeRefused, for what has not exactly one."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=FIELDS, errors="strict"
        )
    except ValueError:
        pairs = []
    tokens = [value for name, value in pairs if name == "logout_token"]
    if len(tokens) != 1 or not tokens[0].isascii():
        raise HandshakeRefused(
            f"the form must have one logout_token, not {len(tokens) if pairs else 'something else'}",
            status=HTTPStatus.BAD_REQUEST,
            reason=AccessRefusal.INVALID,
        )
    return tokens[0]


def _described(refusal: HandshakeRefused) -> str:
    """What is said of credentials, said of the token. RFC 6749 section 5.2: without quotes and backslashes."""
    text = str(refusal)
    text = "the logout token" + text.removeprefix("the credential") if text.startswith("the credential") else text
    return text.replace('"', "'").replace("\\", "/")
