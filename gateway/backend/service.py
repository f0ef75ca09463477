"""A TCP service whose connections carry sessions: accepts, reads OPEN, joins connections and sessions, runs handlers.

General theory of operation. A session has one handler task, which lives as long as the session and never touches a
socket. A connection has three tasks: one reads records into the session's conversation, one writes what the
conversation has to send, one asks for a sign of life. The conversation decides, these tasks carry.

Invariant: at most one connection is attached to a session, the newest; an older one stops reading and writing for the
session at once, even before its tasks have noticed that they are cancelled.
"""

import errno
import logging
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketListener, TaskGroup, TaskStatus
from anyio.streams.tls import TLSStream

from gateway.backend.conversation import Conversation, Refused, State
from gateway.backend.deadlines import Deadlines
from gateway.backend.handling import Handler, handle
from gateway.backend.limits import DEFAULT_LIMITS, Limits
from gateway.backend.live import LiveSession, Shelf
from gateway.backend.store import Changes, MemoryStore, SessionEnd, Store
from gateway.codes import ABNORMAL, RESTART, SUPERSEDED, TRY_AGAIN_LATER
from gateway.errors import ConnectionFault, ProtocolViolation
from gateway.protocol.records import (
    CloseBody,
    OpenToBackend,
    Record,
    RecordDecoder,
    RecordType,
    encode_prefixed_record,
)

logger: Final = logging.getLogger("kakitome.backend")

READ_BYTES: Final = 64 * 1024
WRITE_BYTES: Final = 256 * 1024
"""What is taken from a session at a time: more would only wait in the connection's buffer."""

OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of accept that pass when other connections end."""
ACCEPT_BACK_OFF_SECONDS: Final = 0.1

GOODBYE_SECONDS: Final = 1.0
"""What a connection has to say goodbye when the service is cancelled."""

Address: TypeAlias = tuple[str, int] | str
"""(host, port) of a TCP listener, the path of a Unix one."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Connection:
    """One connection that is, or was, attached to a session."""

    stream: ByteStream
    decoder: RecordDecoder
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    sending: bool = False
    """A cancellation now may leave half a record on the stream, after which nothing else can follow."""
    heard: bool = True
    """Something came since the last look."""
    paused: bool = False
    """Nothing is read, because the handler is behind."""
    superseded_by: int = 0
    """The epoch of the connection that has taken its place, 0 while it has the session."""
    input_ended: anyio.Event = field(default_factory=anyio.Event)


class _Tenancy:
    """A live session together with its handler and the connection it has now."""

    __slots__ = ("connection", "handled", "live")

    def __init__(self, live: LiveSession, *, handled: bool) -> None:
        self.live = live
        self.handled = handled
        """The handler has returned, or there is none because the session had ended before."""
        self.connection: _Connection | None = None


