"""Waiting for news under anyio, shared by the client and the backend kit."""

import anyio


class Signal:
    """Wakes those who wait; whoever wakes looks again at what it waits for."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    def wake(self) -> None:
        """Wakes all who wait now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self) -> None:
        """Returns at the next `wake`."""
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()
