"""One conversation: who takes part, who comes back, what is told at its end; long, as each of these changes the others.

Invariant: what a session holds beyond its sockets (its place in the limits, its endpoint's load, its entry in the
registry) is given back exactly once; and each of its ends is told: in the log, the metrics, the registry.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

import structlog
import trio

from gateway.codes import RESTART, SESSION_LOST, SUPERSEDED, TRY_AGAIN_LATER, UNAUTHORIZED
from gateway.errors import (
    BackendAway,
    BackendFault,
    BackendForgot,
    BackendRefused,
    BackendUnreachable,
    HandshakeRefused,
    ProtocolViolation,
    fitting_reason,
)
from gateway.policy.admission import MessageRate, Ticket, holder_of
from gateway.policy.principal import Principal
from gateway.policy.refusals import close_code, forbidden
from gateway.protocol.messages import WebSocketConnection, is_legal_close_code
from gateway.protocol.records import (
    AuthByGateway,
    AuthFromClient,
    OpenedByGateway,
    OpenToBackend,
)
from gateway.protocol.rejections import tells_of
from gateway.protocol.sequencing import DataReceiver
from gateway.relay.away import AbsentBackend, ParkedClient
from gateway.relay.ending import Ending
from gateway.relay.evidence import Evidence
from gateway.relay.records_backend import OpenedBackend, RecordsBackend
from gateway.relay.records_client import RecordsClient
from gateway.relay.relay import Relay
from gateway.routes import RouteService
from gateway.sessions.greeting import Greeting
from gateway.sessions.host import EndedSession, SessionHost
from gateway.sessions.identity import Binding
from gateway.sessions.opening import dismiss_backend
from gateway.sessions.permission import Permission, PermissionWatch
from gateway.sessions.reaching import reach
from gateway.sessions.telling import Participants, ladder, settle_accounts
from gateway.telemetry.metrics import SessionState, UnknownReason
from gateway.transport.channel import Channel
from gateway.transport.connector import ClientFacts, Dialed

FIRST_REDIAL_SECONDS: Final = 0.1
LAST_REDIAL_SECONDS: Final = 5.0
"""Between attempts at a backend that broke: soon at first, for a restart takes a moment, and never far apart."""

ASK_AGAIN_SECONDS: Final = 5.0
"""Of a client that names a position beyond what was sent here: so long the backend's word stands that it is wrong."""

PASSING_REFUSALS: Final = frozenset({RESTART, TRY_AGAIN_LATER})
"""Codes with which a backend refuses for the moment: the session may be there, and is not to be replaced by another."""

SESSION_BYTES: Final = 16 * 1024
"""What a session takes when it holds nothing."""

RESUMES_AT_ONCE: Final = 20
RESUMES_PER_SECOND: Final = 5.0
"""Of one session: each sends again what is unsettled, up to a window, for the few bytes that ask for it. A client in a
network that comes and goes needs less, and one that is told to wait comes again."""

RENEWAL_SECONDS: Final = 0.5
"""Between two credentials of one session that are judged: its client may send as many as it likes."""

EXPIRED: Final = "the credential has expired"

NO_SUMMARY: Final[Mapping[str, object]] = MappingProxyType({})

log = structlog.get_logger("session")


