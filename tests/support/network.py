"""Loopback ports: one that is free, one that answers."""

import socket
import time

from tests.support.process import START_SECONDS, ProcessFailed, ServiceProcess


def free_port() -> int:
    """A TCP port that was free a moment ago, for programs that cannot bind port 0 and tell what they got."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, service: ServiceProcess, *, seconds: float = START_SECONDS) -> None:
    """Waits until the service takes connections, for programs that do not say so; raises ProcessFailed if it ends."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            break
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except ConnectionRefusedError:
            time.sleep(0.01)  # there is nothing to wait on: the port is the only sign the program gives
    raise ProcessFailed(f"{service.name} took no connection on port {port} within {seconds:g} s\n{service.report()}")
