"""The demonstration's backends, each a TCP service of its own: three speak records, and one has never heard of us."""

from collections.abc import Mapping
from functools import partial
from typing import Final

import trio

from gateway.backend import Address, Handler, serve
from gateway.demo.chat import Room
from gateway.demo.doyasa import doyasa
from gateway.demo.echo import serve_echo
from gateway.demo.hello import hello
from gateway.errors import StartupError

ANY_PORTS: Final[Mapping[str, int]] = {"hello": 0, "doyasa": 0, "chat": 0, "echo": 0}


def backends() -> Mapping[str, Handler]:
    """The handlers of those that speak records, by the names of their routes."""
    return {"hello": hello, "doyasa": doyasa, "chat": Room().chat}


async def run_backends(
    *,
    host: str = "127.0.0.1",
    ports: Mapping[str, int] = ANY_PORTS,
    task_status: trio.TaskStatus[Mapping[str, Address]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves the backends until cancelled, each on its own port (0: any); reports their addresses as started.

    Raises StartupError for a port that is in use.
    """
    async with trio.open_nursery() as nursery:
        addresses = {}
        services = {name: partial(serve, handler) for name, handler in backends().items()} | {"echo": serve_echo}
        for name, service in services.items():
            try:
                addresses[name] = await nursery.start(partial(service, host=host, port=ports[name]))
            except OSError as error:
                problem = f"the backend {name} cannot listen on {host}:{ports[name]}: {error.strerror or error}"
                raise StartupError(problem) from error
        task_status.started(addresses)
