"""Receives an admitted request: dials, upgrades, and begins a session or takes one up again.

Invariant: what was taken for a connection that does not come about (a place in the limits, a backend connection) is
given back; from the moment a session is built to the moment its relay runs nothing waits.
"""

import time
from contextlib import ExitStack, suppress
from dataclasses import replace

import structlog
from pydantic import JsonValue

from gateway.codes import SUPERSEDED, TRY_AGAIN_LATER, UNAUTHORIZED
from gateway.config import TcpAddress
from gateway.errors import (
    BackendFault,
    BackendRefused,
    BackendUnreachable,
    GatewayExhausted,
    HandshakeRefused,
    Overloaded,
    fitting_reason,
)
from gateway.memory.account import Charge
from gateway.policy.principal import AccessRefusal, Principal, told_by_proxy
from gateway.policy.refusals import close_code, invalid
from gateway.protocol.messages import WebSocketConnection, is_legal_close_code
from gateway.protocol.records import SUBPROTOCOL, ClientAddress, OpenToBackend
from gateway.protocol.sequencing import DataReceiver, DataSender
from gateway.relay.away import ParkedClient
from gateway.relay.plain_client import PlainClient
from gateway.relay.records_client import Numbering
from gateway.sessions.arrival import Arrival, upgrade
from gateway.sessions.assembling import assemble, backend_side
from gateway.sessions.greeting import Greeting, close_politely, read_open
from gateway.sessions.host import EndedSession
from gateway.sessions.identity import Binding, new_session_id, new_token, next_epoch, session_id
from gateway.sessions.reaching import Reached, reach
from gateway.sessions.registry import SessionKeeper
from gateway.sessions.session import PASSING_REFUSALS, Session
from gateway.telemetry.metrics import ResumeOutcome, ServiceRefusal
from gateway.transport.connector import ClientFacts
from gateway.transport.descriptors import current_budget

log = structlog.get_logger("reception")


async def receive(arrival: Arrival, keeper: SessionKeeper) -> str | None:
    """Makes the request a session's connection; the session's id, None for a client that was turned away.

    Takes the ticket over, also when it fails. Raises BackendUnreachable and BackendRefused while the client can still
    be answered over HTTP, and OSError.
    """
    with ExitStack() as undo:
        undo.callback(arrival.ticket.release)
        if arrival.speaks_records:
            return await _receive_records(arrival, keeper, undo)
        return await _receive_plain(arrival, keeper, undo)


async def _receive_plain(arrival: Arrival, keeper: SessionKeeper, undo: ExitStack) -> str | None:
    """A plain client: the backend is dialled before the 101, so that it being away is an HTTP answer."""
    identity = new_session_id()
    arrival = await _directed(arrival)
    subprotocol = arrival.service.choose_subprotocol(arrival.upgrade)
    backend = await _reach(arrival, keeper, identity, subprotocol)
    undo.callback(backend.dialed.close)
    ws = await upgrade(arrival, subprotocol)
    if (refusal := _barred(arrival, keeper, identity)) is not None:
        await _turn_away(arrival, ws, refusal)
        return None
    undo.pop_all()
    session = assemble(arrival, keeper, backend, identity=identity, token=None, subprotocol=subprotocol)
    relay = session.relay
    client = PlainClient(arrival.established.channel.release(), relay.for_client, ws)
    client.on_closed = arrival.ticket.release
    session.admit(session.permission, relay.opened_at)
    relay.start(client, backend_side(arrival, session, backend, start=0), early=arrival.leftover, now=relay.opened_at)
    return identity


async def _receive_records(arrival: Arrival, keeper: SessionKeeper, undo: ExitStack) -> str | None:
    """A records client: upgraded first, because only its OPEN says which session it wants."""
    channel = arrival.established.channel
    ws = await upgrade(arrival, SUBPROTOCOL)
    greeting = await read_open(channel, ws, arrival.leftover, timeout_seconds=arrival.handshake_seconds)
    if greeting is None:
        return None
    try:
        arrival = await _directed(await _identify(arrival, greeting))
        _check_asked_for(arrival, keeper, greeting)
    except HandshakeRefused as refusal:
        await _turn_away(arrival, ws, refusal)
        return None
    try:
        found = await _find(arrival, keeper, greeting)
    except BackendRefused as refusal:
        code = refusal.code if is_legal_close_code(refusal.code) else BackendFault.close_code
        await close_politely(channel, ws, code, refusal.close_reason)
        return None
    except Overloaded as fault:
        arrival.service.metrics.count_refusal(ServiceRefusal.OVERLOAD)
        await close_politely(channel, ws, fault.close_code, fault.close_reason)
        return None
    except GatewayExhausted as error:
        log.warning("gateway_exhausted", route=arrival.service.config.name, problem=str(error))
        arrival.service.metrics.count_refusal(ServiceRefusal.EXHAUSTED)
        await close_politely(channel, ws, TRY_AGAIN_LATER, "this gateway can take no more connections; try again later")
        return None
    except BackendUnreachable as error:
        log.warning("backend_unreachable", route=arrival.service.config.name, problem=str(error))
        await close_politely(channel, ws, BackendFault.close_code, "the service behind this gateway cannot be reached")
        return None
    session, outcome, report = found
    if (barred := _barred(arrival, keeper, session.id)) is not None:
        if outcome is not ResumeOutcome.RESUMED:
            session.revoke(UNAUTHORIZED, str(barred), keeper.pump.clock())
        await _turn_away(arrival, ws, barred)
        return None
    undo.pop_all()
    session.attach(
        channel,
        ws,
        greeting,
        resumed=outcome in (ResumeOutcome.RESUMED, ResumeOutcome.ADOPTED),
        report=report,
        ticket=arrival.ticket,
        permission=arrival.permission,
    )
    return session.id


