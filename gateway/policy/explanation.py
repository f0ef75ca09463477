"""Why a page gets no WebSocket, for the page itself: browsers hide the answer to a refused handshake from it.

So `kakitome.js` asks the same URL over HTTP, as anybody may, and what it is told may be read by a page of any origin.

Invariant: nothing here admits anybody. What is made readable is the refusal of a request that is no handshake, of which
the one who asks knows everything already: it was sent without cookies (`*` keeps browsers from sharing what was asked
with them), reaches no backend, and its text names only what the request itself says. A handshake is judged by its own
Origin alone, and no Referer counts there.
"""

from http import HTTPStatus
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit

from gateway.errors import HandshakeRefused
from gateway.policy.origin import OriginPolicy
from gateway.protocol.handshake import Refusal, Request
from gateway.protocol.http import shown

READABLE: Final = (("Access-Control-Allow-Origin", "*"),)


class readable:  # noqa: N801 - it is used as a function would be, and a generator costs each handshake some µs
    """Lets pages of any origin read why this request was refused, if it is no handshake; a context manager."""

    __slots__ = ("_request",)

    def __init__(self, request: Request) -> None:
        self._request = request

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, HandshakeRefused) and not self._request.asks_for_websocket:
            error.headers += READABLE


def explain(request: Request, origins: OriginPolicy, *, scheme: str, host: str) -> None:
    """Says that a handshake of the page that asks would be refused for its origin, and how to let it in.

    A page that asks its own host sends no Origin with a GET; its Referer says as much then.

    Raises HandshakeRefused (403) for a request that is no handshake.
    """
    if request.asks_for_websocket:
        return
    offered = request.get_all("origin") or _referring(request)
    if not offered:
        return
    try:
        origins.check(offered, scheme=scheme, host=host)
    except HandshakeRefused as refusal:
        # Counted as what it is: the handshake that it explains was counted as refused for its origin.
        raise HandshakeRefused(
            f"this gateway refuses pages of {shown(offered[0])[1:-1]}; add it to routes[].origins ({refusal})",
            status=HTTPStatus.FORBIDDEN,
            reason=Refusal.NO_UPGRADE,
        ) from None


def _referring(request: Request) -> tuple[str, ...]:
    """The origin of the page that asks, as Origin would have it; nothing where there is no Referer."""
    referer = request.get("referer")
    if not referer:
        return ()
    try:
        parts = urlsplit(referer)
    except ValueError:
        return ()
    return (f"{parts.scheme}://{parts.netloc}",) if parts.scheme and parts.netloc else ()
