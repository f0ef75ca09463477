"""Receives an admitted request: dials, upgrades, and begins a session or takes one up again.

Invariant: what was taken for a connection that does not come about (a place in the limits, a backend connection) is
given back; from the moment a session is built to the moment its relay runs nothing waits.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Final

import structlog
from pydantic import JsonValue

from gateway.access.gatekeeper import Entry
from gateway.config import Route, TcpAddress
from gateway.config.checks import MAX_INFLATED_BYTES
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
from gateway.policy.admission import Ticket
from gateway.policy.destinations import Destination
from gateway.policy.forwarded import ClientView
from gateway.policy.principal import AccessRefusal, Principal, told_by_proxy
from gateway.policy.refusals import UNAUTHORIZED, close_code, invalid
from gateway.protocol.deflate import DeflateParameters, negotiate
from gateway.protocol.handshake import ExtensionOffer, Request, Upgrade, accept_response
from gateway.protocol.ledger import Ledger
from gateway.protocol.messages import WebSocketConnection, is_legal_close_code
from gateway.protocol.records import SUBPROTOCOL, ClientAddress, OpenToBackend, Rung
from gateway.protocol.sequencing import DataReceiver, DataSender
from gateway.relay.away import ParkedClient
from gateway.relay.evidence import Evidence
from gateway.relay.framed_backend import FramedBackend
from gateway.relay.lane import Lane
from gateway.relay.plain_client import PlainClient
from gateway.relay.ports import BackendSide
from gateway.relay.records_backend import RecordsBackend
from gateway.relay.records_client import SUPERSEDED, Numbering
from gateway.relay.relay import Relay
from gateway.relay.retained import Retained
from gateway.routes import RouteService
from gateway.sessions.greeting import Greeting, close_politely, read_open
from gateway.sessions.host import EndedSession
from gateway.sessions.identity import Binding, new_session_id, new_token, next_epoch, session_id
from gateway.sessions.permission import Permission
from gateway.sessions.reaching import Reached, reach
from gateway.sessions.registry import SessionKeeper
from gateway.sessions.session import PASSING_REFUSALS, Participants, Session
from gateway.telemetry.metrics import ResumeOutcome, ServiceRefusal
from gateway.transport.connector import ClientFacts, Connector
from gateway.transport.descriptors import current_budget
from gateway.transport.listener import Established

TRY_AGAIN_LATER: Final = 1013

MAX_INFLATED_RECORD_BYTES: Final = 2 * 1024 * 1024
"""Twice the largest record, so that the record's own limit is the one that is told."""

log = structlog.get_logger("reception")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request that has been checked and admitted."""

    service: RouteService
    established: Established
    request: Request
    upgrade: Upgrade
    leftover: bytes
    """What the client sent behind its request."""
    view: ClientView
    origin: str | None
    entry: Entry | None
    """Who was let in; None where nobody is asked."""
    ticket: Ticket
    handshake_seconds: float
    """For a records client: how long it may take to send OPEN."""
    destination: Destination | None = None
    """Where it is led to, once it is known; None where all are led to the same endpoints."""
    entries: tuple[tuple[int, bytes], ...] = ()
    """What a backend is told of the client in a PROXY protocol header, beside the addresses."""

    @property
    def speaks_records(self) -> bool:
        """The client offers `kakitome.v1`, and delivery is tracked on this route."""
        return speaks_records(self.upgrade, self.service.config)

    @property
    def principal(self) -> Principal | None:
        """Who it is, as far as that is known."""
        return None if self.entry is None else self.entry.principal

    @property
    def binding(self) -> Binding:
        """What a session of this client's is bound to."""
        principal, tls = self.principal, self.established.tls
        return Binding(
            route=self.service.config.name,
            origin=self.origin,
            subject=None if principal is None else principal.identity,
            certificate=None if tls is None else tls.client_identity,
            destination=None if self.destination is None else str(self.destination),
        )

    @property
    def connector(self) -> Connector:
        """Who dials its backend."""
        chosen, connector = self.service.chosen, self.service.connector
        if chosen is not None:
            assert self.destination is not None
            return chosen.towards(self.destination)
        assert connector is not None
        return connector

    @property
    def permission(self) -> Permission:
        """What it is let in under."""
        entry, gatekeeper = self.entry, self.service.gatekeeper
        takes_another = entry is not None and gatekeeper is not None and gatekeeper.takes_open
        return Permission(
            address=self.view.address,
            principal=self.principal,
            evidence=entry.evidence if entry is not None and takes_another else None,
        )