async def _turn_away(arrival: Arrival, ws: WebSocketConnection, refusal: HandshakeRefused) -> None:
    """Behind the upgrade a refusal is a Close. Raises OSError."""
    arrival.service.metrics.count_refusal(refusal.reason)
    await close_politely(arrival.established.channel, ws, close_code(refusal), fitting_reason(str(refusal)))


def _barred(arrival: Arrival, keeper: SessionKeeper, identity: str) -> HandshakeRefused | None:
    """What keeps that client from that session: the bar may have come while its backend was being reached."""
    bar = keeper.access.bar_for(
        arrival.principal,
        route=arrival.service.config.name,
        address=arrival.view.address,
        session=identity,
        now=time.time(),
    )
    return None if bar is None else invalid("has been revoked", reason=AccessRefusal.REVOKED)


def _check_asked_for(arrival: Arrival, keeper: SessionKeeper, greeting: Greeting) -> None:
    """Raises HandshakeRefused for a session that was revoked: it is not had again, nor another one in its place."""
    token = greeting.body.session
    if token is not None and (refusal := _barred(arrival, keeper, session_id(token, arrival.binding))) is not None:
        raise refusal


async def _identify(arrival: Arrival, greeting: Greeting) -> Arrival:
    """The arrival of somebody who is known, where the credential was to come in OPEN. Raises HandshakeRefused."""
    entry, gatekeeper = arrival.entry, arrival.service.gatekeeper
    if entry is None or gatekeeper is None or not entry.awaits_open:
        return arrival
    principal = await gatekeeper.admit_open(entry.evidence, greeting.body.token)
    return replace(arrival, entry=replace(entry, principal=principal, awaits_open=False))


async def _directed(arrival: Arrival) -> Arrival:
    """The arrival of somebody of whom it is known where they are led, and what the backend is told of them.

    Raises HandshakeRefused where they are led nowhere, or where it may not be.
    """
    service = arrival.service
    if service.backend.proxy_protocol_entries:
        entries = told_by_proxy(service.backend.proxy_protocol_entries, arrival.principal)
        arrival = replace(arrival, entries=entries)
    if service.chooser is not None:
        choice = await service.chooser.choose(arrival.request, arrival.principal)
        arrival = replace(arrival, request=choice.request, destination=choice.destination)
    return arrival


async def _find(
    arrival: Arrival, keeper: SessionKeeper, greeting: Greeting
) -> tuple[Session, ResumeOutcome | None, EndedSession | None]:
    """The session that the client's OPEN asks for, or a fresh one: never silence."""
    binding = arrival.binding
    token = greeting.body.session
    outcome: ResumeOutcome | None = None
    report: EndedSession | None = None
    session: Session | None = None
    if token is not None:
        async with keeper.registry.turns.take(token):
            outcome, session, report = await _look_up(arrival, keeper, greeting, token, binding)
        arrival.service.metrics.resumes[outcome] += 1
    if session is None:
        if not keeper.account.admits(resuming=False):
            raise Overloaded("this gateway is short of memory; try again later")
        token = new_token()
        session = await _begin(arrival, keeper, token, binding)
        assert session is not None
    return session, outcome, report


async def _look_up(
    arrival: Arrival, keeper: SessionKeeper, greeting: Greeting, token: str, binding: Binding
) -> tuple[ResumeOutcome, Session | None, EndedSession | None]:
    live = keeper.registry.by_token(token)
    if live is not None:
        if live.binding != binding:
            return ResumeOutcome.REFUSED, None, None
        now = keeper.pump.clock()
        relay = live.relay
        if relay.may_be_taken_up or relay.is_open:
            if not live.may_be_resumed(now):
                raise Overloaded("this session is resumed too often; try again later")
            if relay.is_open or arrival.service.backend.framing != "records":
                return ResumeOutcome.RESUMED, live, None
            # Its backend has ended it. Another gateway may have told the client more of that: the backend knows.
            adopted = None
            with suppress(BackendUnreachable):  # then what is kept here is all there is
                adopted = await _begin(arrival, keeper, token, binding, resumes=greeting)
            if adopted is not None:
                return ResumeOutcome.ADOPTED, adopted, None
            sent = relay.down.ledger
            if relay.may_be_taken_up and sent is not None and greeting.consumed <= sent.last_sent:
                return ResumeOutcome.RESUMED, live, None
        # It is ending: over for its client, and not yet among the ended ones.
        relay.take_stock(now)
        return ResumeOutcome.EXPIRED, None, live.as_ended()
    ended = keeper.registry.ended_by_token(token, binding)
    if ended is not None:
        return ResumeOutcome.EXPIRED, None, ended
    if arrival.service.backend.framing == "records":
        # Begun at another gateway, or before a restart: its backend knows.
        adopted = await _begin(arrival, keeper, token, binding, resumes=greeting)
        if adopted is not None:
            return ResumeOutcome.ADOPTED, adopted, None
    return ResumeOutcome.UNKNOWN, None, None


