"""Work that goes on beside the application's, under trio or asyncio, and belongs to no task group around its block.

Invariant: it never cancels anybody, and what it raises is told where its end is waited for, in no group.

General theory of operation. A task group around a block would be simpler, and wrong for a library: what is raised in
the block would come out in a group, and the block could neither be left in another task than it was entered in nor in
an asynchronous generator that is dropped after a `break`, which event loops close in a task of their own.
"""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable

import anyio


class Background:
    """One piece of work, begun at once. It ends by itself, by `cancel`, or with the event loop."""

    def __init__(self, work: Callable[[], Awaitable[None]], name: str) -> None:
        self.failure: BaseException | None = None
        """What the work raised, if it has ended so."""
        self._work = work
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._task: asyncio.Task[None] | None = None
        if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=name)
        else:
            import trio  # where it runs it has been imported; who uses asyncio need not wait for it

            trio.lowlevel.spawn_system_task(self._run, name=name, context=contextvars.copy_context())

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._work()
        except anyio.get_cancelled_exc_class():
            raise  # the event loop ends, and nobody waits any more
        except BaseException as error:  # noqa: BLE001  # told by `failure`; here it would take the event loop down
            self.failure = _alone(error)
        finally:
            self._ended.set()

    def cancel(self) -> None:
        """Ends it at its next step."""
        self._scope.cancel()

    async def wait(self) -> None:
        """Returns when it has ended."""
        await self._ended.wait()


def _alone(error: BaseException) -> BaseException:
    """The one exception that groups are wrapped around, where it is only one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
