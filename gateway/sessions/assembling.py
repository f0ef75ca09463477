"""Makes a session of an arrival and of the backend that was reached for it: its lanes, its relay, its backend's side.

Invariant: nothing waits here, so that what is built is either whole and in the registry, or was never there.
"""

import structlog

from gateway.protocol.ledger import Ledger
from gateway.protocol.records import Rung
from gateway.protocol.sequencing import DataReceiver
from gateway.relay.evidence import Evidence
from gateway.relay.framed_backend import FramedBackend
from gateway.relay.lane import Lane
from gateway.relay.ports import BackendSide
from gateway.relay.records_backend import RecordsBackend
from gateway.relay.relay import Relay
from gateway.relay.retained import Retained
from gateway.sessions.arrival import Arrival
from gateway.sessions.reaching import Reached
from gateway.sessions.registry import SessionKeeper
from gateway.sessions.session import Session
from gateway.sessions.telling import Participants

log = structlog.get_logger("reception")


def assemble(
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
        up=Lane(metrics.upstream, up_ledger if track else None, session.tab, up_retained if track else None, identity),
        down=Lane(metrics.downstream, down_ledger if track else None, session.tab, down_retained, identity),
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


def backend_side(arrival: Arrival, session: Session, backend: Reached, *, start: int) -> BackendSide:
    sock = backend.dialed.channel.release()
    evidence = Evidence(sock)
    if backend.opened is None:
        return FramedBackend(sock, session.relay.for_backend, arrival.service.new_framing(), evidence)
    receiver = DataReceiver(start=start, message_bytes=arrival.service.message_bytes)
    return RecordsBackend(sock, session.relay.for_backend, backend.opened, receiver, evidence)