async def _begin(
    arrival: Arrival, keeper: SessionKeeper, token: str, binding: Binding, *, resumes: Greeting | None = None
) -> Session | None:
    """A session with its backend, waiting for `attach`.

    `resumes` is what a client says that brings it from another gateway; None if the backend does not know it then.
    """
    must_exist, consumed = resumes is not None, 0 if resumes is None else resumes.consumed
    identity = session_id(token, binding)
    subprotocol = arrival.service.choose_subprotocol(arrival.upgrade)
    try:
        backend = await _reach(arrival, keeper, identity, subprotocol, resumes=resumes)
    except BackendRefused as refusal:
        if must_exist and refusal.code not in PASSING_REFUSALS | {SUPERSEDED}:
            return None  # it is lost or has ended; if it is the client that is not wanted, a fresh one is refused too
        raise
    before = keeper.registry.by_token(token)
    if before is not None:
        before.relay.hand_over(keeper.pump.clock())
    session = assemble(
        arrival,
        keeper,
        backend,
        identity=identity,
        token=token,
        subprotocol=SUBPROTOCOL,
        start=consumed,
        resumed=must_exist,
    )
    relay = session.relay
    limit = arrival.service.message_bytes
    upstream_start = 0 if backend.opened is None else backend.opened.consumed
    numbering = Numbering(
        receiver=DataReceiver(start=upstream_start, message_bytes=limit),
        sender=DataSender(start=consumed),
        told_later=Charge(session.tab),
    )
    client = ParkedClient(relay.down, numbering)
    side = backend_side(arrival, session, backend, start=consumed)
    # The backend is not read before the client is attached: its first words, a CLOSE even, are for the client.
    relay.join(client, side, now=relay.opened_at)
    return session


# --- parts --------------------------------------------------------------------------------------------------------


async def _reach(
    arrival: Arrival,
    keeper: SessionKeeper,
    identity: str,
    subprotocol: str | None,
    *,
    resumes: Greeting | None = None,
) -> Reached:
    """Raises BackendUnreachable, BackendTimeout, BackendRefused."""
    service, view, established = arrival.service, arrival.view, arrival.established
    facts = ClientFacts(
        address=established.peer if view.address is None else TcpAddress(host=view.address, port=view.port or 0),
        local=established.local,
        tls=established.tls,
        authority=arrival.request.host or None,
        entries=arrival.entries,
    )
    speaks_records = service.backend.framing == "records"
    # What may be looked for again, by this gateway or another, is found by its ID; a plain service's client by where
    # it comes from.
    key = identity if speaks_records or arrival.speaks_records else view.address or identity
    opening = _open_body(arrival, identity, subprotocol, resumes) if speaks_records else None
    consumed = 0 if resumes is None else resumes.consumed
    if current_budget().is_short(established.channel.sock.fileno()):
        keeper.free_descriptors()
    try:
        return await reach(service, facts, opening, connector=arrival.connector, key=key, consumed=consumed)
    except GatewayExhausted:
        if not keeper.free_descriptors():
            raise
        return await reach(service, facts, opening, connector=arrival.connector, key=key, consumed=consumed)


def _open_body(arrival: Arrival, identity: str, subprotocol: str | None, resumes: Greeting | None) -> OpenToBackend:
    service, view, request = arrival.service, arrival.view, arrival.request
    headers = {name.lower(): request.get(name.lower()) for name in service.backend.headers}
    return OpenToBackend(
        session=identity,
        epoch=next_epoch(),
        resume=resumes is not None,
        route=service.config.name,
        path=request.path,
        query=request.query,
        host=view.host,
        origin=arrival.origin,
        subprotocol=subprotocol,
        client=ClientAddress(address=view.address or "unix", port=view.port),
        headers={name: value for name, value in headers.items() if value is not None},
        claims=_claims(arrival.principal),
        window_messages=service.config.delivery.window_messages,
        window_bytes=service.config.delivery.window_bytes,
        rejected=() if resumes is None else resumes.body.rejected,
    )


def _claims(principal: Principal | None) -> dict[str, JsonValue] | None:
    """What is said of the client, with `sub` and `iss` as this gateway understood them."""
    if principal is None:
        return None
    claims: dict[str, JsonValue] = dict(principal.claims)
    claims["sub"] = principal.subject
    if principal.issuer is not None:
        claims["iss"] = principal.issuer
    return claims
