"""Gateways behind a load balancer, upgraded as an operator upgrades them: one after the other, each with SIGTERM."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import trio

from tests.support.gateway import Event, GatewayProcess
from tests.support.network import free_port, wait_for_port
from tests.support.process import ServiceProcess
from tests.support.tools import need

HAPROXY: Final = """
global
    log stderr format raw local0 notice

defaults
    mode tcp
    log global
    option redispatch 1
    timeout connect 5s
    timeout client 60s
    timeout server 60s

listen gateways
    bind 127.0.0.1:{port}
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 100ms fall 1 rise 1
"""
"""Bytes are passed as they come; /readyz of the admin listener says who takes new connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """One gateway's way from SIGTERM to its exit."""

    status: int
    """The exit status."""
    began: float
    ended: float
    """By the monotonic clock, in seconds."""
    log: list[Event]
    """All that this process wrote."""

    def of(self, event: str) -> list[Event]:
        """The entries of that name."""
        return [entry for entry in self.log if entry.get("event") == event]


class Fleet:
    """Runs `size` gateways with `config` behind HAProxy, which balances TCP, while the `with` block lasts.

    In an event loop use `async with`, and call `roll` in a thread.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path, *, size: int = 2) -> None:
        """`folder` is for HAProxy's configuration."""
        # Not measured by coverage: a gateway that is slowed down would need a longer drain window.
        self.gateways = [GatewayProcess(config, covered=False) for _ in range(size)]
        self.port = free_port()
        self._folder = folder
        self._balancer: ServiceProcess
        self._running = ExitStack()

    def url(self, path: str) -> str:
        """WebSocket URL of a path, through the balancer."""
        return f"ws://127.0.0.1:{self.port}{path}"

    def roll(self, index: int) -> Drain:
        """Replaces one gateway: SIGTERM, its drain, a new process, and the balancer's word that it is up."""
        gateway = self.gateways[index]
        began = time.monotonic()
        status = gateway.stop()
        drain = Drain(status=status, began=began, ended=time.monotonic(), log=gateway.events)
        position = self._balancer.position()
        gateway.restart()
        self._balancer.wait_for_line(f"/gateway{index} is UP", after=position)
        return drain

    def __enter__(self) -> Self:
        with self._running as stack:
            servers = ""
            for index, gateway in enumerate(self.gateways):
                stack.enter_context(gateway)
                admin_port = gateway.admin_address.rpartition(":")[2]
                servers += f"    server gateway{index} 127.0.0.1:{gateway.port()} port {admin_port}\n"
            file = self._folder / "haproxy.cfg"
            file.write_text(HAPROXY.format(port=self.port) + servers)
            argv = [need("haproxy", "apt-get install haproxy"), "-db", "-f", str(file)]
            self._balancer = stack.enter_context(ServiceProcess(argv))
            wait_for_port(self.port, self._balancer)
            self._running = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._running.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Self:
        return await trio.to_thread.run_sync(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.__exit__, kind, error, traceback)