class Service:
    """All sessions of one handler; `serve` runs it on listeners."""

    def __init__(self, handler: Handler, store: Store, limits: Limits, tls: ssl.SSLContext | None) -> None:
        self._handler = handler
        self._tls = tls
        self._shelf = Shelf(store)
        self._limits = limits
        self._sessions: dict[str, _Tenancy] = {}
        self._deadlines = Deadlines(limits.grace)
        self._handlers: TaskGroup

    async def run(self, listeners: Sequence[SocketListener]) -> None:
        """Serves until cancelled.

        Then sessions of a durable store are left for a resume, all others are lost: closed with 1012, behind what has
        been sent, and their clients begin new ones.
        """
        for session_id in self._shelf.store.open_sessions():
            self._deadlines.add(session_id)
        try:
            async with anyio.create_task_group() as self._handlers:
                self._handlers.start_soon(self._end_the_forgotten)
                for listener in listeners:
                    self._handlers.start_soon(self._listen, listener)
        finally:
            for tenancy in self._sessions.values():
                if not self._shelf.store.durable:
                    tenancy.live.conversation.close(RESTART, "service restart")
                await self._save_last(tenancy.live)

    # --- connections ------------------------------------------------------------------------------------------------

    async def _listen(self, listener: SocketListener) -> None:
        while True:
            try:
                stream = await listener.accept()
            except (OSError, anyio.BrokenResourceError) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                if not isinstance(cause, OSError) or cause.errno not in OUT_OF_RESOURCES:
                    raise
                logger.error("cannot accept connections: %s", cause)
                await anyio.sleep(ACCEPT_BACK_OFF_SECONDS)
            else:
                self._handlers.start_soon(self._serve_stream, stream)

    async def _serve_stream(self, stream: ByteStream) -> None:
        """The boundary of one connection: what goes wrong in it ends it, and nothing else."""
        try:
            if self._tls is not None:
                with anyio.fail_after(self._limits.open_timeout):
                    stream = await TLSStream.wrap(stream, ssl_context=self._tls, standard_compatible=False)
            await self._serve_connection(stream)
        except (anyio.BrokenResourceError, anyio.EndOfStream, TimeoutError, OSError) as error:
            logger.debug("connection lost: %r", error)
        except Exception:
            logger.exception("connection dropped")
        finally:
            await anyio.aclose_forcefully(stream)

    async def _serve_connection(self, stream: ByteStream) -> None:
        connection = _Connection(stream=stream, decoder=RecordDecoder())
        try:
            with anyio.fail_after(self._limits.open_timeout):
                position, opening = await _receive_open(connection)
        except ConnectionFault as fault:
            logger.warning("connection refused: %s", fault)
            await self._refuse(connection, fault.close_code, fault.close_reason)
            return
        try:
            tenancy = self._attach(connection, position, opening)
        except Refused as refused:
            logger.info("session %s refused: %s %s", opening.session, refused.code, refused.reason)
            await self._refuse(connection, refused.code, refused.reason)
            return
        try:
            with connection.scope:
                await self._carry(tenancy, connection)
        except anyio.get_cancelled_exc_class():
            await self._say_goodbye(tenancy, connection)
            raise
        finally:
            if tenancy.connection is connection:
                tenancy.connection = None
                tenancy.live.conversation.interrupt()
                tenancy.live.moved.wake()
                if not tenancy.handled:
                    self._deadlines.add(tenancy.live.id)
        await self._retire(tenancy)
        if connection.superseded_by and not connection.sending:
            # Else its gateway would take this for a broken connection and come back for the session.
            await self._refuse(connection, SUPERSEDED, f"superseded by epoch {connection.superseded_by}")

    async def _refuse(self, connection: _Connection, code: int, reason: str) -> None:
        """Ends a connection with CLOSE, not its session, and lets the gateway read that before the connection goes."""
        body = CloseBody(code=code, reason=reason).to_json()
        with anyio.move_on_after(self._limits.close_timeout), suppress(anyio.EndOfStream):
            await connection.stream.send(encode_prefixed_record(RecordType.CLOSE, 0, 0, body))
            await _end_output(connection.stream)
            while True:  # closing over unread bytes would reset what was sent last
                await connection.stream.receive(READ_BYTES)

    def _attach(self, connection: _Connection, position: int, opening: OpenToBackend) -> _Tenancy:
        """Joins the connection to its session, be that live, stored or new. Raises Refused."""
        tenancy = self._sessions.get(opening.session)
        if tenancy is None:
            if len(self._sessions) >= self._limits.sessions:
                raise Refused(TRY_AGAIN_LATER, "this backend has as many sessions as it takes")
            conversation = Conversation(
                self._shelf.store.load(opening.session),
                window_messages=self._limits.window_messages,
                window_bytes=self._limits.window_bytes,
                kept_bytes=self._limits.window_bytes,
            )
            conversation.attach(position, opening)
            live = LiveSession(opening.session, conversation, self._shelf)
            tenancy = self._sessions[opening.session] = _Tenancy(live, handled=conversation.end is not None)
            if not tenancy.handled:
                self._handlers.start_soon(self._handle, tenancy)
        else:
            tenancy.live.conversation.attach(position, opening)
            if tenancy.connection is not None:
                tenancy.connection.superseded_by = opening.epoch
                tenancy.connection.scope.cancel()
            tenancy.live.wake()
        tenancy.connection = connection
        self._deadlines.discard(opening.session)
        return tenancy

    async def _carry(self, tenancy: _Tenancy, connection: _Connection) -> None:
        """Moves records until the connection is over or lost."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, tenancy, connection, tasks.cancel_scope)
            tasks.start_soon(self._keep_alive, tenancy, connection, tasks.cancel_scope)
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self._write(tenancy, connection)
                # Closing over unread bytes would reset what was sent last, so the peer goes first where it knows.
                if await _end_output(connection.stream) or tenancy.live.conversation.is_over:
                    with anyio.move_on_after(self._limits.close_timeout):
                        await connection.input_ended.wait()
            tasks.cancel_scope.cancel()

    async def _read(self, tenancy: _Tenancy, connection: _Connection, carrying: anyio.CancelScope) -> None:
        live, decoder = tenancy.live, connection.decoder
        queued_bytes = max(self._limits.window_bytes, self._limits.message_bytes)
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await connection.stream.receive(READ_BYTES)
                if tenancy.connection is not connection:
                    return
                connection.heard = True
                live.receive(decoder.feed(data))
                if decoder.error is not None:
                    live.conversation.fail(decoder.error)
                    live.wake()
                while live.conversation.is_congested(queued_bytes):
                    connection.paused = True
                    await live.moved.wait()
                connection.paused = False
        connection.input_ended.set()
        if live.conversation.state is State.ENDED_BY_PEER:
            # Half-closed behind its CLOSE: it may still want to know what the handler consumes, as long as it does.
            before, consumed = -1, live.conversation.inbox.consumed
            while consumed > before:
                await anyio.sleep(self._limits.close_timeout)
                before, consumed = consumed, live.conversation.inbox.consumed
        carrying.cancel()

    async def _write(self, tenancy: _Tenancy, connection: _Connection) -> None:
        """Sends until this connection has carried all that it will carry."""
        live, conversation = tenancy.live, tenancy.live.conversation
        while True:
            await live.save()
            if tenancy.connection is not connection:
                return
            data = conversation.data_to_send(WRITE_BYTES)
            if data:
                connection.sending = True
                await connection.stream.send(data)
                connection.sending = False
                live.moved.wake()
            elif conversation.is_over or (tenancy.handled and conversation.state is State.ENDED_BY_PEER):
                return
            else:
                await live.changed.wait()

    async def _keep_alive(self, tenancy: _Tenancy, connection: _Connection, carrying: anyio.CancelScope) -> None:
        """Drops a connection whose far end has silently gone: its session can only be resumed by another one anyway."""
        while True:
            connection.heard = False
            await anyio.sleep(self._limits.keepalive)
            if connection.input_ended.is_set():
                return  # it cannot answer
            if connection.heard or connection.paused:
                continue
            tenancy.live.conversation.ping(b"kakitome")
            tenancy.live.changed.wake()
            await anyio.sleep(self._limits.keepalive)
            if not (connection.heard or connection.paused or connection.input_ended.is_set()):
                logger.info("session %s: connection dropped, it leaves PING unanswered", tenancy.live.id)
                carrying.cancel()

    async def _say_goodbye(self, tenancy: _Tenancy, connection: _Connection) -> None:
        """The service stops: acknowledges what was consumed, sends what it can, and gives up what cannot be resumed.

        CLOSE 1012 says that the session is lost with our memory: its client begins a new one by itself.
        """
        if tenancy.connection is not connection or connection.sending:
            return  # behind half a record nothing can be said
        live, conversation = tenancy.live, tenancy.live.conversation
        with (
            anyio.move_on_after(GOODBYE_SECONDS, shield=True),
            suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError),
        ):
            await live.save()
            while data := conversation.data_to_send(WRITE_BYTES):
                await connection.stream.send(data)
                await live.save()
            if not self._shelf.store.durable:
                conversation.close(RESTART, "service restart", at_once=True)
                await live.save()
                await connection.stream.send(conversation.data_to_send(WRITE_BYTES))
            await _end_output(connection.stream)
            while True:
                await connection.stream.receive(READ_BYTES)

    # --- sessions ---------------------------------------------------------------------------------------------------

    async def _handle(self, tenancy: _Tenancy) -> None:
        await handle(tenancy.live, self._handler, self._limits)
        tenancy.handled = True
        tenancy.live.wake()
        await self._retire(tenancy)

    async def _retire(self, tenancy: _Tenancy) -> None:
        """Lets go of a session that has no handler and no connection any more."""
        if not tenancy.handled or tenancy.connection is not None:
            return
        await self._save_last(tenancy.live)
        if tenancy.connection is None and self._sessions.get(tenancy.live.id) is tenancy:
            del self._sessions[tenancy.live.id]
            self._deadlines.discard(tenancy.live.id)
            tenancy.live.retired = True
            tenancy.live.wake()
            _log_end(tenancy.live)

    @staticmethod
    async def _save_last(live: LiveSession) -> None:
        """Saves a session that leaves memory; a store that fails must not hold the others up."""
        try:
            with anyio.CancelScope(shield=True):
                await live.save()
        except Exception:
            # What the store has is older, so after a resume some messages come again: the best that can be done.
            logger.exception("session %s: its last state was not saved", live.id)

    async def _end_the_forgotten(self) -> None:
        """Ends sessions that nobody resumes within the grace, those of an earlier process included."""
        while True:
            session_id = await self._deadlines.expire()
            tenancy = self._sessions.get(session_id)
            if tenancy is not None:
                tenancy.live.conversation.close(ABNORMAL, "not resumed within the grace")
                tenancy.live.wake()
            else:
                await self._end_stored(session_id)

    async def _end_stored(self, session_id: str) -> None:
        """Ends a session that an earlier process left in the store."""
        end = SessionEnd(code=ABNORMAL, reason="not resumed within the grace", by_peer=False)
        try:
            async with self._shelf.lock:
                self._shelf.store.save(session_id, Changes(end=end))
        except Exception:
            logger.exception("session %s: its end was not saved", session_id)


async def serve(
    handler: Handler,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    path: str | None = None,
    tls: ssl.SSLContext | None = None,
    store: Store | None = None,
    limits: Limits = DEFAULT_LIMITS,
    task_status: TaskStatus[Address] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serves sessions until cancelled, each with its own call of `handler`; under trio or asyncio.

    Listens on TCP, or on the Unix socket `path` if given; reports its address as started. A handler that returns ends
    its session with 1000; one that raises is run again, see `handling`. `store` is a new `MemoryStore` by default, and
    is not closed.
    When cancelled, sessions of a durable store are left for a resume; all others are lost and closed with 1012, upon
    which kakitome.js and the Python client begin new ones by themselves, and report what may have been lost.
    Raises OSError if it cannot listen, and what the store raises if it cannot be read.
    """
    service = Service(handler, store if store is not None else MemoryStore(), limits, tls)
    async with AsyncExitStack() as stack:
        listeners: Sequence[SocketListener]
        if path is None:
            tcp = await anyio.create_tcp_listener(local_host=host, local_port=port)
            listeners = [listener for listener in tcp.listeners if isinstance(listener, SocketListener)]
        else:
            listeners = [await anyio.create_unix_listener(path)]
        for listener in listeners:
            stack.push_async_callback(listener.aclose)
        task_status.started(listeners[0].extra(SocketAttribute.local_address))
        await service.run(listeners)