class Session:
    """A live session, the host of its `relay`."""

    __slots__ = (
        "_asked_at",
        "_backend_started",
        "_client_facts",
        "_dialed",
        "_host",
        "_last_renewal",
        "_opening",
        "_renewing",
        "_resume_rate",
        "_watch",
        "binding",
        "epoch",
        "id",
        "participants",
        "permission",
        "relay",
        "resumes",
        "service",
        "tab",
        "token",
    )

    def __init__(
        self,
        *,
        host: SessionHost,
        service: RouteService,
        session_id: str,
        token: str | None,
        binding: Binding,
        participants: Participants,
        client_facts: ClientFacts,
        opening: OpenToBackend | None,
        dialed: Dialed,
        permission: Permission,
    ) -> None:
        """Takes over the dialled connection's place; `opening` is what a records backend was told."""
        self.id = session_id
        self.token = token
        self.binding = binding
        self.service = service
        self.participants = participants
        self.permission = permission
        self.epoch = 0 if opening is None else opening.epoch
        self.resumes = 0
        self._backend_started = False
        self._asked_at = -math.inf
        """When the backend was asked last whether the session is elsewhere."""
        self.relay: Relay
        self._host = host
        self._client_facts = client_facts
        self._opening = opening
        self._dialed = dialed
        self._watch = PermissionWatch(host.pump, on_due=self._ask_for_credential, on_over=self._expire)
        self._renewing: RecordsClient | None = None
        self._last_renewal = -RENEWAL_SECONDS
        self._resume_rate = MessageRate(RESUMES_PER_SECOND, burst=RESUMES_AT_ONCE, now=host.pump.clock())
        self.tab = host.account.open(holder_of(participants.address, binding.subject), SESSION_BYTES)
        """What it holds is charged here."""
        service.metrics.connections += 1
        service.metrics.sessions[SessionState.ATTACHED] += 1

    def may_be_resumed(self, now: float) -> bool:
        """Whether it was not resumed too often already; counts as a resume."""
        return self._resume_rate.take(1, now)

    # --- what its client may -----------------------------------------------------------------------------------------

    def admit(self, permission: Permission, now: float) -> None:
        """A client is here under that permission, which is watched while it stays."""
        self.permission = permission
        principal = permission.principal
        self._watch.begin(None if principal is None else principal.expires_at, now)

    def _expire(self, now: float) -> None:
        log.info("permission_expired", session=self.id, route=self.participants.route)
        self.relay.expire(UNAUTHORIZED, EXPIRED, now)

    def _ask_for_credential(self, now: float) -> None:
        client = self.relay.client
        if isinstance(client, RecordsClient) and client.on_auth is not None:
            client.tell_permission(0, AuthByGateway(expires_in_seconds=self._watch.seconds_left))

    def _hear_credential(self, client: RecordsClient, seq: int, body: AuthFromClient, now: float) -> None:
        """Raises ProtocolViolation for one that does not wait for the answer to the one before."""
        if not seq:
            raise ProtocolViolation("AUTH with number 0, expected 1 or more")
        if self._renewing is client:
            raise ProtocolViolation("AUTH before the one before it was answered")
        self._renewing = client
        self._host.start_soon(partial(self._renew, client, seq, body.token))

    async def _renew(self, client: RecordsClient, seq: int, token: str) -> None:
        """Judges another credential; whatever is wrong with it, the permission that holds goes on to its end."""
        code, reason = None, ""
        permission = self.permission
        try:
            await trio.sleep_until(self._last_renewal + RENEWAL_SECONDS)
            self._last_renewal = trio.current_time()
            permission = replace(permission, principal=await self._judge(token))
        except HandshakeRefused as refusal:
            code, reason = close_code(refusal), fitting_reason(str(refusal))
        finally:
            if self._renewing is client:
                self._renewing = None
        if self.relay.client is not client or not self.relay.is_open:
            return
        now = self.relay.pump.clock()
        log.info("permission_renewed", session=self.id, route=self.participants.route, refused=code)
        self.admit(permission, now)
        left = self._watch.seconds_left
        client.tell_permission(seq, AuthByGateway(expires_in_seconds=left, code=code, reason=reason))

    async def _judge(self, token: str) -> Principal | None:
        evidence = self.permission.evidence
        gatekeeper = self._host.gatekeeper(self.service)
        if evidence is None or gatekeeper is None:
            raise forbidden("credentials are not taken here any more")
        principal = await gatekeeper.admit_open(evidence, token)
        if (None if principal is None else principal.identity) != self.binding.subject:
            raise forbidden("this session is not of whom the credential names")
        chooser = self.service.chooser
        leads = None if chooser is None or not chooser.follows_claims else str(chooser.claimed(principal))
        if leads is not None and leads != self.binding.destination:
            raise forbidden("this session does not lead to where the credential leads")
        return principal

    def revoke(self, code: int, reason: str, now: float) -> None:
        """Ends it at once, whoever is away: its client may be here no more."""
        self.relay.revoke(code, reason, now)

    # --- the client comes back ------------------------------------------------------------------------------------

    def attach(
        self,
        channel: Channel,
        ws: WebSocketConnection,
        greeting: Greeting,
        *,
        resumed: bool,
        report: EndedSession | None = None,
        ticket: Ticket,
        permission: Permission,
    ) -> None:
        """Gives the session the connection behind `channel`, and answers its OPEN. Not to be interrupted.

        The ticket is that connection's, and is held until its socket is closed, however it comes to that.

        A connection that claims to have consumed what was never sent is closed with 1002, and the session stays as it
        was; where the session may have been at another gateway meanwhile, with 1013, and the backend is asked.
        """
        relay = self.relay
        now = relay.pump.clock()
        parked = relay.client
        assert isinstance(parked, ParkedClient | RecordsClient)
        numbering = parked.numbering
        client = RecordsClient(channel.release(), relay.for_client, ws, numbering, greeting.reader)
        client.on_closed = ticket.release
        up, down = relay.up.ledger, relay.down.ledger
        assert up is not None
        assert down is not None
        # What it consumed of a session that is gone says nothing about the one that it gets in its place.
        consumed = greeting.consumed if resumed or greeting.body.session is None else 0
        if (
            resumed
            and consumed == down.last_sent + 1
            and down.is_in_message
            and tells_of(greeting.body.rejected, consumed)
        ):
            consumed -= 1  # refused before it was whole: it settles when its end has come
        if consumed > down.last_sent:
            if resumed and self._asks_where_it_is(now):
                client.leave(TRY_AGAIN_LATER, "this gateway asks where the session is; try again", now)
                return
            problem = f"OPEN has consumed message {consumed}, but the last one sent is {down.last_sent}"
            client.leave(ProtocolViolation.close_code, problem, now)
            return
        if resumed:
            self.resumes += 1
        if self.is_parked:
            self._host.session_returned(self.id)
            self._count(SessionState.PARKED, -1)
            self._count(SessionState.ATTACHED, +1)
            self.service.metrics.connections += 1
        numbering.receipts = frozenset(rung for rung in greeting.body.receipts if rung < up.settles_at)
        numbering.has_heartbeat = greeting.body.heartbeat
        delivery = self.service.config.delivery
        down.set_window(
            min(delivery.window_messages, greeting.body.window_messages),
            min(delivery.window_bytes, greeting.body.window_bytes),
        )
        assert self.token is not None
        self.admit(permission, now)
        if greeting.body.renew and permission.evidence is not None:
            client.on_auth = partial(self._hear_credential, client)
        body = OpenedByGateway(
            session=self.token,
            resumed=resumed,
            settles_at=up.settles_at,
            window_messages=up.window_messages,
            window_bytes=up.window_bytes,
            message_bytes=self.service.message_bytes,
            grace_seconds=delivery.grace or 0.0,
            rejected=relay.up.rejections.ranges if resumed else (),
            heartbeat_seconds=relay.settings.keepalive_seconds if numbering.has_heartbeat else None,
            expires_in_seconds=self._watch.seconds_left,
            renew=client.on_auth is not None,
            report=None if report is None else report.report,
        )
        if resumed:
            relay.down.rejections.remember(
                greeting.body.rejected, accepted=down.accepted, window_messages=down.window_messages
            )
            for seq, why in relay.down.news_of(greeting.body.rejected):
                relay.rejected_downstream(seq, why, now)
        relay.attach(client, body, consumed, now)
        client.start(b"", now)
        if self._backend_started:
            relay.ask_backend()
        else:
            self._backend_started = True
            relay.start_backend(now)

    def _asks_where_it_is(self, now: float) -> bool:
        """Whether the session may be elsewhere, by what a client has heard there: asks the backend, not too often.

        Its answer to an OPEN ends the session here (4001), or shows that the client is wrong.
        """
        relay = self.relay
        if isinstance(relay.backend, AbsentBackend):
            return True  # it is being asked
        retained = relay.up.retained
        if retained is None or retained.is_cut or self.service.settings.grace_seconds is None:
            return False
        if not isinstance(relay.backend, RecordsBackend) or relay.backend.is_gone:
            return False
        if now - self._asked_at < ASK_AGAIN_SECONDS:
            return False
        self._asked_at = now
        relay.backend_lost(BackendFault("the session may be at another gateway"), now)
        return True

    # --- what the relay tells -------------------------------------------------------------------------------------

    def relay_detached(self, relay: Relay, now: float) -> None:
        self._watch.stop()
        self.service.metrics.connections -= 1
        self._count(SessionState.ATTACHED, -1)
        self._count(SessionState.PARKED, +1)
        in_flight = {
            name: 0 if lane.ledger is None else lane.ledger.in_flight_messages
            for name, lane in (("upstream", relay.up), ("downstream", relay.down))
        }
        log.debug("session_parked", session=self.id, route=self.participants.route, in_flight=in_flight)
        self._host.session_parked(self.id, now)

    def relay_lost_backend(self, relay: Relay, lost: RecordsBackend, fault: BackendFault, now: float) -> None:
        lost.receiver.interrupt()
        log.info(
            "backend_lost",
            session=self.id,
            route=self.participants.route,
            endpoint=self._dialed.state.name,
            problem=str(fault),
        )
        self._host.start_soon(partial(self._redial, lost.receiver))

    def relay_ended(self, relay: Relay, ending: Ending) -> None:
        now = relay.pump.clock()
        self._watch.stop()
        self._dialed.close()
        self.tab.close()
        metrics = self.service.metrics
        if self.is_parked:
            self._count(SessionState.PARKED, -1)
        else:
            self._count(SessionState.ATTACHED, -1)
            metrics.connections -= 1
        metrics.count_close(ending.by, ending.code)
        summary = {
            "session": self.id,
            **self.participants.as_fields(),
            "endpoint": self._dialed.state.name,
            "by": ending.by.value,
            "code": ending.code,
            "reason": ending.reason,
            "seconds": round(now - relay.opened_at, 3),
            "resumes": self.resumes,
            "upstream": settle_accounts(relay.up, ending, ending.unknown_upstream),
            "downstream": settle_accounts(relay.down, ending, ending.unknown_downstream),
        }
        log.info("session_ended", **summary)
        self._host.session_ended(self.id, self.as_ended(summary), is_elsewhere=self._goes_on_elsewhere)

    def as_ended(self, summary: Mapping[str, object] = NO_SUMMARY) -> EndedSession:
        """What is to be remembered of it, or told of it while it is ending."""
        # Nobody asks for the report of a session that has no token to ask by.
        report = None if self.token is None else self.relay.report()
        return EndedSession(token=self.token, binding=self.binding, report=report, summary=summary)

    def _count(self, state: SessionState, change: int) -> None:
        self.service.metrics.sessions[state] += change

    # --- the backend comes back -----------------------------------------------------------------------------------

    async def _redial(self, receiver: DataReceiver) -> None:
        """Dials the backend until it is back or `grace` is over; one that comes back after the end is told of it."""
        relay = self.relay
        grace = self.service.settings.grace_seconds or 0.0
        deadline = trio.current_time() + grace
        pause = FIRST_REDIAL_SECONDS
        while trio.current_time() < deadline and not self._goes_on_elsewhere:
            try:
                dialed, opened = await self._open_again(receiver)
            except BackendUnreachable as error:
                if isinstance(error, BackendRefused) and error.code not in PASSING_REFUSALS:
                    self._refused(error)
                    return
                log.info("redial_failed", session=self.id, route=self.participants.route, problem=str(error))
                await trio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LAST_REDIAL_SECONDS)
            else:
                await self._take_backend(dialed, opened, receiver)
                return
        if not relay.has_ended:
            fault = BackendAway(f"the backend was not back within {grace:g} s")
            relay.backend_ended(relay.pump.clock(), fault=fault)

    def _refused(self, refusal: BackendRefused) -> None:
        relay = self.relay
        now = relay.pump.clock()
        if relay.has_ended:
            return
        if refusal.code == SUPERSEDED:
            relay.taken_over(now)
        elif refusal.code == SESSION_LOST:
            relay.backend_ended(now, fault=BackendForgot())
        else:
            code = refusal.code if is_legal_close_code(refusal.code) else BackendFault.close_code
            relay.backend_ended(now, code=code, reason=refusal.close_reason)

    @property
    def _goes_on_elsewhere(self) -> bool:
        """It has ended here, because we restart or another gateway has it, and its client goes on with it there."""
        ending = self.relay.ending
        if self.token is None or ending is None:
            return False
        return ending.taken_over or ending.unknown is UnknownReason.DRAIN

    async def _open_again(self, receiver: DataReceiver) -> tuple[Dialed, OpenedBackend]:
        """At the endpoint that had it, or at another one that knows it.

        Only that one may begin it anew, and only while nothing of it was consumed or came: another one would be sent
        what this one may have consumed.
        """
        assert self._opening is not None
        down = self.relay.down.ledger
        assert down is not None
        up = self.relay.up
        assert up.ledger is not None
        was_told = bool(up.ledger.settled or receiver.accepted)
        self.epoch += 1  # never to a new time: another gateway may have taken the session over meanwhile
        reached = await reach(
            self.service,
            self._client_facts,
            replace(
                self._opening,
                epoch=self.epoch,
                resume=was_told or bool(up.ledger.last_sent),
                rejected=self.relay.down.rejections.ranges,
            ),
            connector=self._dialed.connector,
            key=self.id,
            consumed=down.settled,
            skews_ms=(0,),
            before=self._dialed.state,
            may_begin_at=None if was_told else self._dialed.state,
        )
        assert reached.opened is not None
        return reached.dialed, reached.opened

    async def _take_backend(self, dialed: Dialed, opened: OpenedBackend, receiver: DataReceiver) -> None:
        relay = self.relay
        ledger = relay.up.ledger
        assert ledger is not None
        if self._goes_on_elsewhere:
            dialed.close()
            return
        if relay.has_ended:
            assert relay.ending is not None
            await dismiss_backend(dialed, code=relay.ending.code, reason=relay.ending.reason, report=relay.report())
            return
        now = relay.pump.clock()
        self._dialed.close()
        self._dialed = dialed
        sock = dialed.channel.release()
        backend = RecordsBackend(sock, relay.for_backend, opened, receiver, Evidence(sock))
        try:
            relay.backend_restored(backend, opened.consumed, opened.body.rejected, now)
        except ProtocolViolation as violation:
            backend.close()
            relay.backend_ended(now, fault=BackendFault(f"the backend broke the record protocol: {violation}"))

    # --- what others are told -------------------------------------------------------------------------------------

    @property
    def is_parked(self) -> bool:
        """Its client is away and may come back."""
        return self.relay.is_parked

    @property
    def state(self) -> str:
        """`attached` or `parked`."""
        return (SessionState.PARKED if self.is_parked else SessionState.ATTACHED).value

    @property
    def held_bytes(self) -> int:
        """What the session keeps in memory beyond its own few kilobytes."""
        reckoned = SESSION_BYTES + sum(
            lane.held_bytes + (0 if lane.retained is None else lane.retained.bytes)
            for lane in (self.relay.up, self.relay.down)
        )
        return max(reckoned, self.tab.used)

    def describe(self) -> Mapping[str, object]:
        """For the admin API: who, since when, and how far messages got in each lane."""
        now = self.relay.pump.clock()
        who = self.participants
        return {
            "session": self.id,
            "state": self.state,
            "route": who.route,
            "client": who.address,
            "path": who.path,
            "origin": who.origin,
            "subject": who.subject,
            "subprotocol": who.subprotocol,
            "endpoint": self._dialed.state.name,
            "seconds": round(now - self.relay.opened_at, 3),
            "resumes": self.resumes,
            "memory_bytes": self.held_bytes,
            "upstream": ladder(self.relay.up, now),
            "downstream": ladder(self.relay.down, now),
        }
