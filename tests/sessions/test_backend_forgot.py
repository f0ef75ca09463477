"""A backend on the kit's default store is restarted in good order: it costs the session, and not the conversation."""

from collections import defaultdict
from contextlib import AsyncExitStack
from typing import Any

import trio

from gateway.backend import Session, serve
from gateway.client import Settings, open_session
from tests.sessions.harness import config_of, running
from tests.sessions.routes import records_route
from tests.support.balancer import balancing
from tests.support.peers.client import PATIENCE_SECONDS

BRISK = Settings(first_delay=0.05, longest_delay=0.5)


async def test_a_new_session_begins_by_itself_whichever_gateway_is_asked() -> None:
    received: dict[str, list[str]] = defaultdict(list)
    begun: dict[str, int] = defaultdict(int)

    async def echo(session: Session) -> None:
        begun[session.path] += 1
        async for message in session:
            received[session.path].append(str(message))
            await session.send(message)

    scopes: list[trio.CancelScope] = []
    stopped = trio.Event()

    async def run(port: int, task_status: trio.TaskStatus[Any]) -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await serve(echo, port=port, task_status=task_status)
        stopped.set()

    with trio.fail_after(6 * PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            _, port = await nursery.start(run, 0)
            config = config_of(records_route(port))
            async with running(config) as one, running(config) as two, AsyncExitStack() as stack:
                ports = [server.addresses[0].port for server in (one, two)]  # type: ignore[union-attr]
                # Through the gateway that had the session, and through both in turn: so through the other one.
                balancers = [await stack.enter_async_context(balancing(order)) for order in (ports[:1], ports)]
                sessions = [
                    await stack.enter_async_context(open_session(balancer.url(f"/{index}"), settings=BRISK))
                    for index, balancer in enumerate(balancers)
                ]
                for session in sessions:
                    await session.send("before")
                    assert str(await anext(aiter(session))) == "before"
                scopes[0].cancel()
                await stopped.wait()
                await nursery.start(run, port)
                for session in sessions:
                    await session.send("after")
                    assert str(await anext(aiter(session))) == "after"
            nursery.cancel_scope.cancel()
    assert received == {"/0": ["before", "after"], "/1": ["before", "after"]}
    assert begun == {"/0": 2, "/1": 2}