def speaks_records(upgrade: Upgrade, route: Route) -> bool:
    """Whether the client offers `kakitome.v1`, and delivery is tracked on this route."""
    return SUBPROTOCOL in upgrade.subprotocols and route.delivery.track


async def receive(arrival: Arrival, keeper: SessionKeeper) -> None:
    """Makes the request a session's connection. Takes the ticket over, also when it fails.

    Raises BackendUnreachable and BackendRefused while the client can still be answered over HTTP, and OSError.
    """
    with ExitStack() as undo:
        undo.callback(arrival.ticket.release)
        if arrival.speaks_records:
            await _receive_records(arrival, keeper, undo)
        else:
            await _receive_plain(arrival, keeper, undo)


async def _receive_plain(arrival: Arrival, keeper: SessionKeeper, undo: ExitStack) -> None:
    """A plain client: the backend is dialled before the 101, so that it being away is an HTTP answer."""
    identity = new_session_id()
    arrival = await _directed(arrival)
    subprotocol = arrival.service.choose_subprotocol(arrival.upgrade)
    backend = await _reach(arrival, keeper, identity, subprotocol)
    undo.callback(backend.dialed.close)
    ws = await _upgrade(arrival, subprotocol)
    if (refusal := _barred(arrival, keeper, identity)) is not None:
        await _turn_away(arrival, ws, refusal)
        return
    undo.pop_all()
    session = _session(arrival, keeper, backend, identity=identity, token=None, subprotocol=subprotocol)
    relay = session.relay
    client = PlainClient(arrival.established.channel.release(), relay.for_client, ws)
    client.on_closed = arrival.ticket.release
    session.admit(session.permission, relay.opened_at)
    relay.start(client, _backend_side(arrival, session, backend, start=0), early=arrival.leftover, now=relay.opened_at)


