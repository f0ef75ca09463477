"""A session over real sockets, and the stand-in for the gateway at its other end."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from gateway.client.events import Event
from gateway.client.session import Session, open_session
from gateway.client.store import Store
from gateway.client.upkeep import Settings
from tests.support.peers.gateway_double import GatewayDouble, Peer, listening

PROMPT = Settings(first_delay=0.0, longest_delay=0.0)
"""Connects again at once."""


@asynccontextmanager
async def opened(
    settings: Settings = PROMPT,
    *,
    store: Store | None = None,
    on_event: Callable[[Event], None] | None = None,
    **answer: object,
) -> AsyncIterator[tuple[Session, Peer, GatewayDouble]]:
    """A session, the gateway's end of its first connection, and the gateway; `answer` goes into OPENED.

    Leaving the block leaves the session, whose Close on the newest connection is answered.
    """
    async with listening() as double, anyio.create_task_group() as tasks:
        peers: list[Peer] = []

        async def accept() -> None:
            peers.append(await double.accept())
            await peers[0].open(**answer)  # type: ignore[arg-type]

        tasks.start_soon(accept)
        async with open_session(double.url, settings=settings, store=store, on_event=on_event) as session:
            yield session, peers[0], double
            tasks.start_soon(_see_off, double.peers[-1])
        tasks.cancel_scope.cancel()


async def _see_off(peer: Peer) -> None:
    await peer.receive_end()


def report(settled: int, unknown: list[int] | None, never_forwarded: list[int] | None) -> dict[str, object]:
    """A loss report of the messages upstream, as it stands in OPENED and CLOSE."""
    up = {"settled": settled, "unknown": unknown, "never_forwarded": never_forwarded}
    return {"upstream": up, "downstream": {"settled": 0}}