async def _receive_open(connection: _Connection) -> tuple[int, OpenToBackend]:
    """(position, body) of the OPEN that begins the connection. Raises ProtocolViolation, and what the stream raises."""
    records: list[Record] = []
    while not records:
        records = connection.decoder.feed(await connection.stream.receive(READ_BYTES))
        if not records and connection.decoder.error is not None:
            raise connection.decoder.error
    record_type, _, seq, body = records[0]
    if record_type != RecordType.OPEN:
        raise ProtocolViolation(f"{RecordType(record_type).name} before OPEN")
    if len(records) > 1 or connection.decoder.error is not None or connection.decoder.in_record:
        raise ProtocolViolation("a record behind OPEN, expected none before OPENED")
    return seq, OpenToBackend.from_json(body)


async def _end_output(stream: ByteStream) -> bool:
    """Ends our direction; False where that cannot be told, as TLS has no half-close. Raises BrokenResourceError."""
    try:
        await stream.send_eof()
    except NotImplementedError:
        return False
    except OSError as error:  # the peer reset the connection first: anyio passes ENOTCONN through as it is
        raise anyio.BrokenResourceError from error
    return True


def _log_end(live: LiveSession) -> None:
    conversation = live.conversation
    end = conversation.end
    assert end is not None
    logger.info(
        "session %s ended by %s with %s %s: consumed %s, sent %s, settled %s",
        live.id,
        "the peer" if end.by_peer else "us",
        end.code,
        end.reason,
        conversation.inbox.consumed,
        conversation.outbox.sent,
        conversation.outbox.settled,
    )