async def _receive_records(arrival: Arrival, keeper: SessionKeeper, undo: ExitStack) -> None:
    """A records client: upgraded first, because only its OPEN says which session it wants."""
    channel = arrival.established.channel
    ws = await _upgrade(arrival, SUBPROTOCOL)
    greeting = await read_open(channel, ws, arrival.leftover, timeout_seconds=arrival.handshake_seconds)
    if greeting is None:
        return
    try:
        arrival = await _directed(await _identify(arrival, greeting))
        _check_asked_for(arrival, keeper, greeting)
    except HandshakeRefused as refusal:
        await _turn_away(arrival, ws, refusal)
        return
    try:
        found = await _find(arrival, keeper, greeting)
    except BackendRefused as refusal:
        code = refusal.code if is_legal_close_code(refusal.code) else BackendFault.close_code
        await close_politely(channel, ws, code, refusal.close_reason)
        return
    except Overloaded as fault:
        arrival.service.metrics.count_refusal(ServiceRefusal.OVERLOAD)
        await close_politely(channel, ws, fault.close_code, fault.close_reason)
        return
    except GatewayExhausted as error:
        log.warning("gateway_exhausted", route=arrival.service.config.name, problem=str(error))
        arrival.service.metrics.count_refusal(ServiceRefusal.EXHAUSTED)
        await close_politely(channel, ws, TRY_AGAIN_LATER, "this gateway can take no more connections; try again later")
        return
    except BackendUnreachable as error:
        log.warning("backend_unreachable", route=arrival.service.config.name, problem=str(error))
        await close_politely(channel, ws, BackendFault.close_code, "the service behind this gateway cannot be reached")
        return
    session, outcome, report = found
    if (barred := _barred(arrival, keeper, session.id)) is not None:
        if outcome is not ResumeOutcome.RESUMED:
            session.revoke(UNAUTHORIZED, str(barred), keeper.pump.clock())
        await _turn_away(arrival, ws, barred)
        return
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
        if live.relay.is_open:
            if not live.may_be_resumed(keeper.pump.clock()):
                raise Overloaded("this session is resumed too often; try again later")
            return ResumeOutcome.RESUMED, live, None
        # It is ending: over for its client, and not yet among the ended ones.
        live.relay.take_stock(keeper.pump.clock())
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
    session = _session(
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
    side = _backend_side(arrival, session, backend, start=consumed)
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


async def _upgrade(arrival: Arrival, subprotocol: str | None) -> WebSocketConnection:
    """Answers 101. Raises OSError."""
    deflate, extensions = _negotiate_deflate(arrival.service, arrival.upgrade)
    response = accept_response(arrival.upgrade, subprotocol=subprotocol, extensions=extensions)
    await arrival.established.channel.send_all(response)
    # A record adds its header to a message, and is bounded by its own limit.
    speaks_records = subprotocol == SUBPROTOCOL
    message_bytes = None if speaks_records else arrival.service.message_bytes
    if deflate is not None and message_bytes is None:
        message_bytes = MAX_INFLATED_RECORD_BYTES if speaks_records else MAX_INFLATED_BYTES
    return WebSocketConnection(
        client=False,
        message_bytes=message_bytes,
        deflate=deflate,
        inflation_ratio=arrival.service.config.compression.inflation_ratio,
    )


def _negotiate_deflate(
    service: RouteService, upgrade: Upgrade
) -> tuple[DeflateParameters | None, tuple[ExtensionOffer, ...]]:
    if service.config.compression.enabled:
        agreed = negotiate(upgrade.extensions)
        if agreed is not None:
            return agreed[0], (agreed[1],)
    return None, ()


def _session(
    arrival: Arrival,
    keeper: SessionKeeper,
    backend: Reached,
    *,
    identity: str,
    token: str | None,
    subprotocol: str | None,
    start: int = 0,
    resumed: bool = False,
) -> Session:
    """The session and its relay, whose sides are still to be made.

    `start`: messages that its client has consumed; `resumed`: it was begun elsewhere.
    """
    service = arrival.service
    delivery, metrics = service.config.delivery, service.metrics
    limit = service.config.limits.connections
    if limit is not None and sum(metrics.sessions.values()) >= limit:
        keeper.registry.make_room(service.config.name, keeper.pump.clock())
    session = Session(
        host=keeper,
        service=service,
        session_id=identity,
        token=token,
        binding=arrival.binding,
        participants=Participants(
            route=service.config.name,
            address=arrival.view.address,
            path=arrival.request.path,
            origin=arrival.origin,
            subject=None if arrival.principal is None else arrival.principal.subject,
            subprotocol=subprotocol,
            listener=arrival.established.listener,
        ),
        client_facts=backend.facts,
        opening=backend.opening,
        dialed=backend.dialed,
        permission=arrival.permission,
    )
    up_ledger, up_retained = _upstream(arrival, session, backend, resumed=resumed)
    fenced = Rung.REACHED if delivery.fence else Rung.WRITTEN
    down_ledger = Ledger(
        fenced if token is None else Rung.CONSUMED,
        window_messages=delivery.window_messages,
        window_bytes=delivery.window_bytes,
        overhead_bytes=None,
        start=start,
        resumed=resumed,
    )
    down_retained = None if token is None else Retained(session.tab, limit_bytes=delivery.window_bytes, start=start)
    track = delivery.track
    session.relay = Relay(
        pump=keeper.pump,
        settings=service.settings,
        up=Lane(metrics.upstream, up_ledger if track else None, session.tab, up_retained if track else None),
        down=Lane(metrics.downstream, down_ledger if track else None, session.tab, down_retained),
        tab=session.tab,
        host=session,
    )
    if backend.opened is not None:
        session.relay.up.rejections.remember(
            backend.opened.body.rejected, accepted=up_ledger.accepted, window_messages=up_ledger.window_messages
        )
    keeper.registry.add(session)
    if keeper.logs_begin:
        log.info(
            "session_began",
            session=session.id,
            **session.participants.as_fields(),
            endpoint=backend.dialed.state.name,
            resumed=resumed,
        )
    return session


def _upstream(arrival: Arrival, session: Session, backend: Reached, *, resumed: bool) -> tuple[Ledger, Retained | None]:
    delivery = arrival.service.config.delivery
    if backend.opened is None:
        ledger = Ledger(
            Evidence(backend.dialed.channel.sock).settles_at,
            window_messages=delivery.window_messages,
            window_bytes=delivery.window_bytes,
            overhead_bytes=arrival.service.framing_overhead_bytes,
        )
        return ledger, None
    body, start = backend.opened.body, backend.opened.consumed
    ledger = Ledger(
        Rung.CONSUMED,
        window_messages=min(delivery.window_messages, body.window_messages),
        window_bytes=min(delivery.window_bytes, body.window_bytes),
        overhead_bytes=None,
        start=start,
        resumed=resumed,
    )
    return ledger, Retained(session.tab, limit_bytes=delivery.window_bytes, start=start)


def _backend_side(arrival: Arrival, session: Session, backend: Reached, *, start: int) -> BackendSide:
    sock = backend.dialed.channel.release()
    evidence = Evidence(sock)
    if backend.opened is None:
        return FramedBackend(sock, session.relay.for_backend, arrival.service.new_framing(), evidence)
    receiver = DataReceiver(start=start, message_bytes=arrival.service.message_bytes)
    return RecordsBackend(sock, session.relay.for_backend, backend.opened, receiver, evidence)
