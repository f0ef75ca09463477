"""A backend written with the kit, in a thread of its own, for clients that are not in its event loop."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from gateway.backend import Handler, serve


@contextmanager
def kit_backend(handler: Handler) -> Iterator[int]:
    """Serves sessions while the block lasts; the port."""
    ready = threading.Event()
    started: list[tuple[int, trio.CancelScope, trio.lowlevel.TrioToken]] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            address = await nursery.start(serve, handler)
            started.append((address[1], nursery.cancel_scope, trio.lowlevel.current_trio_token()))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(20)
    port, scope, token = started[0]
    try:
        yield port
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()
