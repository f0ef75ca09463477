"""The admin listener: an HTTP/1.1 server of its own, apart from the clients' listeners.

Invariant: nothing that arrives here ends it, and nothing that happens here disturbs the relay: connections, heads and
answers are bounded in number, size and time.
"""

from http import HTTPStatus
from typing import Final

import structlog
import trio

from gateway.admin.app import AdminApp
from gateway.config import Address, Admin, Requests
from gateway.config import Listener as ListenerConfig
from gateway.errors import HandshakeRefused
from gateway.policy.admission import address_group
from gateway.policy.anteroom import Anteroom, Guest
from gateway.protocol.http import Request, RequestReader, http_response, refusal_response
from gateway.transport.channel import Channel
from gateway.transport.listener import Accepted, Listener
from gateway.transport.requests import read_request, refuse

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE")

MAX_CONNECTIONS: Final = 64
"""Probes, scrapers and an operator's tab are a handful; a scan or a leak must not take the gateway's descriptors. The
one that has been silent for longest goes for a newcomer, so that probes are answered all the same."""

HEAD_TIMEOUT_SECONDS: Final = 30.0
"""For a request's head and between two requests: longer than Prometheus' usual 15 s, so that it stays connected."""

ANSWER_TIMEOUT_SECONDS: Final = 10.0
"""For making an answer and having it taken: Prometheus gives up after 10 s itself (scrape_timeout)."""

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger("admin")


class AdminServer:
    """Serves an `AdminApp` where `config` says."""

    def __init__(self, config: Admin, app: AdminApp, *, requests: Requests | None = None) -> None:
        """`requests` bounds heads as at the clients' listeners: cookies of a host are sent to each of its ports."""
        self._config: Final = config
        self._requests: Final = requests or Requests()
        self._app: Final = app
        self._anteroom: Final = Anteroom(limit=MAX_CONNECTIONS, group_limit=MAX_CONNECTIONS)

    async def serve(self, *, task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until cancelled; starts with the address it listens at. Raises StartupError if it cannot listen."""
        config = self._config
        listener = Listener(ListenerConfig(bind=config.bind, mode=config.mode, owner=config.owner, group=config.group))
        try:
            async with trio.open_nursery() as nursery:
                task_status.started(listener.addresses[0])
                await listener.serve(self._serve_connection, nursery)
        finally:
            listener.close()

    async def _serve_connection(self, accepted: Accepted) -> None:
        group = None if accepted.peer is None else address_group(accepted.peer.host)
        guest = self._anteroom.enter(group, accepted.channel.close)
        if guest is None:
            return  # which closes it
        try:
            await self._serve_requests(accepted.channel, guest)
        except HandshakeRefused as refusal:
            await refuse(accepted.channel, refusal, timeout_seconds=ANSWER_TIMEOUT_SECONDS)
        except (OSError, trio.TooSlowError, trio.ClosedResourceError):
            pass  # it went away, did not take its answer, or was sent away for another one
        finally:
            guest.leave()

    async def _serve_requests(self, channel: Channel, guest: Guest) -> None:
        limits = self._requests
        reader = RequestReader(
            max_request_line_bytes=limits.line_bytes, max_head_bytes=limits.head_bytes, methods=METHODS
        )
        request = await read_request(channel, reader, first=True, timeout_seconds=HEAD_TIMEOUT_SECONDS, guest=guest)
        while request is not None:
            with trio.fail_after(ANSWER_TIMEOUT_SECONDS):
                answer, keeps = await self._answer(request)
                await channel.send_all(answer)
            if not keeps:
                await channel.finish()
                return
            request = await read_request(
                channel, reader, first=False, timeout_seconds=HEAD_TIMEOUT_SECONDS, guest=guest
            )

    async def _answer(self, request: Request) -> tuple[bytes, bool]:
        """The answer's bytes, and whether the connection may carry another request."""
        head_only = request.method == "HEAD"
        try:
            response = await self._app.answer(request)
        except HandshakeRefused as refusal:
            return refusal_response(refusal, head_only=head_only), False
        except Exception:  # noqa: BLE001 - one request must not end the listener, and its sender is told nothing
            _log.exception("admin_request_failed", path=request.path)
            return http_response(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error\n", head_only=head_only), False
        keeps = request.keep_alive
        _log.debug("admin_request", method=request.method, path=request.path, status=int(response.status))
        return (
            http_response(response.status, response.body, response.headers, head_only=head_only, keep_alive=keeps),
            keeps,
        )
