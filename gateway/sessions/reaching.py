"""Reaches a route's backend for a session: dials, and where it speaks records opens the session, at whichever endpoint
has it.

Invariant: a connection that does not come to an open session is closed. A session counts as lost only when every
endpoint that may have it was asked, or has been away for longer than a session waits for its client.
"""

from dataclasses import dataclass, replace
from typing import Final

import trio

from gateway.codes import SESSION_LOST, SUPERSEDED
from gateway.errors import BackendRefused, BackendUnreachable, NoEndpointLeft
from gateway.protocol.records import OpenToBackend
from gateway.relay.records_backend import OpenedBackend
from gateway.routes import RouteService
from gateway.sessions.opening import dismiss_backend, open_backend
from gateway.telemetry.metrics import DialOutcome
from gateway.transport.balancing import EndpointState
from gateway.transport.connector import ClientFacts, Connector, Dialed

CLOCK_SKEWS_MS: Final = (0, 60_000, 3_600_000)
"""Epochs are times: a session that was attached under a clock ahead of ours is asked for again with a later epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A connection to the backend that is ready for messages."""

    dialed: Dialed
    facts: ClientFacts
    opening: OpenToBackend | None
    opened: OpenedBackend | None
    """Both None where the framing knows no OPEN."""


async def reach(
    service: RouteService,
    facts: ClientFacts,
    opening: OpenToBackend | None,
    *,
    connector: Connector,
    key: str,
    consumed: int = 0,
    skews_ms: tuple[int, ...] = CLOCK_SKEWS_MS,
    before: EndpointState | None = None,
    may_begin_at: EndpointState | None = None,
) -> Reached:
    """A connection to the endpoint that takes this session.

    `key` is what `session_hash` keeps together; `before` is the endpoint that the session had last, which is asked
    first. With `opening.resume` an endpoint that does not know the session is not the one, and the others are asked;
    `may_begin_at` names one that may begin it anew all the same. `skews_ms`: by how much the epoch may be raised when
    the backend has a higher one.

    Raises BackendRefused, with code 4004 when the session is lost; BackendTimeout and BackendUnreachable also when an
    endpoint that may have it could not be asked.
    """
    asked: list[EndpointState] = []
    while True:
        try:
            dialed = await connector.dial(key=key.encode(), client=facts, first=before, without=asked)
        except NoEndpointLeft:
            raise _lost() from None
        except BackendUnreachable:
            grace = service.config.delivery.grace or 0.0
            if asked and connector.are_away_since(trio.current_time() - grace, without=asked):
                raise _lost() from None
            raise
        if opening is None:
            return Reached(dialed=dialed, facts=facts, opening=None, opened=None)
        try:
            told, opened = await _open(service, dialed, opening, consumed, skews_ms, anew=dialed.state is may_begin_at)
        except BackendRefused as refusal:
            if refusal.code == SUPERSEDED and len(skews_ms) > 1:
                before, skews_ms = dialed.state, skews_ms[1:]
            elif refusal.code == SESSION_LOST and opening.resume:
                asked.append(dialed.state)
            else:
                raise
        else:
            return Reached(dialed=dialed, facts=facts, opening=told, opened=opened)


async def _open(
    service: RouteService,
    dialed: Dialed,
    opening: OpenToBackend,
    consumed: int,
    skews_ms: tuple[int, ...],
    *,
    anew: bool,
) -> tuple[OpenToBackend, OpenedBackend]:
    told = replace(opening, epoch=opening.epoch + skews_ms[0], resume=opening.resume and not anew)
    try:
        opened = await open_backend(
            dialed.channel, told, consumed=consumed, timeout_seconds=service.backend.connect_timeout
        )
    except BaseException as error:
        if isinstance(error, BackendRefused):
            dialed.state.record_dial(DialOutcome.REJECTED, now=trio.current_time())
        dialed.close()
        raise
    if told.resume and not opened.body.resumed:
        # Written before `resume` was, it has begun the session anew.
        await dismiss_backend(dialed, code=SESSION_LOST, reason="this session was to be resumed")
        raise _lost()
    return told, opened


def _lost() -> BackendRefused:
    return BackendRefused("no backend knows the session", code=SESSION_LOST, close_reason="")
